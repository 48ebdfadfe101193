"""What `initlab inspect` and `initlab lint` print: text, or one JSON object, and the exit code."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from torch import nn

from initlab.errors import UserError
from initlab.init.schemes import SCHEMES
from initlab.inspection.diagnosis import VERDICTS
from initlab.inspection.inspect import Inspection, inspect
from initlab.inspection.lint.finding import Finding
from initlab.inspection.lint.lint import RULES, lint
from initlab.inspection.remedy import advised
from initlab.inspection.subject import Subject, initialised
from initlab.inspection.two_inits import Comparison, compare
from initlab.report.json_text import json_text
from initlab.report.text_table import text_table

SCHEMA = 1
# what is to be expected of a net with such a verdict, in the words of a trial's
OUTCOMES = {"stalled": {"vanishing", "dead"}, "diverged": {"exploding", "nonfinite"}}


@dataclass(frozen=True)
class Examination:
    """What was found: the inspection, lint's findings, and what was asked for beside them."""

    model: str
    seen: Inspection
    findings: list[Finding]
    comparison: Comparison | None = None
    fixed: Inspection | None = None
    fix: str = ""  # the call that gave `fixed`


def examine(
    subject: Subject,
    *,
    weight_decay: float | None = None,
    fix: bool = False,
    against: nn.Module | None = None,
    seed: int = 0,
) -> Examination:
    """Inspect and lint a model; compare it with another initialisation, and try the advised one on a copy.

    Raises:
        UserError: a model that cannot be inspected or initialised, or nets of different layers.
    """
    model, images, labels = subject.module, subject.images, subject.labels
    try:
        seen, findings = inspect(model, images, labels, weight_decay=weight_decay), lint(model, images)
        comparison = compare(model, against, images, seed=seed) if against is not None else None
        if not fix:
            return Examination(subject.name, seen, findings, comparison)
        remedy = advised(model, images, seen.table, seen.diagnosis)
        mended = remedy.apply(copy.deepcopy(model), images, seed)
        fixed = inspect(mended, images, labels, weight_decay=weight_decay)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{subject.name}: {error}") from error
    return Examination(subject.name, seen, findings, comparison, fixed, remedy.call)


def other_init(subject: Subject, against: str, seed: int, allow_code: bool) -> Subject | None:
    """A copy of the subject's model under the scheme of this name; None where it names no scheme."""
    if against not in SCHEMES:
        return None
    twin = Subject(subject.name, copy.deepcopy(subject.module), subject.images, subject.labels)
    return initialised(twin, against, seed, allow_code)


def fails(verdict: str, words: Collection[str]) -> bool:
    """Whether a verdict is among those asked for: its own word, `any` but healthy, or an outcome to expect."""
    asked = set(words).union(*(OUTCOMES[word] for word in words if word in OUTCOMES))
    return verdict in asked or ("any" in asked and verdict != "healthy")


def check_words(text: str, allowed: Sequence[str]) -> list[str]:
    """The words of `--fail-on a,b`.

    Raises:
        UserError: a word that is not allowed.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if wrong := [word for word in words if word not in allowed]:
        raise UserError(f"--fail-on: no such word (got {wrong[0]!r}); allowed: {', '.join(allowed)}")
    return words


VERDICT_WORDS = ("any", *OUTCOMES, *(word for word in VERDICTS if word != "healthy"))
LINT_WORDS = ("any", "fault", *RULES)


def text_of(found: Examination) -> str:
    """The inspection, then what lint, a comparison and the advised initialisation add."""
    parts = [str(found.seen)]
    faults = [finding for finding in found.findings if finding.severity == "fault"]
    if faults:
        parts.append("\n".join(["lint:", *map(str, faults)]))
    if found.comparison is not None:
        parts.append(comparison_text(found.comparison))
    if found.fixed is not None:
        parts.append(f"after {found.fix}:\n{found.fixed}")
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
    return "\n".join(map(str, findings)) if findings else "nothing found"


def json_of(found: Examination) -> str:
    """One object: schema, model, verdict, healthy, reason, advice, lint, layers; fix and against where asked for."""
    content: dict[str, Any] = {"schema": SCHEMA, "model": found.model, **seen_fields(found.seen)}
    content["lint"] = [asdict(finding) for finding in found.findings]
    if found.comparison is not None:
        content["against"] = {
            "exact": found.comparison.exact,
            "why": found.comparison.why,
            "layers": rows(found.comparison.table),
        }
    if found.fixed is not None:
        content["fix"] = {"call": found.fix, **seen_fields(found.fixed)}
    return json_text(content)


def lint_json(model: str, findings: Sequence[Finding]) -> str:
    """One object: schema, model, lint."""
    return json_text({"schema": SCHEMA, "model": model, "lint": [asdict(finding) for finding in findings]})


def seen_fields(seen: Inspection) -> dict[str, Any]:
    """An inspection as plain data."""
    return {
        "verdict": seen.verdict,
        "healthy": seen.healthy,
        "reason": seen.reason,
        "advice": list(seen.advice),
        "layers": rows(seen.table),
    }


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One object per row."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
