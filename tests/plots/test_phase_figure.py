"""The phase diagram: shares, theory's lines and cells against numbers by hand."""

import math

import numpy as np
import pytest
from fake_study import Fake

from initlab.plots import phase, phase_table, save_figures
from initlab.plots.phase import COLORS, critical_std, edges
from initlab.study.spec import TrialSpec

NET = {"net.widths": (16,), "net.linear_width": 144}


def spec(**net: object) -> TrialSpec:
    return TrialSpec.model_validate({"data": {"image_size": 8}, "net": net})


@pytest.fixture
def study(fake: Fake) -> Fake:
    """Two stds x two depths x two rates, two seeds each; gradients as homogeneity says, 2e-3 at the critical std."""
    fake.extra = ["init.std", "train.lr", *NET]
    for lr in (0.01, 0.1):
        for depth in (6, 10):
            for std in (0.06, 0.12):
                for seed in (0, 1):
                    verdict = "stalled" if std == 0.06 else "diverged" if lr == 0.1 and seed else "converged"
                    fields = {"init.std": std, "train.lr": lr, **NET}
                    trial = fake.add("gaussian", seed, depth, val={0: 0.9}, verdict=verdict, fields=fields)
                    gradient = 2e-3 * (std / math.sqrt(2 / 144)) ** (depth - 1)
                    fake.probes += [
                        {"trial": trial, "step": 0, "layer": i, "weight_grad_rms": gradient} for i in (0, 1)
                    ]
    return fake


def test_shares_of_verdicts_over_seeds(study: Fake) -> None:
    table = phase_table(study)
    assert len(table) == 8 and (table.seeds == 2).all()
    assert (table[list(COLORS)].sum(axis=1) == 1).all()
    split = table[(table["train.lr"] == 0.1) & (table["init.std"] == 0.12)]
    assert split[["converged", "diverged"]].to_numpy().tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert (table.stalled == (table["init.std"] == 0.06)).all()


def test_the_critical_std_of_equal_layers_is_hes() -> None:
    # 16 channels x 9 taps: sqrt(2 / 144); a leaky slope a divides by sqrt(1 + a^2); a user's net has none.
    assert critical_std(spec(widths=[16], depth=30)) == pytest.approx(math.sqrt(2 / 144))
    leaky = spec(widths=[16], depth=30, activation="leaky_relu", negative_slope=0.5)
    assert critical_std(leaky) == pytest.approx(math.sqrt(2 / 144 / 1.25))
    assert math.isnan(critical_std(spec(name="mine:net")))


def test_the_decay_line_is_where_gradient_and_decay_meet(study: Fake) -> None:
    for row in phase_table(study).to_dict("records"):
        gradient = 2e-3 * (row["decay"] / row["critical"]) ** (row["net.depth"] - 1)
        assert gradient == pytest.approx(5e-4 * row["decay"], rel=1e-9)


def test_without_probes_there_is_no_decay_line_and_zeros_do_not_spoil_it(study: Fake) -> None:
    whole = phase_table(study).decay
    study.probes[0]["weight_grad_rms"] = study.probes[1]["weight_grad_rms"] = 0.0
    assert phase_table(study).decay.tolist() == pytest.approx(whole.tolist())
    study.probes = []
    assert phase_table(study).decay.isna().all()
    assert len(phase(study).axes[0].get_lines()[1].get_xdata()) == 0


def test_one_panel_per_rate_with_cells_that_fill_it(study: Fake) -> None:
    figure = phase(study)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["train.lr 0.01", "train.lr 0.1"]
    for ax in figure.axes:
        (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
        assert (left, right) == (4.0, 12.0)
        covered = sum(patch.get_width() * patch.get_height() for patch in ax.patches)
        assert covered == pytest.approx((right - left) * (high - low))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    # A legend is filled column by column, so verdicts stand below each other, from the best to the worst.
    lines = ["critical std (He et al., eq. 10)", "gradient as small as weight decay"]
    assert names == ["converged", "stalled", "diverged", *lines]


def test_any_two_fields_make_a_map_with_theory_where_one_is_the_std(study: Fake) -> None:
    table = phase_table(study, x="init.std", y="train.lr")
    assert len(table) == 8 and table.groupby("panel", sort=False).ngroups == 2  # a panel per depth
    cell = table[(table["net.depth"] == 10) & (table["init.std"] == 0.12)].set_index("train.lr")
    assert cell.diverged.tolist() == [0.0, 0.5] and table.decay.isna().all()
    figure = phase(study, x="init.std", y="train.lr")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["6 layers", "10 layers"]
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("std of the weights", "learning rate")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    # The critical std stands upright now, the same at every rate.
    x, y = ax.get_lines()[0].get_data()
    assert list(x) == pytest.approx([math.sqrt(2 / 144)] * 2) and list(y) == [0.01, 0.1]
    # Borders of 0.06 and 0.12 on a log axis lie at their geometric mean, and as far outside.
    assert ax.get_xlim() == pytest.approx((0.06 / math.sqrt(2), 0.12 * math.sqrt(2)))
    split = [patch for patch in ax.patches if patch.get_y() > 0.03 and patch.get_x() > 0.08]
    assert [patch.get_x() for patch in split] == pytest.approx([0.06 * math.sqrt(2), 0.12])


def test_values_that_are_no_numbers_stand_side_by_side_in_the_studys_order(fake: Fake) -> None:
    for scheme, depth, verdict in (("xavier", 20, "stalled"), ("he", 20, "converged"), ("he", 10, "converged")):
        fake.add(scheme, 0, depth, val={0: 0.9}, verdict=verdict)
    ax = phase(fake, x="init.scheme", y="net.depth").axes[0]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["xavier", "he"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["10", "20"]
    assert len(ax.patches) == 3 and not ax.get_lines()


def test_a_field_that_is_none_or_does_not_vary_is_told(study: Fake) -> None:
    with pytest.raises(ValueError, match=r"phase: no such field \(got 'train.rl'\).*did you mean train.lr"):
        phase(study, x="train.rl")
    with pytest.raises(ValueError, match=r"got one net.norm\); .*vary here: net.depth, init.std, train.lr"):
        phase(study, y="net.norm")
    with pytest.raises(ValueError, match=r"x and y are the same field \(got init.std\)"):
        phase(study, x="init.std")


def test_edges_lie_half_way() -> None:
    assert edges(np.array([1.0, 2.0, 4.0])).tolist() == [0.5, 1.5, 3.0, 5.0]
    assert edges(np.array([7.0])).tolist() == [6.5, 7.5]


def test_a_study_of_one_std_has_no_phase_figure(two_depths: Fake) -> None:
    with pytest.raises(
        ValueError, match=r"plot: no phase figure \(got one init.std\); .*vary here: net.depth, init.sch"
    ):
        save_figures(two_depths, ["phase"])
    said: list[str] = []
    assert "phase" not in {path.stem for path in save_figures(two_depths, say=said.append)} and not said
