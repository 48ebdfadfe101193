"""Signals: geometric means counted by hand, zeros shown, NaN dropped, probes nearest to the epochs asked for."""

import numpy as np
import pytest
from fake_study import NAN, Fake

from initlab.plots import signals, signals_table


def row(table, **at):
    for key, value in at.items():
        table = table[table[{"scheme": "init.scheme", "depth": "net.depth"}.get(key, key)] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_mean_is_geometric_over_seeds_with_their_range(two_depths: Fake) -> None:
    point = row(signals_table(two_depths), scheme="he", depth=30, moment="0", direction="forward", layer=1)
    assert point["mean"] == pytest.approx(2.0, rel=1e-14)  # of 1 and 4
    assert (point.low, point.high, point.seeds, point.zeros, point.epoch) == (1.0, 4.0, 2, 0, 0.0)


def test_zero_is_counted_and_the_mean_is_over_what_is_above_zero(two_depths: Fake) -> None:
    point = row(signals_table(two_depths), scheme="xavier", depth=22, moment="end", direction="backward", layer=1)
    assert (point["mean"], point.zeros, point.seeds, point.epoch) == (pytest.approx(1e-40), 1, 2, 2.0)


def test_variance_of_1e_57_keeps_its_digits(two_depths: Fake) -> None:
    point = row(signals_table(two_depths), scheme="xavier", depth=22, moment="0", direction="backward", layer=0)
    assert point["mean"] == 1e-57


def test_lines_hold_the_table_with_layers_from_one(two_depths: Fake) -> None:
    table, figure = signals_table(two_depths), signals(two_depths)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [f"{depth} layers, {direction}" for depth in (30, 22) for direction in ("forward", "backward")]
    ax = figure.axes[1]
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "weight layer (1 = next to the input)"
    assert ax.get_ylabel() == "variance of its gradient,\nbackward_var"
    for label in ("he 0", "he end", "xavier 0", "xavier end"):
        scheme, moment = label.split()
        shown = (table["net.depth"] == 30) & (table.direction == "backward")
        part = table[shown & (table["init.scheme"] == scheme) & (table.moment == moment)]
        drawn = next(one for one in ax.get_lines() if one.get_label() == label)
        np.testing.assert_array_equal(drawn.get_ydata(), part["mean"])
        assert list(drawn.get_xdata()) == [1, 2]
    low, high = ax.get_ylim()
    assert low < 1e-57 and high > 1e-2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["he", "xavier", "before training", "end (epoch 2)"]
    assert figure.legends[0].get_title().get_text() == "geometric mean over 2 seeds; band: range over seeds"


def test_zeros_are_markers_in_a_row_at_the_bottom(two_depths: Fake) -> None:
    figure = signals(two_depths)
    marks = [one for one in figure.axes[1].get_lines() if one.get_label() == "_xavier 0 zero"]
    assert [list(one.get_xdata()) for one in marks] == [[2]]
    figure.draw_without_rendering()
    x, y = marks[0].get_transform().transform((2, marks[0].get_ydata()[0]))
    height = figure.axes[1].transAxes.inverted().transform((x, y))[1]
    assert 0 < height < 0.1
    assert "0" in [text.get_text() for text in figure.axes[1].texts]
    assert "0" not in [text.get_text() for text in figure.axes[0].texts]


def test_panel_of_zeros_alone_is_drawn(fake: Fake) -> None:
    fake.add("gaussian", val={0: 0.9}, probes={0: [(0.0, 0.0), (0.0, 0.0)]})
    table = signals_table(fake)
    assert table["mean"].isna().all() and (table.zeros == 1).all()
    signals(fake).draw_without_rendering()


def test_nan_is_dropped_and_a_direction_without_values_has_no_panel(fake: Fake) -> None:
    fake.add("he", val={0: 0.9}, probes={0: [(1.0, NAN), (NAN, NAN), (2.0, NAN)]})
    assert signals_table(fake).layer.tolist() == [0, 2]
    assert [ax.get_title(loc="left") for ax in signals(fake).axes] == ["30 layers, forward"]


def test_nearest_probe_is_taken_once(fake: Fake) -> None:
    fake.add("he", val={0: 0.9}, probes={step: [(1.0 + step, 1.0)] for step in (0, 4, 10)})
    table = signals_table(fake, epochs=(0, 0.5, 0.9, "end"))
    forward = table[table.direction == "forward"].set_index("moment")
    assert forward.epoch.to_dict() == {"0": 0.0, "0.5": 0.4, "0.9": 1.0}, "the last probe is taken already"
    assert forward["mean"].tolist() == pytest.approx([1.0, 5.0, 11.0])


def test_probes_off_and_impossible_epochs_are_told_in_one_line(fake: Fake) -> None:
    fake.add("he", val={0: 0.9})
    with pytest.raises(ValueError, match=r"plot: no signals to draw \(got 1 done, 0 rows of signals\); .*probe.every"):
        signals(fake)
    for wrong in ("last", -1, float("nan")):
        with pytest.raises(ValueError, match=r"signals: epochs: not a moment .*allowed: a number from 0, or 'end'"):
            signals_table(fake, epochs=(0, wrong))  # type: ignore[arg-type]
