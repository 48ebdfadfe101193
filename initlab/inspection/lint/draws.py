"""Rules on how single weights were drawn: defaults left in, wrong fans, cuts without correction.

A weight is taken for a draw by its second moment, and bounds where it has them, each with an error of about 1e-6
(`Site.drawn_as`); where two explanations fit, the harmless one holds.
"""

import math
from collections.abc import Iterator, Sequence

import torch

from initlab.init.expectations import Rectifier
from initlab.init.schemes import truncated_std
from initlab.inspection.lint.finding import Finding, Severity, finding, listed, scaled
from initlab.inspection.lint.sites import SIGMAS, Site, longest_chain
from initlab.nets.any_module import Transposed

ERROR = 1e-6
# Variance of a standard normal cut at +-2: 0.77374.
CUT = truncated_std(2.0) ** 2
# So many normals hardly ever look uniform, (P[|z| < sqrt(3)] = 0.917)^160 = 1e-6, or cut, P[|z| < 2.274]^600 = 1e-6.
FEWEST_UNIFORM, FEWEST_CUT = 160, 600


def left_at_default(site: Site) -> bool:
    """Whether a weight is U(+-1/sqrt(fan_in)), torch's kaiming_uniform_(a=sqrt(5)): bounded there, variance 1/3 of it.

    It misses a default weight with a probability of 2e-6, and takes a normal one for it with 1e-6.
    """
    if site.count < FEWEST_UNIFORM:
        return False
    # torch's fan_in, transposed or not.
    bound = 1 / math.sqrt(site.count / site.module.weight.shape[0])
    # Half precision rounds by 0.4 %; the largest of N uniform numbers is below the rest with probability 1e-6.
    least_peak = 0.995 + math.log(ERROR) / site.count
    # Var[u^2] / E[u^2]^2 = 9/5 - 1.
    scatter = SIGMAS * math.sqrt(0.8 / site.count)
    return least_peak <= site.peak / bound <= 1.005 and abs(3 * site.second / bound**2 - 1) <= scatter + 1e-3


def torch_default(sites: Sequence[Site]) -> Iterator[Finding]:
    """torch's default left in: variance 1/(3 fan_in), a factor 1/6 per ReLU layer."""
    defaults = [site for site in sites if left_at_default(site)]
    if not defaults:
        return
    chain = longest_chain([site for site in defaults if site.joint.before == "layer"])
    change = math.prod(site.second * site.fan_in / site.gain_squared for site in chain)
    effect = f": signals change ×{change:.2g} over {len(chain)} of them in a row" if chain else ""
    text = f"torch's default left in, U(±1/√fan_in) of kaiming_uniform_ with a=√5, fan_in·E[w²] = 1/3{effect}"
    severity: Severity = "fault" if change < 0.1 else "note"
    yield finding("torch_default", defaults, f"{listed(defaults)}: {text}", severity=severity)


def targets(site: Site) -> set[float]:
    """Variances that a scheme may have meant: 1, 2 or the activation's gain^2 over either fan, torch's fans too."""
    weight = site.module.weight
    torch_fans = {channels * math.prod(weight.shape[2:]) for channels in weight.shape[:2]}
    return {gain / fan for gain in gains_squared(site) for fan in {site.fan_in, site.fan_out} | torch_fans}


def truncation(sites: Sequence[Site]) -> Iterator[Finding]:
    """A normal cut at +-2 std without the correction 1/0.8796, or corrected but never cut.

    The second is what trunc_normal_(std=...) gives with its bounds a=-2, b=2, which are absolute. Without a correction
    such a weight is a plain normal one, of which nothing tells that a cut was meant.
    """
    short, long = [], []
    for site in sites:
        if site.count < FEWEST_CUT or site.second == 0 or any(site.drawn_as(target) for target in targets(site)):
            continue
        # P[none of N beyond 2 (1 - 61/N) std] = 1e-6.
        least_peak = 1 - 61 / site.count
        if any(site.drawn_as(CUT * t) and least_peak <= site.peak / (2 * math.sqrt(t)) <= 1.001 for t in targets(site)):
            short.append(site)
        elif any(site.drawn_as(t / CUT) for t in targets(site)) and site.peak > 2.3 * math.sqrt(site.second):
            long += [] if of_one_std(site, sites) else [site]
    if short:
        text = (
            f"{listed(short)}: a normal cut at ±2 std without correction, so the variance is 0.7737 of what was meant, "
            f"×{CUT ** len(short):.2g} over all"
        )
        yield finding("truncation", short, text, scaled(short, CUT**-0.5))
    if long:
        text = (
            f"{listed(long)}: corrected by 1/0.8796 for a cut at ±2 std that was not done (trunc_normal_'s bounds are "
            f"absolute), so the variance is 1.292 of what was meant, ×{CUT ** -len(long):.2g} over all"
        )
        yield finding("truncation", long, text, scaled(long, CUT**0.5))


def of_one_std(site: Site, sites: Sequence[Site]) -> bool:
    """Whether two or more layers of quite other fans have the same variance: one std for all, as 0.02, explains it."""

    def has_other_fan(other: Site) -> bool:
        """Whether the fan_out of another layer is at least four times as large or as small."""
        return not 1 / 4 < other.fan_out * groups_of(other) / (site.fan_out * groups_of(site)) < 4

    return sum(has_other_fan(other) and site.drawn_as(other.second) for other in sites if other.second > 0) > 1


