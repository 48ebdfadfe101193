"""`lint`: faults of an initialisation that can be read off a model's weights and the order of its layers."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from initlab.inspection.lint import draws, runs
from initlab.inspection.lint.finding import Finding, Severity, finding, listed
from initlab.inspection.lint.sites import Site, sites_of
from initlab.inspection.remedy import remedy_of
from initlab.inspection.suspects.collect import certain_suspects
from initlab.inspection.suspects.suspect import Suspect
from initlab.inspection.trial import carried_out
from initlab.nets.any_module import layer_name
from initlab.nets.undisturbed import Batch, untouched

# In the order in which their findings are listed.
OF_WEIGHTS: tuple[Callable[[Sequence[Site]], Iterator[Finding]], ...] = (
    *(draws.torch_default, runs.hidden_by_biases, runs.gain, runs.smooth, draws.slope, draws.truncation),
    *(draws.grouped_fan_out, draws.transposed_fan_in, draws.orthogonal_first, draws.dead),
)
RULES = (
    *("torch_default", "hidden_by_biases", "gain", "chaotic", "unstable_gain", "slope", "truncation"),
    *("grouped_fan_out", "transposed_fan_in", "orthogonal_first", "dead", "loss_at_start", "nonfinite", "unknown"),
    *("huge", "outliers", "denormal", "copies", "repeated_rows", "norm_gain", "forget_bias", "inputs", "padding"),
    "across_gates",
)


def lint(model: nn.Module, batch: Batch | None = None) -> list[Finding]:
    """Find faults in the initialisation of a model that has not been trained; the model is left as it was.

    Args:
        batch: inputs as the model takes them, (N, ...): which activation each layer makes up for is then read off what
            runs. Without it, only the order in `nn.Sequential` tells, and a finding `unknown` names the other layers.

    Returns:
        Findings, faults before notes; [] where nothing is wrong.

    Raises:
        ValueError: a lazy weight; what the model's own forward raises on this batch.

    `lint(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), ...))` of ten such layers finds `torch_default`, whose signals
    fall 6-fold per layer, and `hidden_by_biases`.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"lint: {name} is not there yet (lazy); run the model on a batch first")
    # Reading a weight may be a computation that leaves its mark, as spectral norm's is in training mode.
    with untouched(model, backward=False):
        return findings_of(model, *sites_of(model, batch), batch)


def findings_of(model: nn.Module, sites: list[Site], output: Tensor | None, batch: Batch | None) -> list[Finding]:
    """What the rules find in these sites, faults before notes, each with a fix that was tried on a copy."""
    findings, general = all_findings(model, sites, output, batch), remedy_of(sites).call
    # torch's default left in where it does no harm is no reason to draw a whole model anew.
    fixes = [entry.fix or general * (entry.severity == "fault" or entry.rule != "torch_default") for entry in findings]
    left = {fix: findings_after(fix, model, sites, batch) for fix in dict.fromkeys(fixes) if fix}
    worked = dict.fromkeys(left, True)
    for entry, fix in zip(findings, fixes, strict=True):
        worked[fix] = worked.get(fix, False) and helps(entry, left[fix])
    findings = [replace(entry, fix=fix * worked[fix]) for entry, fix in zip(findings, fixes, strict=True)]
    if batch is None and (unknown := [site for site in sites if site.joint.before == "unknown"]):
        text = f"what feeds {listed(unknown)} is not known without a batch: gains are not judged there"
        findings.append(finding("unknown", unknown, text, "initlab.lint(model, batch)", severity="note"))
    return sorted(findings, key=lambda entry: entry.severity == "note")


def all_findings(model: nn.Module, sites: Sequence[Site], output: Tensor | None, batch: Batch | None) -> list[Finding]:
    """What the rules on weights and logits find, and numbers that nobody draws on purpose."""
    finite = [site for site in sites if site.second < math.inf]
    of_weights = [entry for rule in OF_WEIGHTS for entry in rule(finite)]
    suspects = [of_suspect(suspect) for suspect in certain_suspects(model, batch)]
    return [*of_weights, *runs.loss_at_start(finite, output), *suspects]


def findings_after(fix: str, model: nn.Module, sites: Sequence[Site], batch: Batch | None) -> list[Finding] | None:
    """The findings in a copy of the model after a fix; None where that cannot be tried."""
    try:
        inputs = example(sites) if batch is None and "batch=batch" in fix else batch
        changed, inputs = carried_out(fix, model, inputs)
        return all_findings(changed, *sites_of(changed, inputs), inputs)
    # What `init_` refuses, a model that cannot be copied, and inputs that it does not take.
    except (ValueError, RuntimeError):
        return None


def helps(entry: Finding, left: Sequence[Finding] | None) -> bool:
    """Whether what was found is no longer there, or only a note, among the findings that a fix left."""
    if left is None:
        return False
    layers = {name for other in left if other.rule == entry.rule and weighs(other, entry) for name in other.layers}
    return not layers & set(entry.layers)


def weighs(other: Finding, entry: Finding) -> bool:
    """Whether a finding is as severe as another."""
    return other.severity == "fault" or entry.severity == "note"


def of_suspect(suspect: Suspect) -> Finding:
    """What nobody would have drawn on purpose, as a finding."""
    layers = dict.fromkeys(name.rpartition(".")[0] or name for name in suspect.parameters)
    # Most copies learn apart, many a padding is masked, and short sequences ask little of gates.
    severity: Severity = "note" if suspect.rule in ("copies", "padding", "across_gates") else "fault"
    return Finding(suspect.rule, severity, tuple(map(layer_name, layers)), suspect.words, suspect.code)


def example(sites: Sequence[Site]) -> Tensor:
    """Unit-normal inputs for the first layer of a chain of layers."""
    first = next((site.module for site in sites if site.joint.before == "input"), None)
    if first is None:
        raise ValueError("lint: what the model takes is not known (got no batch); give one")
    shape = (
        (64, first.in_features)
        if isinstance(first, nn.Linear)
        else (8, first.in_channels, *[32] * (first.weight.dim() - 2))
    )
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(first.weight)
