"""Results as arrays with named dimensions, of xarray (https://xarray.dev)."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from initlab.errors import UserError
from initlab.store.columns import COLUMNS, LAYER, OP, POINT, units
from initlab.study.paths import TRIAL_PATHS

if TYPE_CHECKING:
    import xarray

# What a row is of, and how it came about, beside what was measured.
LABELS = {column.name for column in (*POINT, *LAYER, OP)}


def to_xarray(trials: pd.DataFrame, scalars: pd.DataFrame, signals: pd.DataFrame) -> "xarray.Dataset":
    """Curves (trial, step) and signals (trial, probe_step, layer) as one Dataset, NaN where a trial has no such row.

    The arguments are frames of `Results`. Coordinates along `trial` are the fields in which trials differ, state and
    verdict, so that `ds.val_error.groupby("init.scheme")` works; `name` (trial, layer) is the layer's. Units are in
    `.attrs["units"]`.

    Raises:
        UserError: xarray is not installed.
    """
    try:
        import xarray
    except ImportError:
        raise UserError("to_xarray: xarray is not installed; pip install 'initlab[xarray]'") from None
    curves = measured(scalars, "scalars").groupby(["trial", "step"]).first()
    signals = signals.rename(columns={"step": "probe_step"})
    by_layer = measured(signals, "signals").groupby(["trial", "probe_step", "layer"]).first()
    dataset = xarray.merge([curves.to_xarray(), by_layer.to_xarray()], join="outer")
    names = signals.groupby(["trial", "layer"]).name.first()
    dataset = dataset.assign_coords(name=names.to_xarray())
    trials = trials.set_index("trial").reindex(dataset.indexes["trial"])
    fields = [path for path in TRIAL_PATHS if path in trials]
    coordinates = {column: ("trial", plain(trials[column])) for column in (*fields, "state", "verdict")}
    dataset = dataset.assign_coords(coordinates)
    for variable, unit in units("scalars").items():
        if variable in dataset:
            dataset[variable].attrs["units"] = unit
    return dataset


def measured(rows: pd.DataFrame, frame: str) -> pd.DataFrame:
    """What was measured, with the columns that tell where."""
    numbers = [column.name for column in COLUMNS[frame] if column.name not in LABELS]
    return rows[[*rows.columns.intersection(["trial", "step", "probe_step", "layer"]), *numbers]]


def plain(values: pd.Series) -> Any:
    """Values that an index can hold: lists and tables as text."""
    return values.map(lambda value: str(value) if isinstance(value, (list, dict)) else value).to_numpy()
