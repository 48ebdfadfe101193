"""Counts of a described net: map sizes, parameters, multiply-adds. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from initlab.nets.architecture import Activation, Conv, Flatten, Layer, Linear, MaxPool


@dataclass(frozen=True)
class Counts:
    """What one image costs: `multiply_adds` counts one multiply with one add, of weight layers alone."""

    parameters: int
    multiply_adds: int
    weight_layers: int


def output_shapes(layers: Sequence[Layer], input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shape of one example after each layer, e.g. (16, 8, 8) for maps and (64,) for vectors."""
    shapes, shape = [], input_shape
    for layer in layers:
        match layer:
            case Conv():
                side = [(s + 2 * layer.padding - layer.kernel) // layer.stride + 1 for s in shape[1:]]
                shape = (layer.out_channels, *side)
            case MaxPool():
                shape = (shape[0], *((s - layer.kernel) // layer.stride + 1 for s in shape[1:]))
            case Flatten():
                size = 1
                for s in shape:
                    size *= s
                shape = (size,)
            case Linear():
                shape = (layer.out_features,)
        shapes.append(shape)
    return shapes


def count(layers: Sequence[Layer], input_shape: tuple[int, ...]) -> Counts:
    """Parameters (weights, biases, PReLU slopes) and multiply-adds (no bias, pooling or activation) for one image."""
    parameters = multiply_adds = weight_layers = 0
    for layer, shape in zip(layers, output_shapes(layers, input_shape), strict=True):
        match layer:
            case Conv():
                weights = layer.kernel**2 * layer.in_channels * layer.out_channels
                parameters += weights + layer.out_channels
                multiply_adds += weights * shape[1] * shape[2]
                weight_layers += 1
            case Linear():
                weights = layer.in_features * layer.out_features
                parameters += weights + layer.out_features
                multiply_adds += weights
                weight_layers += 1
            case Activation(kind="prelu"):
                parameters += layer.channels
            case Activation(kind="prelu_shared"):
                parameters += 1
    return Counts(parameters, multiply_adds, weight_layers)
