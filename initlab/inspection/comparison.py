"""What several initialisations of one model do to its signals: a table, a figure, the best of them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import nn

from initlab.errors import UserError
from initlab.inspection.candidates import Candidate
from initlab.inspection.comparison_text import as_text
from initlab.nets.undisturbed import Batch
from initlab.study.mistakes import suggestion
from initlab.verdict.odds import VERDICTS as OUTCOMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True, repr=False)
class Comparison:
    """What several initialisations of one model do to its signals on one batch.

    `table` has a row per scheme, in the order given: scheme; verdict (of most of its seeds, a word of
    `initlab.inspection.diagnosis.VERDICTS`; "" where it failed), agreeing (seeds of that verdict), seeds; reason (of
    the first such seed); forward_factor and backward_factor, what the second moment typically changes by per layer,
    towards the output and towards the input (geometric mean over seeds of what `inspect` says, NaN where there are
    fewer than two layers to compare); forward_inside and backward_inside, the share of measured points, over layers and
    seeds, inside theory's 95 % band; forecast (of most of its seeds,
    as `initlab.forecast` says it), the odds converged, slow, stalled and diverged of training (means over seeds), and
    calibrated, whether all of them are of nets such as the forecast was fitted on ("", NaN and False without `lr`);
    sets, what was set to what; and error, why the scheme failed.

    `verdicts` has a row per scheme and seed: scheme, seed, verdict, reason, forward_factor, backward_factor,
    forward_change and backward_change (ln of the part of the change from end to end that is judged), the odds,
    forecast and calibrated.
    `signals` has a row per scheme, seed and layer: scheme, seed and the columns of `Inspection.table`.
    """

    table: pd.DataFrame
    verdicts: pd.DataFrame
    signals: pd.DataFrame
    best: str | None  # the scheme to take; None where nothing is healthy, or several cannot be told apart
    why: str  # the sentence for it
    cost: str  # what was measured, and how long it took
    notes: list[str]
    candidates: list[Candidate]
    batch: Batch

    @property
    def healthy(self) -> list[str]:
        """The schemes of which every draw was judged healthy, or uneven, so that training can be expected to start."""
        sound = self.verdicts.verdict.isin(["healthy", "uneven"]).groupby(self.verdicts.scheme, sort=False).all()
        return list(sound.index[sound])

    def apply(self, model: nn.Module, scheme: str, *, seed: int = 0) -> nn.Module:
        """Initialise a model in place under one of the schemes, by its name here; gives the model.

        The weights are those that were measured with this seed.

        Raises:
            UserError: no such scheme, or one that fails on this model.
        """
        names = [candidate.name for candidate in self.candidates]
        if scheme not in names:
            hint = suggestion(scheme, names)
            raise UserError(f"apply: no such scheme here (got {scheme!r}{hint}); allowed: {', '.join(names)}")
        try:
            self.candidates[names.index(scheme)].apply(model, self.batch, seed)
        except ValueError as error:
            raise UserError(f"apply: {scheme}: {error}") from error
        return model

    def plot(self, ax: Any = None) -> "Figure":
        """Forward and backward variance against the layer: a line per scheme, with theory's 95 % band.

        Args:
            ax: two matplotlib Axes (forward, backward); None makes a figure.

        Raises:
            UserError: another number of axes, or nothing measured.
        """
        # matplotlib is loaded only here.
        from initlab.plots.inits import inits

        return inits(self.signals, ax)

    def __repr__(self) -> str:
        return as_text(self.table, self.best, self.why, [*self.notes, self.cost])

    def _repr_html_(self) -> str:
        from initlab.inspection.html import comparison_html

        return comparison_html(self.table, self.best, self.why, [*self.notes, self.cost])

    def report(self, path: str | Path, title: str = "Initialisations compared") -> Path:
        """Write one HTML file that needs nothing else: the best, the table, figure, and layers by scheme.

        Layers are those of each scheme's first seed. Returns the path.

        Raises:
            UserError: it cannot be written there, or nothing was measured.
        """
        from initlab.inspection.html import comparison_content, tree_content, write_page

        content = comparison_content(self.table, self.best, self.why, [*self.notes, self.cost])
        schemes = self.signals.groupby("scheme", sort=False)
        trees = {name: tree_content(rows[rows.seed == rows.seed.iloc[0]]) for name, rows in schemes}
        return write_page(path, "comparison_page.html", self.plot(), title=title, trees=trees, **content)


def table_row(scheme: str, verdicts: pd.DataFrame, signals: pd.DataFrame, sets: str) -> dict[str, Any]:
    """The row of one scheme in `Comparison.table`, from the other two frames."""
    verdicts, signals = verdicts[verdicts.scheme == scheme], signals[signals.scheme == scheme]
    counts = Counter(verdicts.verdict)
    # Of words that are as frequent, not the one that says that all is well.
    verdict = max(counts, key=lambda word: (counts[word], word != "healthy"))
    factors = {f"{d}_factor": float(np.exp(np.log(verdicts[f"{d}_factor"]).mean())) for d in DIRECTIONS}
    odds = {name: float(verdicts[name].mean()) for name in OUTCOMES}
    return {
        **{"scheme": scheme, "verdict": verdict, "agreeing": counts[verdict], "seeds": len(verdicts)},
        "reason": verdicts.reason[verdicts.verdict == verdict].iloc[0],
        **factors,
        **{f"{d}_inside": share_inside(signals, d) for d in DIRECTIONS},
        "forecast": verdicts.forecast.mode()[0],
        **odds,
        **{"calibrated": bool(verdicts.calibrated.all()), "sets": sets, "error": ""},
    }


def failed_row(scheme: str, error: str) -> dict[str, Any]:
    """The row of a scheme that failed; its numbers are missing."""
    texts = dict.fromkeys(("verdict", "reason", "forecast", "sets"), "")
    return {"scheme": scheme, **texts, "agreeing": 0, "seeds": 0, "calibrated": False, "error": error}


def share_inside(signals: pd.DataFrame, direction: str) -> float:
    """The share of measured variances inside theory's band; NaN where no layer has both."""
    measured, low, high = (signals[f"{direction}_{name}"].astype(float) for name in ("var", "low", "high"))
    both = measured.notna() & low.notna() & high.notna()
    return float(((low <= measured) & (measured <= high))[both].mean())
