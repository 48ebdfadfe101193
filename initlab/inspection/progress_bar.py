"""A progress bar on a terminal or in a notebook; nothing where the output is piped."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CELLS = 30


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how many of `total` steps are done; yields what counts one more.

    On a terminal it is gone afterwards and written to stderr; in a notebook its last line stays.
    """
    # rich is loaded only here, and draws from Python's random stream when it is.
    state = random.getstate()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    random.setstate(state)
    console = Console(stderr=True)
    if console.is_jupyter:
        yield notebook_bar(what, total)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def notebook_bar(what: str, total: int) -> Callable[[], None]:
    """A line of text in the cell's output; rich's own bar needs ipywidgets there."""
    from IPython.display import display

    done = -1
    handle = display({"text/plain": what}, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def advance() -> None:
        """Draw the bar anew with one more step done."""
        nonlocal done
        done += 1
        filled = CELLS * done // max(total, 1)
        text = f"{what} {'█' * filled}{'░' * (CELLS - filled)} {done}/{total}"
        handle.update({"text/plain": text}, raw=True)

    advance()
    return advance
