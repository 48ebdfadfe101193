"""The frequency of a sine net's activations, sin(w0 y), read off the model."""

import math
from collections.abc import Iterator

import torch
from torch import nn

from initlab.init.expectations import Elementwise
from initlab.init.joints import elementwise

# What the layers of sine nets call it (vsitzmann/siren, lucidrains/siren-pytorch).
NAMES = ("omega_0", "w0", "omega0", "omega")
DEFAULT = 30.0


def sine_frequency(model: nn.Module) -> float:
    """w0 of most sines in a model: of its activation modules, or as its layers call it; 30 where none is known."""
    frequencies = list(frequencies_of(model))
    return max(frequencies, key=frequencies.count, default=DEFAULT)


def frequencies_of(model: nn.Module) -> Iterator[float]:
    """w0 of each module that is a sine, or has such an attribute."""
    for module in model.modules():
        values = [getattr(module, name, None) for name in NAMES]
        number = next((float(v) for v in values if isinstance(v, int | float) and math.isfinite(v) and v > 0), None)
        # torch's own activations are no sines, and a sine has no parameters.
        candidate = not type(module).__module__.startswith("torch.") and next(module.parameters(), None) is None
        if number is None and candidate and isinstance(phi := elementwise(module), Elementwise):
            number = frequency_of(phi)
        if number is not None:
            yield number


def frequency_of(phi: Elementwise) -> float | None:
    """w0 of an activation that is sin(w0 x): its slope at 0, if it is that sine elsewhere too."""
    step = 1e-6
    w0 = float(phi.function(torch.tensor([[step]], dtype=torch.float64))) / step
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)[None]
    is_sine = abs(w0) > 1e-3 and torch.allclose(phi.function(x / w0), torch.sin(x), atol=1e-6)
    return abs(w0) if is_sine else None
