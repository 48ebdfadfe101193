"""The numbers that verdicts rest on, each written once. No torch and no pandas."""

import math


def noise_floor(chance: float, examples: float) -> float:
    """The mean error below which a net has learned: chance - 4 sqrt(chance (1 - chance) / examples).

    At chance 0.9 and 1,408 examples: 0.9 - 4 * 0.008 = 0.868.
    """
    return chance - 4 * math.sqrt(chance * (1 - chance) / examples)


def default_threshold(chance: float) -> float:
    """The validation error that counts as converged where a study sets none: half of chance."""
    return chance / 2


def highest_loss(num_classes: int, first: float = 0.0) -> float:
    """The mean loss above which training has diverged: 10 max(ln K, the loss of the first epoch).

    For ten classes 10 ln 10 = 23.
    """
    return 10 * max(math.log(num_classes), first)
