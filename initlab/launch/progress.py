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

from initlab.engine.task import State
from initlab.errors import one_line, printable
from initlab.plan.plan import PlannedTrial
from initlab.store.files import StoreError
from initlab.store.trial_folder import TrialFolder
from initlab.study.paths import trial_names

POLL_S = 0.5
LINES_EVERY_S = 30.0
ENDED_SHOWN = 6
NARROW = {"epoch": ".2f", "val_error": ".3f"}  # figures on a narrow terminal, with their formats
LOSSES = {"train_loss": ".3f", "val_loss": ".3f", "train_error": ".3f"}
WIDE = {"epoch": ".2f", **LOSSES, "val_error": ".3f", "images_per_s": ",.0f"}
WIDE_CHARACTERS = 128
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
    statuses = Statuses(out, {trial.id: names[trial.id] for trial in todo})
    skipped = f" ({len(trials) - len(todo)} finished before)" if len(todo) < len(trials) else ""
    for line in [*lines, f"{len(todo)} of {len(trials)} trials to run{skipped}, into {out}"]:
        print(line)
    if not todo:
        yield print
        return
    view, stop = Table(statuses) if show == "table" else Lines(statuses), threading.Event()

    def poll() -> None:
        """Update the view until the launch ends."""
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
    """The status of each trial, read again only while it may change."""

    def __init__(self, out: Path, names: Mapping[str, str]) -> None:
        """`names`: of the trials to watch, by id."""
        self.names = names
        self.folders = {trial: TrialFolder(out, trial) for trial in names}
        # A status written by an earlier launch says nothing of this one.
        self.before = {trial: stamp(folder) for trial, folder in self.folders.items()}
        self.now: dict[str, Status] = {trial: {"state": State.PENDING} for trial in names}
        self.started = time.monotonic()

    def read(self) -> list[str]:
        """Read what changed; returns the trials that have ended since the last time."""
        ended = []
        for trial, folder in self.folders.items():
            if has_ended(self.now[trial]) or stamp(folder) == self.before[trial]:
                continue
            try:
                self.now[trial] = folder.status()
            # Half a moment too early on a slow file system: the next poll reads it.
            except (StoreError, OSError):
                continue
            if has_ended(self.now[trial]):
                ended.append(trial)
        return ended

    def num_ended(self) -> int:
        """How many trials have ended."""
        return sum(map(has_ended, self.now.values()))

    def time_left(self) -> str:
        """Time to the end as `3 min 20 s`, from the share of steps done so far; `?` before there is one."""
        running = [s for s in self.now.values() if s["state"] == State.RUNNING and "step" in s]
        share = self.num_ended() + sum(status["step"] / status["steps"] for status in running)
        if share <= 0.02:
            return "?"
        seconds = (time.monotonic() - self.started) * (len(self.now) - share) / share
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def stamp(folder: TrialFolder) -> int:
    """When a trial's status was written, in nanoseconds; 0 before it was."""
    return folder.status_file.stat().st_mtime_ns if folder.status_file.exists() else 0


def has_ended(status: Status) -> bool:
    """Whether a status says that its trial has ended."""
    return State(status["state"]).ended


class Lines:
    """A line when a trial ends and one of progress every half minute, for pipes and log files."""

    def __init__(self, statuses: Statuses) -> None:
        self.statuses = statuses
        self.last_line = time.monotonic()
        self.doings: dict[str, str] = {}  # what each trial was last said to do before its first step

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, line: str) -> None:
        """Print a line."""
        print(printable(line), flush=True)

    def update(self) -> None:
        """Read the statuses again and show what is new."""
        for trial in self.statuses.read():
            status = self.statuses.now[trial]
            self.say(f"{trial} {self.statuses.names[trial]}: {status['state']}{figures(status)}")
        self.say_doings()
        if time.monotonic() - self.last_line > LINES_EVERY_S:
            self.last_line = time.monotonic()
            states = [status["state"] for status in self.statuses.now.values()]
            counts = f"{self.statuses.num_ended()} of {len(states)} trials, {states.count(State.RUNNING)} running"
            self.say(f"{counts}, {self.statuses.time_left()} left")

    def say_doings(self) -> None:
        """Say what trials do before their first step, where that takes long enough for them to publish it."""
        for trial, status in self.statuses.now.items():
            doing = status.get("doing") if status["state"] == State.RUNNING else None
            if doing and self.doings.get(trial) != doing:
                self.doings[trial] = doing
                self.say(f"{trial} {self.statuses.names[trial]}: {doing}")


def figures(status: Status) -> str:
    """`, epoch 14, val_error 0.042, 15 s`, or why it failed."""
    if "error" in status:
        return f" ({one_line(status['error'])})"
    parts = [f"epoch {status['epoch']:.3g}"] if "epoch" in status else []
    parts += [f"val_error {status['val_error']:.3f}"] if "val_error" in status else []
    parts += [f"{status['wall_s']:.0f} s"] if "wall_s" in status else []
    parts += [f"last sign of life {status['silent_s']:.0f} s ago"] if "silent_s" in status else []
    return ", " + ", ".join(parts) if parts else ""


class Table(Lines):
    """A live table: the trials that run, those that ended last, and the time left."""

    def __init__(self, statuses: Statuses) -> None:
        # Imported here: lines do without rich.
        from rich.live import Live

        super().__init__(statuses)
        self.ended: list[str] = []
        self.live = Live(self.render(), refresh_per_second=2)

    def __enter__(self) -> "Table":
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self.live.console.print(printable(line), highlight=False, markup=False)

    def update(self) -> None:
        """Read the statuses again and draw the table."""
        self.ended += self.statuses.read()
        self.say_doings()
        self.live.update(self.render())

    def render(self) -> Any:
        """The table as rich draws it, with fewer figures on a narrow terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table as RichTable

        width = Console().width
        formats, others = (WIDE, 112) if width >= WIDE_CHARACTERS else (NARROW, 54)
        statuses = self.statuses
        title = f"{statuses.num_ended()} of {len(statuses.now)} trials, {statuses.time_left()} left"
        table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("trial", no_wrap=True)
        # A long name is cut, so that the other columns, of so many characters together, keep theirs.
        table.add_column("net, init, seed", no_wrap=True, max_width=max(12, width - others))
        table.add_column("state", no_wrap=True)
        for column in (*(key.replace("_", " ") for key in formats), "left"):
            table.add_column(column, justify="right", no_wrap=True)
        for trial, status in statuses.now.items():
            if status["state"] == State.RUNNING or trial in self.ended[-ENDED_SHOWN:]:
                cells = (number(status, key, form) for key, form in formats.items())
                name = escape(printable(statuses.names[trial]))
                table.add_row(trial, name, status["state"], *cells, trial_time_left(status))
        return table


def number(status: Status, key: str, form: str) -> str:
    """A figure of a status in a format, `–` where there is none yet."""
    value = status.get(key)
    return "–" if value is None or value != value else format(value, form)


def trial_time_left(status: Status) -> str:
    """Seconds left of a running trial, from its own pace."""
    if status["state"] != State.RUNNING or not status.get("step"):
        return ""
    return f"{status['wall_s'] * (status['steps'] / status['step'] - 1):.0f} s"


def on_terminal() -> bool:
    """Whether a live table can be shown."""
    return sys.stdout.isatty()
