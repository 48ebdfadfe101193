"""The report as a reader uses it, in a headless Chromium: sort, filter, choose a trial, move the slider.

What is looked for comes from the results' frames. Skipped where playwright or a Chromium is not installed.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import initlab
from initlab.report.study_report import write_report
from initlab.store.results import Results

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.base")
CHROMIUM = os.environ.get("INITLAB_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
STUDY = Path(__file__).parents[2] / "results" / "reference" / "desk-fig3"
LOCAL = ("file", "data")
EVIL = "<script>window.evil = 1</script>"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The study of figure 3 in small, 15 trials, under a question that a page must not obey."""
    out = tmp_path_factory.mktemp("evil") / "store"
    shutil.copytree(STUDY, out)
    study = yaml.safe_load((out / "study.yaml").read_text())
    study |= {"question": EVIL, "claims": [{"claim": "reaches", "arm": {"init.scheme": "he"}}]}
    (out / "study.yaml").write_text(yaml.safe_dump(study))
    return Results(out)


@pytest.fixture(scope="module")
def page_file(results: Results) -> Path:
    return write_report(results)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as api:
        chromium = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file in a page of its own; at the end nothing may have left the file or been complained of."""
    with watched(browser) as open_file:
        yield open_file


@contextmanager
def watched(browser: Any) -> Iterator[Callable[..., Any]]:
    complaints: list[str] = []
    contexts = []

    def open_file(path: Path, anchor: str = "", **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend([request.url] * (request.url.split(":")[0] not in LOCAL)))
        page.goto(path.as_uri() + anchor)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []


def column(page: Any, head: str) -> list[str]:
    """The texts of a column in the rows that are shown."""
    return page.evaluate(
        """(head) => {
            const heads = [...document.querySelectorAll("#trials thead th")].map((th) => th.innerText.trim());
            const rows = [...document.querySelectorAll("#trials tbody tr")].filter((row) => !row.hidden);
            return rows.map((row) => row.cells[heads.indexOf(head)].textContent);
        }""",
        head,
    )


def test_headings_sort_by_number_and_text_and_missing_comes_last(
    opened: Any, page_file: Path, results: Results
) -> None:
    page = opened(page_file)
    errors = [f"{error:.4g}" for error in sorted(results.trials.best_val_error)]
    page.get_by_role("button", name="lowest error").click()
    assert column(page, "lowest error") == errors
    page.get_by_role("button", name="lowest error").press("Enter")
    assert column(page, "lowest error") == errors[::-1]
    assert page.locator("#trials th[aria-sort]").get_attribute("aria-sort") == "descending"
    reached = [f"{epoch:.4g}" for epoch in sorted(results.verdicts.epoch_reached.dropna())]
    page.get_by_role("button", name="epoch at threshold").click()
    assert column(page, "epoch at threshold") == [*reached, *["–"] * 10]
    page.get_by_role("button", name="epoch at threshold").click()
    assert column(page, "epoch at threshold") == [*reached[::-1], *["–"] * 10]
    page.get_by_role("button", name="verdict").click()
    assert column(page, "verdict") == ["converged"] * 5 + ["stalled"] * 10


def test_menus_and_words_filter(opened: Any, page_file: Path, results: Results) -> None:
    page = opened(page_file)
    assert page.locator("#count").inner_text() == "15 of 15 trials"
    page.get_by_label("init.scheme").select_option("xavier")
    assert column(page, "init.scheme") == ["xavier"] * 5
    page.get_by_label("seed").select_option("3")
    assert column(page, "seed") == ["3"] and page.locator("#count").inner_text() == "1 of 15 trials"
    page.get_by_label("init.scheme").select_option("")
    page.get_by_label("seed").select_option("")
    page.get_by_role("searchbox").fill("CONVERGED threshold")
    assert column(page, "trial") == []
    page.get_by_role("searchbox").fill("converged 0.588")
    (trial,) = results.verdicts[results.verdicts.reason.str.contains("0.588")].trial
    assert column(page, "trial") == [trial]


def drawn_values(page: Any, direction: str) -> list[float]:
    """The heights of the measured points of a chart, as the chart says them to a screen reader."""
    labels = page.locator(f"#{direction} .mark-symbol path").evaluate_all(
        "marks => marks.map((mark) => mark.__data__.datum.value)"
    )
    return [float(label) for label in labels]


def test_a_chosen_trial_shows_its_signals_and_the_slider_moves_them(
    opened: Any, page_file: Path, results: Results
) -> None:
    page = opened(page_file)
    trial = results.trials.trial[results.trials["init.scheme"] == "he"].iloc[0]
    page.get_by_role("link", name=trial).click()
    page.locator("#backward svg").wait_for()
    assert page.locator("#trial-name").inner_text() == "plain-30 he seed 0"
    (reason,) = results.verdicts.reason[results.verdicts.trial == trial]
    assert reason in page.locator("#trial-facts").inner_text()
    signals = results.signals[results.signals.trial == trial]
    for step, press in ((0, "Home"), (signals.step.max(), "End")):
        page.locator("#moment").press(press)
        page.wait_for_timeout(100)
        for direction in ("forward", "backward"):
            measured = signals[signals.step == step].sort_values("layer")[f"{direction}_var"]
            drawn = [10**value for value in drawn_values(page, direction)]
            # Drawn are decimal logarithms of two digits.
            assert drawn == pytest.approx(measured.tolist(), rel=0.012)
    assert page.locator("#moment-text").inner_text() == "epoch 6 (step 1,872)"
    assert page.url.endswith(f"#{trial}")


def test_the_link_to_a_trial_and_the_way_back(opened: Any, page_file: Path, results: Results) -> None:
    first, second = results.trials.trial[:2]
    page = opened(page_file, f"#{first}")
    page.locator("#backward svg").wait_for()
    assert page.locator("tr[aria-current]").get_attribute("id") == first
    page.locator("#trials").get_by_role("link", name=second).press("Enter")
    page.locator("#trial-name", has_text="gaussian seed 1").wait_for()
    page.go_back()
    page.locator("#trial-name", has_text="gaussian seed 0").wait_for()


def test_names_are_text(opened: Any, page_file: Path) -> None:
    page = opened(page_file)
    assert page.evaluate("window.evil") is None
    assert page.locator(".question").inner_text() == EVIL


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened: Any, page_file: Path, results: Results, scheme: str) -> None:
    page = opened(page_file, f"#{results.trials.trial[0]}", color_scheme=scheme)
    page.locator("#backward svg").wait_for()
    assert serious_violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_inspection_folds_by_keyboard_and_axe_finds_nothing_serious(
    opened: Any, tmp_path: Path, scheme: str
) -> None:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(2)))
    path = initlab.inspect(net, torch.randn(4, 8), torch.randint(0, 8, (4,))).report(tmp_path / "seen.html")
    page = opened(path, color_scheme=scheme, viewport={"width": 390, "height": 844})
    assert serious_violations(page) == []
    layer = page.get_by_title("2", exact=True)
    assert layer.first.is_visible()
    page.locator(".initlab-tree summary").first.press("Enter")
    assert not layer.first.is_visible() and layer.nth(1).is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def serious_violations(page: Any) -> list[str]:
    """What axe-core finds against the page, where it calls it serious or worse."""
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run().then((results) => results.violations)")
    return [json.dumps(one)[:2000] for one in found if one["impact"] in ("serious", "critical")]


def test_a_phone_needs_no_sideways_scrolling(opened: Any, page_file: Path, results: Results) -> None:
    page = opened(page_file, f"#{results.trials.trial[0]}", viewport={"width": 390, "height": 844})
    page.locator("#backward svg").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_without_javascript_answer_figures_and_trials_are_there(opened: Any, page_file: Path, results: Results) -> None:
    page = opened(page_file, java_script_enabled=False)
    text = page.locator("main").inner_text()
    for sentence in initlab.compare_arms(results).statements:
        assert sentence.text in text
    assert page.locator("td.holds").inner_text() == "holds"
    assert page.locator("#trials tbody tr").count() == 15
    assert page.locator("figure img").count() == 2
    assert not page.locator("#filter").is_visible() and not page.locator("#trial").is_visible()
