"""The numbers that verdicts rest on, each written once. No torch and no pandas."""

import math

# Of guessing's loss, which the mean loss of an epoch is below where a net has learned and its errors are not known.
LEARNED_SHARE = 0.9


def noise_floor(chance: float, examples: float, spread: float | None = None) -> float:
    """The mean error below which a net has learned: chance - 4 standard errors, spread / sqrt(examples) each.

    `spread` is the standard deviation of the best constant guess's error from example to example; None is that of
    errors that are 0 or 1. At chance 0.9 and 1,408 examples: 0.9 - 4 * 0.008 = 0.868.
    """
    if spread is None:
        return chance - 4 * math.sqrt(chance * (1 - chance) / examples)
    return chance - 4 * spread / math.sqrt(examples)


def default_threshold(chance: float) -> float:
    """The validation error that counts as converged where a study sets none: half of chance."""
    return chance / 2


def highest_loss(chance_loss: float, first: float = 0.0) -> float:
    """The mean loss above which training has diverged: 10 max(that of guessing, the loss of the first epoch).

    For ten classes 10 ln 10 = 23.
    """
    return 10 * max(chance_loss, first)
