"""Initialisation schemes: each is a function of a layer's standard normals and of its shape that gives its weight.

The normals are the same for every scheme at one seed, so two schemes differ in nothing but what the scheme says. Fixed
Gaussian, Xavier and He are those that He et al. 2015 compare (sec. 2.2); Xavier is the paper's Gaussian one-sided form,
1/fan, not Glorot and Bengio's average of both fans (footnote 3 there). `docs/schemes.md` has the table of all, and
how to write your own.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from initlab.init.orthogonal import delta_orthogonal, orthogonal
from initlab.init.shapes import LayerShape

Scheme = Callable[[Tensor, LayerShape], Tensor]


def he_std(layer: LayerShape) -> float:
    """sqrt(2 / ((1 + a^2) fan)) (He et al. 2015, eq. 10 fan_in, 14 fan_out, 15 slope): 0.05893 for 3x3 on 64."""
    return layer.gain / math.sqrt(layer.fan)


# The schemes whose weights are draws of `layer.distribution` times one standard deviation.
STDS: dict[str, Callable[[LayerShape], float]] = {
    # The same for all layers, 0.01 in AlexNet and VGG (He et al. 2015, sec. 2.2).
    "gaussian": lambda layer: layer.std,
    # Of linear units (Glorot and Bengio 2010, eq. 10 or 11): 1/24 for 3x3 on 64 channels.
    "xavier": lambda layer: 1.0 / math.sqrt(layer.fan),
    "he": he_std,
    # What Xavier is forward (LeCun et al. 1998, Efficient BackProp, eq. 16): 1/8 for 64 inputs.
    "lecun": lambda layer: 1.0 / math.sqrt(layer.fan_in),
}


def of_std(std: Callable[[LayerShape], float]) -> Scheme:
    """The scheme that draws from `layer.distribution` with this standard deviation."""
    return lambda normals, layer: draws(normals, layer.distribution) * std(layer)


def draws(normals: Tensor, distribution: str) -> Tensor:
    """Unit-variance draws of a distribution: the normals themselves, or uniform ones in the same order."""
    return normals if distribution == "normal" else uniform(normals)


def uniform(normals: Tensor) -> Tensor:
    """The normals through their distribution function: uniform on (-sqrt(3), sqrt(3)), of unit variance.

    `uniform(tensor([0.6745]))` is 0.8660, a quarter of the way from either end.
    """
    # Rounded as float32 for every precision, so that a float64 net starts from the same numbers.
    return (math.sqrt(3) * torch.erf(normals.double() / math.sqrt(2)).float()).to(normals.dtype)


def truncated_std(cut: float) -> float:
    """Standard deviation of a standard normal that is cut at +-cut: 0.8796257 for 2, 0.9865784 for 3."""
    inside = math.erf(cut / math.sqrt(2))
    density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * cut * density / inside)


def truncated_normal(normals: Tensor, layer: LayerShape, cut: float = 2.0) -> Tensor:
    """He's variance from a normal cut at +-2 of its own standard deviations, which is He's over 0.8796.

    The correction is that of variance_scaling in TensorFlow; without it, 30 rectifier layers keep 0.8796^60 = 4.5e-4 of
    the second moment. The k-th quantile of the normal becomes the k-th of the cut one, so no draw is repeated.
    No weight is beyond 2 / 0.8796 = 2.274 of the scheme's standard deviations.
    """
    inside = math.erf(cut / math.sqrt(2))
    cut_normals = math.sqrt(2) * torch.erfinv(inside * torch.erf(normals.double() / math.sqrt(2)))
    return cut_normals * (he_std(layer) / truncated_std(cut))


def torch_default(normals: Tensor, layer: LayerShape) -> Tensor:
    """What torch gives without choosing: U(+-1/sqrt(fan)), of variance 1/(3 fan), for weights and for biases.

    `fan` is torch's fan_in, the size of weight[0], which for a transposed convolution is the fan_out. Through a
    rectifier that is a factor 1/6 per layer: 6^-30 = 4.5e-24 over 30. But with these biases the forward signal settles
    at E[y^2] = 2/(5 fan) and hides the vanishing. (`reset_parameters` of torch.nn.Linear and of the convolutions.)
    """
    return uniform(normals) * torch_std(layer)


def siren(normals: Tensor, layer: LayerShape) -> Tensor:
    """U(+-1/n) in the first layer, U(+-sqrt(6/n)/w0) in the others, for sin(w0 y) (Sitzmann et al. 2020, sec. 3.2).

    The pre-activations w0 y of the others have unit variance, whatever the depth: a sine of such has second moment 1/2.
    Biases are torch's, since without any the net would be an odd function.
    """
    std = 1 / (layer.fan_in * math.sqrt(3)) if layer.index == 0 else math.sqrt(2 / layer.fan_in) / layer.w0
    return uniform(normals) * std


def torch_std(layer: LayerShape) -> float:
    """Standard deviation of torch's own draw of a linear layer or convolution: 0.0722 for 64 inputs."""
    return 1 / math.sqrt(3 * max(math.prod(layer.shape[1:]), 1))


SCHEMES: dict[str, Scheme] = {
    **{name: of_std(std) for name, std in STDS.items()},
    "truncated_normal": truncated_normal,
    "orthogonal": orthogonal,
    "delta_orthogonal": delta_orthogonal,
    "torch_default": torch_default,
    # Where they start; `initlab.init.lsuv` and `equal_gradients` then scale on a batch.
    "lsuv": orthogonal,
    "solved": of_std(STDS["lecun"]),
    "siren": siren,
}
# Schemes that draw biases; every other scheme's are 0.
BIASES: dict[str, Scheme] = {"torch_default": torch_default, "siren": torch_default}


def scheme_function(scheme: str | Scheme) -> Scheme:
    """The function of a scheme's name, which has to be one of `SCHEMES`; a function of yours is one already."""
    if callable(scheme):
        return scheme
    if scheme not in SCHEMES:
        raise ValueError(f"init: unknown scheme (got {scheme!r}); allowed: {', '.join(SCHEMES)}, or a function")
    return SCHEMES[scheme]
