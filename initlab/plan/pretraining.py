"""Shallow pre-training: the trial that must end before another can start from its weights.

Simonyan and Zisserman (2014, sec. 3.1) trained their net of 8 convolutions from random weights and initialised the
first four convolutions and the three linear layers of deeper nets from it, the layers between at random. Here the
shallow net is a trial like any other, with an id of its own, so that all deeper ones of a study share it.
"""

from initlab.study.spec import TrialSpec
from initlab.study.unused_fields import drop_unused


def shallow_of(spec: TrialSpec) -> TrialSpec | None:
    """The trial whose net this one starts from, alike but for depth, epochs and heads; None where it starts anew."""
    train = spec.train
    if train.shallow_depth is None:
        return None
    changed = spec.model_copy(
        update={
            "net": spec.net.model_copy(update={"depth": train.shallow_depth}),
            "train": train.model_copy(update={"shallow_depth": None, "auxiliary": (), "epochs": train.shallow_epochs}),
        }
    )
    return drop_unused(changed)[0]
