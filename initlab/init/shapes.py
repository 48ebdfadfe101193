"""What a scheme knows of a layer: its weight's shape, its fans, and the arguments of `init_`. No torch in here.

The fans are those that the signal sees. They are torch's for a linear layer and a plain convolution; torch ignores the
groups in fan_out and mistakes the two fans of a transposed convolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["fan_in", "fan_out"]
Distribution = Literal["normal", "uniform"]
# How residual branches are scaled; `initlab.init.branches` finds them.
Branches = Literal["scaled", "zero", "fixup", "t-fixup"]
# Schemes that scale layers on a batch.
ON_A_BATCH = ("lsuv", "solved")


def fans(
    weight_shape: Sequence[int], *, groups: int = 1, stride: Sequence[int] = (), transposed: bool = False
) -> tuple[float, float]:
    """(fan_in, fan_out): the numbers of products in one response, and in the gradient of one input.

    Of a weight (out, in / groups, *kernel) they are k^2 in/groups and k^2 out/groups, without groups the paper's
    n = k^2 c and n-hat = k^2 d; as there, stride and pooling are ignored. A transposed convolution's weight is
    (in, out / groups, *kernel), and its stride spreads the inputs: k^2/s^2 in/groups on average, and k^2 out/groups.

    `fans((128, 64, 3, 3))` is (576, 1152); `fans((64, 1, 3, 3), groups=64)`, which is depthwise, is (9, 9);
    `fans((64, 32, 4, 4), stride=(2, 2), transposed=True)` is (256, 512).

    Raises:
        ValueError: fewer than two dimensions.
    """
    shape = tuple(weight_shape)
    if len(shape) < 2:
        raise ValueError(f"fans: a weight needs at least 2 dimensions (got shape {shape}); biases have no fan")
    receptive = math.prod(shape[2:])
    first, second = shape[0] // groups * receptive, shape[1] * receptive
    return (first / math.prod(stride), second) if transposed else (second, first)


def check_choices(mode: str, distribution: str) -> None:
    """Raise a ValueError for an unknown mode or distribution."""
    for key, value, choices in (("mode", mode, Mode), ("distribution", distribution, Distribution)):
        if value not in get_args(choices):
            raise ValueError(f"init: unknown {key} (got {value!r}); allowed: {', '.join(get_args(choices))}")


@dataclass(frozen=True)
class LayerShape:
    """One convolution or linear layer as a scheme sees it.

    `index` counts the layers in the order in which the model lists its modules; `is_last` is the last linear layer, or
    the last of all where none is. Fields from `mode` to `negative_slope` are arguments of `init_`, which takes their
    defaults from here, as does a study file.

    Raises:
        ValueError: unknown mode or distribution.
    """

    shape: tuple[int, ...]  # (out, in / groups, *kernel); transposed: (in, out / groups, *kernel)
    fan_in: float
    fan_out: float
    name: str = ""
    index: int = 0
    num_layers: int = 1
    is_linear: bool = False
    is_last: bool = False
    groups: int = 1
    mode: Mode = "fan_in"
    distribution: Distribution = "normal"
    std: float = 0.01
    negative_slope: float = 0.0
    w0: float = 30.0  # of a sine net's activations sin(w0 y)
    activation_gain: float | None = None  # of the activation before it, where that is no rectifier

    def __post_init__(self) -> None:
        check_choices(self.mode, self.distribution)

    @property
    def fan(self) -> float:
        """The fan of the signal whose variance stays: `fan_in` forward, `fan_out` backward."""
        return self.fan_in if self.mode == "fan_in" else self.fan_out

    @property
    def gain(self) -> float:
        """What makes up for the activation before the layer, as `initlab.gain` gives it.

        sqrt(2 / (1 + a^2)) for a rectifier of slope a below zero (He et al. 2015, eq. 15): 1 for a = 1.
        """
        if self.activation_gain is not None:
            return self.activation_gain
        return math.sqrt(2 / (1 + self.negative_slope**2))
