"""Rules on runs of layers: what gain and activation do to signals together over a depth, in mean field.

A run is the longest row of layers in which each takes the output of the one before, through an activation and nothing
that mixes or normalises. A rule speaks where a run changes a signal more than tenfold.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import geometric_mean

from torch import Tensor

from initlab.init.expectations import Elementwise
from initlab.init.maps import ZERO, settled
from initlab.inspection.lint.draws import left_at_default
from initlab.inspection.lint.finding import Finding, finding, listed, scaled
from initlab.inspection.lint.sites import Site, gain_squared, longest_chain, variance_slope
from initlab.verdict.rules import highest_loss

TENFOLD = math.log(10)
# Heads of detectors, whose signals fall 700-fold over three layers, train so.
HARMFUL = math.log(1000)
# fan_in E[w^2] of schemes.
KNOWN = {2.0: "He's", 1.0: "Xavier's", 25 / 9: "torch's gain 5/3 squared", 1 / 3: "torch's default"}
# chi_1 from which gradients grow tenfold within 24 layers; SELU's own is 1.0716.
CHAOTIC = 1.1


def gain(sites: Sequence[Site]) -> Iterator[Finding]:
    """Gains of rectifier and linear layers in a run that multiply to a tenfold loss or growth, forward and backward.

    Xavier under ReLU is a factor 1/2 per layer. Layers right by fan_in or by fan_out, and last ones, which are often
    small on purpose, don't count; nor do runs whose signal on the batch stays level, as scaled on data.
    """
    run = longest_chain([site for site in sites if site.homogeneous and site.second > 0])
    judged = [site for site in run if inside(site) and not left_at_default(site)]
    off = [site for site in judged if not any(site.drawn_as(site.gain_squared / fan) for fan in site.fans)]
    forward, backward = log_change(off, "fan_in"), log_change(off, "fan_out")
    if forward * backward <= 0 or min(abs(forward), abs(backward)) < TENFOLD:
        return
    if is_level(run):
        return
    names = {site.joint.phi.name if site.joint.phi else "linear" for site in off}
    measured = geometric_mean(site.second * site.fan_in for site in off)
    needed = geometric_mean(site.gain_squared for site in off)
    text = (
        f"{listed(off)}: fan_in·E[w²] = {measured:.3g}{scheme_of(measured)} where {' and '.join(sorted(names))} wants "
        f"{needed:.3g}, so signals change ×{math.exp(forward):.2g} over them, gradients ×{math.exp(backward):.2g}"
    )
    severe = min(abs(forward), abs(backward)) > HARMFUL
    yield finding("gain", off, text, severity="fault" if severe else "note")


def is_level(run: Sequence[Site]) -> bool:
    """Whether the signal on the batch stays as large over a run, as in nets that were scaled on data."""
    first, last = run[0].signal, run[-1].signal
    return min(first, last) > 0 and abs(math.log(last / first)) < TENFOLD / 2


def inside(site: Site) -> bool:
    """Whether a layer is known not to be the last, which is often small on purpose, and has weights."""
    return site.second > 0 and site.joint.after not in ("output", "unknown")


def log_change(sites: Sequence[Site], fan: str) -> float:
    """ln of what the layers do to a second moment, forward by `fan_in` or backward by `fan_out`."""
    return sum(math.log(site.factor(fan)) for site in sites)


def smooth(sites: Sequence[Site]) -> Iterator[Finding]:
    """Runs of one activation that is no rectifier: chaotic, vanishing, exploding, or on an unstable fixed point.

    tanh under torch's gain 5/3 has chi_1 = 1.209831, and GELU at its own gain departs from 1 by 1.144 per layer.
    """
    groups: dict[str, list[Site]] = defaultdict(list)
    for site in sites:
        if isinstance(site.joint.phi, Elementwise) and site.joint.before == "layer" and inside(site):
            groups[site.joint.phi.name].append(site)
    for group in groups.values():
        run = longest_chain(group)
        phi = run[0].joint.phi
        if isinstance(phi, Elementwise) and len(run) > 1 and not phi.jumps:
            yield from smooth_run(run, phi)


def smooth_run(run: Sequence[Site], phi: Elementwise) -> Iterator[Finding]:
    """What one run does, from second moment 1, under the geometric mean of its layers' weights."""
    g2, depth = geometric_mean(site.second * site.fan_in for site in run), len(run)
    bias = sum(site.bias_second for site in run) / depth
    unit_gain, steepness = gain_squared(phi), variance_slope(phi)
    head = f"{listed(run)}: fan_in·E[w²] = {g2:.4g}{scheme_of(g2)} under {phi.name}"
    if abs(g2 / unit_gain - 1) < 0.05 and depth * math.log(steepness) > TENFOLD and bias == 0:
        if is_level(run):
            return
        low, high = (second_after(phi, g2=unit_gain, q=start, depth=depth) for start in (0.9, 1.1))
        text = (
            f"{head}, its own gain, where second moment 1 is an unstable fixed point (slope {steepness:.4g}): from 0.9 "
            f"it goes to {low:.2g} in {depth} layers, from 1.1 to {high:.2g}; add norms, or scale on data"
        )
        yield finding("unstable_gain", run, text)
        return
    q = settled(lambda q: g2 * phi.second(q) + bias, 1.0)
    if q == math.inf:
        if (grown := second_after(phi, g2=g2, q=1.0, depth=depth, bias=bias)) > 10:
            text = f"{head}, which wants {unit_gain:.3g}: the second moment grows from 1 to {grown:.2g}"
            yield finding("gain", run, text)
        return
    chi_1 = g2 * phi.slope_second(q or ZERO)
    change = chi_1**depth
    # SIREN's own weights have 1.2 in mean field, of which first layers of higher frequency leave little.
    if chi_1 > (2 if phi.name.startswith("sin(") else CHAOTIC) and change > 10:
        text = (
            f"{head} is chaotic: gradients grow ×{chi_1:.4g} per layer, ×{change:.3g} over {depth}, {where_settled(q)}"
        )
        yield finding("chaotic", run, text)
    elif change < 0.1:
        text = f"{head}, so gradients shrink ×{chi_1:.3g} per layer, ×{change:.2g} over {depth}, {where_settled(q)}"
        yield finding("gain", run, text)


