"""`inspect`: the signals of any model on one batch, with a verdict on them and advice."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from initlab.init.layers import NORMS
from initlab.inspection.advice import advise
from initlab.inspection.cause import ALIKE
from initlab.inspection.diagnosis import OUTLOOKS, Diagnosis, diagnose, listed, under
from initlab.inspection.inspection import Inspection
from initlab.inspection.prediction import predicted_columns
from initlab.inspection.pupil import Pupil
from initlab.inspection.trial import HEALTHY, Trials
from initlab.inspection.troubles import Evidence
from initlab.nets.undisturbed import Batch, num_examples
from initlab.signal.precision import COLUMNS as ROUNDING
from initlab.signal.probe import COLUMNS, Loss
from initlab.signal.start import start_of
from initlab.signal.survey import IDLE, PARAMETER, STEP, Survey, survey
from initlab.verdict.forecast import check_optimizer

# Shares of the numbers in parameters: at least so many are seen, at most so many at work without being seen.
LEAST_JUDGED, MOST_HIDDEN = 0.5, 0.1
# Draws of the weights that `inspect` measures where theory has no proven rule: about 10 passes of a large net.
REDRAWS = 8
LAYER = ["layer", "name", "part", "op", "calls", "shape", "fan_in", "fan_out", "width", "outputs", "activation"]
# In a list of their own, since they belong to no figure of the store.
LAYER += ROUNDING


def inspect(
    model: nn.Module,
    batch: Batch,
    labels: Any = None,
    *,
    loss: Loss | None = None,
    weight_decay: float | None = None,
    optimizer: str | None = None,
    autocast: torch.dtype | None = None,
    redraws: int | None = None,
) -> Inspection:
    """Measure and judge the signals of any `nn.Module` at its first training step; the model is left as it was.

    Arguments and errors are those of `initlab.signal.survey.survey`, and a ValueError for a batch that is no tensor or
    empty. Without labels the gradients are not judged, nor is the size of the logits under a `loss` of yours.
    `vanishing` and `saturated` are verdicts about SGD; `optimizer`, as `adam`, asks for the words that hold for it.

    Args:
        redraws: of the layers for which theory has no proven rule, the band is that of so many draws of the weights,
            measured on the batch, at least 2; None is 8, which cost about 10 forward and backward passes; 0 is none.

    `inspect(net, images, labels).table.forward_var` of a wide He net on unit-variance inputs is about 2 in every
    layer (He et al. 2015, eq. 10: the first layer has no rectifier before it).
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"inspect: takes an nn.Module (got {type(model).__name__}); of an exported program its .module()"
        )
    if not num_examples(model, batch):
        got = "an empty one" if isinstance(batch, Tensor) else type(batch).__name__
        raise ValueError(f"inspect: the batch is no tensor of examples (got {got}); give one with an example or more")
    if optimizer is not None:
        check_optimizer("inspect", optimizer)
    if redraws is not None and redraws < 2 and redraws != 0:
        raise ValueError(f"inspect: redraws is out of range (got {redraws}); allowed: 0 for none, or from 2 on")
    signals = survey(model, batch, labels, loss=loss, weight_decay=weight_decay, autocast=autocast)
    theory, notes = predicted_columns(model, batch, labels, loss, redraws=REDRAWS if redraws is None else redraws)
    evidence = evidence_of(Pupil(model, batch, labels, loss, autocast), signals, learning=True)
    table, diagnosis = diagnosed(signals, theory, evidence)
    # Of what was not seen there is nothing to try.
    trials = None if diagnosis.verdict == "not_judged" else trials_of(model, batch, labels, loss)
    advice, cure = (
        advise(trials, table, diagnosis, evidence.start.ending if evidence.start else "") if trials else ([], None)
    )
    if cure and diagnosis.verdict in HEALTHY:
        alike = all(suspect.rule in ALIKE for suspect in cure.suspects)
        harm = ", and still do so after some steps" if alike else f", though signals are level{OUTLOOKS['handicapped']}"
        reason = cure.cause + harm
        diagnosis = replace(diagnosis, verdict="handicapped", reason=reason)
    diagnosis, remarks = under(diagnosis, optimizer)
    return Inspection(
        table,
        diagnosis,
        advice,
        [*remarks, *notes, *unjudged_notes(signals)],
        cure,
        pd.DataFrame(signals.parameters, columns=list(PARAMETER)),
        pd.DataFrame(signals.steps, columns=list(STEP)),
        signals.unjudged,
        signals.judged_share,
        signals.trunk,
    )


