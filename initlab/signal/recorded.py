"""What a forward pass showed of a model: rows of layers by first call, and where each parameter enters."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from initlab.init.layers import layer_fans
from initlab.nets.any_module import WeightLayer, layer_name
from initlab.signal.probe import LayerSignals


@dataclass(frozen=True)
class Entry:
    """Where a parameter enters first."""

    role: str  # of `uses.ROLES`
    op: str  # the function, or the class of the module
    layer: str = ""  # the row whose weight or bias it is
    signals: LayerSignals | None = None  # what comes out of that function, where it is no layer's


class Recorded:
    """`layers` by first call with their `facts`, `entries` by parameter, and `steps` of recurrent layers."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = {layer_name(name): p for name, p in model.named_parameters()}
        self.names = {id(parameter): name for name, parameter in self.parameters.items()}
        self.layers: dict[str, LayerSignals] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, Entry] = {}
        self.empty: set[str] = set()  # parameters that met a signal of no examples
        self.resting: set[str] = set()  # weights of a recurrent layer's state whose only steps began at 0
        # What goes through all gates of a recurrent layer at each of its steps.
        self.steps: defaultdict[str, list[LayerSignals]] = defaultdict(list)
        # The weights of a layer that is no module, as they entered its calls.
        self.entered: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
        self.joint: dict[tuple[str, ...], LayerSignals] = {}

    def layer_of(self, name: str, op: str, weight: Tensor, rows: slice = slice(None)) -> LayerSignals:
        """The row of a layer that is no module, whose weight enters a call as this tensor."""
        self.entered[name].setdefault(id(weight), weight)
        return self.layers.setdefault(name, LayerSignals(name, op, weight.detach, rows))

    def own_parameters(self, layer: WeightLayer) -> dict[str, str]:
        """Parameters that make up a layer's weight and bias, under whatever norm or parametrization, with that role."""
        roles = {}
        for key, parameter in layer.named_parameters():
            path = key.removeprefix("parametrizations.")
            for role in ("weight", "bias"):
                if path == role or path.startswith((f"{role}.", f"{role}_")):
                    # Unknown is what `torch.func.functional_call` puts in a parameter's place.
                    roles[self.names.get(id(parameter), "")] = role
        roles.pop("", None)
        return roles

    def signals(self) -> Iterator[LayerSignals]:
        """Everything that takes gradients."""
        yield from self.layers.values()
        yield from self.joint.values()
        for steps in self.steps.values():
            yield from steps

    def main_source(self, names: Sequence[str]) -> str:
        """The largest of the parameters that a weight is made of."""
        return max(names, key=lambda name: self.parameters[name].numel())


def row_name(parameter: str) -> str:
    """A module's `weight`, in whatever form, by the name of the module; other parameters by their own."""
    path, _, last = parameter.partition(".parametrizations.")[0].rpartition(".")
    if ".parametrizations." in f".{parameter}":
        return parameter.partition(".parametrizations.")[0]
    return path if last in ("weight", "weight_g", "weight_v", "weight_orig") else parameter


def layer_facts(module: WeightLayer) -> dict[str, Any]:
    """Shape of the weight, its fans, and the channels or features of the layer's output."""
    fan_in, fan_out = layer_fans(module)
    width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return {"part": "", "shape": tuple(module.weight.shape), "fan_in": fan_in, "fan_out": fan_out, "width": width}
