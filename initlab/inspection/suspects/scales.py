"""Scales of weights unlike those of their kind, or unlike what their activation needs; biases and embeddings too."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor, nn

from initlab.init.layers import EMBEDDINGS
from initlab.inspection.lint.finding import drawn
from initlab.inspection.lint.sites import Site, second_moment
from initlab.inspection.suspects.suspect import Entry, Suspect, listed_names, on_each, with_numbers
from initlab.nets.any_module import parameter_of
from initlab.signal.paths import beginnings

# A standard deviation that differs this many times from that of like layers, or from what is needed.
APART = 1.7
# And one that hardly anybody draws larger on purpose; std 0.02 is often smaller by as much.
FAR = 3.0
# BERT's and GPT-2's embeddings.
EMBEDDING_STD = 0.02
# Times another embedding, from which on one drowns it where they are added.
MOST_BESIDE = 8.0
# No usual rule draws biases of this rms, but for torch's default behind fewer than 4 inputs.
LARGE_BIAS = 0.3
# How `weight` is set where it is computed from a norm and a direction.
LENGTHS = ("parametrizations.weight.original0", "weight_g")


@dataclass(frozen=True)
class Scale:
    """The size of a weight against what its layer needs."""

    name: str  # of the parameter that carries the scale
    layer: str
    ratio: float  # fan_in E[w^2] / gain^2: 1 keeps the signal
    place: str  # first, last, branch_end or inside

    @property
    def family(self) -> str:
        """The layer's name with `*` for numbers."""
        return re.sub(r"\d+", "*", self.layer)


def scales_of(model: nn.Module, sites: Sequence[Site], entries: Sequence[Entry]) -> list[Scale]:
    """The scales of all matrices: of weight layers as they run, of packed and bare ones as they are."""
    modules, scales, carried = dict(model.named_modules()), [], set()
    raw_names = {module: name for name, module in modules.items()}
    embedded = {table.weight.data_ptr() for table in modules.values() if isinstance(table, EMBEDDINGS)}
    known = {entry.name for entry in entries}
    for site in sites:
        prefix = raw_names[site.module]
        prefix = f"{prefix}." if prefix else ""
        carriers = [prefix + key for key in ("weight", *LENGTHS) if prefix + key in known]
        carried.add(prefix)
        # The weight may be tied to an embedding, whose size is that one's matter.
        tied = site.weight.data_ptr() in embedded
        if carriers and 0 < site.second < math.inf and not tied:
            ratio = site.second * site.fan_in / site.gain_squared
            scales.append(Scale(carriers[0], site.name, ratio, place_of(site)))
    for entry in entries:
        matrix = entry.tensor.dim() > 1 and not any(f"{module}." in carried for module in beginnings(entry.name))
        tied = entry.tensor.data_ptr() in embedded
        if matrix and not tied and (second := second_moment(entry.tensor)) > 0 and second < math.inf:
            fan_in = entry.tensor[0].numel()
            scales.append(Scale(entry.name, entry.name, second * fan_in, "inside"))
    return scales


def place_of(site: Site) -> str:
    """Where a layer stands in its model."""
    if site.joint.before == "input":
        return "first"
    return {"output": "last", "sum": "branch_end"}.get(site.joint.after, "inside")


def odd_scales(scales: Sequence[Scale]) -> Iterator[Suspect]:
    """Single layers unlike their kind, kinds unlike what they need, the first layer, and the ends of branches."""
    kinds: dict[str, list[Scale]] = defaultdict(list)
    for scale in scales:
        if scale.place != "last":
            kinds["first" if scale.place == "first" else scale.family].append(scale)
    usual = {kind: median(scale.ratio for scale in group) for kind, group in kinds.items()}
    yield from outlying(
        [
            (s, usual[kind])
            for kind, group in kinds.items()
            for s in group
            if len(group) > 2 and apart(s.ratio, usual[kind])
        ]
    )
    everywhere = median([scale.ratio for scale in scales]) if scales else 1.0
    for kind in sorted(kinds, key=lambda kind: -abs(math.log(usual[kind] / everywhere))):
        # What all kinds have in common is a matter of the scheme.
        if apart(usual[kind], 1.0) and apart(usual[kind], everywhere):
            yield rescaled(kinds[kind], usual[kind])
    inner = [scale for group in kinds.values() for scale in group]
    if inner and (ratio := median(scale.ratio for scale in inner)) > FAR**2:
        yield rescaled(inner, ratio)
    ends = [scale for scale in scales if scale.place == "branch_end"]
    if len(ends) > 1:
        factor, names = len(ends) ** -0.5, [scale.name for scale in ends]
        words = (
            f"the ends of the {len(ends)} branches, `{ends[0].layer}` to `{ends[-1].layer}`, are not scaled by depth: "
            f"1/√{len(ends)} of the others' size is usual"
        )
        yield Suspect("branch_scale", tuple(names), words, on_each(names, f"mul_({factor:.4g})"))


def closed_gates(sites: Sequence[Site]) -> Iterator[Suspect]:
    """Layers of zero weights in front of an activation, another layer or a norm, which no gradient may ever open."""
    closed = [site for site in sites if site.second == 0 and site.joint.after in ("activation", "layer", "norm")]
    if closed:
        names = [site.name for site in closed]
        words = f"all weights of {listed_names(names)} are 0 in front of what lets no gradient through at 0"
        weights = tuple(f"{name}.weight".lstrip(".") for name in names)
        yield Suspect("dead", weights, words, drawn(closed, EMBEDDING_STD))


def apart(ratio: float, usual: float) -> bool:
    """Whether two second moments differ by more than a factor `APART` of the standard deviation."""
    return abs(math.log(ratio / usual)) > 2 * math.log(APART)


