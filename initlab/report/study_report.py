"""`initlab report OUT...`: the findings as one HTML file that needs nothing else, or as Markdown with pictures."""

from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from initlab.analysis.panels import Shown, as_list, error_name
from initlab.errors import UserError
from initlab.page.page import data_uri, packed, render
from initlab.plots.save import picture
from initlab.report.claims_table import HOLDS
from initlab.report.findings import Column, Findings, findings, value_text
from initlab.report.trial_charts import library, trial_charts
from initlab.store.files import atomic, writable, write_text

Format = Literal["html", "markdown"]
# Of a figure on the page, which makes its letters nearly as large as the page's.
PIXELS_PER_INCH = 130
# Bytes of a picture in lines, above which it is one in pixels: a line per trial of thousands, or a point.
MOST_LINES = 350_000


def write_report(results: Shown, path: Path | None = None, form: Format | None = None, by: str | None = None) -> Path:
    """Write the report of one or several studies; returns its path.

    Args:
        path: None is `report.html` or `report.md` in the folder of the results (one must be given for several).
        form: None goes by the path's ending, `.md` is Markdown. Its pictures lie beside it in `NAME-figures`.
        by: dotted path of the field that makes the arms; None is `init.scheme`, or the first field that varies.

    Raises:
        UserError: no path for several results, a `by` that makes no arms, or a path that cannot be written.
    """
    several = as_list(results)
    form = form or ("markdown" if path and path.suffix == ".md" else "html")
    if path is None:
        if len(several) > 1:
            raise UserError(f"report: no file for the report of {len(several)} studies (got none); give --out FILE")
        path = several[0].out / f"report.{'md' if form == 'markdown' else 'html'}"
    found = findings(results, by)
    return write_text(path, markdown(found, path) if form == "markdown" else html(found, results))


def html(found: Findings, results: Shown) -> str:
    """The page: figures as pictures inside it, and the data of all charts with the library that draws them."""
    figures = [
        {
            **{"name": name, "caption": caption, "width": round(figure.get_figwidth() * PIXELS_PER_INCH)},
            "source": source(figure),
        }
        for name, (caption, figure) in found.figures.items()
    ]
    rows = [
        [cell(column, value) for column, value in zip(found.columns, row, strict=True)]
        for row in found.trials.itertuples(index=False)
    ]
    return render(
        "study.html",
        **texts(found),
        figures=figures,
        rows=rows,
        error=error_name(results),
        data=packed(trial_charts(results, set(found.trials.trial))),
        library=packed(library()),
    )


def source(figure: Figure) -> str:
    """A figure as an address that holds it."""
    lines = picture(figure, "svg")
    if len(lines) <= MOST_LINES:
        return data_uri(lines, "image/svg+xml")
    return data_uri(picture(figure, "png"), "image/png")


def markdown(found: Findings, path: Path) -> str:
    """The same without what moves; writes the pictures."""
    folder = path.with_name(f"{path.stem}-figures")
    figures = []
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (caption, figure) in found.figures.items():
            with atomic(folder / f"{name}.png", sync=False) as file:
                file.write(picture(figure, "png"))
            figures.append({"path": f"{folder.name}/{name}.png", "caption": caption})
    rows = [[value_text(value) for value in row] for row in found.trials.itertuples(index=False)]
    return render("study.md", **texts(found), figures=figures, rows=rows)


def texts(found: Findings) -> dict[str, Any]:
    """What both say."""
    return {
        **{name: getattr(found, name) for name in ("title", "questions", "facts", "by", "arms", "left_out", "columns")},
        **{name: getattr(found, name) for name in ("studies", "environment", "problems")},
        "claims": [{"word": HOLDS[one.holds], "claim": one.claim, "figures": one.figures} for one in found.claims],
        "supported": [one.text for one in found.statements if one.supported],
        "unsupported": [one.text for one in found.statements if not one.supported],
    }


def cell(column: Column, value: Any) -> dict[str, str]:
    """A cell of the table of trials; a number with all its digits to be sorted by, "" where it is missing."""
    text = value_text(value)
    number = column.kind == "number"
    return {"text": text, "kind": column.kind, "value": "" if text == "–" else f"{value!r}" if number else text}
