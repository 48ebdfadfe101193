"""Mean field of BatchNorm, LayerNorm, GroupNorm and RMSNorm."""

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from initlab.signal.theory.field import Array, Field
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal, clipped
from initlab.signal.theory.trace import Operation


def norm(rule: Context, op: Operation, x: Signal) -> Result:
    """BatchNorm, LayerNorm, GroupNorm or RMSNorm: the mean square becomes the weight's, whatever it was.

    BatchNorm takes each channel's mean away, which is the average product of all pairs; the gradient is divided by the
    standard deviation and loses its mean and its part along the output (Yang et al. 2019, sec. 3). After a rectifier
    the pairs keep 1/pi, so each Linear-BatchNorm-ReLU multiplies the gradient's second moment by pi/(pi - 1).
    """
    f, batch = x.field, op.function is F.batch_norm
    weight, bias, eps = norm_parameters(op)
    square = 1.0 if weight is None else float(weight.detach().double().square().mean())
    shift = 0.0 if bias is None else float(bias.detach().double().square().mean())
    # joined channels are normalised each by its own spread
    parts = x.parts if batch and x.parts else ((1.0, f),)
    normed = [normalised(rule, op, part, square, eps) for _, part in parts]
    shares = [share for share, _ in parts]
    gain = sum(share * n.gain for share, n in zip(shares, normed, strict=True))
    pairs = np.sum([share * n.gain * n.c for share, n in zip(shares, normed, strict=True)], axis=0)
    out = clipped((pairs + shift) / (gain + shift)) if gain + shift > 0 else f.c
    spread = f.spread / normed[0].kept ** 2
    signal = Signal(Field(f.q / f.level * gain + shift, out, 0.0, f.positions, f.channels, spread), {})

    def pull(g: Gradient) -> list[Gradient]:
        mean = rule.average(g.c, f.positions) if batch else 0.0
        rest = max(1 - mean, 1e-12)
        factors = [n.slope * max(rest - 1 / n.numbers, 0.0) for n in normed]
        factor = sum(share * value for share, value in zip(shares, factors, strict=True))
        levels = tuple(value / factor for value in factors) if len(factors) > 1 and factor > 0 else ()
        c = clipped((g.c - mean) / rest)
        return [Gradient(g.q * factor, c, g.spread / rest**2, g.noise, parts=levels)]

    return signal, pull


@dataclass(frozen=True)
class Normalised:
    """What a norm makes of a field."""

    kept: float  # share of the mean square that is left without the mean
    gain: float  # mean square of the output
    c: Array
    slope: float  # factor of the gradient's mean square
    numbers: float  # independent numbers that a variance is taken of


def normalised(rule: Context, op: Operation, f: Field, square: float, eps: float) -> Normalised:
    """A field without its mean, over its standard deviation; `square` is the mean squared weight of the norm."""
    batch = op.function is F.batch_norm
    centre = rule.average(f.c, f.positions) if batch else 0.0 if op.function is F.rms_norm else f.mean**2
    kept = max(1 - centre, 1e-12)
    variance = f.level * kept
    c = clipped((f.c - centre) / kept)
    numbers = 1 / max(rule.average(c**2, f.positions), 1e-12) if batch else float(f.channels)
    # the mean of 1/variance over channels exceeds 1 over its mean, by 2 over the independent numbers
    excess = (numbers - 1) / (numbers - 3) if batch and numbers > 6 else 1.0
    return Normalised(kept, square * variance / (variance + eps), c, square / (variance + eps) * excess, numbers)


def norm_parameters(op: Operation) -> tuple[Tensor | None, Tensor | None, float]:
    """(weight, bias, eps) of a norm's call."""
    names = {
        F.batch_norm: ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
        F.layer_norm: ("normalized_shape", "weight", "bias", "eps"),
        F.group_norm: ("num_groups", "weight", "bias", "eps"),
        F.rms_norm: ("normalized_shape", "weight", "eps"),
    }[op.function]
    given = dict(zip(names, op.args[1:], strict=False)) | op.kwargs
    eps = given.get("eps")
    return given.get("weight"), given.get("bias"), 1e-5 if eps is None else float(eps)