def outlying(outliers: Sequence[tuple[Scale, float]]) -> Iterator[Suspect]:
    """Layers of another size than the like of theirs: the furthest alone, then all together."""
    ranked = sorted(outliers, key=lambda pair: -abs(math.log(pair[0].ratio / pair[1])))
    for count in sorted({min(1, len(ranked)), len(ranked)} - {0}):
        factors = {scale.name: math.sqrt(usual / scale.ratio) for scale, usual in ranked[:count]}
        size = math.sqrt(ranked[0][0].ratio / ranked[0][1])
        layers = listed_names([scale.layer for scale, _ in ranked[:count]])
        words = f"the weights of {layers} are ×{size:.3g} the size of those in layers of their kind"
        rule = "far_outlier" if size > FAR else "outlier"
        yield Suspect(rule, tuple(factors), words, with_numbers(factors, "mul_"))


def rescaled(group: Sequence[Scale], ratio: float) -> Suspect:
    """The suspect whose layers are to get fan_in E[w^2] = gain^2."""
    factors = {scale.name: math.sqrt(1 / scale.ratio) for scale in group}
    which = "first layer, " if group[0].place == "first" else "weights of "
    layers = listed_names([scale.layer for scale in group])
    words = f"the {which}{layers}: fan_in·E[w²] is ×{ratio:.3g} of what keeps the signal"
    rule = "far_scale" if ratio > FAR**2 else "scale"
    return Suspect(rule, tuple(factors), words, with_numbers(factors, "mul_"))


def odd_embeddings(model: nn.Module) -> Iterator[Suspect]:
    """Embeddings far from 0.02, tied ones first."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        weight = parameter_of(module, "weight")
        if weight is not None:
            owners[id(weight)].append(name)
    tables = {n: m for n, m in model.named_modules() if isinstance(m, EMBEDDINGS)}
    far = {
        n: std for n, m in tables.items() if (std := rms(m.weight)) > 5 * EMBEDDING_STD or 0 < std < EMBEDDING_STD / 5
    }
    yield from outweighed(tables)
    tied = [n for n in far if len(owners[id(tables[n].weight)]) > 1]
    for names in (tied, [n for n in far if n not in tied]):
        for name in names:
            sharers = [other for other in owners[id(tables[name].weight)] if other != name]
            also = f", which `{'`, `'.join(sharers)}` shares," if sharers else ""
            words = f"the embedding `{name}.weight`{also} has std {far[name]:.3g}, where {EMBEDDING_STD} is usual"
            code = f'model.get_submodule("{(sharers or [name])[0]}").weight.data.mul_({EMBEDDING_STD / far[name]:.4g})'
            yield Suspect("embedding", (f"{name}.weight",), words, code)


def outweighed(tables: Mapping[str, nn.Embedding | nn.EmbeddingBag]) -> Iterator[Suspect]:
    """An embedding beside which another of its width is as good as nothing, as tokens of 0.02 beside places of 1."""
    sizes = {name: size for name, table in tables.items() if (size := rms(table.weight)) > 0}
    for name, size in sizes.items():
        width = tables[name].weight.shape[-1]
        others = [n for n in sizes if n != name and tables[n].weight.shape[-1] == width]
        least = min(others, key=sizes.__getitem__, default=name)
        if size > MOST_BESIDE * sizes[least]:
            words = f"the embedding `{name}.weight` has std {size:.3g}, where `{least}.weight` has {sizes[least]:.3g}"
            code = f'model.get_submodule("{name}").weight.data.mul_({sizes[least] / size:.4g})'
            yield Suspect("outweighed", (f"{name}.weight",), words, code)


def padding_rows(model: nn.Module) -> Iterator[Suspect]:
    """Rows of embeddings that stand for padding and are not 0, as after an init that draws the whole table.

    They never get a gradient, so that what padding adds stays for ever (pytorch#6411).
    """
    for name, module in model.named_modules():
        place = getattr(module, "padding_idx", None)
        weight = parameter_of(module, "weight")
        if isinstance(module, EMBEDDINGS) and place is not None and weight is not None and weight[place].any():
            words = (
                f"row {place} of `{name}.weight`, the padding, has an rms of {rms(weight[place]):.3g} and never gets a "
                "gradient, where 0 is usual"
            )
            code = f'model.get_submodule("{name}").weight.data[{place}].zero_()'
            yield Suspect("padding", (f"{name}.weight".lstrip("."),), words, code, certain=True)


def odd_biases(entries: Sequence[Entry]) -> Iterator[Suspect]:
    """Biases of an rms above 0.3, of all layers together; those that may be priors by themselves."""
    far = [e for e in entries if "bias" in e.name.rpartition(".")[2] and rms(e.tensor) > LARGE_BIAS]
    # Priors are of interest only where a model is sick.
    for rule, prior in (("biases", False), ("prior", True)):
        if group := [entry for entry in far if is_prior(entry.tensor) == prior]:
            names = [entry.name for entry in group]
            size = max(rms(entry.tensor) for entry in group)
            words = f"the biases {listed_names(names)} have an rms of up to {size:.3g}, where 0 is usual"
            yield Suspect(rule, tuple(names), words, on_each(names, "zero_()"))


def is_prior(bias: Tensor) -> bool:
    """Whether all biases are one number below 0, as of detectors whose classes are rare (Lin et al. 2017).

    A class of one in ten thousand examples has -9.2.
    """
    return bool((bias == bias.flatten()[0]).all() and -10 < bias.flatten()[0] < 0)


def rms(tensor: Tensor) -> float:
    """Root of the mean square."""
    return math.sqrt(second_moment(tensor.detach()))
