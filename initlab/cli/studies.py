"""Commands on a study, and on an output folder while its trials run: doctor, plan, run, status, tail."""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from initlab.cli.options import OUT, data_dir_option, device_option, echo_lines, number_or_text, set_option

# Seconds between pages of `status --watch`.
WATCH_S = 2.0


@click.command()
@click.option("--out", type=OUT, default=Path("."), help="The output folder, or where it will be.")
@click.option("--address", help="Check a running Ray cluster too, host:port or auto.")
@data_dir_option
def doctor(out: Path, address: str | None, data_dir: Path | None) -> None:
    """Check this machine: what works, and how to fix the rest.

    A line for each of torch, GPUs, Ray, disk, locks and data. Exit code 1 where something that a run needs is broken.
    """
    from initlab.launch.doctor import examine

    broken = False
    for finding in examine(out, data_dir, address):
        click.echo(finding)
        broken = broken or (finding.needed and not finding.works)
    sys.exit(1 if broken else 0)


@click.command()
@click.argument("study", type=OUT, required=False)
@set_option
@click.option(
    "--out", type=OUT, help="A folder with finished trials, to estimate the time from.  [default: results/NAME]"
)
@click.option("--schema", is_flag=True, help="Print the JSON schema of study files, for editors.")
def plan(study: Path | None, overrides: Sequence[str], out: Path | None, schema: bool) -> None:
    """List the trials of STUDY, their ids and what each costs."""
    if schema:
        from initlab.study.study import study_schema

        click.echo(json.dumps(study_schema(), indent=2))
        return
    if study is None:
        raise click.UsageError("give a STUDY file, or --schema")
    from initlab.plan.plan import uncollected
    from initlab.report.plan_table import plan_lines

    # In one piece: a line at a time, 100,000 take a second longer.
    with uncollected():
        click.echo("\n".join(plan_lines(study, overrides, out)))


@click.command()
@click.argument("study", type=OUT)
@click.option("--out", type=OUT, help="Output folder.  [default: results/NAME]")
@click.option(
    "--engine", type=click.Choice(["inline", "ray"]), help="Where trials run.  [default: the study's, or inline]"
)
@click.option("--jobs", type=int, help="Trials at once.  [default: the cores on a CPU, 1 on a GPU]")
@device_option
@click.option("--devices", type=int, help="Processes that train one trial together, each on a GPU of its own.")
@click.option(
    "--gpus-per-trial",
    metavar="FLOAT|auto",
    callback=number_or_text,
    help="A fraction lets trials share a GPU (ray); auto: as many as it has memory for, which the first of each shows.",
)
@click.option("--pack", type=int, help="Trials of one net that a process trains as one.  [default: the study's, or 1]")
@click.option(
    "--max-failures",
    type=int,
    help="Begin no more trials after so many that failed alike in a row, none having succeeded.  [default: 3]",
)
@click.option(
    "--max-hours", type=float, help="Stop all trials with a checkpoint after so long; also before a Slurm job ends."
)
@click.option("--address", help="Use a running Ray cluster, host:port or auto (ray).")
@set_option
@click.option(
    "--only", multiple=True, metavar="ID", help="Run only this trial (its id, or the beginning of it); repeatable."
)
@click.option(
    "--shard", metavar="K/N", help="Run only part K of N of the trials, parted by their ids; parts may share OUT."
)
@click.option("--max-trials", type=int, metavar="N", help="Begin at most N trials.")
@click.option("--expect", metavar="HASH", help="Refuse trials and code that are not those `initlab launch` saw.")
@click.option("--force", is_flag=True, help="Run finished trials again, from the beginning.")
@click.option("--skip-hopeless", is_flag=True, help="Stop trials that have stalled; a run without it resumes them.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable names in the study.")
@click.option(
    "--take-over",
    is_flag=True,
    help="Run although another launch holds OUT, if that gave no sign of life for 2 minutes.",
)
@data_dir_option
def run(study: Path, **options: Any) -> None:
    """Run the trials of STUDY that have no result yet.

    Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2, or a file STOP in the output folder, stops with a checkpoint in every
    trial; the same command goes on. Ctrl-C twice stops at once.
    """
    from initlab.launch.progress import on_terminal
    from initlab.launch.run import run as launch
    from initlab.report.summary import summary

    results = launch(study, show="table" if on_terminal() else "lines", **options)
    lines, errors, ending = summary(results)
    echo_lines(results.problems, err=True)
    echo_lines(lines)
    echo_lines(errors, err=True)
    sys.exit(ending)


@click.command()
@click.argument("out", type=OUT)
@click.option("--trials", is_flag=True, help="Add a line per trial.")
@click.option("--watch", is_flag=True, help="Show it again every 2 s, until nothing runs or Ctrl-C.")
def status(out: Path, trials: bool, watch: bool) -> None:
    """Show how far the trials in OUT are.

    How many are in each state, failures by cause, what runs now, and when all will be done.
    """
    from initlab.engine.lease import is_held
    from initlab.report.status_page import status_page

    page = "\n".join(status_page(out, trials))
    while watch and is_held(out):
        if sys.stdout.isatty():
            click.clear()
        click.echo(page + ("" if sys.stdout.isatty() else "\n"))
        try:
            time.sleep(WATCH_S)
        except KeyboardInterrupt:
            return
        page = "\n".join(status_page(out, trials))
    click.echo(page)


@click.command()
@click.argument("out", type=OUT)
@click.argument("trial", required=False)
@click.option("--lines", type=click.IntRange(0), default=10, help="Show so many of the rows that are there already.")
@click.option("--no-follow", is_flag=True, help="Don't wait for more rows.")
def tail(out: Path, trial: str | None, lines: int, no_follow: bool) -> None:
    """Follow the losses and errors of a TRIAL as it runs.

    TRIAL is an id or the beginning of one; without it, the trial in OUT that was heard of last.
    """
    from initlab.report.tail import tail_lines

    with suppress(KeyboardInterrupt):
        echo_lines(tail_lines(out, trial, lines, not no_follow))


COMMANDS = (doctor, plan, run, status, tail)
