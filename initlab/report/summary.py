"""What `initlab run` says of a study's trials at its end, and the exit code."""

from enum import IntEnum
from typing import NamedTuple

from initlab.engine.task import State
from initlab.errors import one_line
from initlab.report.text_table import text_table
from initlab.store.results import Results
from initlab.study.sections import net_label


class Ending(IntEnum):
    """How a run ended, as its exit code."""

    DONE = 0  # every requested trial has its result, or was stopped as hopeless
    FAILED = 1  # some trials failed, or cannot be read
    STOPPED = 3  # on request; the same command goes on


class Summary(NamedTuple):
    """Lines for stdout, lines for stderr, and the exit code."""

    lines: list[str]
    errors: list[str]
    ending: Ending


def summary(results: Results) -> Summary:
    """What came of the trials that a launch was to run."""
    requested = set(results.requested)
    trials = [trial for trial in results.stored if trial.id in requested]
    lines = verdict_lines(results)
    if unreadable := sorted(requested - {trial.id for trial in trials}):
        text = f"{len(unreadable)} of {len(requested)} trials cannot be read: {', '.join(unreadable)}"
        return Summary(lines, [text], Ending.FAILED)
    failed = [trial for trial in trials if trial.status["state"] == State.FAILED]
    errors = [f"  {trial.id}: {one_line(trial.status['error'])}" for trial in failed]
    if errors:
        errors.insert(0, f"{len(failed)} of {len(trials)} trials failed; their tracebacks are in status.json")
    # What was interrupted is to be gone on with, also where others have failed: it counts more.
    interrupted = any(trial.status["state"] == State.INTERRUPTED for trial in trials)
    if failed and not interrupted:
        return Summary(lines, errors, Ending.FAILED)
    stopped = [trial.status for trial in trials if trial.status["state"] == State.STOPPED]
    if stopped:
        steps = sum(trial.status.get("steps", 0) for trial in trials)
        saved = sum(status["steps"] - status["step"] for status in stopped)
        lines.append(f"stopped {len(stopped)} hopeless trials, saved {saved:,} of {steps:,} steps")
    settled = len(stopped) + len(failed) + sum(State(trial.status["state"]).finished for trial in trials)
    if settled < len(trials):
        lines.append(f"stopped with {len(trials) - settled} of {len(trials)} trials to go; the same command goes on")
        return Summary(lines, errors, Ending.STOPPED)
    lines.append(f"all {len(trials)} trials done; next: initlab plot {results.out}")
    return Summary(lines, [], Ending.DONE)


def verdict_lines(results: Results) -> list[str]:
    """One line per (net, depth, scheme): trials, verdicts, range of validation errors, epochs to the threshold."""
    trials = results.trials[results.trials.in_study].merge(results.verdicts[["trial", "epoch_reached"]], on="trial")
    keys = ["net.name", "net.depth", "init.scheme"]
    # The headers give each column its least width.
    header = ["net".ljust(10), "init".ljust(10), "trials", " " + "verdicts".ljust(28), "best val_error".ljust(16)]
    rows = [[*header, "epochs to threshold"]]
    for _, group in trials.groupby(keys):
        net, depth, scheme = group.iloc[0][keys]
        counts = group.verdict.fillna(group.state).value_counts()
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        best, reached = group.best_val_error.dropna(), group.epoch_reached.dropna()
        errors = f"{best.min():.3f} – {best.max():.3f}" if len(best) else "–"
        epochs = f"{reached.min():.3g} – {reached.max():.3g}" if len(reached) else "–"
        rows.append([net_label(net, depth), scheme, str(len(group)), f" {verdicts}", errors, epochs])
    return text_table(rows, right={2}, gap=" ")
