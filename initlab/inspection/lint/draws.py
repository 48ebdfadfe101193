"""Rules on how single weights were drawn: defaults left in, wrong fans, cuts without correction.

A weight is taken for a draw by its second moment, and bounds where it has them, each with an error of about 1e-6
(`Site.drawn_as`); where two explanations fit, the harmless one holds.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from initlab.init.expectations import Rectifier
from initlab.init.schemes import truncated_std
from initlab.inspection.lint.finding import Finding, Severity, drawn, finding, listed, scaled
from initlab.inspection.lint.sites import SIGMAS, Site, longest_chain
from initlab.nets.any_module import Transposed

# Variance of a standard normal cut at +-2: 0.77374.
CUT = truncated_std(2.0) ** 2
# So many normals hardly ever look uniform, (P[|z| < sqrt(3)] = 0.917)^160 = 1e-6, or cut, P[|z| < 2.274]^600 = 1e-6.
FEWEST_UNIFORM, FEWEST_CUT = 160, 600
# Nets whose signals fall so far, as AlexNet's do by 4e-6, train at torch's default; one of 12 ReLU layers does not.
HARMFUL = 1e-7


def left_at_default(site: Site) -> bool:
    """Whether a weight is U(+-1/sqrt(fan_in)), torch's kaiming_uniform_(a=sqrt(5)): bounded there, variance 1/3 of it.

    It misses a default weight with a probability of 2e-6, and takes a normal one for it with 1e-6.
    """
    count = site.weight.numel()
    if count < FEWEST_UNIFORM:
        return False
    # torch's fan_in, transposed or not.
    bound = 1 / math.sqrt(count / site.weight.shape[0])
    # Half precision rounds by 0.4 %; the largest of N uniform numbers is below the rest with probability 1e-6.
    least_peak = 0.995 + math.log(1e-6) / count
    # Var[u^2] / E[u^2]^2 = 9/5 - 1.
    scatter = SIGMAS * math.sqrt(0.8 / count)
    return least_peak <= site.peak / bound <= 1.005 and abs(3 * site.second / bound**2 - 1) <= scatter + 1e-3


def torch_default(sites: Sequence[Site]) -> Iterator[Finding]:
    """torch's default left in: variance 1/(3 fan_in), a factor 1/6 per ReLU layer."""
    defaults = [site for site in sites if left_at_default(site)]
    if not defaults:
        return
    chain = longest_chain([site for site in defaults if site.joint.before == "layer"])
    change = math.prod(site.factor("fan_in") for site in chain)
    effect = f": signals change ×{change:.2g} over {len(chain)} of them in a row" if chain else ""
    text = f"torch's default left in, U(±1/√fan_in) of kaiming_uniform_ with a=√5, fan_in·E[w²] = 1/3{effect}"
    severe = change < HARMFUL
    yield finding("torch_default", defaults, f"{listed(defaults)}: {text}", severity="fault" if severe else "note")


