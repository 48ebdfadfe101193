"""What a launch shows while it runs: a live table on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from initlab.engine.task import State
from initlab.errors import one_line, printable
from initlab.launch.statuses import Shown, Status, Statuses
from initlab.plan.plan import PlannedTrial
from initlab.study.paths import naming

POLL_S = 0.5
LINES_EVERY_S = 30.0
ENDED_SHOWN = 6
NARROW = {"epoch": ".2f", "val_error": ".3f"}  # figures on a narrow terminal, with their formats
LOSSES = {"train_loss": ".3f", "val_loss": ".3f", "train_error": ".3f"}
WIDE = {"epoch": ".2f", **LOSSES, "val_error": ".3f", "images_per_s": ",.0f"}
WIDE_CHARACTERS = 128


@contextmanager
def progress(
    out: Path,
    trials: Sequence[PlannedTrial],
    todo: Sequence[PlannedTrial],
    unfinished: int,
    show: str,
    lines: Sequence[str],
) -> Iterator[Callable[[str], None]]:
    """Show the trials of `todo`, out of `unfinished` ones, as they run; yields a function that says one line."""
    if show == "nothing":
        yield lambda line: None
        return
    statuses = Statuses(out, todo, naming([trial.spec for trial in trials]))
    skipped = f" ({len(trials) - unfinished} finished before)" if unfinished < len(trials) else ""
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
        statuses = self.statuses
        for trial, name, status in statuses.read():
            self.say(f"{trial} {name}: {status['state']}{figures(status)}")
        self.say_doings()
        if time.monotonic() - self.last_line > LINES_EVERY_S:
            self.last_line = time.monotonic()
            counts = f"{statuses.num_ended} of {statuses.num_trials} trials, {len(statuses.running)} running"
            self.say(f"{counts}, {statuses.time_left()} left")

    def say_doings(self) -> None:
        """Say what trials do before their first step, where that takes long enough for them to publish it."""
        for trial, status in self.statuses.running.items():
            doing = status.get("doing")
            if doing and self.doings.get(trial) != doing:
                self.doings[trial] = doing
                self.say(f"{trial} {self.statuses.name(self.statuses.waiting[trial])}: {doing}")


def figures(status: Status) -> str:
    """`, epoch 14, val_error 0.042, 15 s`, or why it failed."""
    if "error" in status:
        return f" ({one_line(status['error'])})"
    parts = [f"epoch {status['epoch']:.3g}"] if "epoch" in status else []
    parts += [f"val_error {status['val_error']:.3f}"] if "val_error" in status else []
    parts += [f"{status['wall_s']:.0f} s"] if "wall_s" in status else []
    return ", " + ", ".join(parts) if parts else ""


class Table(Lines):
    """A live table: the trials that run, those that ended last, and the time left."""

    def __init__(self, statuses: Statuses) -> None:
        # Imported here: lines do without rich.
        from rich.live import Live

        super().__init__(statuses)
        self.ended: deque[Shown] = deque(maxlen=ENDED_SHOWN)
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
        title = f"{statuses.num_ended} of {statuses.num_trials} trials, {statuses.time_left()} left"
        table = RichTable(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("trial", no_wrap=True)
        # A long name is cut, so that the other columns, of so many characters together, keep theirs.
        table.add_column("net, init, seed", no_wrap=True, max_width=max(12, width - others))
        table.add_column("state", no_wrap=True)
        for column in (*(key.replace("_", " ") for key in formats), "left"):
            table.add_column(column, justify="right", no_wrap=True)
        running = [Shown(trial, statuses.name(statuses.waiting[trial]), s) for trial, s in statuses.running.items()]
        for trial, name, status in [*self.ended, *running]:
            cells = (number(status, key, form) for key, form in formats.items())
            table.add_row(trial, escape(printable(name)), status["state"], *cells, trial_time_left(status))
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
