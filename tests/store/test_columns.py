"""The table of columns is what the store writes, what its frames have, and what the probes measure."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from initlab import load
from initlab.signal import probe, running
from initlab.store.columns import COLUMNS, names
from initlab.store.writer import SIGNAL_SCHEMA
from tests.store.test_store import RESULT, attempt, make_out


def test_the_schema_of_signals_is_that_of_every_file_so_far_and_what_came_later() -> None:
    floats = ["forward_mean", "forward_var", "backward_mean", "backward_var"]
    floats += ["weight_var", "weight_grad_rms", "decay_ratio", "zero_fraction", "update_ratio"]
    assert [(field.name, str(field.type)) for field in SIGNAL_SCHEMA] == [
        *[("step", "int64"), ("epoch", "double"), ("layer", "int32"), ("name", "string"), ("op", "string")],
        *[("calls", "int32"), *((name, "double") for name in floats)],
    ]
    assert SIGNAL_SCHEMA.metadata == {b"initlab.schema": b"1"}


def test_the_measured_columns_are_those_of_the_rooms_that_measure() -> None:
    assert names("signals")[8:] == [*probe.COLUMNS, "update_ratio"]
    assert names("running")[8:] == list(running.COLUMNS)


KINDS = {
    pa.string(): pd.api.types.is_string_dtype,
    pa.int64(): pd.api.types.is_integer_dtype,
    pa.int32(): pd.api.types.is_integer_dtype,
    pa.float64(): pd.api.types.is_float_dtype,
    pa.bool_(): pd.api.types.is_bool_dtype,
}


@pytest.mark.parametrize("frame", COLUMNS)
def test_a_frame_has_the_columns_and_types_of_the_table(frame: str, tmp_path: Path) -> None:
    out, (folder,) = make_out(tmp_path)
    writer = attempt(folder, range(2, 13, 5), slopes=True)
    moments = {"op": "conv", "samples": 2, **dict.fromkeys(running.COLUMNS, 0.5)}
    writer.record("running", [{"step": 10, "epoch": 1.0, "layer": 0, "name": "conv0", **moments}])
    writer.close("done", RESULT, RESULT)
    table = getattr(load(out), frame)
    assert [column for column in table if column in names(frame)] == names(frame)
    if frame not in ("trials", "forecasts"):
        assert list(table) == names(frame) and len(table)
        wrong = [c.name for c in COLUMNS[frame] if not KINDS[c.type](table[c.name])]
        assert wrong == []
