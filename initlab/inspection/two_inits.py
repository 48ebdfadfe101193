"""Two initialisations of one net, A and B, side by side: how much larger each signal is in A, layer by layer.

In a net of rectifiers, pooling, and layers without biases a factor on a weight is a factor on every signal after it and
on every gradient before it, whatever the weight is. Where the weights of two nets differ in such factors alone, their
ratios are products of these, exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from initlab.errors import UserError
from initlab.init.expectations import Rectifier
from initlab.inspection.lint.sites import Site, sites_of
from initlab.inspection.text import ratios_text
from initlab.nets.any_module import weight_layers
from initlab.nets.undisturbed import Batch, num_examples
from initlab.random_streams import stream_seed
from initlab.signal.drift import slope
from initlab.signal.probe import measure

# Relative: float32 draws scaled by two factors differ by their rounding, about 1e-7.
ALIKE = 1e-5
EXACT = "exact by homogeneity: forward ratios are products of squared weight ratios, biases are 0"


@dataclass(frozen=True, repr=False)
class Ratios:
    """Ratios of A to B.

    `table` has a row per layer: name, weight_ratio (of the standard deviations), forward_ratio and backward_ratio (of
    the variances); NaN where B's is 0 as A's is, or neither was measured.
    """

    table: pd.DataFrame
    sentence: str  # how much larger A's signals are
    exact: bool = False  # whether the ratios are known beforehand, as columns expected_forward and expected_backward
    why: str = ""  # the sentence for that, where it was looked into

    @property
    def sentences(self) -> list[str]:
        """What is to be said of the ratios."""
        return [*filter(None, [self.why, self.sentence])]

    def __repr__(self) -> str:
        return ratios_text(self.table, self.sentences)

    def _repr_html_(self) -> str:
        from initlab.inspection.html import ratios_html

        return ratios_html(self.table, self.sentences)


def ratios_of(a: pd.DataFrame, b: pd.DataFrame) -> Ratios:
    """The ratios of two tables of measured layers, of which each has name, weight_var, forward_var and backward_var."""
    other = b.set_index("name").loc[a.name].reset_index()
    columns = {
        "weight_ratio": (a.weight_var.reset_index(drop=True) / other.weight_var) ** 0.5,
        "forward_ratio": a.forward_var.reset_index(drop=True) / other.forward_var,
        "backward_ratio": a.backward_var.reset_index(drop=True) / other.backward_var,
    }
    table = pd.DataFrame({"name": other.name, **columns})
    return Ratios(table, sentence_of(table))


def sentence_of(table: pd.DataFrame) -> str:
    """How much larger the signals of A are than those of B, at either end and from layer to layer."""
    parts = []
    for words, column, step in (("signals", "forward_ratio", 1), ("gradients", "backward_ratio", -1)):
        own = table[(table[column] > 0) & np.isfinite(table[column])].iloc[::step]
        if own.empty:
            continue
        at = [f"×{own[column].iloc[place]:.3g} at `{own.name.iloc[place]}`" for place in sorted({0, len(own) - 1})]
        factor = math.exp(slope(np.log(own[column].to_numpy(dtype=float)))) if len(own) > 1 else math.nan
        per_layer = f", ×{factor:.3g} from layer to layer" if len(own) > 1 else ""
        parts.append(f"A's {words} are {' and '.join(at)} of B's{per_layer}")
    return "; ".join(parts) or "no layer was measured in both"


def compare(a: nn.Module, b: nn.Module, images: Batch, *, seed: int = 0) -> Ratios:
    """Compare the signals of two nets of the same layers on one batch, in the nets' own precision.

    The gradients are those of one random direction at the output, the same for both, so that no softmax comes between.
    Where the ratios are exact, the table has expected_forward and expected_backward too, the products of squared weight
    ratios; else these are NaN.

    Args:
        images: (N, ...), as the models take them.

    Raises:
        UserError: nets whose layers differ in name or shape.

    Xavier against He in ReLU layers: forward_ratio is 2^-(l + 1) at layer l from 0, to 1e-9 in float64.
    """
    check_same_layers(*({n: tuple(m.weight.shape) for n, m in weight_layers(model)} for model in (a, b)))
    ratios = ratios_of(*(signals_of(model, images, seed) for model in (a, b)))
    by_name = [{site.name: site for site in sites_of(model, images)[0]} for model in (a, b)]
    sites_a, sites_b = ([sites[name] for name in ratios.table.name] for sites in by_name)
    obstacle = obstacle_to_exactness(sites_a, sites_b)
    exact = not obstacle
    squared = pd.Series([x.second / y.second if y.second else math.nan for x, y in zip(sites_a, sites_b, strict=True)])
    # Rows are in the order of calls, which in a chain is that of depth.
    product = squared.cumprod()
    expected = {
        "expected_forward": product if exact else math.nan,
        "expected_backward": product.iloc[-1] / product if exact and len(product) else math.nan,
    }
    return replace(
        ratios, table=ratios.table.assign(**expected), exact=exact, why=f"not exact: {obstacle}" if obstacle else EXACT
    )


def check_same_layers(shapes_a: Mapping[str, Any], shapes_b: Mapping[str, Any]) -> None:
    """Refuse nets whose weight layers, of these names and shapes, are not the same."""
    for name in [*shapes_a, *shapes_b]:
        shape_a, shape_b = shapes_a.get(name), shapes_b.get(name)
        if shape_a != shape_b:
            raise UserError(
                f"against: not two initialisations of one net (got `{name}` of shape {shape_a or 'none'} against "
                f"{shape_b or 'none'}); give a scheme, or a model of the same layers"
            )


def signals_of(model: nn.Module, images: Batch, seed: int) -> pd.DataFrame:
    """The measured rows under a loss that is one random direction at the output."""

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        """The output's component in the random direction, per example."""
        generator = torch.Generator().manual_seed(stream_seed(seed, "against"))
        direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        return (output * direction.to(output)).flatten(1).sum(1)

    return pd.DataFrame(measure(model, images, torch.zeros(num_examples(model, images), dtype=torch.int64), loss=loss))


def obstacle_to_exactness(a: list[Site], b: list[Site]) -> str:
    """What keeps ratios from being exact products of weight ratios; "" where nothing does."""
    if biased := [site.name for site in [*a, *b] if site.bias_second > 0]:
        return f"`{biased[0]}` has biases, which do not scale with the weights"
    for index, site in enumerate(a):
        before = a[index - 1].name if index else ""
        if site.joint.before != ("layer" if index else "input") or site.joint.source != before:
            return f"before `{site.name}` signals are mixed, normalised or not known"
        if not (site.joint.phi is None or isinstance(site.joint.phi, Rectifier)):
            return f"{site.joint.phi.name} before `{site.name}` does not keep ratios"
        if not proportional(site, b[index]):
            return f"the weights of `{site.name}` differ in more than scale (give --init, or a scheme)"
    return f"something follows `{a[-1].name}`, the last layer" if a and a[-1].joint.after != "output" else ""


def proportional(a: Site, b: Site) -> bool:
    """Whether one weight is a positive multiple of the other."""
    if a.second == 0 or b.second == 0:
        return a.second == b.second
    x, y = a.weight.double(), b.weight.double()
    return bool((x / a.second**0.5 - y / b.second**0.5).abs().max() <= ALIKE)
