"""What stands beside a measurement: theory's prediction, and redrawn bands where none of its rules is proven."""

import math
from typing import Any

import pandas as pd
from torch import nn

from initlab.init.schemes import Scheme
from initlab.nets.undisturbed import Batch, untouched
from initlab.signal.probe import Loss
from initlab.signal.theory.predict import predict
from initlab.signal.theory.redraw import redraw

PREDICTED = [f"{signal}_{bound}" for signal in ("forward", "backward") for bound in ("predicted", "low", "high")]
PREDICTED.append("basis")


def predicted_columns(
    model: nn.Module, batch: Batch, labels: Any, loss: Loss | None, scheme: str | Scheme | None = None, redraws: int = 0
) -> tuple[pd.DataFrame, list[str]]:
    """What `predict` says of draws of a scheme, or with the same second moments: median and band, by layer name.

    Where it fails on a model that was measured, the columns are NaN and a note says so. With `redraws`, layers whose
    basis is not theory have the band of so many draws.
    """
    notes: list[str] = []
    reason = ""
    try:
        # Reading a weight may be a computation that leaves its mark, as spectral norm's is in training mode.
        with untouched(model, backward=False):
            predicted = predict(model, scheme=scheme, batch=batch, labels=labels, loss=loss)
        theory, reason = columns_of(predicted, labels), weakness_of(predicted)
    # The model has just run, so what fails is following it; the user's code under the recorder may raise anything.
    except Exception as error:
        theory = pd.DataFrame(columns=["name", *PREDICTED]).astype(dict.fromkeys(PREDICTED[:-1], float))
        notes.append(failed("there is no theory beside the measurement, since recording this model failed", error))
    if redraws and not (len(theory) and (theory.basis == "theory").all()):
        try:
            drawn = redraw(model, batch, labels, loss, redraws)
        # Other weights may bring the user's code to raise anything too.
        except Exception as error:
            return theory, [*notes, failed("its weights could not be drawn again for a band", error)]
        proven = theory[theory.basis == "theory"]
        others = columns_of(drawn, labels)
        theory = pd.concat([proven, others[~others.name.isin(proven.name)]], ignore_index=True)
        notes.append(
            f"the bands of {len(theory) - len(proven)} of {len(theory)} layers were measured over {redraws} draws of "
            f"the weights, in {drawn.attrs['wall_s']:.1f} s, since no rule of theory is proven for them"
            + (f": {reason}" if reason else "")
        )
    return theory, notes


def columns_of(predicted: pd.DataFrame, labels: Any) -> pd.DataFrame:
    """The columns of a prediction that stand beside what was measured."""
    if labels is None:
        # Theory is then relative to the last layer, and nothing was measured that it could be compared with.
        predicted = predicted.assign(backward_median=math.nan, backward_low=math.nan, backward_high=math.nan)
    predicted = predicted.rename(columns=lambda name: name.replace("median", "predicted"))[["name", *PREDICTED]]
    # Of a model without weight modules there are no rows, whose columns would be of no type.
    return predicted.astype(dict.fromkeys(PREDICTED[:-1], float))


def weakness_of(predicted: pd.DataFrame) -> str:
    """Why not all of a prediction is theory, as far as it says so."""
    reasons = (predicted.attrs.get(f"{basis}_because") for basis in ("local", "approximate", "measured"))
    return next((reason for reason in reasons if reason), "")


def failed(what: str, error: Exception) -> str:
    """A note on what could not be done, and why."""
    return f"{what}: {str(error).partition(chr(10))[0] or type(error).__name__}"
