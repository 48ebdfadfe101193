"""What a trial leaves behind: where its rows go, after which steps they are due, and how it ended."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from initlab.engine.task import State
from initlab.nets.any_module import layer_name

T = TypeVar("T")


class Recorder(Protocol):
    """Where a trial's rows, by frame, and checkpoints go; the store's AttemptWriter is one."""

    def record(self, frame: str, rows: list[dict[str, Any]]) -> None:
        """Rows of a frame."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """The state to go on from."""

    def progress(self, figures: dict[str, Any]) -> None:
        """The latest figures."""


class Silent:
    """Keeps nothing, as a follower's recorder: the leader writes."""

    def drop(self, *args: Any) -> None:
        """Do nothing with what is to be recorded."""

    record = checkpoint = progress = drop


@dataclass(frozen=True)
class Due:
    """The steps after which something is due: a row of scalars, a validation in that row, a probe of the signals."""

    rows: frozenset[int]
    validations: frozenset[int]
    probes: frozenset[int]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, with its last figures."""

    state: State  # done, diverged, interrupted or stopped
    figures: dict[str, Any]

    def plus(self, **figures: Any) -> "Outcome":
        """The same end with further figures; one that is None, or there already, adds nothing."""
        new = {name: value for name, value in figures.items() if value is not None and name not in self.figures}
        return Outcome(self.state, {**self.figures, **new})


# Those that a user's code may raise; Ctrl-C is the launch's.
Raised = Exception | SystemExit | GeneratorExit


def caught(do: Callable[[], T]) -> T | Raised:
    """What `do` gives or, as the boundary of a trial behind which the others go on, the exception that it raises."""
    try:
        return do()
    # Whatever it is, it is recorded as the trial's end.
    except (Exception, SystemExit, GeneratorExit) as error:
        return error


@torch.no_grad()
def slope_rows(net: nn.Module) -> list[dict[str, Any]]:
    """The slopes that PReLU has learned: per layer of its kind, in order, layer, name, channels and their moments.

    `channels` is 1 where a layer shares one slope; then `std`, the population's over channels, is 0. A net without
    PReLU gives no rows, one of the paper's fresh from `build_net` gives 0.25 throughout (He et al. 2015, sec. 2.1).
    """
    layers = [(layer_name(name), module) for name, module in net.named_modules() if isinstance(module, nn.PReLU)]
    rows: list[dict[str, Any]] = []
    for layer, (name, module) in enumerate(layers):
        slopes = module.weight.double()
        moments = torch.stack([slopes.mean(), slopes.std(correction=0), slopes.min(), slopes.max()]).tolist()
        of_layer = dict(zip(("mean", "std", "min", "max"), moments, strict=True))
        rows.append({"layer": layer, "name": name, "channels": module.num_parameters, **of_layer})
    return rows
