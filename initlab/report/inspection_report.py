"""What `initlab inspect` and `initlab lint` print, as text or one JSON object, and the words that make them fail."""

from collections.abc import Collection, Sequence
from typing import Any

from initlab.errors import UserError
from initlab.inspection.diagnosis import VERDICTS
from initlab.inspection.examination import Examination
from initlab.inspection.inspect import Inspection
from initlab.inspection.lint.finding import Finding
from initlab.inspection.lint.lint import RULES
from initlab.inspection.two_inits import Comparison
from initlab.report.json_text import json_text
from initlab.report.text_table import text_table

SCHEMA = 1
# The verdicts on a model from which such a verdict on its training is to be expected.
OUTCOMES = {"stalled": {"vanishing", "dead"}, "diverged": {"exploding", "nonfinite"}}
VERDICT_WORDS = ("any", *OUTCOMES, *(word for word in VERDICTS if word != "healthy"))
LINT_WORDS = ("any", "fault", *RULES)


def check_words(text: str | None, allowed: Sequence[str]) -> list[str]:
    """The words of `--fail-on a,b`; raises a `UserError` for one that is not allowed."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if wrong := [word for word in words if word not in allowed]:
        raise UserError(f"--fail-on: no such word (got {wrong[0]!r}); allowed: {', '.join(allowed)}")
    return words


def fails(verdict: str, words: Collection[str]) -> bool:
    """Whether a word names the verdict: itself, an outcome that it lets expect, or `any` for all but healthy."""
    named = set(words).union(*(OUTCOMES.get(word, ()) for word in words))
    return verdict in named or ("any" in named and verdict != "healthy")


def examination_text(examination: Examination) -> str:
    """The inspection, then what lint, a comparison and the advised initialisation add."""
    parts = [str(examination.inspection)]
    faults = [str(finding) for finding in examination.findings if finding.severity == "fault"]
    if faults:
        parts.append("\n".join(["lint:", *faults]))
    if examination.comparison:
        parts.append(comparison_text(examination.comparison))
    if examination.remedy:
        parts.append(f"after {examination.remedy.call}:\n{examination.fixed}")
    return "\n\n".join(parts)


def comparison_text(comparison: Comparison) -> str:
    """The ratios as a table of at most 100 columns, long names cut at their beginning."""
    table = comparison.table
    names = [name if len(name) <= 48 else f"…{name[-47:]}" for name in map(str, table.name)]
    heads = [f"{head:>12}" for head in ("weight std", "forward var", "backward var")]
    ratios = table[["weight_ratio", "forward_ratio", "backward_ratio"]].to_numpy()
    rows = [[name, *(f"{ratio:.6g}" for ratio in row), ""] for name, row in zip(names, ratios, strict=True)]
    lines = text_table([["layer", *heads, "  A / B"], *rows], right=range(1, 4), gap=" ")
    return "\n".join([*lines, comparison.why])


def lint_text(findings: Sequence[Finding]) -> str:
    """A finding per paragraph, or that there is none."""
    return "\n".join(map(str, findings)) or "nothing found"


def examination_json(examination: Examination) -> str:
    """One object: schema, model, verdict, healthy, reason, advice, lint, layers; against and fix where requested."""
    content = {"schema": SCHEMA, "model": examination.model, **inspection_fields(examination.inspection)}
    content["lint"] = examination.findings
    if comparison := examination.comparison:
        layers = comparison.table.to_dict("records")
        content["against"] = {"exact": comparison.exact, "why": comparison.why, "layers": layers}
    if examination.remedy and examination.fixed:
        content["fix"] = {"call": examination.remedy.call, **inspection_fields(examination.fixed)}
    return json_text(content)


def lint_json(model: str, findings: Sequence[Finding]) -> str:
    """One object: schema, model, lint."""
    return json_text({"schema": SCHEMA, "model": model, "lint": findings})


def inspection_fields(inspection: Inspection) -> dict[str, Any]:
    """An inspection as plain data."""
    fields = {name: getattr(inspection, name) for name in ("verdict", "healthy", "reason", "advice", "cause", "remedy")}
    unjudged = [{"name": name, "reason": reason} for name, reason in inspection.unjudged]
    return {**fields, "layers": inspection.table.to_dict("records"), "unjudged": unjudged, "notes": inspection.notes}
