"""`inspect`: the signals of any model on one batch, with a verdict on them and advice."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from initlab.init.layers import NORMS
from initlab.inspection.advice import advise
from initlab.inspection.cause import Cure
from initlab.inspection.diagnosis import OUTLOOKS, Diagnosis, diagnose, listed, under
from initlab.inspection.prediction import predicted_columns
from initlab.inspection.pupil import Pupil
from initlab.inspection.text import as_text, cell, trunk_lines
from initlab.inspection.trial import HEALTHY, Trials
from initlab.inspection.troubles import Evidence
from initlab.inspection.two_inits import Ratios, check_same_layers, ratios_of
from initlab.nets.undisturbed import Batch, num_examples
from initlab.signal.exponents import Exponents, exponents_of
from initlab.signal.precision import COLUMNS as ROUNDING
from initlab.signal.probe import COLUMNS, Loss
from initlab.signal.start import start_of
from initlab.signal.survey import IDLE, PARAMETER, STEP, Survey, survey
from initlab.signal.trunk import COLUMNS as TRUNK
from initlab.verdict.forecast import check_optimizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Shares of the numbers in parameters: at least so many are seen, at most so many at work without being seen.
LEAST_JUDGED, MOST_HIDDEN = 0.5, 0.1
# Draws of the weights that `inspect` measures where theory has no proven rule: about 10 passes of a large net.
REDRAWS = 8
LAYER = ["layer", "name", "part", "op", "calls", "shape", "fan_in", "fan_out", "width", "outputs", "activation"]
# In a list of their own, since they belong to no figure of the store.
LAYER += ROUNDING


@dataclass(frozen=True, repr=False)
class Inspection:
    """What one batch shows of a model's signals.

    `table` has one row per weight layer: layer, name, part (`q`, `k`, `v` of a packed weight, a recurrent layer's gate,
    else ""), op (`linear`, `conv`, `bilinear`, `lstm`, `gru`, `rnn`), calls, shape (of the weight), fan_in, fan_out,
    width (channels or features of y), outputs (numbers in y of one example and call), activation (the function that
    comes next), what rounding takes from gradients (`initlab.signal.precision`), the measured columns;
    forward_predicted (the median over draws), forward_low, forward_high (the 95 % band), the same of backward, and
    basis, as `initlab.predict` gives them; and status, a word per layer. A layer is whatever applies a matrix or a
    filter, in a module or not; one that is no module is named by its parameter.

    `parameters` has a row for each parameter of the model with its role and `steps` one for each step of each recurrent
    layer, as `initlab.signal.survey.Survey` describes them, `unjudged` and `judged_share` too.

    `trunk` has a row for the signal before the first block of the trunk and behind each: block, name, cosine and
    distance between two tokens, gradient_square (`initlab.signal.trunk`). It is empty for a model of fewer than three
    equal blocks in a row.
    """

    table: pd.DataFrame
    diagnosis: Diagnosis
    advice: list[str]
    notes: list[str] = field(default_factory=list)  # what could not be done or judged
    cure: Cure | None = None
    parameters: pd.DataFrame = field(default_factory=pd.DataFrame)
    steps: pd.DataFrame = field(default_factory=pd.DataFrame)
    unjudged: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of parameters that were not seen
    judged_share: float = 1.0  # of all numbers in parameters
    trunk: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=TRUNK))

    @property
    def verdict(self) -> str:
        """One word of `initlab.inspection.diagnosis.VERDICTS`."""
        return self.diagnosis.verdict

    @property
    def reason(self) -> str:
        """The sentence that justifies the verdict, with its figures."""
        return self.diagnosis.reason

    @property
    def cause(self) -> str:
        """Which parameters are wrong and by how much, found by what makes a copy better; "" where nothing was found."""
        return self.cure.cause if self.cure else ""

    @property
    def remedy(self) -> str:
        """The lines that made a copy better, with `model` and `batch` as the names; "" where there are none."""
        return self.cure.call if self.cure else ""

    @property
    def healthy(self) -> bool:
        """Whether training can be expected to start: the verdict is `healthy` or `uneven`."""
        return self.verdict in ("healthy", "uneven")

    @property
    def remarks(self) -> list[str]:
        """What is said below the reason: advice, notes, and what the trunk does to angles and gradients."""
        return [*self.advice, *self.notes, *trunk_lines(self.trunk)]

    @property
    def exponents(self) -> Exponents:
        """How fast the trunk's tokens drift apart and its gradient grows, per block; NaN where there is no trunk."""
        return exponents_of(self.trunk)

    def against(self, other: "Inspection") -> Ratios:
        """How much larger the signals are here than in another inspection of the same net, layer by layer.

        Both should be of one batch, with the same labels and loss. Two schemes of a seed have the same normals, so that
        Xavier's over He's forward variances are 2^-(l + 1) at layer l from 0 of a ReLU net without biases.

        Raises:
            UserError: nets whose layers differ in name or shape.
        """
        check_same_layers(*(dict(zip(table.name, table["shape"], strict=True)) for table in (self.table, other.table)))
        return ratios_of(self.table, other.table)

    def plot(self, ax: Any = None) -> "Figure":
        """Forward and backward variance against the layer, with the theory's band where the table has it.

        Args:
            ax: two matplotlib Axes (forward, backward); None makes a figure.

        Raises:
            UserError: another number of axes.
        """
        # matplotlib is loaded only here.
        from initlab.plots.inspection import inspection

        return inspection(self.table, f"{self.verdict}: {self.reason}", ax)

    def __repr__(self) -> str:
        return as_text(self.table, self.diagnosis, self.remarks)

    def _repr_html_(self) -> str:
        from initlab.inspection.html import inspection_html

        return inspection_html(self.table, self.verdict, self.reason, self.remarks)

    def report(self, path: str | Path, title: str = "An inspection") -> Path:
        """Write one HTML file that needs nothing else: verdict, advice, figure, and the layers; returns its path.

        Raises:
            UserError: it cannot be written there.
        """
        from initlab.inspection.html import inspection_content, write_page

        content = inspection_content(self.table, self.verdict, self.reason, self.remarks)
        content |= {
            "columns": list(self.table),
            "rows": self.table.map(cell).to_numpy().tolist(),
            "remedy": self.remedy,
        }
        return write_page(path, "inspection_page.html", self.plot(), title=title, **content)


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
    advice, cure = advise(trials, table, diagnosis) if trials else ([], None)
    if cure and diagnosis.verdict in HEALTHY:
        reason = f"{cure.cause}, though signals are level{OUTLOOKS['handicapped']}"
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
    return Evidence(
        start_of(pupil.model, pupil.batch, pupil.labels, pupil.loss, pupil.autocast),
        learns=pupil.learns if pupil.able and learning else None,
        opened=pupil.opened if pupil.labels is not None else None,
        steps=pd.DataFrame(signals.steps, columns=list(STEP)),
        unjudged=hidden(signals),
        normed=any(isinstance(module, NORMS) for module in pupil.model.modules()),
    )


def diagnosed(signals: Survey, theory: pd.DataFrame | None, evidence: Evidence) -> tuple[pd.DataFrame, Diagnosis]:
    """The table of what was measured, beside the theory if there is one, and the diagnosis."""
    table = pd.DataFrame(signals.layers, columns=[*LAYER, *COLUMNS, "reached"])
    if theory is not None:
        table = table.merge(theory, on="name", how="left", validate="1:1")
    diagnosis = diagnose(table, evidence)
    return table.assign(status=list(diagnosis.status)).drop(columns="reached"), diagnosis


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