def trials_of(model: nn.Module, batch: Batch, labels: Any, loss: Loss | None) -> Trials:
    """The trials of a model, whose copies are judged as `inspect` judges, at first without theory's bands."""

    def judge(changed: nn.Module, inputs: Batch, *, theory: bool) -> Diagnosis:
        """The diagnosis of a changed copy."""
        return judged(changed, inputs, labels, loss=loss, theory=theory)[1]

    return Trials(model, batch, labels, loss, partial(judge, theory=False), partial(judge, theory=True))


def judged(
    model: nn.Module,
    batch: Batch,
    labels: Any = None,
    *,
    loss: Loss | None = None,
    weight_decay: float | None = None,
    theory: bool = True,
) -> tuple[pd.DataFrame, Diagnosis]:
    """The table of a model's signals and the diagnosis, without `theory` faster: chance is then that of ReLU nets."""
    signals = survey(model, batch, labels, loss=loss, weight_decay=weight_decay)
    columns = predicted_columns(model, batch, labels, loss)[0] if theory else None
    evidence = evidence_of(Pupil(model, batch, labels, loss), signals, learning=theory)
    return diagnosed(signals, columns, evidence)


def evidence_of(pupil: Pupil, signals: Survey, *, learning: bool) -> Evidence:
    """What is known beside the table; `learning` allows that a copy is trained to see whether a drift does harm."""
    start = start_of(pupil.model, pupil.batch, pupil.labels, pupil.loss, pupil.autocast)
    return Evidence(
        start,
        learns=pupil.learns if pupil.able and learning else None,
        opened=pupil.opened if pupil.labels is not None else None,
        steps=pd.DataFrame(signals.steps, columns=list(STEP)),
        unjudged=[*unregistered(pupil.model, start.strangers), *hidden(signals)],
        normed=any(isinstance(module, NORMS) for module in pupil.model.modules()),
    )


def diagnosed(signals: Survey, theory: pd.DataFrame | None, evidence: Evidence) -> tuple[pd.DataFrame, Diagnosis]:
    """The table of what was measured, beside the theory if there is one, and the diagnosis."""
    table = pd.DataFrame(signals.layers, columns=[*LAYER, *COLUMNS, "reached"])
    if theory is not None:
        table = table.merge(theory, on="name", how="left", validate="1:1")
    diagnosis = diagnose(table, evidence)
    return table.assign(status=list(diagnosis.status)).drop(columns="reached"), diagnosis


def unregistered(model: nn.Module, strangers: Sequence[nn.Parameter]) -> list[str]:
    """Why nothing good can be said of a model with parameters at work that no optimiser gets from it."""
    if not strangers:
        return []
    ids = {id(parameter) for parameter in strangers}
    lists = [
        f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key != "_modules" and any(id(p) in ids for each in modules_in(value) for p in each.parameters())
    ]
    where = f" (in {listed(lists)}, where nn.ModuleList or nn.ModuleDict is needed)" if lists else ""
    count = sum(parameter.numel() for parameter in strangers)
    return [
        f"{len(strangers)} tensors of {count:,} weights are at work but are no parameters of the model{where}: no "
        "optimiser trains them and no init reaches them"
    ]


def modules_in(value: Any) -> Iterator[nn.Module]:
    """The modules in nested lists, tuples and dicts."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from modules_in(item)


def hidden(signals: Survey) -> list[str]:
    """Why nothing good can be said of the model: too many of its weights were at work unseen, or not at work."""
    sizes = {row["name"]: row["numel"] for row in signals.parameters}
    at_work = [(name, reason) for name, reason in signals.unjudged if reason not in IDLE]
    share = sum(sizes[name] for name, _ in at_work) / max(sum(sizes.values()), 1)
    if signals.judged_share >= LEAST_JUDGED and share <= MOST_HIDDEN:
        return []
    name, reason = (at_work or signals.unjudged)[0]
    others = f", and {len(signals.unjudged) - 1} more parameters" if len(signals.unjudged) > 1 else ""
    return [f"{signals.judged_share:.0%} of the weights were seen at work (`{name}`: {reason}{others})"]


def unjudged_notes(signals: Survey) -> list[str]:
    """A sentence for each reason why parameters were not seen."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in signals.unjudged:
        by_reason.setdefault(reason, []).append(name)
    return [f"not judged: {listed(names)}: {reason}" for reason, names in by_reason.items()]
