"""`inspect`: the signals of any model on one batch, with a verdict on them and advice."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn

from initlab.init.layers import NORMS, layer_fans
from initlab.inspection.advice import advise
from initlab.inspection.cause import Cure
from initlab.inspection.diagnosis import Diagnosis, diagnose
from initlab.inspection.text import as_html, as_text
from initlab.inspection.trial import Trials
from initlab.nets.any_module import WeightLayer, weight_layers
from initlab.nets.undisturbed import Batch, num_examples, untouched
from initlab.signal.probe import COLUMNS, Loss, measure
from initlab.signal.theory.predict import predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREDICTED = [f"{signal}_{bound}" for signal in ("forward", "backward") for bound in ("predicted", "low", "high")]
PREDICTED.append("basis")
LAYER = ["layer", "name", "op", "calls", "shape", "fan_in", "fan_out", "width", "outputs", "activation"]


@dataclass(frozen=True, repr=False)
class Inspection:
    """What one batch shows of a model's signals.

    `table` has one row per weight layer: layer, name, op, calls, shape (of the weight), fan_in, fan_out, width
    (channels or features of y), outputs (numbers in y of one example and call), activation (the function that comes
    next), the measured columns; forward_predicted (the median over draws), forward_low, forward_high (the 95 % band),
    the same of backward, and basis, as `initlab.predict` gives them; and status, a word per layer.
    """

    table: pd.DataFrame
    diagnosis: Diagnosis
    advice: list[str]
    notes: list[str] = field(default_factory=list)  # what could not be done
    cure: Cure | None = None

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
        return as_text(self.table, self.diagnosis, [*self.advice, *self.notes])

    def _repr_html_(self) -> str:
        return as_html(self.table, self.diagnosis, [*self.advice, *self.notes])


def inspect(
    model: nn.Module, batch: Batch, labels: Any = None, *, loss: Loss | None = None, weight_decay: float | None = None
) -> Inspection:
    """Measure and judge the signals of any `nn.Module` at its first training step; the model is left as it was.

    Arguments and errors are those of `initlab.signal.probe.measure`, and a ValueError for a batch that is no tensor or
    empty. Without labels the gradients are not judged, nor is the size of the logits under a `loss` of yours.

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
    # Reading a weight may be a computation that leaves its mark, as spectral norm's is in training mode.
    with untouched(model, backward=False):
        table, diagnosis = judged(model, batch, labels, loss=loss, weight_decay=weight_decay)
    advice, cure = advise(trials_of(model, batch, labels, loss), table, diagnosis)
    return Inspection(table, diagnosis, advice, table.attrs["notes"], cure)


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
    """The table of a model's signals and the diagnosis, without `theory` faster: chance is then that of ReLU nets.

    `table.attrs["notes"]` says what could not be done.
    """
    modules = dict(weight_layers(model))
    measured = measure(model, batch, labels, loss=loss, weight_decay=weight_decay)
    rows = [layer_facts(modules[row["name"]]) | row for row in measured]
    table = pd.DataFrame(rows, columns=[*LAYER, *COLUMNS, "reached"])
    notes: list[str] = []
    if theory:
        columns, notes = predicted_columns(model, batch, labels, loss)
        table = table.merge(columns, on="name", how="left", validate="1:1")
    called = table[table.calls > 0]
    classes = int(called.width.iloc[-1]) if labels is not None and loss is None and len(called) else None
    diagnosis = diagnose(table, num_classes=classes, normed=any(isinstance(m, NORMS) for m in model.modules()))
    table = table.assign(status=list(diagnosis.status)).drop(columns="reached")
    table.attrs["notes"] = notes
    return table, diagnosis


def predicted_columns(model: nn.Module, batch: Batch, labels: Any, loss: Loss | None) -> tuple[pd.DataFrame, list[str]]:
    """What `predict` says of draws with the same second moments: median and band, by layer name.

    Where it fails on a model that was measured, the columns are NaN and a note says so.
    """
    try:
        theory = predict(model, batch=batch, labels=labels, loss=loss)
    # The model has just run, so what fails is following it; the user's code under the recorder may raise anything.
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        note = f"there is no theory beside the measurement, since recording this model failed: {reason}"
        return pd.DataFrame(columns=["name", *PREDICTED]).astype(dict.fromkeys(PREDICTED[:-1], float)), [note]
    if labels is None:
        # Theory is then relative to the last layer, and nothing was measured that it could be compared with.
        theory = theory.assign(backward_median=math.nan, backward_low=math.nan, backward_high=math.nan)
    return theory.rename(columns=lambda name: name.replace("median", "predicted"))[["name", *PREDICTED]], []


def layer_facts(module: WeightLayer) -> dict[str, Any]:
    """Shape of the weight, its fans, and the channels or features of the layer's output."""
    fan_in, fan_out = layer_fans(module)
    width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return {"shape": tuple(module.weight.shape), "fan_in": fan_in, "fan_out": fan_out, "width": width}
