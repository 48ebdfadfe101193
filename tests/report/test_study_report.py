"""The report of a study, but for what takes a browser: what it says, and that it says it as text."""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import initlab
from initlab.bench.store import make
from initlab.cli import main
from initlab.errors import UserError
from initlab.report.findings import findings
from initlab.report.study_report import write_report
from initlab.report.trial_charts import by_moment, thinned
from initlab.store.results import Results

FIGURE_3 = Path(__file__).parents[2] / "results" / "reference" / "desk-fig3"


@pytest.fixture(scope="module")
def results() -> Results:
    return Results(FIGURE_3)


def table_after(text: str, head: str) -> list[list[str]]:
    """The cells of the Markdown table whose first head is this."""
    block = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in block if "---" not in line]


def test_markdown_has_the_answer_and_a_line_per_trial(results: Results, tmp_path: Path) -> None:
    path = write_report(results, tmp_path / "fig3.md")
    text = path.read_text()
    for sentence in initlab.compare_arms(results).statements:
        assert f"- {sentence.text}\n" in text
    arms = table_after(text, "init.scheme")
    assert [row[:2] for row in arms[1:]] == [["gaussian", "5"], ["xavier", "5"], ["he", "5"]]
    trials = table_after(text, "trial")
    assert len(trials) == 16
    assert {row[0]: row[1] for row in trials[1:]} == dict(
        zip(results.trials.trial, results.trials.verdict, strict=True)
    )
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert pictures == [
        f"fig3-figures/{name}.png" for name in ("convergence", "survival", "effects", "signals", "propagation")
    ]
    assert all((tmp_path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    write_report(results, path)
    assert path.read_text() == text


def test_markdown_shows_what_it_would_obey(tmp_path: Path) -> None:
    out = tmp_path / "pending"
    out.mkdir()
    (out / "study.yaml").write_text('{name: a_b, question: "is *x* | <b>y</b>?", grid: {seed: [0, 1]}}')
    text = write_report(Results(out), form="markdown").read_text()
    assert text.startswith("# a\\_b\n\nis \\*x\\* \\| \\<b\\>y\\</b\\>?\n")
    assert "2 trials: 2 pending. seed: 0, 1." in text
    assert "Nothing to compare: only the seed differs." in text
    assert f"    initlab run {out}/study.yaml" in text


def test_what_is_compared_can_be_chosen_and_what_cannot_is_refused(results: Results, tmp_path: Path) -> None:
    assert findings(results).by == findings(results, "init.scheme").by == "init.scheme"
    for by, message in (("net.wdith", "did you mean net.width"), ("train.lr", "is the same in all trials")):
        with pytest.raises(UserError, match=message):
            findings(results, by)
    with pytest.raises(UserError, match=r"give --out FILE"):
        write_report([results, results])


def test_the_command_writes_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.md"
    done = CliRunner().invoke(main, ["report", str(FIGURE_3), "--out", str(path)])
    assert (done.exit_code, done.stdout) == (0, f"{path}\n")
    assert path.exists()


def test_probes_are_thinned_evenly_and_variances_are_logarithms(results: Results) -> None:
    assert thinned(np.arange(7), 3).tolist() == [0, 3, 6] and thinned(np.arange(2), 5).tolist() == [0, 1]
    trial = results.signals[results.signals.trial == results.trials.trial[0]].copy()
    trial.loc[trial.layer == 3, "forward_var"] = 0.0
    trial.loc[trial.layer == 4, "forward_var"] = 1e-57
    shown = by_moment(trial)
    assert len(shown["layers"]) == 30 and len(shown["moments"]) == trial.step.nunique()
    assert {(moment["forward"][3], moment["forward"][4]) for moment in shown["moments"]} == {(None, -57.0)}


@pytest.mark.slow
def test_300_trials_of_30_layers_fit_into_two_megabytes(tmp_path: Path) -> None:
    """The signals of this store are noise, which packs worse than any net's."""
    make(tmp_path / "made", 300)
    path = write_report(Results(tmp_path / "made"))
    assert path.stat().st_size < 2e6
    assert path.read_text().count('<tr id="t') == 300


def test_a_page_of_many_trials_has_rows_and_charts_of_some_and_says_so(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("initlab.report.findings.MOST_TRIALS", 4)
    # No figure of the study is drawn in fewer bytes.
    monkeypatch.setattr("initlab.report.study_report.MOST_LINES", 10)
    text = write_report(results, tmp_path / "some.html").read_text()
    shown = re.findall(r'<tr id="(t\w+)"', text)
    assert shown == [results.trials.trial[i] for i in (0, 5, 9, 14)]
    assert "4 of 15 trials have a row here" in text
    data = re.search(r'id="data">([^<]*)<', text)
    assert data and list(json.loads(gzip.decompress(base64.b64decode(data[1])))) == shown
    assert "data:image/png" in text and "data:image/svg" not in text
