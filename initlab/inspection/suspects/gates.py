"""The gates of recurrent layers: a forget gate that forgets, an orthogonal matrix drawn across all gates.

torch's default forget bias is 0, so that a cell keeps half of its state per step: 2^-150 over 150. Jozefowicz et al.
(2015) start it at 1; Tallec and Ollivier (2018) at the logarithm of the length that has to be kept.
"""

import math
from collections.abc import Iterator

import torch
from torch import nn

from initlab.inspection.suspects.suspect import Suspect, listed_names, on_each

# Gates stacked in a recurrent weight, and the one that keeps the state: i, f, g, o; r, z, n.
GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
KEEPING = 1


def recurrent(model: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """(prefix of parameters' names, module, number of gates) of each LSTM and GRU."""
    for name, module in model.named_modules():
        gates = next((count for kind, count in GATES.items() if isinstance(module, kind)), 0)
        if gates:
            yield (f"{name}." if name else ""), module, gates


def odd_gates(model: nn.Module, steps: int) -> Iterator[Suspect]:
    """Suspects among the gates, for sequences of this many steps."""
    yield from forgetting(model, steps)
    yield from across_gates(model)


def forgetting(model: nn.Module, steps: int) -> Iterator[Suspect]:
    """Keeping gates whose biases start below 1: once with 1, once with the logarithm of the length."""
    names, sums, hidden = [], [], set()
    for prefix, module, _ in recurrent(model):
        size = int(getattr(module, "hidden_size", 0))
        pairs = [key for key, _ in module.named_parameters() if key.startswith("bias_hh")]
        for key in pairs:
            parts = [module.get_parameter(key), module.get_parameter(key.replace("bias_hh", "bias_ih"))]
            total = sum(part.detach()[KEEPING * size : (KEEPING + 1) * size].double().mean().item() for part in parts)
            if total < 1 - 1e-6:
                names += [prefix + key, prefix + key.replace("bias_hh", "bias_ih")]
                sums.append(total)
                hidden.add(size)
    if not names or len(hidden) > 1:
        return
    (size,) = hidden
    worst = min(sums)
    kept = 1 / (1 + math.exp(-worst))
    for bias in sorted({1.0, max(1.0, round(math.log(max(steps - 1, 1)), 2))}):
        words = (
            f"the biases of the gate that keeps the state ({listed_names(names)}) sum to {worst:.3g}, so that a step "
            f"keeps {kept:.2g} of it, ×{kept**steps:.1g} over {steps} steps; {bias:g} is usual"
        )
        code = on_each(names, f"[{KEEPING * size}:{(KEEPING + 1) * size}].fill_({bias / 2:g})")
        yield Suspect("forget_bias", tuple(names), words, code.replace(".data.[", ".data["), certain=worst < -1)


def across_gates(model: nn.Module) -> Iterator[Suspect]:
    """Recurrent matrices drawn orthogonal as a whole: each gate's own block then shrinks what it takes."""
    names, gates = [], 0
    for prefix, module, count in recurrent(model):
        for key, parameter in module.named_parameters():
            if key.startswith("weight_hh") and orthogonal_as_a_whole(parameter.detach(), count):
                names.append(prefix + key)
                gates = count
    if names:
        words = (
            f"{listed_names(names)}, of {gates} gates, is orthogonal as a whole, so that each gate's block has "
            f"1/{gates} of the variance of an orthogonal one"
        )
        quoted = ", ".join(f'"{name}"' for name in names)
        # The nearest orthogonal matrix of each block.
        code = (
            f"for block in (b for name in ({quoted},) for b in model.get_parameter(name).data.chunk({gates})): "
            "u, _, v = block.svd(); block.copy_(u @ v.T)"
        )
        yield Suspect("across_gates", tuple(names), words, code, certain=True)


def orthogonal_as_a_whole(weight: torch.Tensor, gates: int) -> bool:
    """Whether the columns of a stacked weight are orthogonal and of one length, and those of its blocks are not."""
    if weight.dim() != 2 or weight.shape[0] != gates * weight.shape[1] or not weight.isfinite().all():
        return False
    return orthogonal_columns(weight) and not orthogonal_columns(weight.chunk(gates)[0])


def orthogonal_columns(weight: torch.Tensor) -> bool:
    """Whether W^T W is a multiple of the identity."""
    gram = weight.T.double() @ weight.double()
    scale = gram.diagonal().mean()
    return bool(scale > 0 and (gram - scale * torch.eye(len(gram), device=gram.device)).abs().max() < 1e-3 * scale)
