"""Which scheme fits a model: He with the slope of its rectifiers, or what its other activations want."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from initlab.init.apply import init_
from initlab.init.expectations import Rectifier
from initlab.inspection.lint.sites import Site, sites_of

# gain 1 is the edge of chaos of those of slope 1 at 0 (Schoenholz et al. 2017), and where SELU keeps mean 0, variance 1
UNIT_GAIN = {"tanh": "xavier", "softsign": "xavier", "hardtanh": "xavier", "selu": "lecun"}


@dataclass(frozen=True)
class Remedy:
    """A scheme, the slope of its gain, and whether it scales on a batch."""

    scheme: str
    negative_slope: float = 0.0

    @property
    def call(self) -> str:
        """The call, with `model` and, for lsuv, `images` as the user's names."""
        if self.scheme == "lsuv":
            return 'initlab.init_(model, "lsuv", batch=images)'
        slope = f", negative_slope={self.negative_slope:.6g}" if self.scheme == "he" and self.negative_slope else ""
        return f'initlab.init_(model, "{self.scheme}"{slope})'

    def apply(self, model: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
        """Initialise the model in place, as `call` says."""
        slope = self.negative_slope if self.scheme == "he" else None
        return init_(model, self.scheme, negative_slope=slope, seed=seed, batch=images)


def remedy_for(sites: Sequence[Site]) -> Remedy:
    """The scheme for the commonest activation before the layers of a model; He's where none is known.

    Between linear layers alone it is Xavier's. Those for which no gain is stable (GELU, SiLU) are scaled on data.
    """
    kinds = Counter(kind_of(site) for site in sites if site.joint.before != "input" and site.joint.phi is not None)
    if not kinds:
        linked = any(site.joint.before == "layer" for site in sites)
        return Remedy("xavier" if linked else "he")
    ((name, slope), _), *_ = kinds.most_common(1)
    return Remedy("he", slope) if name == "rectifier" else Remedy(UNIT_GAIN.get(name, "lsuv"))


def kind_of(site: Site) -> tuple[str, float]:
    """The activation before a layer: its name, and a rectifier's root mean square slope below zero."""
    phi = site.joint.phi
    if isinstance(phi, Rectifier):
        return "rectifier", round(phi.a_squared**0.5, 6)
    return (phi.name.partition("(")[0].lower(), 0.0) if phi is not None else ("", 0.0)


def advised(model: nn.Module, images: Tensor) -> Remedy:
    """The scheme for a model, from what runs on a batch (N, ...).

    Raises:
        ValueError: as the model's own forward on this batch.
    """
    return remedy_for(sites_of(model, images)[0])
