"""What `initlab compare OUT` prints: each claim of the study, whether it holds, and the figures."""

from collections.abc import Sequence

from initlab.analysis.declared import CheckedClaim
from initlab.report.text_table import text_table

HOLDS = {True: "holds", False: "fails", None: "open"}


def claims_text(claims: Sequence[CheckedClaim]) -> str:
    """A line per claim."""
    rows = [[HOLDS[claim.holds], claim.claim, claim.figures] for claim in claims]
    return "\n".join(text_table([["", "claim", "figures"], *rows]))
