"""What a launch shows while it runs: a live table on a terminal, plain lines elsewhere.

It polls the status files of the store, so it shows the same whatever engine runs the trials, and on which machine.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from initlab.plan.plan import PlannedTrial
from initlab.store.files import StoreError
from initlab.store.trial_folder import TrialFolder
from initlab.study.trial_names import trial_names

POLL_S = 0.5
ENDED = ("done", "diverged", "failed", "stopped", "interrupted")
FIGURES = {
    "epoch": ".2f",
    "train_loss": ".3f",
    "val_loss": ".3f",
    "train_error": ".3f",
    "val_error": ".3f",
    "images_per_s": ",.0f",
}
WIDE = 128  # characters that all of them need
Status = dict[str, Any]


@contextmanager
def progress(
    out: Path, trials: Sequence[PlannedTrial], todo: Sequence[PlannedTrial], show: str, lines: Sequence[str]
) -> Iterator[Callable[[str], None]]:
    """Show the trials of `todo` as they run; yields a function that says one line beside it."""
    if show == "nothing":
        yield lambda line: None
        return
    names = dict(zip((trial.id for trial in trials), trial_names([trial.spec for trial in trials]), strict=True))
    view: Lines | Table = Table(out, todo, names) if show == "table" else Lines(out, todo, names)
    skipped = f" ({len(trials) - len(todo)} finished before)" if len(todo) < len(trials) else ""
    for line in [*lines, f"{len(todo)} of {len(trials)} trials to run{skipped}, into {out}"]:
        print(line)
    if not todo:
        yield print
        return
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(POLL_S):
            view.update()

    thread = threading.Thread(target=poll, daemon=True)
    with view:
        thread.start()
        try:
            yield view.say
        finally:
            stop.set()
            thread.join()
            view.update()


class Statuses:
    """The status of each trial, read anew only while it may change."""

    def __init__(self, out: Path, todo: Sequence[PlannedTrial]) -> None:
        self.out, self.todo = out, todo
        # a status written by an earlier launch says nothing of this one
        self.before = {trial.id: self.stamp(trial.id) for trial in todo}
        self.now: dict[str, Status] = {trial.id: {"state": "pending"} for trial in todo}
        self.started = time.monotonic()

    def stamp(self, trial: str) -> int:
        path = TrialFolder(self.out, trial).status_file
        return path.stat().st_mtime_ns if path.exists() else 0

    def read(self) -> list[str]:
        """Read what changed; returns the trials whose state did."""
        changed = []
        for trial, known in self.now.items():
            if known["state"] in ENDED or self.stamp(trial) == self.before[trial]:
                continue
            try:
                status = TrialFolder(self.out, trial).status()
            except (StoreError, OSError):
                continue  # half a moment too early on a slow file system; the next poll reads it
            if status["state"] != known["state"]:
                changed.append(trial)
            self.now[trial] = status
        return changed

    def seconds_left(self) -> float | None:
        """Expected seconds to the end, from the share of steps done so far; None before the first."""
        ended = sum(status["state"] in ENDED for status in self.now.values())
        share = ended + sum(
            s["step"] / s["steps"] for s in self.now.values() if s["state"] == "running" and "step" in s
        )
        elapsed = time.monotonic() - self.started
        return elapsed * (len(self.now) - share) / share if share > 0.02 else None


class Lines:
    """A line when a trial ends and one of progress every half minute, for pipes and log files."""

    INTERVAL_S = 30.0

    def __init__(self, out: Path, todo: Sequence[PlannedTrial], names: Mapping[str, str]) -> None:
        self.statuses = Statuses(out, todo)
        self.names = names
        self.said = time.monotonic()
        self.told: dict[str, str] = {}  # what each trial was last said to do before its first step

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, line: str) -> None:
        print(line, flush=True)

    def update(self) -> None:
        for trial in self.statuses.read():
            status = self.statuses.now[trial]
            if status["state"] in ENDED:
                self.say(f"{trial} {self.names[trial]}: {status['state']}{figures(status)}")
        self.say_doings()
        if time.monotonic() - self.said > self.INTERVAL_S:
            self.said = time.monotonic()
            states = [status["state"] for status in self.statuses.now.values()]
            ended = sum(state in ENDED for state in states)
            self.say(f"{ended} of {len(states)} trials, {states.count('running')} running, {left(self.statuses)} left")

    def say_doings(self) -> None:
        """What trials do before their first step, where that takes long enough for them to say so."""
        for trial, status in self.statuses.now.items():
            if status["state"] == "running" and "doing" in status and self.told.get(trial) != status["doing"]:
                self.told[trial] = status["doing"]
                self.say(f"{trial} {self.names[trial]}: {status['doing']}")


def figures(status: Status) -> str:
    """`, epoch 14, val_error 0.042, 15 s`, or why it failed."""
    if "error" in status:
        return f" ({status['error']})"
    parts = [f"epoch {status['epoch']:.3g}"] if "epoch" in status else []
    parts += [f"val_error {status['val_error']:.3f}"] if "val_error" in status else []
    parts += [f"{status['wall_s']:.0f} s"] if "wall_s" in status else []
    return ", " + ", ".join(parts) if parts else ""


def left(statuses: Statuses) -> str:
    """Time to go as `3 min 20 s`, or `?`."""
    seconds = statuses.seconds_left()
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Table(Lines):
    """A live table: the trials that run, those that ended last, and the time left."""

    ENDED_SHOWN = 6

    def __init__(self, out: Path, todo: Sequence[PlannedTrial], names: Mapping[str, str]) -> None:
        from rich.live import Live  # here: lines do without rich

        super().__init__(out, todo, names)
        self.todo = todo
        self.recent: list[str] = []
        self.live = Live(self.render(), refresh_per_second=2)

    def __enter__(self) -> "Table":
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        self.live.console.print(line, highlight=False)

    def update(self) -> None:
        self.recent += [t for t in self.statuses.read() if self.statuses.now[t]["state"] in ENDED]
        self.say_doings()
        self.live.update(self.render())

    def render(self) -> Any:
        """The table as rich draws it, with fewer figures on a narrow terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable

        shown = list(FIGURES) if Console().width >= WIDE else ["epoch", "val_error"]
        now = self.statuses.now
        ended = sum(status["state"] in ENDED for status in now.values())
        title = f"{ended} of {len(now)} trials, {left(self.statuses)} left"
        table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for column in ("trial", "net, init, seed", "state"):
            table.add_column(column, no_wrap=True)
        for column in (*(key.replace("_", " ") for key in shown), "left"):
            table.add_column(column, justify="right", no_wrap=True)
        for trial in self.todo:
            status = now[trial.id]
            if status["state"] == "running" or trial.id in self.recent[-self.ENDED_SHOWN :]:
                figures = (number(status, key, FIGURES[key]) for key in shown)
                table.add_row(trial.id, self.names[trial.id], status["state"], *figures, trial_left(status))
        return table


def number(status: Status, key: str, form: str) -> str:
    """A figure of a status in a format, `–` where there is none yet."""
    value = status.get(key)
    return "–" if value is None or value != value else format(value, form)


def trial_left(status: Status) -> str:
    """Seconds left of a running trial, from its own pace."""
    if status["state"] != "running" or not status.get("step"):
        return ""
    return f"{status['wall_s'] * (status['steps'] / status['step'] - 1):.0f} s"


def on_terminal() -> bool:
    """Whether a live table can be shown."""
    return sys.stdout.isatty()
