"""What `initlab fix` prints: code to paste, with what it is for and what it changes as comments; or one JSON object."""

import textwrap
from dataclasses import asdict

from initlab.inspection.changes import Change, Fix
from initlab.report.json_text import json_text
from initlab.report.text_table import text_table

SCHEMA = 1
WIDTH = 110


def fix_code(fix: Fix, *, plain: bool = False) -> str:
    """Python that makes the fix, with `model` (and `batch`) as the user's names; comments alone where there is none.

    Args:
        plain: a line of torch per parameter instead of the call of initlab that was tried.
    """
    lines = comment(f"{fix.model}: {fix.inspection.verdict}. {fix.inspection.reason}")
    if fix.cure is None:
        return "\n".join([*lines, *comment(without_cure(fix))])
    lines += comment(f"Cause: {fix.cure.cause}.") + comment(f"{fix.cure.trial[:1].upper()}{fix.cure.trial[1:]}.")
    lines += ["#", *(f"# {line}" for line in changes_table(fix.changes))]
    unchanged = fix.num_parameters - len(fix.changes)
    lines += [f"# {unchanged} other tensors stay as they are." if unchanged else "# No tensor stays as it is.", ""]
    if plain and fix.changes:
        lines += comment("The same sizes in plain torch, as draws of your own; what was tried is the call of initlab.")
        return "\n".join([*lines, "from torch import nn", "", *(change.plain for change in fix.changes)])
    if "batch" in fix.cure.call:
        lines += comment("`batch` is one batch of inputs as your model takes them.")
    imports = ["import initlab", ""] if "initlab." in fix.cure.call else []
    return "\n".join([*lines, *imports, fix.cure.call])


def without_cure(fix: Fix) -> str:
    """Why there is nothing to paste."""
    if not fix.needed:
        return "Nothing to fix."
    advice = " ".join(fix.inspection.advice)
    return f"Nothing that was tried on a copy made it better, so there is no code to paste. {advice}".strip()


def changes_table(changes: list[Change]) -> list[str]:
    """A line per parameter that changes: its standard deviation before and after, and its mean where that moves."""
    rows = [["parameter", "shape", "std before", "std after", ""]]
    for change in changes:
        moved = abs(change.mean_after - change.mean_before) > max(change.std_before, change.std_after) / 10
        mean = f"mean {change.mean_before:.4g} to {change.mean_after:.4g}" if moved else ""
        shape = "x".join(map(str, change.shape)) or "1"
        rows.append([change.name, shape, f"{change.std_before:.4g}", f"{change.std_after:.4g}", mean])
    return text_table(rows, right={2, 3})


def comment(text: str) -> list[str]:
    """A text as lines of comment."""
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2)]


def fix_json(fix: Fix) -> str:
    """One object: schema, model, verdict, reason, cause, trial, code (null without a cure), changes, unchanged."""
    cure = fix.cure
    content = {
        **{"schema": SCHEMA, "model": fix.model, "verdict": fix.inspection.verdict, "reason": fix.inspection.reason},
        **{"cause": cure and cure.cause, "trial": cure and cure.trial, "code": cure and cure.call},
        "changes": [{**asdict(change), "plain": change.plain} for change in fix.changes],
        "unchanged": fix.num_parameters - len(fix.changes),
    }
    return json_text(content)
