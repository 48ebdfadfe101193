"""Two initialisations of one net, side by side on the same batch: how much larger each signal is, layer by layer.

In a net of rectifiers, pooling, and layers without biases a factor on a weight is a factor on every signal after it and
on every gradient before it, whatever the weight is. Where the weights of two nets differ in such factors alone, their
ratios are products of these, exactly.
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from initlab.errors import UserError
from initlab.init.expectations import Rectifier
from initlab.inspection.lint.sites import Site, sites_of
from initlab.nets.any_module import weight_layers
from initlab.nets.undisturbed import Batch, num_examples
from initlab.random_streams import stream_seed
from initlab.signal.probe import measure

# Relative: float32 draws scaled by two factors differ by their rounding, about 1e-7.
ALIKE = 1e-5
EXACT = "exact by homogeneity: forward ratios are products of squared weight ratios, biases are 0"


@dataclass(frozen=True)
class Comparison:
    """Ratios of A to B.

    `table` has a row per layer: name, weight_ratio (of the standard deviations), forward_ratio and backward_ratio (of
    the variances), and where `exact` expected_forward and expected_backward, the products of weight ratios; else NaN.
    """

    table: pd.DataFrame
    exact: bool
    why: str  # the sentence for whether the ratios are exact


def compare(a: nn.Module, b: nn.Module, images: Batch, *, seed: int = 0) -> Comparison:
    """Compare the signals of two nets of the same layers on one batch, in the nets' own precision.

    The gradients are those of one random direction at the output, the same for both, so that no softmax comes between.

    Args:
        images: (N, ...), as the models take them.

    Raises:
        UserError: nets whose layers differ in name or shape.

    Xavier against He in ReLU layers: forward_ratio is 2^-(l + 1) at layer l from 0, to 1e-9 in float64.
    """
    check_same_layers(a, b)
    first, second = (signals_of(model, images, seed) for model in (a, b))
    by_name = [{site.name: site for site in sites_of(model, images)[0]} for model in (a, b)]
    sites_a, sites_b = ([sites[name] for name in first.name] for sites in by_name)
    obstacle = obstacle_to_exactness(sites_a, sites_b)
    exact = not obstacle
    squared = pd.Series([x.second / y.second if y.second else math.nan for x, y in zip(sites_a, sites_b, strict=True)])
    # Rows are in the order of calls, which in a chain is that of depth.
    product = squared.cumprod()
    columns = {
        "weight_ratio": squared**0.5,
        "forward_ratio": first.forward_var / second.forward_var,
        "backward_ratio": first.backward_var / second.backward_var,
        "expected_forward": product if exact else math.nan,
        "expected_backward": product.iloc[-1] / product if exact and len(product) else math.nan,
    }
    return Comparison(first[["name"]].assign(**columns), exact, f"not exact: {obstacle}" if obstacle else EXACT)


def check_same_layers(a: nn.Module, b: nn.Module) -> None:
    """Refuse nets whose weight layers are not the same."""
    shapes_a, shapes_b = ({n: tuple(m.weight.shape) for n, m in weight_layers(model)} for model in (a, b))
    for name in [*shapes_a, *shapes_b]:
        shape_a, shape_b = shapes_a.get(name), shapes_b.get(name)
        if shape_a != shape_b:
            raise UserError(
                f"--against: not two initialisations of one net (got `{name}` of shape {shape_a or 'none'} against "
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