def truncation(sites: Sequence[Site]) -> Iterator[Finding]:
    """A normal cut at +-2 std without the correction 1/0.8796, or corrected but never cut.

    The second is what trunc_normal_(std=...) gives with its bounds a=-2, b=2, which are absolute. Without a correction
    such a weight is a plain normal one, of which nothing tells that a cut was meant.
    """
    short, long = [], []
    for site in sites:
        count, shape = site.weight.numel(), site.weight.shape
        torch_fans = [channels * math.prod(shape[2:]) for channels in shape[:2]]
        fans = {*site.fans, *torch_fans}
        variances = [gain / fan for gain in (1.0, 2.0, site.gain_squared) for fan in fans]
        # Glorot's mean of both fans, and torch's gain of tanh: plain draws that a cut is not to be read from.
        gains = (1.0, 2.0) if isinstance(site.joint.phi, Rectifier) else (1.0, 2.0, 25 / 9)
        plain = [*variances, *(gain / fan for gain in (*gains, 1 / 3) for fan in fans)]
        plain += [2 * gain / sum(pair) for gain in gains for pair in (site.fans, torch_fans)]
        if count < FEWEST_CUT or site.second == 0 or any(map(site.drawn_as, plain)):
            continue
        # P[none of N beyond 2 (1 - 61/N) std] = 1e-6.
        least_peak = 1 - 61 / count
        if any(site.drawn_as(CUT * v) and least_peak <= site.peak / (2 * math.sqrt(v)) <= 1.001 for v in variances):
            short.append(site)
        elif any(site.drawn_as(v / CUT) for v in variances) and site.peak > 2.3 * math.sqrt(site.second):
            long += [] if of_one_std(site, sites) else [site]
    # One layer of some other standard deviation may meet 1.292 of a rule's by chance.
    long = long if len(long) > 1 else []
    without_correction = "a normal cut at ±2 std without correction, so the variance is 0.7737 of what was meant"
    without_cut = (
        "corrected by 1/0.8796 for a cut at ±2 std that was not done (trunc_normal_'s bounds are absolute), so the "
        "variance is 1.292 of what was meant"
    )
    for part, fault, factor in ((short, without_correction, CUT), (long, without_cut, 1 / CUT)):
        if part:
            text = f"{listed(part)}: {fault}, ×{factor ** len(part):.2g} over all"
            yield finding("truncation", part, text, scaled(part, factor**-0.5))


def of_one_std(site: Site, sites: Sequence[Site]) -> bool:
    """Whether two or more layers of quite other fans have the same variance: one std for all, as 0.02, explains it."""
    alike = [other for other in sites if other.second > 0 and site.drawn_as(other.second)]
    ratios = [other.fan_out * other.groups / (site.fan_out * site.groups) for other in alike]
    return sum(not 1 / 4 < ratio < 4 for ratio in ratios) > 1


def grouped_fan_out(sites: Sequence[Site]) -> Iterator[Finding]:
    """Grouped convolutions drawn by torch's fan_out, which ignores the groups: a depthwise one gets 1/C of it."""
    grouped = [site for site in sites if site.groups > 1 and not isinstance(site.module, Transposed)]
    by_torch = [site for site in grouped if site.drawn_by(site.fan_out * site.groups) and not site.drawn_by(*site.fans)]
    for part, remark, severity in by_norm([site for site in by_torch if not of_one_std(site, sites)]):
        text = (
            f"{listed(part)}: drawn by torch's fan_out, which ignores the groups, so the variance is 1/groups of what "
            f"was meant, down to 1/{max(site.groups for site in part)}{remark}"
        )
        fix = scaled(part, *(math.sqrt(site.groups) for site in part))
        yield finding("grouped_fan_out", part, text, fix, severity=severity)


def strides(site: Site) -> tuple[int, ...]:
    """A convolution's strides; () for a linear layer."""
    return tuple(getattr(site.module, "stride", ()))


def by_norm(sites: Sequence[Site]) -> Iterator[tuple[list[Site], str, Severity]]:
    """The layers without and those with a norm after them, each with what to say of it and how severe it is."""
    for remark in ("", " (the norm after it makes up for that)"):
        if part := [site for site in sites if (site.joint.after == "norm") == bool(remark)]:
            yield part, remark, "note" if remark else "fault"


def transposed_fan_in(sites: Sequence[Site]) -> Iterator[Finding]:
    """Strided transposed convolutions drawn by what torch calls their fan_in, which is the fan_out."""
    strided = [site for site in sites if isinstance(site.module, Transposed) and math.prod(strides(site)) > 1]
    by_torch = [site for site in strided if site.drawn_by(site.fan_out) and not site.drawn_by(site.fan_in)]
    for part, remark, severity in by_norm(by_torch):
        change = math.prod(site.fan_in / site.fan_out for site in part)
        text = (
            f"{listed(part)}: drawn by what torch calls fan_in, {part[0].fan_out:g}, but with stride "
            f"{strides(part[0])[0]} a response sums {part[0].fan_in:g} products: the signal changes "
            f"×{change:.3g}{remark}"
        )
        fix = scaled(part, *(math.sqrt(site.fan_out / site.fan_in) for site in part))
        yield finding("transposed_fan_in", part, text, fix, severity=severity)


