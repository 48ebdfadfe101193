"""Mean field of BatchNorm, LayerNorm, GroupNorm and RMSNorm."""

from dataclasses import dataclass

import torch.nn.functional as F

from initlab.signal.theory.field import NONE, Field, NoRule, Pairs
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal
from initlab.signal.theory.trace import Operation

# Where a norm's call has its weight, bias and eps; an RMSNorm has no bias.
PLACES = {F.batch_norm: (3, 4, 7), F.layer_norm: (2, 3, 4), F.group_norm: (2, 3, 4), F.rms_norm: (2, 9, 3)}
NAMES = ("weight", "bias", "eps")


def norm(context: Context, op: Operation, x: Signal) -> Result:
    """BatchNorm, LayerNorm, GroupNorm or RMSNorm: the mean square becomes the weight's, whatever it was.

    BatchNorm takes each channel's mean away, which is the average product of all pairs; the gradient is divided by the
    standard deviation and loses its mean and its part along the output (Yang et al. 2019, sec. 3). After a rectifier
    the pairs keep 1/pi, so each Linear-BatchNorm-ReLU multiplies the gradient's second moment by pi/(pi - 1).
    """
    f, batch = x.field, op.function is F.batch_norm
    weight, bias, eps = (op.argument(*place) for place in zip(PLACES[op.function], NAMES, strict=True))
    square = 1.0 if weight is None else float(weight.detach().double().square().mean())
    shift = 0.0 if bias is None else float(bias.detach().double().square().mean())
    # Joined channels are normalised part by part.
    parts = x.parts if batch and x.parts else ((1.0, f),)
    normed = [normalised(context, op, part, square, 1e-5 if eps is None else float(eps)) for _, part in parts]
    shares = [share for share, _ in parts]
    gain = sum(share * n.gain for share, n in zip(shares, normed, strict=True))
    pairs = sum((share * n.gain * n.c for share, n in zip(shares, normed, strict=True)), start=NONE)
    c = ((pairs + shift) / (gain + shift)).clipped() if gain + shift > 0 else f.c
    spread = f.spread / normed[0].centred ** 2
    signal = Signal(Field(f.q / f.level * gain + shift, c, 0.0, f.positions, f.channels, spread), {})

    def pull(g: Gradient) -> list[Gradient]:
        """The gradient without what moves the statistics, over their spread."""
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

    centred: float  # share of the mean square that is left without the mean
    gain: float  # mean square of the output
    c: Pairs
    slope: float  # factor of the gradient's mean square
    independent: float  # how many independent numbers a variance is taken of


def normalised(context: Context, op: Operation, f: Field, square: float, eps: float) -> Normalised:
    """A field without its mean, over its standard deviation; `square` is the mean squared weight of the norm."""
    batch = op.function is F.batch_norm
    centre = context.average(f.c, f.positions) if batch else 0.0 if op.function is F.rms_norm else f.mean**2
    centred = max(1 - centre, 1e-12)
    variance = f.level * centred
    if variance + eps == 0:
        raise NoRule(op.function, "a signal without variance")
    c = ((f.c - centre) / centred).clipped()
    independent = 1 / max(context.average(c**2, f.positions), 1e-12) if batch else float(f.channels)
    # The mean of 1/variance over channels exceeds 1 over its mean, by 2 over the independent numbers.
    excess = (independent - 1) / (independent - 3) if batch and independent > 6 else 1.0
    return Normalised(centred, square * variance / (variance + eps), c, square / (variance + eps) * excess, independent)
