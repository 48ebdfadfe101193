"""What `initlab compare` prints of a study beside a figure of the paper: two tables of text, or one JSON object."""

import math
from dataclasses import asdict

from initlab.analysis.comparison import PaperComparison
from initlab.paper.curves import PAPER_FIGURES
from initlab.report.json_text import json_text
from initlab.report.text_table import text_table

AGREES = {True: "yes", False: "no", None: "open"}


def paper_text(comparison: PaperComparison) -> str:
    """Two tables: the claims, and the times to each level."""
    seeds = f"{len(comparison.seeds)} seed{'s' if len(comparison.seeds) > 1 else ''}"
    figure = PAPER_FIGURES[comparison.figure].name
    lines = [f"{figure} of He et al. (2015) beside {comparison.depth} layers here, {seeds}"]
    claims = [[claim.claim, claim.paper, claim.ours, AGREES[claim.agrees]] for claim in comparison.claims]
    lines += text_table([["claim", "paper", "here", "agrees"], *claims])
    if comparison.times:
        times = [
            [f"{t.level:.3f}", f"{t.share:.2f}", epoch(t.he), epoch(t.xavier), str(t.ratio), str(t.interval)]
            for t in comparison.times
        ]
        header = ["val_error", "of chance", "he epoch", "xavier epoch", "ratio", "interval"]
        lines += ["", *text_table([header, *times])]
    return "\n".join(lines)


def epoch(value: float) -> str:
    """An epoch, `never` where infinite."""
    return "never" if math.isinf(value) else f"{value:.3g}"


def paper_json(comparison: PaperComparison) -> str:
    """The comparison as JSON; infinite values (never, no upper bound) are null."""
    return json_text({**asdict(comparison), "agrees": comparison.agrees}, indent=2)