def orthogonal_first(sites: Sequence[Site]) -> Iterator[Finding]:
    """An orthogonal first layer with more responses than inputs keeps in k^2/out of the signal: 27/64 in VGG's."""
    for site in sites:
        weight = site.weight.flatten(1)
        rows, columns = weight.shape
        if site.joint.before != "input" or site.joint.after == "norm" or rows <= columns or columns < 2:
            continue
        gram = weight.T.double() @ weight.double()
        scale = gram.diagonal().mean()
        if scale == 0 or (gram - scale * torch.eye(columns, device=gram.device)).abs().max() > 1e-3 * scale:
            continue
        text = (
            f"`{site.name}`: orthogonal with {rows} responses on {columns} inputs, whose columns, not rows, have the "
            f"norm {scale.item() ** 0.5:.4g}: it keeps {columns}/{rows} = {columns / rows:.4g} of the signal"
        )
        fix = scaled([site], math.sqrt(rows / columns))
        yield finding("orthogonal_first", [site], text, fix, severity="note")


def slope(sites: Sequence[Site]) -> Iterator[Finding]:
    """Weights of He's 2/fan after a leaky or parametric rectifier, without its 1/(1 + a^2).

    Layers of one slope are judged together, since 16,384 weights alone don't tell 2 from 2/1.0625; else one by one.
    """
    groups: dict[float, list[Site]] = defaultdict(list)
    for site in sites:
        phi = site.joint.phi
        if isinstance(phi, Rectifier) and phi.a_squared > 0 and site.joint.after not in ("norm", "output"):
            groups[round(phi.a_squared, 9)].append(site)
    for a_squared, group in groups.items():
        wrong = group if lacks_slope(group) else [site for site in group if lacks_slope([site])]
        if not wrong:
            continue
        length = len(longest_chain(wrong))
        text = (
            f"{listed(wrong)}: ReLU's 2/fan after a rectifier of slope {a_squared**0.5:.3g}: signals grow "
            f"×{1 + a_squared:.4g} per layer, ×{(1 + a_squared) ** length:.3g} over {length} in a row"
        )
        yield finding("slope", wrong, text, scaled(wrong, (1 + a_squared) ** -0.5))


def lacks_slope(group: Sequence[Site]) -> bool:
    """Whether layers of one slope have, taken together, the variance 2/fan and not gain^2/fan."""
    counts = [site.weight.numel() for site in group]
    scatter = SIGMAS * math.sqrt(2 / sum(counts)) + 1e-3

    def fits(fan: str, *, slope: bool) -> bool:
        """Whether the pooled variance is gain^2/fan (`slope`) or 2/fan within chance."""
        ratios = [site.factor(fan) * (1 if slope else site.gain_squared / 2) for site in group]
        return bool(abs(np.average(ratios, weights=counts) - 1) <= scatter)

    both = ("fan_in", "fan_out")
    return any(fits(fan, slope=False) for fan in both) and not any(fits(fan, slope=True) for fan in both)


def dead(sites: Sequence[Site]) -> Iterator[Finding]:
    """Layers whose weights are all 0, or all alike, so that their units learn the same or nothing.

    A zero layer that ends a residual branch, or the model, opens with the first update and is none of these.
    """
    zeros = [site for site in sites if site.second == 0 and site.joint.after in ("activation", "layer", "norm")]
    if zeros:
        text = f"{listed(zeros)}: all weights are 0, so nothing passes and no gradient comes to what lies before"
        yield finding("dead", zeros, text, drawn(zeros, 0.02))
    several = [site for site in sites if site.second > 0 and min(site.weight.flatten(1).shape) > 1]
    alike = [site for site in several if site.weight.min() == site.weight.max()]
    if alike:
        text = f"{listed(alike)}: all weights are the same, so the units of a layer can only learn the same"
        yield finding("dead", alike, text, drawn(alike, *(site.second**0.5 for site in alike)))
