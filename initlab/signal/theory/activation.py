"""Mean field of activations: phi of normals, forward and back."""

import math
from dataclasses import replace

import torch

from initlab.signal.theory.field import Field, NoRule
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal
from initlab.signal.theory.response import Response, second_map
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.spread import angles, sampled, sampled_normals, spread_from, walked


def activation(context: Context, response: Response, x: Signal) -> Result:
    """phi of normals: its closed forms or quadrature at each position, its correlation map for pairs.

    The average over n channels scatters by (E[phi^2(u) phi^2(v)] over pairs / E[phi^2]^2 - 1) / n.
    """
    f = x.field
    second = response.second()
    if second == 0:
        raise NoRule(response.phi.name, "gives 0 wherever its signal lies")
    growth, slope_growth = response.growth()
    # Levels of single examples scatter about that of the batch, which scatters over draws; correlations do as well.
    # Units are normal whatever a fresh layer drew: what it takes in is what scatters.
    given = f if x.given is None else replace(f, spread=x.given)
    variance = 0.0 if response.closed else context.scatter(x.noise.without(x.fresh)).variance
    bend, slope_bend = response.bend(given.spread.itself + variance)
    now = angles(context, f, f.positions)
    over_draws = now if given is f else angles(context, given, f.positions)
    # Pairs have the mean product of two roots of levels, which is less than their mean level.
    c = (over_draws.average(response.pair) / second * over_draws.roots**growth**2).clipped()
    at = over_draws.of_one_draw(x.cosine)
    cosine = (at.average(response.pair) / second).clipped()
    mean = response.first() / math.sqrt(second)
    levels = 1 + growth**2 * (at.levels - 1)
    squares = at.average(response.square_pair) / second**2
    linear = 2 * growth**2 * ((f.c - f.mean**2) ** 2 + given.spread)
    if x.balanced == 1:
        linear = linear + response.tilt() ** 2 * f.c
    excess = levels * (squares - 1) - linear
    rest = context.average(excess, f.positions)
    # What the correlation of as many normals adds is in their own scatter already.
    follow = (at.cosine.each(response.pair, 1) * response.q / second) ** 2
    cubes = at.average(response.cube_pair) / second**2
    beyond = sampled(cosine, squares, cubes) - follow * sampled_normals(at.cosine)
    scatter = follow * now.scatter + beyond.within_limits(0, math.inf) / f.channels
    own = (excess.itself / levels.itself - rest) / f.channels
    within = walked(context, growth**2 * f.spread.itself, own, f.positions)
    noise = context.replaced(x.noise, x.fresh, rest / f.channels, growth)
    source = len(context.variances) - 1
    # A power of a factor of mean 1 has another mean, which the level has already.
    noise = noise.shifted(growth * (1 - growth) * variance / 2)
    q = bend * (second_map(response.phi, f.q) if response.mean == 0 else f.q * (second / response.q))
    spread = spread_from(context, q, c, within, scatter, f.positions)
    field = Field(q, c, mean, f.positions, f.channels, spread)
    signal = Signal(field, noise, cosine=cosine, response=response, normals=f.c, axis=x.axis)

    def pull(g: Gradient) -> list[Gradient | None]:
        """The gradient times the second moment of the slope."""
        slope = response.second(order=1)
        if slope == 0:
            return [Gradient(torch.zeros_like(f.q), g.c, g.spread, g.noise)]
        ratio = (at.average(response.pair, 1) / slope).clipped()
        masks = at.average(response.square_pair, 1) / slope**2
        to = angles(context, g, f.positions)
        square = to.levels + 2 * (g.c**2 + g.spread)
        excess = (masks - 1) * square
        if x.balanced == 1:
            excess = excess - response.tilt(order=1) ** 2 * f.c
        rest = context.average(excess, f.positions)
        # A slope's cube beside another slope counts as its square beside itself does: so it is of rectifiers.
        after = ratio * to.cosine
        beyond = sampled(after, masks * (1 + 2 * to.cosine**2), 3 * masks.itself * after)
        beyond = beyond - ratio**2 * sampled_normals(to.cosine)
        scatter = ratio**2 * to.scatter + beyond.within_limits(0, math.inf) / f.channels
        own_level = (excess.itself / to.levels.itself - rest) / f.channels
        within = walked(context, g.spread.itself, own_level, f.positions)
        c = g.c * ratio
        spread = spread_from(context, g.q, c, within, scatter, f.positions)
        # The slopes follow the signal's own scatter, and the same units that give much let much gradient through.
        follows = x.noise.scaled(slope_growth) if slope_growth else Noise()
        crossed = at.average(response.cross_pair) / (second * slope)
        both = context.average(crossed, f.positions) - 1
        both -= growth * slope_growth * 2 * context.average((f.c - f.mean**2) ** 2, f.positions)
        if x.balanced == 1:
            both -= response.tilt() * response.tilt(order=1) * context.average(f.c, f.positions)
        variance = context.variances[source]
        shared = both / f.channels / variance if variance > 0 else 0.0
        own = context.replaced(g.noise, g.fresh, rest / f.channels - shared**2 * variance)
        # The shift keeps the product's mean at 1, which the power of a factor alone has not.
        noise = mixed((1.0, own), (1.0, follows.having(source, shared))).shifted(shared * (1 - shared) * variance / 2)
        factor = second_map(response.phi, f.q, order=1) if response.mean == 0 else torch.full_like(f.q, slope)
        # What follows the signal lies where phi is large, hence where its slope is.
        chance = Gradient(g.q * factor * slope_bend, c, spread, noise, radial=g.radial.times(growth**2))
        return [chance.with_more_along(context, g.along(field) * (crossed.itself - 1), signal)]

    return signal, pull
