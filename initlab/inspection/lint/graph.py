"""How the layers of a model are joined, read off the autograd graph of one forward pass.

Autograd's nodes name what ran, functions and modules alike: `ReluBackward0`, `NativeBatchNormBackward0`. Walking back
from a layer's input and ahead from its output gives its neighbours.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from initlab.init.activations import resolve
from initlab.init.branches import NORMED
from initlab.init.expectations import Rectifier
from initlab.init.joints import NOWHERE, PASSES, Joint, Phi
from initlab.nets.any_module import WeightLayer, on_weight_layers, weight_layers
from initlab.nets.autograd_graph import Node, function_of, in_order, sources_of, with_nodes
from initlab.nets.undisturbed import Batch, first_tensor, run_model, to_model, untouched
from initlab.signal.moments import mean_square

SELU_SCALE = 1.0507009873554805
# Functions with parameters, as their module and what a node saves of them.
MODULES: dict[str, tuple[Any, ...]] = {
    **{"Elu": (nn.ELU, "alpha"), "Celu": (nn.CELU, "alpha"), "Softplus": (nn.Softplus, "beta", "threshold")},
    **{"Hardshrink": (nn.Hardshrink, "lambd"), "Softshrink": (nn.Softshrink, "lambd")},
}
ACTIVATIONS = {
    *("Abs", "Gelu", "Hardsigmoid", "Hardswish", "LeakyRelu", "LogSigmoid", "Mish", "PreluKernel", "Relu", "Sigmoid"),
    *("Hardtanh", "Silu", "Sin", "Tanh", *MODULES),
}
COMPOSED = {("Div", "Add", "Abs"): "softsign", ("Sub", "Tanh"): "tanhshrink"}
KINDS = {
    **dict.fromkeys(NORMED, "norm"),
    **dict.fromkeys(["Add", "Sub"], "sum"),
    **dict.fromkeys(["Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "MkldnnLinear"], "layer"),
    "Embedding": "input",
}


def joints_that_ran(model: nn.Module, batch: Batch) -> tuple[dict[str, Joint], dict[str, float], Tensor]:
    """What runs on a batch: the joints of layers and E[y^2] of their outputs, by name, and the model's output.

    The model is left as it was. A layer used several times shows its first call; `NOWHERE` for those that never ran.

    Raises:
        ValueError: the model's output holds no tensor.
    """
    moments: dict[str, Tensor] = {}
    # The layer of each call's node; the nodes of a layer's first call: what made its input, and its own.
    layers: dict[Node, str] = {}
    calls: dict[str, tuple[Node, Node]] = {}

    def note(name: str, _: WeightLayer, inputs: tuple[Any, ...], y: Tensor) -> None:
        """Note the node of a call, and what a layer's first call takes in and gives out."""
        if y.grad_fn is not None:
            layers[y.grad_fn] = name
        if inputs:
            calls.setdefault(name, (inputs[0].grad_fn, y.grad_fn))
            moments.setdefault(name, mean_square(y))

    with torch.inference_mode(False), untouched(model, backward=True), on_weight_layers(model, note):
        images, origins = with_nodes(to_model(model, batch, None)[0])
        output = first_tensor(run_model(model, images))
    users = users_of(output.grad_fn)
    joints = dict.fromkeys((name for name, _ in weight_layers(model)), NOWHERE)
    for name, (before, node) in calls.items():
        after = set() if node is None else kinds_after(node, users)
        joints[name] = Joint(*look_back(before, layers, origins), after.pop() if len(after) == 1 else "unknown")
    return joints, {name: moment.item() for name, moment in moments.items()}, output.detach()


