"""Counts of a described net: map sizes, parameters, multiply-adds. No torch."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from initlab.nets.architecture import SPP, Activation, BatchNorm, Conv, Flatten, Layer, Linear, MaxPool


@dataclass(frozen=True)
class Counts:
    """What one image costs: `multiply_adds` counts one multiply with one add, of weight layers alone."""

    parameters: int
    multiply_adds: int
    weight_layers: int
    slope_layers: int = 0  # activations that learn their slope


def output_shapes(layers: Sequence[Layer], input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shape of one example after each layer, e.g. (16, 8, 8) for maps and (64,) for vectors.

    Raises:
        ValueError: a map smaller than the window or the bins that go over it.
    """
    shapes, shape = [], input_shape
    for layer in layers:
        match layer:
            case Conv():
                shape = (layer.out_channels, *windows(layer.name, shape, layer.kernel, layer.stride, layer.padding))
            case MaxPool():
                shape = (shape[0], *windows(layer.name, shape, layer.kernel, layer.stride, 0))
            case SPP():
                windows(layer.name, shape, max(layer.bins), 1, 0)
                shape = (shape[0] * sum(n * n for n in layer.bins),)
            case Flatten():
                shape = (math.prod(shape),)
            case Linear():
                shape = (layer.out_features,)
        shapes.append(shape)
    return shapes


def windows(name: str, shape: tuple[int, ...], kernel: int, stride: int, padding: int) -> list[int]:
    """Places of a window along each side of a map (channels, height, width)."""
    if min(shape[1:]) + 2 * padding < kernel:
        least = kernel - 2 * padding
        raise ValueError(f"{name}: map too small (got {shape[1]}x{shape[2]}); allowed: at least {least}x{least}")
    return [(side + 2 * padding - kernel) // stride + 1 for side in shape[1:]]


def layer_counts(layer: Layer, shape: tuple[int, ...]) -> Counts:
    """Counts of one layer that gives this shape; parameters are weights, biases, slopes, a norm's scales and shifts."""
    match layer:
        case Conv():
            weights = layer.kernel**2 * layer.in_channels * layer.out_channels
            return Counts(weights + layer.out_channels, weights * shape[1] * shape[2], 1)
        case Linear():
            weights = layer.in_features * layer.out_features
            return Counts(weights + layer.out_features, weights, 1)
        case BatchNorm():
            return Counts(2 * layer.channels, 0, 0)
        case Activation(kind="prelu"):
            return Counts(layer.channels, 0, 0, 1)
        case Activation(kind="prelu_shared"):
            return Counts(1, 0, 0, 1)
    return Counts(0, 0, 0)


def count(layers: Sequence[Layer], input_shape: tuple[int, ...]) -> Counts:
    """Parameters and multiply-adds (no bias, pooling, norm or activation) for one image, summed over the layers."""
    each = [layer_counts(layer, shape) for layer, shape in zip(layers, output_shapes(layers, input_shape), strict=True)]
    return Counts(*(sum(column) for column in zip(*map(astuple, each), strict=True)))
