"""What `initlab inspect`, `lint` and `compare-inits` print, as text or one JSON object; the words of `--fail-on`."""

from collections.abc import Collection, Sequence
from typing import Any

from initlab.errors import UserError
from initlab.inspection.comparison import Comparison
from initlab.inspection.diagnosis import VERDICTS
from initlab.inspection.examination import Examination
from initlab.inspection.inspection import Inspection
from initlab.inspection.lint.finding import Finding
from initlab.inspection.lint.lint import RULES
from initlab.report.json_text import json_text

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
    if examination.ratios:
        parts.append(str(examination.ratios))
    if examination.remedy:
        parts.append(f"after {examination.remedy.call}:\n{examination.fixed}")
    return "\n\n".join(parts)


def lint_text(findings: Sequence[Finding]) -> str:
    """A finding per paragraph, or that there is none."""
    return "\n".join(map(str, findings)) or "nothing found"


def examination_json(examination: Examination) -> str:
    """One object: schema, model, verdict, healthy, reason, advice, lint, layers; against and fix where requested."""
    content = {"schema": SCHEMA, "model": examination.model, **inspection_fields(examination.inspection)}
    content["lint"] = examination.findings
    if ratios := examination.ratios:
        said = {"exact": ratios.exact, "why": ratios.why, "sentence": ratios.sentence}
        content["against"] = {**said, "layers": ratios.table.to_dict("records")}
    if examination.remedy and examination.fixed:
        content["fix"] = {"call": examination.remedy.call, **inspection_fields(examination.fixed)}
    return json_text(content)


def lint_json(model: str, findings: Sequence[Finding]) -> str:
    """One object: schema, model, lint."""
    return json_text({"schema": SCHEMA, "model": model, "lint": findings})


def comparison_json(model: str, comparison: Comparison) -> str:
    """One object: schema, model, best, why, healthy, notes, cost, schemes (a row each), draws (a row per seed)."""
    said = {name: getattr(comparison, name) for name in ("best", "why", "healthy", "notes", "cost")}
    frames = {"schemes": comparison.table.to_dict("records"), "draws": comparison.verdicts.to_dict("records")}
    return json_text({"schema": SCHEMA, "model": model, **said, **frames})


def inspection_fields(inspection: Inspection) -> dict[str, Any]:
    """An inspection as plain data."""
    fields = {name: getattr(inspection, name) for name in ("verdict", "healthy", "reason", "advice", "cause", "remedy")}
    unjudged = [{"name": name, "reason": reason} for name, reason in inspection.unjudged]
    fields |= {"trunk": inspection.trunk.to_dict("records"), "exponents": inspection.exponents._asdict()}
    return {**fields, "layers": inspection.table.to_dict("records"), "unjudged": unjudged, "notes": inspection.notes}
