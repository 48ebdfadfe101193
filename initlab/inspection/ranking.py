"""Which of several initialisations is best, and the sentence that says why; none where they cannot be told apart.

Those come into question of which every draw was judged healthy (where there are none, uneven), and of which a forecast
that knows such nets does not expect a stall or a divergence. Of several, the best changes its signals and gradients
least from end to end, by more than chance and by more than one depth scale, a factor e: a net trains to a depth of
about six of them (Schoenholz et al. 2017, sec. 5).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

DEPTH_SCALE = 1.0
SURE = 0.975
CHANGES = ["forward_change", "backward_change"]


def best_of(table: pd.DataFrame, verdicts: pd.DataFrame, *, labelled: bool) -> tuple[str | None, str]:
    """The best scheme of a comparison, or None, and why; `table` and `verdicts` are those of `Comparison`.

    Args:
        labelled: whether gradients were measured.
    """
    rows = {row["scheme"]: row for row in table.to_dict("records")}
    draws = {scheme: verdicts[verdicts.scheme == scheme] for scheme in rows}
    word, sound = soundest(draws)
    if not sound:
        parts = [f"`{scheme}` {row['verdict'].replace('_', ' ') or 'failed'}" for scheme, row in rows.items()]
        return None, f"no scheme was judged healthy with every seed: {', '.join(parts)}"
    hopeful = [scheme for scheme in sound if not is_hopeless(rows[scheme])]
    if not hopeful:
        parts = [f"`{scheme}` {rows[scheme]['forecast']}" for scheme in sound]
        return None, f"judged {word}, but not expected to train at this learning rate: {', '.join(parts)}"
    blind = "" if labelled else "; without labels gradients are not judged"
    levels = {scheme: level_of(draws[scheme]) for scheme in hopeful}
    best, *others = sorted(hopeful, key=lambda scheme: float(levels[scheme].mean()))
    if alike := [scheme for scheme in others if not is_better(levels[best], levels[scheme])]:
        alike = [best, *alike]
        reason = likeness([draws[scheme] for scheme in alike])
        return None, f"{together(alike)} cannot be told apart: each was judged {word}, {reason}{blind}"
    if not others:
        alone, count = (f"alone of {len(rows)} was" if len(rows) > 1 else "was"), len(draws[best])
        return best, f"`{best}` {alone} judged {word}, with {count} of {count} seeds: {rows[best]['reason']}"
    next_best = f"those of `{others[0]}` {ends(draws[others[0]])}"
    what = "signals" if blind else "signals and gradients"
    least = f"changes {what} least from end to end: by {ends(draws[best])}, {next_best}"
    return best, f"`{best}`, of {len(hopeful)} that were judged {word}, {least}{blind}"


def soundest(draws: Mapping[str, pd.DataFrame]) -> tuple[str, list[str]]:
    """The schemes of which every draw was judged healthy, or where there is none healthy or uneven, and that word."""
    for words in (("healthy",), ("healthy", "uneven")):
        sound = [scheme for scheme, own in draws.items() if len(own) and own.verdict.isin(words).all()]
        if sound:
            return words[-1], sound
    return "", []


def is_hopeless(row: Mapping[Hashable, Any]) -> bool:
    """Whether a forecast that knows such nets expects a stall or a divergence."""
    return bool(row["calibrated"]) and row["forecast"] in ("stalled", "diverged")


def level_of(verdicts: pd.DataFrame) -> NDArray[np.float64]:
    """How far each draw changes its signals and gradients from end to end, in depth scales."""
    return verdicts[CHANGES].abs().sum(axis=1).to_numpy(dtype=float)


def is_better(better: NDArray[np.float64], worse: NDArray[np.float64]) -> bool:
    """Whether one scheme changes less than another, by more than a depth scale and by more than seeds explain.

    With as many seeds they are compared draw by draw, for the random numbers are the same.
    """
    most = max(len(better), len(worse))
    if most < 2:
        return False
    if len(better) == len(worse):
        error = (worse - better).std(ddof=1) / math.sqrt(most)
    else:
        spread = max((better, worse), key=len).std(ddof=1)
        error = spread * math.sqrt(1 / len(better) + 1 / len(worse))
    return bool(worse.mean() - better.mean() > max(DEPTH_SCALE, stdtrit(most - 1, SURE) * error))


def likeness(draws: Sequence[pd.DataFrame]) -> str:
    """Why schemes cannot be told apart, from the draws of each."""
    seeds = max(map(len, draws))
    if all(own[CHANGES].isna().all(axis=None) for own in draws):
        return "and no two layers before the last have a signal to compare"
    if seeds < 2:
        return "and one seed does not tell a scheme from chance; give more seeds"
    return (
        "and what they change from end to end differs by less than a factor e, or by less than from seed to seed "
        f"({seeds} seeds)"
    )


def ends(verdicts: pd.DataFrame) -> str:
    """`×1.2 and ×0.9`: the changes of signals and gradients from end to end, geometric means over seeds."""
    return " and ".join(f"×{math.exp(change):.2g}" for change in verdicts[CHANGES].mean().dropna())


def together(names: Sequence[str]) -> str:
    """`a`, `b` and `c`."""
    *first, last = [f"`{name}`" for name in names]
    return f"{', '.join(first)} and {last}" if first else last
