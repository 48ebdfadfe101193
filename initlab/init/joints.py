"""What lies before and after each weight layer: the activation that it makes up for, and the layer behind that.

Read off the order of `nn.Sequential` here, or off what ran on a batch (`inspection/lint/graph.py`). Where neither
tells, the joint says `unknown`.
"""

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from initlab.init.activations import resolve
from initlab.init.expectations import Elementwise, Rectifier
from initlab.init.layers import NORMS
from initlab.nets.any_module import WeightLayer, weight_layers
from initlab.nets.layers import StreamDropout

Phi = Rectifier | Elementwise
# How the names of modules and of autograd's functions begin that only move numbers, drop some, average them or take the
# largest.
PASSES = (
    *("View", "Reshape", "UnsafeView", "Alias", "Clone", "ToCopy", "Permute", "Transpose", "Squeeze", "Unsqueeze"),
    *("Expand", "Select", "Slice", "Mean", "Flatten", "Unflatten", "Identity", "Dropout", "AlphaDropout", "MaxPool"),
    *("AdaptiveMaxPool", "AvgPool", "AdaptiveAvgPool", "ConstantPad", "ReflectionPad", "ReplicationPad", "Upsample"),
    "PixelShuffle",
)


@dataclass(frozen=True)
class Joint:
    """How a weight layer is joined to its neighbours; pooling, reshaping and dropout between them don't count."""

    before: str  # what gives its input, behind any activation: input, layer, norm, sum or unknown
    phi: Phi | None  # the activation through which the input came; None where there is none, or `before` is unknown
    source: str  # name of the layer before, where `before` is `layer`
    after: str  # what takes its output: activation, layer, norm, sum, output or unknown


NOWHERE = Joint("unknown", None, "", "unknown")


def joints_in_order(model: nn.Module) -> dict[str, Joint]:
    """The joints that the order of modules in `nn.Sequential` tells, by layer name; `NOWHERE` for all other layers."""
    names: dict[nn.Module, str] = {module: name for name, module in weight_layers(model)}
    joints = dict.fromkeys(names.values(), NOWHERE)
    # One for all modules that print alike, since an activation keeps the quadratures done for it.
    phis: dict[str | nn.Module, Phi | None] = {}
    for chain, whole in chains(model):
        before, phi, source = "input" if whole else "unknown", None, ""
        kinds = [kind_of(module) for module in chain]
        for index, (module, kind) in enumerate(zip(chain, kinds, strict=True)):
            if kind == "layer":
                end = "output" if whole else "unknown"
                after = next((following for following in kinds[index + 1 :] if following != "pass"), end)
                joints[names[module]] = Joint(before, phi, source, after)
                before, phi, source = "layer", None, names[module]
            elif kind == "activation" and phi is None:
                key = str(module) if next(module.parameters(), None) is None else module
                phi = phis.setdefault(key, elementwise(module))
            elif kind != "pass":
                before, phi, source = "norm" if kind == "norm" else "unknown", None, ""
    return joints


def chains(module: nn.Module, whole: bool = True) -> Iterator[tuple[list[nn.Module], bool]]:
    """The outermost `nn.Sequential`s, each as its modules in order, and whether it is the whole model."""
    children = list(module.children())
    if in_order(module):
        modules = list(flat(module))
        yield modules, whole
        children = [child for inner in modules for child in inner.children()]
    # The last first, so that a layer in several chains shows its place in the first.
    for child in reversed(children):
        yield from chains(child, whole=False)


def in_order(module: nn.Module) -> bool:
    """Whether a module runs its children one after another, as `nn.Sequential` and subclasses with its forward do."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def flat(chain: nn.Module) -> Iterator[nn.Module]:
    """The modules of a Sequential, those of Sequentials inside it in their place."""
    # children() leaves out the repeats of a module used twice.
    for child in chain._modules.values():
        if child is not None and in_order(child):
            yield from flat(child)
        elif child is not None:
            yield child


def kind_of(module: nn.Module) -> str:
    """layer, norm, pass (of a torch class that `PASSES` names), activation or unknown."""
    if isinstance(module, WeightLayer):
        return "layer"
    if isinstance(module, NORMS):
        return "norm"
    classes = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn")]
    if isinstance(module, StreamDropout) or any(kind.__name__.startswith(PASSES) for kind in classes):
        return "pass"
    return "unknown" if elementwise(module) is None else "activation"


def elementwise(module: nn.Module) -> Phi | None:
    """A module as an activation; None for what mixes positions, is random or has layers or weights of its own."""
    if next(module.children(), None) is not None or any(parameter.dim() > 1 for parameter in module.parameters()):
        return None
    # A module that keeps tensors of a graph, or a lock, cannot be copied.
    with suppress(ValueError, RuntimeError, TypeError):
        # The user's own may count its training steps, or do more in them than map numbers.
        is_torchs = type(module).__module__.startswith("torch.nn")
        return resolve(module if is_torchs else copy.deepcopy(module).eval())
    return None
