"""Mean field of BatchNorm, LayerNorm, GroupNorm, InstanceNorm and RMSNorm."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from initlab.signal.theory.field import NONE, Field, NoRule, Pairs, common, levelled, unevenness
from initlab.signal.theory.meanfield import Context, Gradient, Radial, Result, Signal
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.trace import Operation

# Where a norm's call has its weight, bias and eps; an RMSNorm has no bias.
PLACES = {
    F.batch_norm: (3, 4, 7), F.instance_norm: (3, 4, 7), F.layer_norm: (2, 3, 4), F.group_norm: (2, 3, 4),
    F.rms_norm: (2, 9, 3),
}  # fmt: skip
NAMES = ("weight", "bias", "eps")


def norm(context: Context, op: Operation, x: Signal) -> Result:
    """A norm: the mean square becomes the weight's, whatever it was.

    BatchNorm takes each channel's mean away, which is the average product of all pairs; the gradient is divided by the
    standard deviation and loses its mean and its part along the output (Yang et al. 2019, sec. 3). After a rectifier
    the pairs keep 1/pi, so each Linear-BatchNorm-ReLU multiplies the gradient's second moment by pi/(pi - 1).
    """
    group = group_of(context, op, x)
    each = group.positions == 1 and not group.batch
    centres = each and op.function is not F.rms_norm
    f = replace(x.field, c=levelled(x.field)) if each else x.field
    weight, bias, eps = (op.argument(*place) for place in zip(PLACES[op.function], NAMES, strict=True))
    square = 1.0 if weight is None else float(weight.detach().double().square().mean())
    shift = 0.0 if bias is None else float(bias.detach().double().square().mean())
    # A norm's own eps, or torch's where it says None.
    eps = float(eps) if eps is not None else torch.finfo(op.dtype).eps if op.function is F.rms_norm else 1e-5
    # Joined channels are normalised part by part.
    parts = x.parts if op.function is F.batch_norm and x.parts else ((1.0, f),)
    normed = [normalised(op, group, part, square, eps, x.balanced) for _, part in parts]
    shares = [share for share, _ in parts]
    gain = sum(share * n.gain for share, n in zip(shares, normed, strict=True))
    pairs = sum((share * n.gain * n.c for share, n in zip(shares, normed, strict=True)), start=NONE)
    c = ((pairs + shift) / (gain + shift)).clipped() if gain + shift > 0 else f.c
    # Where each position is normalised by itself, all have the same mean square.
    profile = torch.ones_like(f.q) if each else f.q / f.level
    mean = common(bias) / math.sqrt(gain + shift) if gain + shift > 0 else 0.0
    if op.function is F.rms_norm:
        mean = f.mean * (1.0 if weight is None else common(weight) / math.sqrt(square))
    # An example that is normalised by itself has always the same level.
    spread = replace(f.spread / normed[0].centred ** 2, itself=f.spread.itself if group.batch else 0.0)
    # Behind a BatchNorm examples drift apart in level and angle, but gradients grow as if they did not: over 30 layers
    # of 64 units by 1.44 a layer, where pi/(pi - 1) is 1.47 and 1/(1 - c) with what drifts falls from 1.47 to 1.24.
    field = Field(profile * gain + shift, c, mean, f.positions, f.channels, spread)

    def pull(g: Gradient) -> list[Gradient | None]:
        """The gradient without what moves the statistics, over their spread."""
        centre = group.average(g.c) / group.channels if op.function is not F.rms_norm else Pairs.alike(0.0, itself=0.0)
        # Behind another LayerNorm it has no mean to lose.
        centre = (1 - g.centred) * centre if centres else centre
        rest = max(1 - centre.itself, 1e-12)
        # What lies along the signals of all positions together lies along those of each, where they are independent.
        along = 0.0 if group.batch else g.along(field) * (field.positions if each else 1)
        factors = [n.slope * max(rest - 1 / n.independent - along, 0.0) for n in normed]
        if not group.batch:
            # Each example's gradient is divided by its own level; how uneven positions are is in q already.
            by_draw = context.scatter(x.noise).variance if each else 0.0
            factors = [factor * (1 + max(f.spread.itself - unevenness(f.q), 0.0) + by_draw) for factor in factors]
        factor = sum(share * value for share, value in zip(shares, factors, strict=True))
        levels = tuple(value / factor for value in factors) if len(factors) > 1 and factor > 0 else ()
        c = ((g.c - centre) / rest).clipped()
        back = g.q * factor * (f.level / f.q.clamp(min=1e-12 * f.level) if each and f.q.shape == g.q.shape else 1.0)
        # It is divided by the variance that one draw has, beside the eps; BatchNorm's is that of centred channels.
        scatter = x.noise
        if group.batch:
            own = context.source(2 * context.average(normed[0].c ** 2, f.positions) / f.channels)
            scatter = x.noise.without(x.fresh).having(own)
        share = normed[0].share
        noise = mixed((1.0, g.noise), (-share, scatter))
        # The slope has the mean of what it is divided by already.
        noise = noise.shifted(-share * (1 + share) / 2 * context.scatter(scatter).variance)
        # An example that is normalised by itself has no gradient along its signal.
        units = f.channels * f.positions
        radial = Radial(-units * f.level * float(back.mean()), mixed((1.0, noise), (1.0, x.noise)))
        radial = g.radial if group.batch else radial
        return [Gradient(back, c, g.spread / rest**2, noise, parts=levels, radial=radial, centred=float(centres))]

    balanced = op.function is F.layer_norm and each and not shift
    return Signal(field, Noise(), given=NONE if group.batch else None, axis=x.axis, balanced=float(balanced)), pull


@dataclass(frozen=True)
class Group:
    """What a norm takes one mean and variance of: so many channels at so many positions, perhaps of all examples."""

    channels: int
    positions: int
    batch: bool
    context: Context

    def average(self, c: Pairs) -> Pairs:
        """Mean product of one unit, or of its partner, with the positions of one channel in the group."""
        if self.batch:
            everywhere = self.context.average(c, self.positions)
            return Pairs.alike(everywhere, everywhere)
        if self.positions == 1:
            return c
        others = self.positions - 1
        inside, across = 1 + others * c.within, c.same_place + others * c.elsewhere
        return Pairs(inside, inside, inside, across, across) / self.positions


def group_of(context: Context, op: Operation, x: Signal) -> Group:
    """The group of a norm's call."""
    shape, f = op.in_shapes[0], x.field
    if op.function is F.batch_norm:
        return Group(1, f.positions, True, context)
    if op.function is F.instance_norm:
        return Group(1, f.positions, False, context)
    if op.function is F.group_norm:
        return Group(max(f.channels // int(op.argument(1, "num_groups")), 1), f.positions, False, context)
    sides = op.argument(1, "normalized_shape")
    dims = 1 if isinstance(sides, int) else len(sides)
    channels = shape[x.axis] if -x.axis <= dims else 1
    return Group(channels, max(math.prod(shape[-dims:]) // channels, 1), False, context)


@dataclass(frozen=True)
class Normalised:
    """What a norm makes of a field."""

    centred: float  # share of the mean square that is left without the mean
    gain: float  # mean square of the output
    c: Pairs
    slope: float  # factor of the gradient's mean square
    independent: float  # how many independent numbers a variance is taken of
    share: float  # of the variance in what is divided by


def normalised(op: Operation, group: Group, f: Field, square: float, eps: float, balanced: float) -> Normalised:
    """A field without its mean, over its standard deviation; `square` is the mean squared weight of the norm."""
    common = f.mean**2
    centre = common + (group.average(f.c) - common) / group.channels
    if group.positions == 1 and not group.batch:
        centre = (1 - balanced) * centre
    if op.function is F.rms_norm:
        centre = Pairs.alike(0.0, itself=0.0)
    centred = max(1 - centre.itself, 1e-12)
    variance = f.level * centred
    if variance + eps == 0:
        raise NoRule(op.function, "a signal without variance")
    c = ((f.c - centre) / centred).clipped()
    independent = group.channels / max(group.average(c**2).itself, 1e-12)
    # The mean of 1/variance over channels exceeds 1 over its mean, by 2 over the independent numbers; of single
    # examples it follows how their levels scatter.
    alone = group.positions == 1 and not group.batch
    excess = (independent - 1) / (independent - 3) if independent > 6 and not alone else 1.0
    share, slope = variance / (variance + eps), square / (variance + eps) * excess
    return Normalised(centred, square * share, c, slope, independent, share)