def gains_squared(site: Site) -> set[float]:
    """Gains squared that a scheme may have used here."""
    return {1.0, 2.0, site.gain_squared}


def grouped_fan_out(sites: Sequence[Site]) -> Iterator[Finding]:
    """Grouped convolutions drawn by torch's fan_out, which ignores the groups: a depthwise one gets 1/C of it."""
    wrong = []
    for site in sites:
        if groups_of(site) == 1 or isinstance(site.module, Transposed):
            continue
        suits = any(site.drawn_as(gain / fan) for gain in gains_squared(site) for fan in (site.fan_in, site.fan_out))
        by_torch = any(site.drawn_as(gain / (site.fan_out * groups_of(site))) for gain in gains_squared(site))
        if by_torch and not suits and not of_one_std(site, sites):
            wrong.append(site)
    for hidden, part in by_norm(wrong):
        most = max(groups_of(site) for site in part)
        text = (
            f"{listed(part)}: drawn by torch's fan_out, which ignores the groups, so the variance is 1/groups of what "
            f"was meant, down to 1/{most}{hidden}"
        )
        fix = scaled(part, *(math.sqrt(groups_of(site)) for site in part))
        yield finding("grouped_fan_out", part, text, fix, severity="note" if hidden else "fault")


def groups_of(site: Site) -> int:
    """A convolution's groups; 1 for a linear layer."""
    return int(getattr(site.module, "groups", 1))


def strides(site: Site) -> tuple[int, ...]:
    """A convolution's strides; () for a linear layer."""
    return tuple(getattr(site.module, "stride", ()))


def by_norm(sites: Sequence[Site]) -> Iterator[tuple[str, list[Site]]]:
    """The layers without and with a norm after them, where there are such, with what to say of the norm."""
    for hidden, words in ((False, ""), (True, " (the norm after it makes up for that)")):
        if part := [site for site in sites if (site.joint.after == "norm") == hidden]:
            yield words, part


def transposed_fan_in(sites: Sequence[Site]) -> Iterator[Finding]:
    """Strided transposed convolutions drawn by what torch calls their fan_in, which is the fan_out."""
    wrong = []
    for site in sites:
        if isinstance(site.module, Transposed) and math.prod(strides(site)) > 1:
            suits = any(site.drawn_as(gain / site.fan_in) for gain in gains_squared(site))
            if not suits and any(site.drawn_as(gain / site.fan_out) for gain in gains_squared(site)):
                wrong.append(site)
    for hidden, part in by_norm(wrong):
        change = math.prod(site.fan_in / site.fan_out for site in part)
        text = (
            f"{listed(part)}: drawn by what torch calls fan_in, {part[0].fan_out:g}, but with stride "
            f"{strides(part[0])[0]} a response sums {part[0].fan_in:g} products: the signal changes "
            f"×{change:.3g}{hidden}"
        )
        fix = scaled(part, *(math.sqrt(site.fan_out / site.fan_in) for site in part))
        yield finding("transposed_fan_in", part, text, fix, severity="note" if hidden else "fault")


def orthogonal_first(sites: Sequence[Site]) -> Iterator[Finding]:
    """An orthogonal first layer with more responses than inputs keeps in k^2/out of the signal: 27/64 in VGG's."""
    for site in sites:
        weight = site.module.weight.detach().flatten(1).double()
        rows, columns = weight.shape
        if site.joint.before != "input" or site.joint.after == "norm" or rows <= columns or columns < 2:
            continue
        gram = weight.T @ weight
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
    groups: dict[float, list[Site]] = {}
    for site in sites:
        phi = site.joint.phi
        if isinstance(phi, Rectifier) and phi.a_squared > 0 and site.joint.after not in ("norm", "output"):
            groups.setdefault(round(phi.a_squared, 9), []).append(site)
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
    count = sum(site.count for site in group)
    scatter = SIGMAS * math.sqrt(2 / count) + 1e-3

    def fits(fan: str, *, slope: bool) -> bool:
        """Whether the pooled variance is gain^2/fan (`slope`) or 2/fan within chance."""
        ratios = [site.second * getattr(site, fan) / (site.gain_squared if slope else 2) for site in group]
        pooled = sum(site.count * ratio for site, ratio in zip(group, ratios, strict=True)) / count
        return bool(abs(pooled - 1) <= scatter)

    both = ("fan_in", "fan_out")
    return any(fits(fan, slope=False) for fan in both) and not any(fits(fan, slope=True) for fan in both)


def dead(sites: Sequence[Site]) -> Iterator[Finding]:
    """Layers whose weights are all 0, or all alike, so that their units learn the same or nothing.

    A zero layer that ends a residual branch, or the model, opens with the first update and is none of these.
    """
    zeros = [site for site in sites if site.second == 0 and site.joint.after in ("activation", "layer", "norm")]
    if zeros:
        text = f"{listed(zeros)}: all weights are 0, so nothing passes and no gradient comes to what lies before"
        yield finding("dead", zeros, text)
    alike = [
        site
        for site in sites
        if site.second > 0
        and site.module.weight.shape[0] > 1
        and site.module.weight[0].numel() > 1
        and bool((site.module.weight == site.module.weight.flatten()[0]).all())
    ]
    if alike:
        text = f"{listed(alike)}: all weights are the same, so the units of a layer can only learn the same"
        yield finding("dead", alike, text)
