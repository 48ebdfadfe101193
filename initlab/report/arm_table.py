"""What `initlab compare OUT --by FIELD` prints: a table of the arms, and a sentence for each thing to say of them."""

import math

from initlab.analysis.arm_comparison import ArmComparison
from initlab.report.json_text import json_text
from initlab.report.text_table import text_table

HEADER = ("seeds", "reached", "median epoch", "mean epoch", "best error")


def arms_text(comparison: ArmComparison) -> str:
    """The table and the sentences."""
    return "\n".join([*text_table(arm_rows(comparison)), "", *(text for text, _ in comparison.statements)])


def arm_rows(comparison: ArmComparison) -> list[list[str]]:
    """The heads, and the cells of each arm."""
    arms = comparison.arms
    fields = list(arms.columns[: arms.columns.get_loc("seeds")])
    rows = [
        [
            *(str(row[field]) for field in fields),
            str(row["seeds"]),
            f"{row['reached']} [{row['share_low']:.0%}, {row['share_high']:.0%}]"
            + (f", {row['diverged']} diverged" if row["diverged"] else ""),
            spanned(row["median_epoch"], row["median_low"], row["median_high"]),
            f"{row['mean_epoch']:.3g} of {row['budget']:.4g}",
            spanned(row["best_error"], row["best_low"], row["best_high"]),
        ]
        for row in arms.to_dict("records")
    ]
    return [[*fields, *HEADER], *rows]


def spanned(value: float, low: float, high: float) -> str:
    """`1.5 [1.5, 1.75]`; `never` where infinite, the value alone where there is no interval."""
    if math.isinf(value):
        return "never"
    if low <= 0 and math.isinf(high):
        return f"{value:.3g}"
    return f"{value:.3g} [{low:.3g}, {'never' if math.isinf(high) else f'{high:.3g}'}]"


def arms_json(comparison: ArmComparison) -> str:
    """The frames and sentences as JSON; what is infinite (never, no bound) is null."""
    frames = {name: getattr(comparison, name).to_dict("records") for name in ("arms", "pairs")}
    return json_text(
        {"by": comparison.by, **frames, "statements": [one._asdict() for one in comparison.statements]}, indent=2
    )
