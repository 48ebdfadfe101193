"""Mean field of BatchNorm, LayerNorm, GroupNorm and RMSNorm."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from initlab.signal.theory.field import NONE, Field, Pairs
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal
from initlab.signal.theory.no_rule import NoRule
from initlab.signal.theory.trace import Operation


def norm(context: Context, op: Operation, x: Signal) -> Result:
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
    normed = [normalised(context, op, part, square, eps) for _, part in parts]
    shares = [share for share, _ in parts]
    gain = sum(share * n.gain for share, n in zip(shares, normed, strict=True))
    pairs = sum((share * n.gain * n.c for share, n in zip(shares, normed, strict=True)), start=NONE)
    c = ((pairs + shift) / (gain + shift)).clipped() if gain + shift > 0 else f.c
    spread = f.spread / normed[0].kept ** 2
    signal = Signal(Field(f.q / f.level * gain + shift, c, 0.0, f.positions, f.channels, spread), {})

    def pull(g: Gradient) -> list[Gradient]:
        mean = context.average(g.c, f.positions) if batch else 0.0
        rest = max(1 - mean, 1e-12)
        factors = [n.slope * max(rest - 1 / n.independent, 0.0) for n in normed]
        factor = sum(share * value for share, value in zip(shares, factors, strict=True))
        levels = tuple(value / factor for value in factors) if len(factors) > 1 and factor > 0 else ()
        c = ((g.c - mean) / rest).clipped()
        return [Gradient(g.q * factor, c, g.spread / rest**2, g.noise, parts=levels)]

    return signal, pull


@dataclass(frozen=True)
class Normalised:
    """What a norm makes of a field."""

    kept: float  # share of the mean square that is left without the mean
    gain: float  # mean square of the output
    c: Pairs
    slope: float  # factor of the gradient's mean square
    independent: float  # how many independent numbers a variance is taken of


def normalised(context: Context, op: Operation, f: Field, square: float, eps: float) -> Normalised:
    """A field without its mean, over its standard deviation; `square` is the mean squared weight of the norm."""
    batch = op.function is F.batch_norm
    centre = context.average(f.c, f.positions) if batch else 0.0 if op.function is F.rms_norm else f.mean**2
    kept = max(1 - centre, 1e-12)
    variance = f.level * kept
    if variance + eps == 0:
        raise NoRule(op.function, "a signal without variance")
    c = ((f.c - centre) / kept).clipped()
    independent = 1 / max(context.average(c**2, f.positions), 1e-12) if batch else float(f.channels)
    # the mean of 1/variance over channels exceeds 1 over its mean, by 2 over the independent numbers
    excess = (independent - 1) / (independent - 3) if batch and independent > 6 else 1.0
    return Normalised(kept, square * variance / (variance + eps), c, square / (variance + eps) * excess, independent)


def norm_parameters(op: Operation) -> tuple[Tensor | None, Tensor | None, float]:
    """(weight, bias, eps) of a norm's call."""
    names = {
        F.batch_norm: ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
        F.layer_norm: ("normalized_shape", "weight", "bias", "eps"),
        F.group_norm: ("num_groups", "weight", "bias", "eps"),
        F.rms_norm: ("normalized_shape", "weight", "eps"),
    }[op.function]
    arguments = dict(zip(names, op.args[1:], strict=False)) | op.kwargs
    eps = arguments.get("eps")
    return arguments.get("weight"), arguments.get("bias"), 1e-5 if eps is None else float(eps)
