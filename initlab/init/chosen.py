"""What its author chose in a model's initialisation, so that `init_` leaves it alone: told from torch's defaults.

torch draws every weight and bias of a linear layer or convolution from U(+-1/sqrt(fan_in)) and starts norms at 1 and 0.
So a weight of zeros is a branch that starts closed (zero-init residual, LoRA's B, DiT's adaLN-zero), and a bias or a
norm's gain that is one constant (a focal prior, a forget bias, a gamma of 0) was written by somebody.
"""

import math
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor, nn

from initlab.init.arguments import matches
from initlab.init.joints import joints_in_order
from initlab.init.layers import EMBEDDINGS, NORMS, Matrix, norm_parameters
from initlab.init.schemes import torch_std
from initlab.init.sines import frequencies_of
from initlab.nets.any_module import layer_name

# rms(w) sqrt(fan_in) of a weight that lets nothing through: gMLP's gates start at 1e-6, an LSTM's default has 0.58.
CLOSED = 1e-3
# rms(w) sqrt(fan_in) below which a weight is smaller than torch's draw, whose is 0.577.
SMALL = 0.52
# A parameter by its id, and the first of its rows that a choice is about.
Place = tuple[int, int]
# In place of a row: the choice is about an embedding's own draw.
EMBEDDED = -1
IS_CLOSED = "zeros, which close a branch until it learns"
Reasons = dict[Place, str]


def rms(weight: Tensor) -> float:
    """Root mean square of a weight; NaN where no scheme can draw it."""
    if undrawable(weight):
        return math.nan
    return float(torch.linalg.vector_norm(weight)) / math.sqrt(weight.numel())


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


def left_alone(
    model: nn.Module, matrices: list[Matrix], keep: list[str], redraw: list[str], scheme: object = None
) -> Reasons:
    """Why matrices, biases, embeddings and norms' parameters are left as they are; those that are not are missing."""
    names = {id(parameter): layer_name(name) for name, parameter in model.named_parameters()}
    embeddings = [module.weight for module in model.modules() if isinstance(module, EMBEDDINGS)]
    embedded, choices = set(map(id, embeddings)), chosen_weights(model, matrices, scheme)
    reasons: Reasons = {}

    def note(parameters: Sequence[Tensor], start: int, choice: str) -> None:
        """Note why a part is left: it cannot be drawn, `keep` names it, or it was chosen and `redraw` does not."""
        aliases, fixed = [names[id(parameter)] for parameter in parameters], undrawable(parameters[-1])
        if start != EMBEDDED and id(parameters[-1]) in embedded:
            fixed = "an embedding shares it"
        named, to_redraw = (any(matches(name, patterns) for name in aliases) for patterns in (keep, redraw))
        if reason := fixed or ("named in keep" if named else "" if to_redraw else choice):
            reasons.update({(id(parameter), start): reason for parameter in parameters})

    for matrix in matrices:
        note(matrix.parameters, matrix.start, choices.get(matrix.layer.name, ""))
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


def chosen_weights(model: nn.Module, matrices: list[Matrix], scheme: object) -> dict[str, str]:
    """Why a weight is a choice, by the name of its draw.

    Zeros are, unless no other layer is open, and but for a layer before another in a Sequential, which gets nothing but
    zeros then: a fault. So is a weight drawn small with its prior (RetinaNet's 0.01), what was drawn of the same size,
    the one small layer where that is the last (0.01 of a policy's), and weights that SIREN's rule drew for sines.
    """
    frequencies = set() if scheme == "siren" else set(frequencies_of(model))
    sizes = {matrix.layer.name: rms(matrix.read()) for matrix in matrices}
    gains = {matrix.layer.name: sizes[matrix.layer.name] * math.sqrt(matrix.layer.fan_in) for matrix in matrices}
    choices = {name: IS_CLOSED for name, gain in gains.items() if gain <= CLOSED}
    if len(choices) == len(matrices):
        return {}
    for joint in joints_in_order(model).values():
        choices.pop(joint.source, None)
    for head in matrices:
        name, bias = head.layer.name, head.bias_parameter
        if CLOSED < gains[name] < SMALL and bias is not None and bias_is_chosen(head, bias):
            same_size = [other.layer.name for other in matrices if same_draw(sizes, head, other)]
            choices |= dict.fromkeys(same_size, f"drawn as small as {name}, whose bias its author set")
    small = [name for name, gain in gains.items() if CLOSED < gain < SMALL / 2]
    if small == [matrices[-1].layer.name] and sizes[small[0]] < median(size for size in sizes.values() if size > 0) / 2:
        choices[small[0]] = "a last layer that its author made small"
    sines = [matrix.layer.name for matrix in matrices for w0 in frequencies if is_siren(matrix, w0)]
    # A single layer may have such a size by chance.
    return choices | (dict.fromkeys(sines, "SIREN's rule for the model's sines") if len(sines) > 1 else {})


def is_siren(matrix: Matrix, w0: float) -> bool:
    """Whether a weight is a draw of SIREN's rule for sin(w0 y), by five standard errors and its bound."""
    weight, layer = matrix.read(), matrix.layer
    if undrawable(weight):
        return False
    bound = 1 / layer.fan_in if layer.index == 0 else math.sqrt(6 / layer.fan_in) / w0
    # The relative standard error of the root mean square of N uniform numbers is sqrt(1 / (5N)).
    error = 5 * math.sqrt(1 / (5 * weight.numel()))
    return abs(rms(weight) * math.sqrt(3) / bound - 1) < error and float(weight.abs().max()) <= bound * (1 + 1e-3)


def same_draw(sizes: dict[str, float], a: Matrix, b: Matrix) -> bool:
    """Whether two weights may be draws of one standard deviation, by five standard errors."""
    error = math.sqrt(1 / (2 * a.read().numel()) + 1 / max(2 * b.read().numel(), 1))
    return abs(sizes[a.layer.name] / sizes[b.layer.name] - 1) < 5 * error if sizes[b.layer.name] > 0 else False


def bias_is_chosen(matrix: Matrix, bias: Tensor) -> bool:
    """Whether a matrix's part of its bias is a choice, judged against torch's draws."""
    if undrawable(bias):
        return False
    bound = math.sqrt(3) * (matrix.torch_std or torch_std(matrix.layer))
    return is_prior(bias.detach()[matrix.rows], bound)
