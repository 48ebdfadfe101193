"""What lies before and after each weight layer: the activation that it makes up for, and the layer behind that.

Read off the order of `nn.Sequential` here, or off what ran on a batch (`graph.py`). Where neither tells, the joint
says `unknown`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from initlab.init.activations import resolve
from initlab.init.apply import NORMS
from initlab.init.expectations import Elementwise, Rectifier
from initlab.nets.any_module import WeightLayer, weight_layers
from initlab.nets.layers import StreamDropout

Phi = Rectifier | Elementwise
# How the names of modules and of autograd's functions begin that only move numbers, drop some, average them or take the
# largest.
PASSES = (
    "View", "Reshape", "UnsafeView", "Alias", "Clone", "ToCopy", "Permute", "Transpose", "Squeeze", "Unsqueeze",
    "Expand", "Select", "Slice", "Mean", "Flatten", "Unflatten", "Identity", "Dropout", "AlphaDropout", "MaxPool",
    "AdaptiveMaxPool", "AvgPool", "AdaptiveAvgPool", "ConstantPad", "ReflectionPad", "ReplicationPad", "Upsample",
    "PixelShuffle",
)  # fmt: skip


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
    names = {module: name for name, module in weight_layers(model)}
    joints = dict.fromkeys(names.values(), NOWHERE)
    for chain, whole in chains(model):
        joints |= joints_of_chain(chain, whole, names)
    return joints


def chains(model: nn.Module) -> Iterator[tuple[list[nn.Module], bool]]:
    """The outermost `nn.Sequential`s, each as its modules in order, and whether it is the whole model."""
    pending = [(model, True)]
    while pending:
        module, whole = pending.pop()
        if in_order(module):
            leaves = list(flat(module))
            yield leaves, whole
            pending += [(child, False) for leaf in leaves for child in leaf.children()]
        else:
            pending += [(child, False) for child in module.children()]


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


def joints_of_chain(chain: list[nn.Module], whole: bool, names: dict[WeightLayer, str]) -> dict[str, Joint]:
    """Joints of the weight layers in a chain of modules."""
    joints: dict[str, Joint] = {}
    # One for all modules that print alike, since an activation keeps the quadratures done for it.
    phis: dict[str, Phi | None] = {}
    before, phi, source = "input" if whole else "unknown", None, ""
    for index, module in enumerate(chain):
        if isinstance(module, WeightLayer):
            after = what_follows(chain[index + 1 :], whole)
            joints[names[module]] = Joint(before, phi, source, after)
            before, phi, source = "layer", None, names[module]
        elif isinstance(module, NORMS):
            before, phi, source = "norm", None, ""
        elif not passes(module):
            key = str(module) if next(module.parameters(), None) is None else str(index)
            phis[key] = phis[key] if key in phis else elementwise(module)
            if phis[key] is None or phi is not None:
                before, phi, source = "unknown", None, ""
            else:
                phi = phis[key]
    return joints


def what_follows(rest: list[nn.Module], whole: bool) -> str:
    """`Joint.after` of a layer before these modules."""
    for module in rest:
        if isinstance(module, WeightLayer):
            return "layer"
        if isinstance(module, NORMS):
            return "norm"
        if not passes(module):
            return "unknown" if elementwise(module) is None else "activation"
    return "output" if whole else "unknown"


def passes(module: nn.Module) -> bool:
    """Whether a module is of a torch class that `PASSES` names."""
    classes = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn")]
    return isinstance(module, StreamDropout) or any(kind.__name__.startswith(PASSES) for kind in classes)


def elementwise(module: nn.Module) -> Phi | None:
    """A module as an activation; None for what mixes positions, is random or has layers of its own."""
    if next(module.children(), None) is not None:
        return None
    try:
        return resolve(module)
    except ValueError:
        return None
