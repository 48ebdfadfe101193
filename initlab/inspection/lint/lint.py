"""`lint`: faults of an initialisation that can be read off a model's weights and the order of its layers."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from initlab.inspection.lint import draws, runs
from initlab.inspection.lint.finding import Finding, finding, listed
from initlab.inspection.lint.sites import Site, sites_of
from initlab.inspection.remedy import remedy_of
from initlab.nets.undisturbed import Batch, untouched

# In the order in which their findings are listed.
OF_WEIGHTS: tuple[Callable[[Sequence[Site]], Iterator[Finding]], ...] = (
    *(draws.torch_default, runs.hidden_by_biases, runs.gain, runs.smooth, draws.slope, draws.truncation),
    *(draws.grouped_fan_out, draws.transposed_fan_in, draws.orthogonal_first, draws.dead),
)
RULES = (
    *("torch_default", "hidden_by_biases", "gain", "chaotic", "unstable_gain", "slope", "truncation"),
    *("grouped_fan_out", "transposed_fan_in", "orthogonal_first", "dead", "loss_at_start", "nonfinite", "unknown"),
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
        return findings_of(*sites_of(model, batch), batch)


def findings_of(sites: list[Site], output: Tensor | None, batch: Batch | None) -> list[Finding]:
    """What the rules find in these sites, faults before notes."""
    finite = [site for site in sites if site.second < math.inf]
    findings = [entry for rule in OF_WEIGHTS for entry in rule(finite)]
    findings += runs.loss_at_start(finite, output)
    if broken := [site for site in sites if site not in finite]:
        findings.append(finding("nonfinite", broken, f"{listed(broken)} have weights that are not finite"))
    if batch is None and (unknown := [site for site in sites if site.joint.before == "unknown"]):
        text = f"what feeds {listed(unknown)} is not known without a batch: gains are not judged there"
        findings.append(finding("unknown", unknown, text, "initlab.lint(model, batch)", severity="note"))
    if any(not entry.fix for entry in findings):
        call = remedy_of(sites).call
        findings = [replace(entry, fix=entry.fix or call) for entry in findings]
    return sorted(findings, key=lambda entry: entry.severity == "note")