def look_back(node: Node, layers: dict[Node, str], origins: set[Node]) -> tuple[str, Phi | None, str]:
    """(before, phi, source) of `Joint`, from the node that made a layer's input; `origins` made the model's."""
    phi = None
    while node is not None:
        if node in layers:
            return "layer", phi, layers[node]
        kind = "input" if node in origins else kind_of(node)
        if kind == "activation" and phi is None:
            phi = activation_of(node)
            if (scaling := scaling_of(node)) is not None:
                node = scaling[1]
                continue
        elif kind in ("norm", "sum", "input"):
            return kind, phi, ""
        elif kind != "pass":
            break
        node = node.next_functions[0][0]
    return "unknown", None, ""


def kinds_after(node: Node, users: dict[Node, list[Node]]) -> set[str]:
    """The kinds of what takes a node's result, behind what only passes it on."""
    if node not in users:
        return {"output"}
    kinds = [(user, "pass" if before_sine(user, users) else kind_of(user)) for user in users[node]]
    return set().union(*(kinds_after(user, users) if kind == "pass" else {kind} for user, kind in kinds))


def users_of(node: Node) -> dict[Node, list[Node]]:
    """The nodes that take each node's result, in the whole graph behind `node`."""
    users: dict[Node, list[Node]] = {}
    for user in in_order([node]):
        for source in sources_of(user):
            users.setdefault(source, []).append(user)
    return users


def before_sine(node: Node, users: dict[Node, list[Node]]) -> bool:
    """Whether a node gives a sine its argument, sin(w0 y)."""
    return bool(users.get(node)) and all(scaling_of(user) is not None for user in users[node])


def scaling_of(node: Node) -> tuple[float, Node] | None:
    """(w0, node of y) of a node that is sin(w0 y); None for any other."""
    if function_of(node) != "Sin" or not node.next_functions or node.next_functions[0][0] is None:
        return None
    product = node.next_functions[0][0]
    factors = [getattr(product, f"_saved_{side}", None) for side in ("other", "self")]
    sources = sources_of(product)
    if function_of(product) != "Mul" or len(sources) != 1:
        return 1.0, product
    scales = [factor for factor in factors if isinstance(factor, Tensor) and factor.numel() == 1]
    return (float(scales[0].detach()), sources[0]) if scales else None


def composed(node: Node) -> str:
    """`softsign` or `tanhshrink`, which torch computes in steps: a second input is made from the first."""
    path, (source, inner) = [function_of(node)], [*(node for node, _ in node.next_functions), None, None][:2]
    while inner not in (None, source) and len(path) < 3:
        path.append(function_of(inner))
        inner = inner.next_functions[0][0] if inner.next_functions else None
    return COMPOSED.get(tuple(path), "") if inner is source else ""


def kind_of(node: Node) -> str:
    """activation, pass, norm, sum, layer, input or unknown."""
    name = function_of(node)
    if name in ACTIVATIONS or composed(node):
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
        case "Elu" if abs(node._saved_scale - SELU_SCALE) < 1e-6:
            return resolve("selu")
        case "Hardtanh":
            bounds = float(node._saved_min_val), float(node._saved_max_val)
            return resolve("relu6") if bounds == (0, 6) else resolved(nn.Hardtanh, *bounds)
        case "Abs":
            return resolve(torch.abs)
        case "Sin":
            return sine((scaling_of(node) or (1.0, None))[0])
    if name in MODULES:
        kind, *parameters = MODULES[name]
        return resolved(kind, *(getattr(node, f"_saved_{parameter}") for parameter in parameters))
    return resolve(composed(node) or name.lower())


@lru_cache(maxsize=64)
def sine(w0: float) -> Phi:
    """sin(w0 x), under the name `sin(30x)`."""

    def function(x: Tensor) -> Tensor:
        """The sine."""
        return torch.sin(w0 * x)

    function.__name__ = f"sin({w0:g}x)"
    return resolve(function)


@lru_cache(maxsize=64)
def resolved(kind: type[nn.Module], *parameters: float) -> Phi:
    """The activation of a module with these parameters; one for all layers, since quadrature takes a while."""
    return resolve(kind(*parameters))
