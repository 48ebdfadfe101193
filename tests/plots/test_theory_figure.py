"""Theory beside the signals of real trials: the numbers are `predict`'s, the share is counted by hand."""

from pathlib import Path

import numpy as np
import pytest

import initlab
from initlab.errors import UserError
from initlab.plots.signals import theory_beside_table
from initlab.plots.theory import predicted
from initlab.store.results import Results
from initlab.study.sections import Data, Net
from initlab.study.spec import TrialSpec

STUDY = """
name: small
data: {name: digits, image_size: 8}
net: {name: plain, depth: 8, stages: 2}
train: {epochs: 0.1}
probe: {examples: 64}
grid: {init.scheme: [xavier, he], seed: [0, 1, 2]}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder: Path = tmp_path_factory.mktemp("theory")
    (folder / "study.yaml").write_text(STUDY)
    return initlab.run(folder / "study.yaml", out=folder / "out", jobs=1)


def test_the_band_is_what_predict_says(results: Results) -> None:
    table = theory_beside_table(results)
    net = initlab.build_net("plain", depth=8, stages=2, input_shape=(1, 8, 8))
    he = initlab.predict(net, scheme="he", input_shape=(1, 8, 8))
    shown = table[(table["init.scheme"] == "he") & (table.direction == "forward")]
    np.testing.assert_allclose(shown.theory_high, he.forward_high)
    back = table[(table["init.scheme"] == "he") & (table.direction == "backward")]
    np.testing.assert_allclose(back.theory_median / back.theory_median.iloc[-1], he.backward_median)
    assert back["mean"].iloc[-1] == pytest.approx(back.theory_median.iloc[-1])  # where the two are tied


def test_points_inside_are_counted(results: Results) -> None:
    table = theory_beside_table(results)
    rows = results.signals[results.signals.step == 0].merge(results.trials[["trial", "init.scheme"]], on="trial")
    for (scheme, direction), line in table.groupby(["init.scheme", "direction"]):
        inside = points = 0
        for _, layer in line.iterrows():
            if direction == "backward" and layer.layer == 7:
                continue
            for variance in rows[(rows["init.scheme"] == scheme) & (rows.layer == layer.layer)][f"{direction}_var"]:
                points += 1
                inside += layer.theory_low <= variance <= layer.theory_high
        assert set(line.points) == {points}
        assert set(line.inside) == {inside}
        assert points == (24 if direction == "forward" else 21)
        assert inside > 0.7 * points


def test_the_figure_tells_the_share(results: Results) -> None:
    figure = initlab.plots.signals(results, theory=True)
    (legend,) = figure.legends
    assert legend.get_title().get_text().startswith("inside the 95 % band: forward ")
    assert "theory: median, 95 % band" in [text.get_text() for text in legend.get_texts()]
    dashed = [line for line in figure.axes[0].lines if str(line.get_label()).endswith("theory")]
    assert len(dashed) == 2


def test_theory_knows_the_start_alone(results: Results) -> None:
    with pytest.raises(UserError, match=r"signals: theory knows epoch 0 alone \(got epochs \[0, 'end'\]\)"):
        initlab.plots.signals(results, epochs=(0, "end"), theory=True)


def test_of_tokens_theory_says_nothing() -> None:
    with pytest.raises(UserError, match=r"no theory for inputs that are tokens \(got data.name topics\)"):
        predicted(TrialSpec(data=Data(name="topics"), net=Net(name="transformer")))
