"""All suspects of a model, those that nobody would have drawn on purpose first."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from initlab.inspection.lint.sites import Site
from initlab.inspection.suspects.gates import odd_gates
from initlab.inspection.suspects.inputs import half_precision, odd_inputs
from initlab.inspection.suspects.norms import NormParameter, may_be_norm, module_inputs, norm_parameters, odd_norms
from initlab.inspection.suspects.scales import (
    closed_gates,
    odd_biases,
    odd_embeddings,
    odd_scales,
    padding_rows,
    scales_of,
)
from initlab.inspection.suspects.suspect import Entry, Suspect, entries_of
from initlab.inspection.suspects.values import odd_scalars, odd_values, zeros
from initlab.nets.undisturbed import Batch, to_model, untouched


def suspects_of(model: nn.Module, sites: list[Site], batch: Batch | None) -> list[Suspect]:
    """The suspects among a model's parameters and in its batch; the model is left as it was.

    Args:
        sites: the weight layers, as lint sees them on this batch.
    """
    entries, norms = entries_of(model), norms_of(model, batch)
    of_norms = {norm.entry.name for norm in norms}
    suspects = [
        *odd_parameters(model, batch, entries, norms),
        *odd_embeddings(model),
        *odd_biases([entry for entry in entries if entry.name not in of_norms]),
        *closed_gates(sites),
        *zeros(entries, [norm.entry.name for norm in norms if norm.is_gain]),
        *odd_scales(scales_of(model, sites, entries)),
        *odd_scalars(entries),
        *half_precision(model, batch),
    ]
    return sorted(suspects, key=lambda suspect: not suspect.certain)


def certain_suspects(model: nn.Module, batch: Batch | None) -> list[Suspect]:
    """Those suspects that are faults whatever the signals say."""
    suspects = odd_parameters(model, batch, entries_of(model), norms_of(model, batch))
    # One suspect may come with several values that are usual.
    return list({(s.rule, s.parameters): s for s in reversed(suspects) if s.certain}.values())[::-1]


def odd_parameters(
    model: nn.Module, batch: Batch | None, entries: Sequence[Entry], norms: Sequence[NormParameter]
) -> list[Suspect]:
    """Suspects that can be seen without how layers are joined."""
    inputs = batch if isinstance(batch, Tensor) else None
    steps = inputs.shape[1] if inputs is not None and inputs.dim() > 1 else 1
    odd = [*odd_values(entries), *odd_norms(norms), *odd_gates(model, steps), *odd_inputs(batch)]
    return [*odd, *padding_rows(model)]


def norms_of(model: nn.Module, batch: Batch | None) -> list[NormParameter]:
    """The norms' parameters: torch's alone without a batch, or of a model that cannot be copied."""
    if batch is None or not any(map(may_be_norm, model.modules())):
        return norm_parameters(model, {})
    try:
        # A user's norm is tried with other parameters.
        copied = copy.deepcopy(model)
    except RuntimeError:
        return norm_parameters(model, {})
    with untouched(copied, backward=True):
        images, _ = to_model(copied, batch, None)
        return norm_parameters(copied, module_inputs(copied, images))
