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
@click.option("--address", help="A running Ray cluster too, host:port or auto.")
@data_dir_option
def doctor(out: Path, address: str | None, data_dir: Path | None) -> None:
    """Say what works here: a line each, with the fix for what does not.

    Exit code 1 where something that a run needs is broken.
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
    "--out", type=OUT, help="Where finished trials are, from which the time is estimated.  [default: results/NAME]"
)
@click.option("--schema", is_flag=True, help="Print the JSON schema of study files, for editors.")
def plan(study: Path | None, overrides: Sequence[str], out: Path | None, schema: bool) -> None:
    """List the trials of STUDY with their ids and what each costs."""
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
@click.option("--devices", type=int, help="Processes that train one trial together.")
@click.option(
    "--gpus-per-trial",
    metavar="FLOAT|auto",
    callback=number_or_text,
    help="A fraction lets trials share a GPU (ray); auto: as many as it has memory for, which the first of each shows.",
)
@click.option("--pack", type=int, help="Trials of one net that a process trains as one.  [default: the study's, or 1]")
@click.option(
    "--max-failures", type=int, help="Failures alike, in a row and before any success, that end it.  [default: 3]"
)
@click.option("--max-hours", type=float, help="Stop with a checkpoint after so long; also before a Slurm job's end.")
@click.option("--address", help="A running Ray cluster, host:port or auto (ray).")
@set_option
@click.option("--only", multiple=True, metavar="ID", help="Run this trial alone (an id or its beginning); repeatable.")
@click.option("--shard", metavar="K/N", help="Part K of N of the trials alone, by their ids; parts may share OUT.")
@click.option("--max-trials", type=int, metavar="N", help="Begin at most N trials.")
@click.option("--expect", metavar="HASH", help="Refuse trials and code that are not those `initlab launch` saw.")
@click.option("--force", is_flag=True, help="A fresh attempt at finished trials too.")
@click.option("--skip-hopeless", is_flag=True, help="Stop trials that have stalled; a run without it goes on.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable names in the study.")
@click.option("--take-over", is_flag=True, help="Also where the launch that holds the folder seems dead for 2 minutes.")
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
@click.option("--trials", is_flag=True, help="A line per trial too.")
@click.option("--watch", is_flag=True, help="The page anew every 2 s, until nothing runs; Ctrl-C ends it.")
def status(out: Path, trials: bool, watch: bool) -> None:
    """Show how far the trials in OUT are: by state, failures by cause, what runs, and when it will be done."""
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
@click.option("--lines", type=click.IntRange(0), default=10, help="Rows of those already there.")
@click.option("--no-follow", is_flag=True, help="Don't wait for further rows.")
def tail(out: Path, trial: str | None, lines: int, no_follow: bool) -> None:
    """Follow the scalars of a TRIAL in OUT, by its id or the id's beginning; without one, the trial heard of last."""
    from initlab.report.tail import tail_lines

    with suppress(KeyboardInterrupt):
        echo_lines(tail_lines(out, trial, lines, not no_follow))


COMMANDS = (doctor, plan, run, status, tail)
