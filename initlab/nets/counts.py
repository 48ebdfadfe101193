"""Counts of a described net: map sizes, parameters, multiply-adds. No torch."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from initlab.nets.architecture import (
    LSTM,
    SPP,
    Activation,
    Attention,
    BatchNorm,
    Conv,
    Embedding,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    MaxPool,
    Positions,
)


@dataclass(frozen=True)
class Counts:
    """What one example costs: `multiply_adds` counts one multiply with one add, of weight layers and attention."""

    parameters: int
    multiply_adds: int
    weight_layers: int
    slope_layers: int = 0  # activations that learn their slope


def output_shapes(layers: Sequence[Layer], input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shape of one example after each layer: (16, 8, 8) of maps, (64,) of a vector, (24, 64) of 24 positions.

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
                shape = (*shape[:-1], layer.out_features)
            case Embedding():
                shape = (*shape, layer.features)
        shapes.append(shape)
    return shapes


def windows(name: str, shape: tuple[int, ...], kernel: int, stride: int, padding: int) -> list[int]:
    """Places of a window along each side of a map (channels, height, width)."""
    if min(shape[1:]) + 2 * padding < kernel:
        least = kernel - 2 * padding
        raise ValueError(f"{name}: map too small (got {shape[1]}x{shape[2]}); allowed: at least {least}x{least}")
    return [(side + 2 * padding - kernel) // stride + 1 for side in shape[1:]]


def layer_counts(layer: Layer, shape: tuple[int, ...]) -> Counts:
    """Counts of one layer that gives this shape; parameters are weights, biases, slopes, a norm's scales and shifts.

    An LSTM's weight layers are those of input and state in each of its layers. Of attention the products with all
    positions count, those ahead that the mask hides too.
    """
    positions = math.prod(shape[:-1])
    match layer:
        case Conv():
            weights = layer.kernel**2 * layer.in_channels * layer.out_channels
            return Counts(weights + layer.out_channels, weights * shape[1] * shape[2], 1)
        case Linear():
            weights = layer.in_features * layer.out_features
            return Counts(weights + layer.out_features, weights * positions, 1)
        case Attention():
            weights = 4 * layer.features**2
            return Counts(weights + 4 * layer.features, (weights + 2 * positions * layer.features) * positions, 4)
        case LSTM():
            weights = 8 * layer.features**2 * layer.layers
            return Counts(weights + 8 * layer.features * layer.layers, weights * positions, 2 * layer.layers)
        case Embedding(words=rows) | Positions(positions=rows):
            return Counts(rows * layer.features, 0, 0)
        case BatchNorm(channels=channels) | LayerNorm(features=channels):
            return Counts(2 * channels, 0, 0)
        case Activation(kind="prelu"):
            return Counts(layer.channels, 0, 0, 1)
        case Activation(kind="prelu_shared"):
            return Counts(1, 0, 0, 1)
    return Counts(0, 0, 0)


def count(layers: Sequence[Layer], input_shape: tuple[int, ...]) -> Counts:
    """Parameters and multiply-adds (no bias, pooling, norm or activation) for one example, summed over the layers."""
    each = [layer_counts(layer, shape) for layer, shape in zip(layers, output_shapes(layers, input_shape), strict=True)]
    return Counts(*(sum(column) for column in zip(*map(astuple, each), strict=True)))