def where_settled(q: float) -> str:
    """`at the second moment 0.192`, or that the signal dies out."""
    return f"at the second moment {q:.4g}" if q > ZERO else "as the signal itself dies out"


def second_after(phi: Elementwise, *, g2: float, q: float, depth: int, bias: float = 0.0) -> float:
    """The second moment after some layers, inf or 0 where it leaves all bounds."""
    for _ in range(depth):
        if not 1e-12 < q < 1e12:
            break
        q = g2 * phi.second(q) + bias
    return q


def hidden_by_biases(sites: Sequence[Site]) -> Iterator[Finding]:
    """Biases that keep a signal where the weights lose it: q = f q + b settles on b/(1 - f), while gradients fall by f.

    Under torch's default f is 1/6 and the second moment settles on 2/(5 fan_in) (of a wide, square ReLU net).
    """
    run = longest_chain([site for site in sites if site.homogeneous and inside(site)])
    forward, backward = log_change(run, "fan_in"), log_change(run, "fan_out")
    if max(forward, backward) > -2 * TENFOLD:
        return
    weights_alone, with_biases = math.exp(forward), 1.0
    for site in run:
        with_biases = with_biases * site.factor("fan_in") + site.bias_second
    if with_biases < 100 * weights_alone:
        return
    text = (
        f"{listed(run)}: biases hide a vanishing signal, which settles on E[y²] = {with_biases:.3g}, and would fall "
        f"without them to {weights_alone:.2g}; gradients fall ×{math.exp(backward / len(run)):.3g} per layer, "
        f"×{math.exp(backward):.2g} in all"
    )
    yield finding("hidden_by_biases", run, text)


def loss_at_start(sites: Sequence[Site], output: Tensor | None) -> Iterator[Finding]:
    """A last layer whose logits make the loss start above 3 ln K: on the batch, or for inputs of second moment 1.

    Measured, it is the expected cross-entropy on random labels, mean(logsumexp - mean logit), over all positions, with
    the classes last. Otherwise logits of variance v give ln K + v/2 up to v = 2 ln K and sqrt(2 v ln K) beyond
    (Derrida 1981); He's last layer has v = 2. From 10 ln K on, where a trial counts as diverged, it is a fault.
    """
    ends = [site for site in sites if site.joint.after == "output" and site.module.weight.dim() == 2]
    if len(ends) != 1:
        return
    last = ends[0]
    classes = last.module.weight.shape[0]
    if classes < 2 or last.second == 0 or (output is not None and output.shape[-1:] != (classes,)):
        return
    chance = math.log(classes)
    if output is not None:
        logits = output.double().flatten(0, -2)
        loss = (logits.logsumexp(1) - logits.mean(1)).mean().item()
        rms, basis = logits.var(dim=1, correction=0).mean().sqrt().item(), "on this batch"
    else:
        variance = last.second * last.fan_in
        loss = chance + variance / 2 if variance < 2 * chance else math.sqrt(2 * variance * chance)
        rms, basis = math.sqrt(variance), "for inputs of second moment 1"
    if not 3 * chance < loss < math.inf:
        return
    text = (
        f"`{last.name}`: logits have an rms of {rms:.3g} {basis} (the weight's is {math.sqrt(last.second):.3g}): the "
        f"loss starts near {loss:.3g}, where ln {classes} = {chance:.2f} is chance"
    )
    diverged = loss > highest_loss(chance)
    yield finding("loss_at_start", ends, text, scaled(ends, 1 / rms), severity="fault" if diverged else "note")


def scheme_of(g2: float) -> str:
    """Whose fan_in E[w^2] this is, within 3 %: ` (He's)` for 2, or nothing."""
    return next((f" ({name})" for value, name in KNOWN.items() if abs(g2 / value - 1) < 0.03), "")
