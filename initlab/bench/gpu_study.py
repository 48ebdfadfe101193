"""A study within the minutes that are left of a borrowed GPU: the same number of iterations for each of its trials.

The first steps of one trial tell what an iteration takes, with its share of validations and probes, and what comes
before them. As much of the study's own length is trained as fits; a run that time ends all the same goes on later.
"""

import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from initlab.bench.gpu_rows import Rows, row
from initlab.bench.gpu_trials import check_ended, pace
from initlab.bench.trials import first_trial
from initlab.launch.run import run
from initlab.plan.dimensions import planned_examples
from initlab.plan.plan import plan
from initlab.store.results import Results
from initlab.study.mistakes import StudyError

# Of the time that is left, what is planned with: steps measured on one trial are not those of all.
MARGIN = 0.9


@dataclass(frozen=True)
class Fitted:
    """A study of several trials to be cut to the time there is."""

    path: Path
    overrides: tuple[str, ...]
    data_dir: Path | None
    device: Any
    out: Path
    trial_steps: int  # of the trial that tells the pace
    iterations: int  # of a trial of the study as it is written
    per_epoch: int
    trials: int

    def run(self, steps: int, out: Path, **options: Any) -> Results:
        """Run trials of so many steps; a net whose study says nothing of it is compiled however few they are."""
        return run(
            self.path,
            out,
            engine="inline",
            jobs=1,
            device=self.device,
            data_dir=self.data_dir,
            overrides=self.changes(steps),
            **options,
        )

    def changes(self, steps: int) -> list[str]:
        """The overrides of the run of so many iterations."""
        return ["run.compile=true", *self.overrides, f"train.epochs={steps / self.per_epoch:.6g}"]

    def rows(self, until: float, rows: Rows) -> Rows:
        """Train the study until `until`, by `time.perf_counter`, at the latest; one row says how far and where."""
        with tempfile.TemporaryDirectory(prefix="initlab-bench-") as folder:
            tried = self.run(self.trial_steps, Path(folder), max_trials=1, show="nothing")
            check_ended([trial for trial in tried.stored if trial.status["state"] != "pending"])
            begin_s, step_s = pace(tried)
        left_s = until - time.perf_counter()
        steps = min(self.iterations, int((MARGIN * left_s / self.trials - begin_s) / step_s))
        rate = f"{1 / step_s:.3g} iterations/s, {begin_s:.0f} s before the first"
        if steps < self.trial_steps:
            return [row(self.path.stem, None, "", f"left out: {left_s:.0f} s hold {max(0, steps)} iterations; {rate}")]
        results = self.run(steps, self.out, max_hours=left_s / 3600)
        done = int((results.trials.state == "done").sum())
        again = f"initlab run {self.path} --out {self.out} --engine inline --jobs 1 " + " ".join(
            f"--set {shlex.quote(change)}" for change in self.changes(steps)
        )
        note = f"of {self.iterations}; {done} of {self.trials} trials done, in {self.out}; {rate}"
        return [
            row(self.path.stem, steps, "iterations", note if done == self.trials else f"{note}; goes on by {again}")
        ]


def fitted(path: Path, overrides: Sequence[str], data_dir: Path | None, device: str, trial_steps: int) -> Fitted:
    """The study at `path`, read and planned; `trial_steps` of its first trial tell the pace.

    Raises:
        StudyError: a mistake in it, a set whose size is not known, or results that are there already.
    """
    study, trial = first_trial(path, {}, overrides)
    out = Path("results") / study.name
    if out.exists():
        raise StudyError([f"bench gpu: {out} is there already; move it, or go on with it by initlab run"])
    examples = planned_examples(trial.spec.data)
    if not examples:
        raise StudyError([f"data.train_examples: not known for {trial.spec.data.name} (got none); set it"])
    per_epoch, iterations = trial.spec.steps(examples)
    steps = min(trial_steps, iterations)
    trials = len(plan(study))
    return Fitted(path, tuple(overrides), data_dir, device, out, steps, iterations, per_epoch, trials)
