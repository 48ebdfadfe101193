"""Every column of the frames of `Results`, written once: its name, its type and what it means.

The writer's schema, the frames' lists of columns and the tables in README.md and docs/columns.md derive from `COLUMNS`.
"""

from typing import NamedTuple

import pyarrow as pa

from initlab.verdict.features import FEATURES, MEANINGS
from initlab.verdict.odds import VERDICTS


class Column(NamedTuple):
    """One column of a frame; the type is that of a file which stores it as numbers."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""  # of a measured number; fractions, ratios and the like have none


TEXT, FLAG, INTEGER, SMALL_INTEGER, FLOAT = pa.string(), pa.bool_(), pa.int64(), pa.int32(), pa.float64()
TRIAL = Column("trial", TEXT, "id of the trial")
POINT = (
    TRIAL,
    Column("attempt", INTEGER, "number of the attempt that wrote the row"),
    Column("step", INTEGER, "updates done", "updates"),
    Column("epoch", FLOAT, "step / steps per epoch", "epochs"),
)
LAYER = (Column("layer", SMALL_INTEGER, "0-based, by first call"), Column("name", TEXT, "the module's name in the net"))
OP = Column("op", TEXT, "`conv` or `linear`")
MOMENTS = (
    Column("forward_mean", FLOAT, "mean of y over batch, channels and positions"),
    Column("forward_var", FLOAT, "population variance of y over the same"),
    Column(
        "backward_mean", FLOAT, "mean of ∂E/∂y, E summed over the examples, so it does not depend on the batch size"
    ),
    Column("backward_var", FLOAT, "population variance of ∂E/∂y"),
)
COLUMNS = {
    # Before the verdict the frame has the fields of the spec that differ between trials, under their dotted paths.
    "trials": (
        TRIAL,
        Column("state", TEXT, "`pending`, `running`, `done`, `diverged`, `failed`, `stopped` or `interrupted`"),
        Column("attempts", INTEGER, "attempts made, also those whose rows don't count"),
        Column("verdict", TEXT, "as in `.verdicts`"),
        Column("val_error", FLOAT, "the last validation error"),
        Column("best_val_error", FLOAT, "the lowest validation error"),
        Column("epochs_done", FLOAT, "epochs trained", "epochs"),
        Column("wall_s", FLOAT, "seconds so far, all attempts together", "s"),
        Column("silent_s", FLOAT, "seconds since the last sign of life of a running trial, NaN for the others", "s"),
        Column("device", TEXT, "`cpu`, or the GPU's name"),
        Column("precision", TEXT, "`float32`, or the lower one that was used"),
        Column("torch_version", TEXT, "where the last attempt ran"),
        Column("git_commit", TEXT, "of initlab, `+` where its tree was changed"),
        Column("in_study", FLAG, "whether the study as it is now has this trial"),
    ),
    "verdicts": (
        TRIAL,
        Column("verdict", TEXT, "`converged`, `slow`, `stalled` or `diverged`; none while unfinished"),
        Column("reason", TEXT, "one sentence with its figures"),
        Column("epoch_reached", FLOAT, "when the threshold was reached, NaN where it was not", "epochs"),
        Column("censored", FLAG, "whether the threshold was not reached"),
        Column("threshold", FLOAT, "validation error that counts as converged"),
    ),
    "scalars": (
        *POINT,
        Column("train_loss", FLOAT, "mean since the row before"),
        Column("train_error", FLOAT, "mean since the row before, a fraction; docs/data.md says of what in each task"),
        Column("val_loss", FLOAT, "NaN where not evaluated"),
        Column("val_error", FLOAT, "top-1, or the task's own; a fraction, NaN where not evaluated"),
        Column("val_error_top5", FLOAT, "top-5, a fraction, NaN where not evaluated or labels are no classes"),
        Column("lr", FLOAT, "learning rate"),
        Column("images_per_s", FLOAT, "images trained on per second since the row before", "images/s"),
        Column("wall_s", FLOAT, "seconds so far, all attempts together", "s"),
    ),
    "signals": (
        *POINT,
        *LAYER,
        OP,
        Column("calls", SMALL_INTEGER, "uses in one forward pass, whose moments are pooled"),
        *MOMENTS,
        Column("weight_var", FLOAT, "population variance of the weights"),
        Column("weight_grad_rms", FLOAT, "rms of the batch-mean loss gradient, without weight decay"),
        Column(
            "decay_ratio",
            FLOAT,
            "weight decay × ‖W‖ / ‖loss gradient of W‖, or of decoupled decay ‖its part of the next update‖ / "
            "‖the rest‖: above 1, decay outweighs the loss",
        ),
        Column("zero_fraction", FLOAT, "share of exact zeros after the layer's activation"),
        Column("update_ratio", FLOAT, "‖update‖ / ‖W‖ of the next update by this batch, measured; NaN under SGD"),
    ),
    "slopes": (
        *POINT,
        *LAYER,
        Column("channels", INTEGER, "slopes of the layer, 1 where its channels share one"),
        *(Column(name, FLOAT, "of the layer's slopes") for name in ("mean", "std", "min", "max")),
    ),
    "running": (
        *POINT,
        *LAYER,
        OP,
        Column("samples", INTEGER, "training steps sampled since the row before, over which moments are pooled"),
        *MOMENTS,
    ),
    "forecasts": (
        TRIAL,
        Column("forecast", TEXT, "the most probable verdict, or `cannot tell`"),
        *(Column(verdict, FLOAT, "probability of this verdict") for verdict in VERDICTS),
        Column("calibrated", FLAG, "whether the calibration had such nets, under the optimiser and in this range"),
        *(Column(feature, FLOAT, MEANINGS[feature]) for feature in FEATURES),
    ),
}


def names(frame: str) -> list[str]:
    """The names of a frame's columns, in their order."""
    return [column.name for column in COLUMNS[frame]]


def units(frame: str) -> dict[str, str]:
    """The unit of each column that has one."""
    return {column.name: column.unit for column in COLUMNS[frame] if column.unit}
