"""Sites: a model's weight layers with their fans, the moments of their weights, and what they are joined to."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from initlab.init.expectations import Rectifier
from initlab.init.joints import Joint, Phi, joints_in_order
from initlab.init.layers import layer_fans
from initlab.init.stored import running, storage_of
from initlab.inspection.lint.graph import joints_that_ran
from initlab.nets.any_module import WeightLayer, weight_layers
from initlab.nets.undisturbed import Batch

# Two-sided error 1e-6 of a normal statistic: how often a weight drawn as described is not recognised.
SIGMAS = 4.9
CHUNK = 1 << 22


@dataclass(frozen=True)
class Site:
    """A weight layer as lint sees it; moments are raw second moments in float64."""

    name: str
    module: WeightLayer
    joint: Joint
    fan_in: float
    fan_out: float
    second: float  # E[w^2]
    peak: float  # max |w|
    bias_second: float  # E[b^2], 0 without biases
    signal: float  # E[y^2] of its output on the batch; NaN without one, or where it did not run

    @property
    def weight(self) -> Tensor:
        """The weight without its gradient."""
        return weight_that_runs(self.module)

    @property
    def fans(self) -> tuple[float, float]:
        """Of the response and of the gradient."""
        return self.fan_in, self.fan_out

    @property
    def groups(self) -> int:
        """A convolution's groups; 1 for a linear layer."""
        return int(getattr(self.module, "groups", 1))

    @property
    def gain_squared(self) -> float:
        """fan_in E[w^2] that keeps the signal: gain^2 of the activation before, 1 without one."""
        return gain_squared(self.joint.phi) if self.joint.phi is not None else 1.0

    @property
    def homogeneous(self) -> bool:
        """Whether the layer takes another's output through a rectifier, or nothing, that keeps ratios of scale."""
        return self.joint.before == "layer" and (self.joint.phi is None or isinstance(self.joint.phi, Rectifier))

    def factor(self, fan: str) -> float:
        """Factor on a second moment: forward by `fan_in`, on the gradient's by `fan_out`."""
        return float(self.second * getattr(self, fan) / self.gain_squared)

    def drawn_by(self, *fans: float) -> bool:
        """Whether the variance is gain^2 over one of these fans, for a gain that a scheme may have used here."""
        return any(self.drawn_as(gain / fan) for gain in (1.0, 2.0, self.gain_squared) for fan in fans)

    def drawn_as(self, variance: float) -> bool:
        """Whether independent normal weights of this variance, or less scattered ones, have such a second moment.

        The relative standard error of a second moment of N normals is sqrt(2/N): 58 % at 4.9 of them for the 144
        weights of a depthwise 3x3 convolution on 16 channels, 2.5 % for 64 x 64 x 3 x 3.
        """
        return abs(self.second / variance - 1) <= SIGMAS * math.sqrt(2 / self.weight.numel()) + 1e-3


@lru_cache(maxsize=64)
def gain_squared(phi: Phi) -> float:
    """1 / E[phi(z)^2], of which quadrature takes a while; 1 for an activation that gives only zeros."""
    second = phi.second(1.0)
    return 1 / second if second > 0 else 1.0


def variance_slope(phi: Phi) -> float:
    """Factor per layer of a departure from unit variance under the gain that keeps it: 1.144 for GELU, unstable."""
    return phi.second_growth(1.0) / phi.second(1.0)


def sites_of(model: nn.Module, batch: Batch | None) -> tuple[list[Site], Tensor | None]:
    """The sites of a model in the order of its modules, and its output on the batch, if there is one.

    Raises:
        ValueError: as the model's own forward on this batch.
    """
    joints, signals, output = (joints_in_order(model), {}, None) if batch is None else joints_that_ran(model, batch)
    sites = []
    for name, module in weight_layers(model):
        # A weight that the model's own code sets before each call is none until then.
        if not hasattr(module, "weight"):
            continue
        weight, bias = weight_that_runs(module), module.bias
        peak = weight.abs().max().item() if weight.numel() else 0.0
        bias_second = 0.0 if bias is None else second_moment(bias.detach())
        fans, signal = layer_fans(module), signals.get(name, math.nan)
        sites.append(Site(name, module, joints[name], *fans, second_moment(weight), peak, bias_second, signal))
    return sites, output


def weight_that_runs(module: WeightLayer) -> Tensor:
    """The weight of the next call; what old weight norm shows as `weight` is that of the last one."""
    if storage_of(module, "weight") == "weight norm":
        return running(module, "weight")
    return module.weight.detach()


def second_moment(weight: Tensor) -> float:
    """Mean square in float64, part by part: a copy of VGG-16's first linear layer would take 0.8 GB."""
    parts = torch.split(weight.flatten(), CHUNK)
    sums = torch.stack([part.double().square().sum() for part in parts])
    return sums.sum().item() / max(weight.numel(), 1)


def longest_chain(sites: list[Site]) -> list[Site]:
    """The longest run of these sites in which each takes the output of the one before."""
    by_name = {site.name: site for site in sites}
    best: list[Site] = []
    for site in sites:
        run = [site]
        while (source := by_name.get(run[-1].joint.source)) is not None and source not in run:
            run.append(source)
        best = max(best, run[::-1], key=len)
    return best
