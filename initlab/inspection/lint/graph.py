"""How the layers of a model are joined, read off the autograd graph of one forward pass.

Autograd's nodes name what ran, functions and modules alike: `ReluBackward0`, `NativeBatchNormBackward0`. Walking back
from a layer's input and ahead from its output gives its neighbours.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from initlab.init.activations import resolve
from initlab.init.expectations import Rectifier
from initlab.inspection.lint.joints import NOWHERE, Joint, Phi
from initlab.nets.any_module import WeightLayer, weight_layers
from initlab.nets.undisturbed import first_tensor, to_model, untouched

Node = Any  # of autograd; which attributes it has depends on the function
SELU_SCALE = 1.0507009873554805
NAMED = {
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "LogSigmoid": "logsigmoid",
    "Mish": "mish",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Tanh": "tanh",
}
# beginnings of the names of functions that only move numbers, average them or take their maximum
PASSES = (
    "View", "Reshape", "UnsafeView", "Alias", "Clone", "ToCopy", "Permute", "Transpose", "Squeeze", "Unsqueeze",
    "Expand", "Select", "Slice", "MaxPool", "AdaptiveMaxPool", "AvgPool", "AdaptiveAvgPool", "Mean", "ConstantPad",
    "ReflectionPad", "ReplicationPad", "Upsample", "PixelShuffle",
)  # fmt: skip
KINDS = {
    **dict.fromkeys(["NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "NativeLayerNorm", "NativeGroupNorm",
                     "FusedRmsNorm"], "norm"),
    **dict.fromkeys(["Add", "Sub"], "sum"),
    **dict.fromkeys(["Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "MkldnnLinear"], "layer"),
    "Embedding": "input",
}  # fmt: skip


def joints_that_ran(model: nn.Module, batch: Tensor) -> tuple[dict[str, Joint], dict[str, float], Tensor]:
    """What runs on a batch: the joints of layers and E[y^2] of their outputs, by name, and the model's output.

    The model is left as it was. A layer used several times shows its first call; `NOWHERE` for those that never ran.

    Raises:
        ValueError: the model's output holds no tensor.
    """
    names = {module: name for name, module in weight_layers(model)}
    moments: dict[str, Tensor] = {}
    layers: dict[Node, str] = {}  # of every call
    calls: dict[str, tuple[Tensor, Node, Node]] = {}  # the input, what made it, and the layer's own node

    def seen(module: WeightLayer, args: tuple[Tensor, ...], y: Tensor) -> None:
        if y.grad_fn is not None:
            layers[y.grad_fn] = names[module]
        if args:
            calls.setdefault(names[module], (args[0], args[0].grad_fn, y.grad_fn))
            moments.setdefault(names[module], y.detach().double().square().mean())

    with torch.inference_mode(False), untouched(model, backward=True), ExitStack() as hooks:
        images, _ = to_model(model, batch, None)
        if images.is_floating_point():
            images = images.detach().clone().requires_grad_()  # a clone, since one made in inference mode can't
        for module in names:
            hooks.callback(module.register_forward_hook(seen).remove)
        output = first_tensor(model(images))
    users = users_of(output.grad_fn)
    joints = dict.fromkeys(names.values(), NOWHERE)
    for name, (x, before, node) in calls.items():
        came = ("input", None, "") if x is images else look_back(before, layers, images)
        joints[name] = Joint(*came, look_ahead(node, users))
    return joints, {name: moment.item() for name, moment in moments.items()}, output.detach()


def look_back(node: Node, layers: dict[Node, str], images: Tensor) -> tuple[str, Phi | None, str]:
    """(before, phi, source) of `Joint`, from the node that made a layer's input."""
    phi = None
    while node is not None:
        if node in layers:
            return "layer", phi, layers[node]
        if function_of(node) == "AccumulateGrad":
            return ("input", phi, "") if node.variable is images else ("unknown", None, "")
        kind = kind_of(node)
        if kind == "activation" and phi is None:
            phi = activation_of(node)
        elif kind in ("norm", "sum", "input"):
            return kind, phi, ""
        elif kind != "pass":
            break
        node = node.next_functions[0][0]
    return "unknown", None, ""


def look_ahead(node: Node, users: dict[Node, list[Node]]) -> str:
    """`Joint.after` of the layer that is this node; `unknown` where several things take its output."""
    if node is None:
        return "unknown"
    kinds: set[str] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        following = users.get(current, [])
        if not following:
            kinds.add("output")
        for user in following:
            kind = kind_of(user)
            if kind == "pass":
                pending.append(user)
            else:
                kinds.add(kind)
    return kinds.pop() if len(kinds) == 1 else "unknown"


def users_of(node: Node) -> dict[Node, list[Node]]:
    """The nodes that take each node's result, in the whole graph behind `node`."""
    users: dict[Node, list[Node]] = {}
    seen, pending = {node}, [node]
    while pending:
        current = pending.pop()
        for source, _ in current.next_functions if current is not None else ():
            if source is not None:
                users.setdefault(source, []).append(current)
                if source not in seen:
                    seen.add(source)
                    pending.append(source)
    return users


def function_of(node: Node) -> str:
    """`LeakyRelu` of `LeakyReluBackward0`."""
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def kind_of(node: Node) -> str:
    """activation, pass, norm, sum, layer, input or unknown."""
    name = function_of(node)
    if name in NAMED or name in ("LeakyRelu", "PreluKernel", "Gelu", "Elu", "Celu", "Hardtanh", "Softplus"):
        return "activation"
    return "pass" if name.startswith(PASSES) else KINDS.get(name, "unknown")


def activation_of(node: Node) -> Phi:
    """The activation that a node is, with its parameters as they ran."""
    match name := function_of(node):
        case "LeakyRelu":
            return Rectifier("leaky_relu", (float(node._saved_negative_slope),))
        case "PreluKernel":
            return Rectifier("prelu", tuple(node._saved_weight.detach().double().flatten().tolist()))
        case "Gelu":
            return resolve("gelu" if node._saved_approximate == "none" else "gelu_tanh")
        case "Elu":
            return resolve("selu" if abs(node._saved_scale - SELU_SCALE) < 1e-6 else nn.ELU(node._saved_alpha))
        case "Celu":
            return resolve(nn.CELU(node._saved_alpha))
        case "Hardtanh":
            low, high = float(node._saved_min_val), float(node._saved_max_val)
            return resolve("relu6" if (low, high) == (0, 6) else nn.Hardtanh(low, high))
        case "Softplus":
            return resolve(nn.Softplus(node._saved_beta, node._saved_threshold))
    return resolve(NAMED[name])
