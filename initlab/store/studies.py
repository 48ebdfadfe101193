"""`Studies`: the results of several folders, each frame of them all in one, with a column that says of which study."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import overload

import pandas as pd

from initlab.store.results import Results


class Studies(tuple[Results, ...]):
    """Several `Results`, which figures and comparisons take as they are; a frame has the rows of all of them.

    The first column, `study`, is the study's name, or its folder where two studies have the same name. A trial that
    lies in two of the folders has rows from both.
    """

    @cached_property
    def names(self) -> list[str]:
        """What stands in the column `study`, one for each of the results."""
        names = [results.study.name for results in self]
        return [str(one.out) if names.count(name) > 1 else name for one, name in zip(self, names, strict=True)]

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial, with the fields that differ in any of the studies; NaN where a study does not vary one."""
        return self.joined(results.trials for results in self)

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row per trial, as `Results.verdicts`."""
        return self.joined(results.verdicts for results in self)

    @property
    def scalars(self) -> pd.DataFrame:
        """One row per (trial, step), as `Results.scalars`."""
        return self.joined(results.scalars for results in self)

    @property
    def signals(self) -> pd.DataFrame:
        """One row per (trial, step, layer), as `Results.signals`."""
        return self.joined(results.signals for results in self)

    @property
    def slopes(self) -> pd.DataFrame:
        """One row per (trial, step, PReLU layer), as `Results.slopes`."""
        return self.joined(results.slopes for results in self)

    @property
    def running(self) -> pd.DataFrame:
        """One row per (trial, row of scalars, layer), as `Results.running`."""
        return self.joined(results.running for results in self)

    @property
    def forecasts(self) -> pd.DataFrame:
        """One row per trial with a probe at step 0, as `Results.forecasts`."""
        return self.joined(results.forecasts for results in self)

    def joined(self, frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
        """One frame of each study, below each other; units stay."""
        each = list(frames)
        labelled = [frame.assign(study=name) for frame, name in zip(each, self.names, strict=True)]
        # Rows of no study say nothing of the columns' types.
        filled = [frame for frame in labelled if len(frame)] or labelled[:1]
        joined = pd.concat(filled, ignore_index=True)
        joined.attrs = dict(each[0].attrs)
        return joined[["study", *joined.columns.drop("study")]]

    def __repr__(self) -> str:
        return f"Studies({', '.join(map(repr, self))})"


@overload
def load(out: str | Path) -> Results: ...
@overload
def load(out: str | Path, *others: str | Path) -> Results | Studies: ...
def load(out: str | Path, *others: str | Path) -> Results | Studies:
    """The results in an output folder, finished or not, or in one of `initlab export`; see `Results` for the errors.

    Several folders give `Studies`: the same frames, each with a first column `study`.
    """
    return Studies(map(Results, (out, *others))) if others else Results(out)
