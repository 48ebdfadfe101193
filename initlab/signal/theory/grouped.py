"""Grouped and transposed convolutions: what a row of weights sees, where it is not all channels at all taps.

A row of a layer in g groups takes 1/g of the channels. The correlations of so few scatter g times as much as those of
all, and the groups' mean squares differ, by g times the variance of each factor since the last layer that mixed all
channels. Both add to the scatter of the layer's own draw; a depthwise convolution's rows of 9 weights show it most. A
transposed convolution of stride s gives each position 1/s^2 of its taps, as the gradient of a convolution does.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from initlab.signal.theory.field import Pairs
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal
from initlab.signal.theory.norms import norm
from initlab.signal.theory.scatter import Noise
from initlab.signal.theory.trace import Operation
from initlab.signal.theory.weights import weighted

SAME_PLACE = Pairs(1.0, near=0.0, within=0.0, same_place=1.0, elsewhere=0.0)
OTHER_PLACES = Pairs(0.0, near=0.0, within=1.0, same_place=0.0, elsewhere=1.0)


def convolved(context: Context, op: Operation, x: Signal) -> Result:
    """A convolution or linear layer as `weights` has it, with what its groups and strides add to the scatter."""
    signal, pull = weighted(context, op, x)
    weight, transposed = op.argument(1, "weight"), "transpose" in op.function.__name__
    taps, spatial = math.prod(weight.shape[2:]), weight.dim() > 2
    groups = int(op.argument(6, "groups", 1)) if spatial else 1
    ratio = math.prod(op.shape[2:]) / math.prod(op.in_shapes[0][2:]) if spatial else 1.0
    f, beyond = signal.field, max(ratio - 1, 0.0) if transposed else 0.0
    # A position sees so much less than all taps; of other positions 1/s^2 share their taps with it, and the rest none.
    missing, missing_back = beyond / taps, 0.0 if transposed else max(1 / ratio - 1, 0.0) / taps
    spread = missing * SAME_PLACE * x.field.spread + beyond * OTHER_PLACES * f.c**2
    seen = spread + (groups - 1) * (missing + 1 / taps) * x.field.spread
    grow(context, signal.fresh, groups, x.noise, seen, f.positions, f.channels)
    if groups > 1 and signal.fresh is not None:
        context.rows[signal.fresh] = weight.numel() // f.channels

    def back(g: Gradient) -> list[Gradient | None]:
        """The gradient likewise."""
        (result,) = pull(g)
        assert result is not None
        spread = missing_back * SAME_PLACE * g.spread
        seen = spread + (groups - 1) * (missing_back + 1 / taps) * g.spread
        grow(context, result.fresh, groups, g.noise, seen, x.field.positions, x.field.channels)
        # What a norm divided by is large where the weights are.
        q = result.q if signal.fresh is None else result.q / context.stretched.get(signal.fresh, 1.0)
        return [replace(result, q=q, spread=result.spread + spread)]

    return replace(signal, field=replace(f, spread=f.spread + spread)), back


def grow(
    context: Context, source: int | None, groups: int, noise: Noise, seen: Pairs, positions: int, channels: int
) -> None:
    """Add to a new source the spread that its rows see, and the inequality of their groups before it."""
    assert source is not None
    apart = unequal(context, noise, groups)
    more = 2 * context.average(seen, positions) / channels
    context.variances[source] = (context.variances[source] + more) * (1 + apart)
    if groups == 1:
        context.mixing.append(source)
    else:
        context.unequal[source] = apart


def normed(context: Context, op: Operation, x: Signal) -> Result:
    """A batch norm as `norms` has it; behind groups the mean of 1/variance over channels is more than 1 over the mean.

    A channel's variance is chi^2_m / m for the m weights of its row, whose inverse has the mean m / (m - 2).
    """
    signal, pull = norm(context, op, x)
    row = 0 if x.fresh is None else context.rows.get(x.fresh, 0)
    if x.fresh is None or row < 3:
        return signal, pull
    stretch = context.stretched[x.fresh] = row / (row - 2)

    def back(g: Gradient) -> list[Gradient | None]:
        """The gradient, divided by each channel's own variance."""
        return [None if part is None else replace(part, q=part.q * stretch) for part in pull(g)]

    return signal, back


def activated(context: Context, x: Signal, result: Result) -> Result:
    """What an activation adds to the scatter, by groups that are unequal."""
    signal, pull = result
    follow(context, x.fresh, x.noise)

    def back(g: Gradient) -> Sequence[Gradient | None]:
        """The gradient likewise."""
        parts = pull(g)
        follow(context, g.fresh, g.noise)
        return parts

    return signal, back


def follow(context: Context, fresh: int | None, noise: Noise) -> None:
    """The newest source, which took a grouped layer's in: its own part is as unequal as that layer's groups."""
    if fresh is not None and fresh in context.unequal:
        newest = len(context.variances) - 1
        own = context.variances[newest] - noise[fresh] ** 2 * context.variances[fresh]
        context.variances[newest] += context.unequal[fresh] * max(own, 0.0)


def unequal(context: Context, noise: Noise, groups: int) -> float:
    """Relative variance of the groups' mean squares, from the factors since the last layer that mixed all channels."""
    if groups == 1:
        return 0.0
    own = [source for source, power in enumerate(noise.powers.tolist()) if power]
    begin = max((source for source in context.mixing if own and source <= own[-1]), default=0)
    return groups * sum(context.variances[source] * noise[source] ** 2 for source in own if source >= begin)
