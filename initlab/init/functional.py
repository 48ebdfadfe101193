"""Weights that a model applies without a layer of torch: bare parameters in `F.linear`, `x @ W` or `F.conv2d`.

What such a parameter is for, and which way round it lies, is seen in a run alone.
"""

from torch import Tensor, nn

from initlab.init.layers import EMBEDDINGS, NORMS, Matrix
from initlab.init.shapes import LayerShape
from initlab.init.uses import Call, Use, Uses, fans_in
from initlab.nets.any_module import layer_name
from initlab.nets.undisturbed import Batch, run_model, to_model, untouched

# Functions that take a weight (out, in, ...), and those that take a matrix (in, out).
LAYERS = {"linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))}
PRODUCTS = {"matmul", "__matmul__", "mm", "addmm"}
# Where they take it: behind the signal.
PLACES = (1, "weight", "other", "mat2")
# What goes through a product as a signal or a table: parts of the names of such parameters.
SIGNALS = ("pos", "embed", "token", "quer", "latent", "codebook", "proto", "memory", "bias")
# By its id, where a parameter lies: the name of its module, the module, and its attribute there.
Homes = dict[int, tuple[str, nn.Module, str]]


def bare_matrices(model: nn.Module, batch: Batch, known: list[Matrix]) -> list[Matrix]:
    """The bare parameters that a run applies as weights, which no layer that is known has; not yet numbered."""
    layered = {id(parameter) for matrix in known for parameter in matrix.parameters}
    ruled = (*NORMS, *EMBEDDINGS, nn.PReLU, nn.MultiheadAttention)
    homes = {
        id(parameter): (layer_name(name), module, attribute)
        for name, module in model.named_modules()
        for attribute, parameter in module.named_parameters(recurse=False)
        if id(parameter) not in layered and not isinstance(module, ruled)
    }
    wide = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if id(parameter) in homes and parameter.dim() >= 2 and not any(part in name.lower() for part in SIGNALS)
    }
    if not wide:
        return []
    parameters = {layer_name(name): parameter for name, parameter in model.named_parameters()}
    matrices: dict[int, Matrix] = {}

    def note(call: Call) -> None:
        """Make a matrix of each parameter that is a weight for the first time."""
        for use in call.uses:
            parameter = parameters[use.sources[0]]
            new = id(parameter) in wide and id(parameter) not in matrices
            if new and (matrix := matrix_of(call, use, parameter, homes)):
                matrices[id(parameter)] = matrix

    inputs = to_model(model, batch, None)[0]
    # With gradients, which also come out of functions that are not seen.
    with untouched(model, backward=True), Uses(model, inputs, note):
        run_model(model, inputs)
    return list(matrices.values())


def matrix_of(call: Call, use: Use, parameter: nn.Parameter, homes: Homes) -> Matrix | None:
    """The matrix that a parameter is in a call; None where the call takes it in another way."""
    is_product, turned = call.function in PRODUCTS, is_turned(use.tensor, parameter)
    places = (2, "mat2") if call.function == "addmm" else PLACES
    if turned is None or use.place not in places:
        return None
    if call.function not in LAYERS and not (is_product and use.tensor.dim() == 2):
        return None
    name, module, attribute = homes[id(parameter)]
    bias = next((other.tensor for other in call.uses if other.role == "bias"), None)
    _, owner, bias_attribute = homes.get(id(bias), ("", None, None))
    shape = tuple(use.tensor.shape)[:: -1 if is_product else 1]
    groups = 1 if is_product else call.groups
    layer = LayerShape(shape, *fans_in(call, use)[:2], f"{name}.{attribute}".lstrip("."), groups=groups)
    return Matrix(module, attribute, layer, bias_attribute if owner is module else None, flipped=turned != is_product)


def is_turned(tensor: Tensor, parameter: Tensor) -> bool | None:
    """Whether a tensor is a parameter's transpose, False where it is the parameter itself, None where it is neither."""
    if tensor.data_ptr() != parameter.data_ptr():
        return None
    if (tensor.shape, tensor.stride()) == (parameter.shape, parameter.stride()):
        return False
    turned = (parameter.shape[::-1], parameter.stride()[::-1])
    return True if tensor.dim() == 2 and (tensor.shape, tensor.stride()) == turned else None
