"""What its author chose in a model's initialisation, so that `init_` leaves it alone: told from torch's defaults.

torch draws every weight and bias of a linear layer or convolution from U(+-1/sqrt(fan_in)) and starts norms at 1 and 0.
So a weight of zeros is a branch that starts closed (zero-init residual, LoRA's B, DiT's adaLN-zero), and a bias or a
norm's gain that is one constant (a focal prior, a forget bias, a gamma of 0) was written by somebody.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from initlab.init.arguments import matches
from initlab.init.joints import joints_in_order
from initlab.init.layers import EMBEDDINGS, NORMS, Matrix, norm_parameters
from initlab.init.schemes import torch_std
from initlab.nets.any_module import layer_name

# rms(w) sqrt(fan_in) of a weight that lets nothing through: gMLP's gates start at 1e-6, an LSTM's default has 0.58.
CLOSED = 1e-3
# A parameter by its id, and the first of its rows that a choice is about.
Place = tuple[int, int]
# In place of a row: the choice is about an embedding's own draw.
EMBEDDED = -1
Reasons = dict[Place, str]


def is_closed(weight: Tensor, fan_in: float) -> bool:
    """Whether a weight lets next to nothing through: the responses have less than 1e-6 of the inputs' second moment."""
    if undrawable(weight):
        return False
    rms = float(torch.linalg.vector_norm(weight)) / math.sqrt(weight.numel())
    return rms * math.sqrt(fan_in) <= CLOSED


def is_constant(values: Tensor, default: float) -> bool:
    """Whether all values are one finite number other than the default."""
    first = values.flatten()[0].item()
    return math.isfinite(first) and first != default and bool((values == first).all())


def is_prior(bias: Tensor, bound: float) -> bool:
    """Whether a bias is neither zeros nor one of torch's draws from U(+-bound).

    That is: few different values, as of priors per anchor or per class; all of them beyond the bound, as in Mamba's
    time steps; or half of them far beyond, where YOLO shifts its drawn biases. Trained biases pass the bound here and
    there, but are all different.
    """
    if not bias.isfinite().all() or not bias.any():
        return False
    # Draws that are rounded to half precision repeat too.
    most = bias.numel() / 2 if bias.element_size() > 2 else min(bias.numel() / 2, 32)
    sizes = bias.abs() / max(bound, 1e-30)
    return bias.unique().numel() <= most or bool((sizes > 1 + 1e-3).all() or (sizes > 3).double().mean() >= 0.5)


def left_alone(model: nn.Module, matrices: list[Matrix], keep: list[str], redraw: list[str]) -> Reasons:
    """Why matrices, biases, embeddings and norms' parameters are left as they are; those that are not are missing."""
    names = {id(parameter): layer_name(name) for name, parameter in model.named_parameters()}
    embeddings = [module.weight for module in model.modules() if isinstance(module, EMBEDDINGS)]
    embedded, closed = set(map(id, embeddings)), closed_layers(model, matrices)
    reasons: Reasons = {}

    def note(parameters: Sequence[Tensor], start: int, choice: str) -> None:
        """Note why a part is left: it cannot be drawn, `keep` names it, or it was chosen and `redraw` does not."""
        own_names, fixed = [names[id(parameter)] for parameter in parameters], undrawable(parameters[-1])
        if start != EMBEDDED and id(parameters[-1]) in embedded:
            fixed = "an embedding shares it"
        named, asked = (any(matches(name, patterns) for name in own_names) for patterns in (keep, redraw))
        if reason := fixed or ("named in keep" if named else "" if asked else choice):
            reasons.update({(id(parameter), start): reason for parameter in parameters})

    for matrix in matrices:
        is_shut = matrix.layer.name in closed
        note(matrix.parameters, matrix.start, "zeros, which close a branch until it learns" if is_shut else "")
        if (bias := matrix.bias_parameter) is not None:
            note([bias], matrix.start, "a bias that its author set" if bias_is_chosen(matrix, bias) else "")
    for module in (module for module in model.modules() if isinstance(module, NORMS)):
        for default, parameter in norm_parameters(module):
            chosen = is_constant(parameter.detach(), default)
            note([parameter], 0, "one constant that its author set" if chosen else "")
    for embedding in embeddings:
        note([embedding], EMBEDDED, "")
    return reasons


def undrawable(parameter: Tensor) -> str:
    """Why no scheme can draw such a parameter; empty where one can."""
    if not parameter.numel():
        return "it has no numbers"
    return "" if parameter.is_floating_point() else "its numbers are not real ones"


def closed_layers(model: nn.Module, matrices: list[Matrix]) -> set[str]:
    """The names of the draws whose matrix was closed on purpose.

    Not if no other is open, nor in a Sequential before another layer, which then gets nothing but zeros: a fault.
    """
    closed = {matrix.layer.name for matrix in matrices if is_closed(matrix.read(), matrix.layer.fan_in)}
    if len(closed) == len(matrices):
        return set()
    return closed - {joint.source for joint in joints_in_order(model).values()}


def bias_is_chosen(matrix: Matrix, bias: Tensor) -> bool:
    """Whether a matrix's part of its bias is a choice, judged against torch's draws."""
    if undrawable(bias):
        return False
    bound = math.sqrt(3) * (matrix.torch_std or torch_std(matrix.layer))
    return is_prior(bias.detach()[matrix.rows], bound)
