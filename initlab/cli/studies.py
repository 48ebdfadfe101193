"""Commands on a study and its output folder: run, plan, status, tail, plot, report, export, compare."""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click

from initlab.cli.options import (
    OUT,
    assignments,
    data_dir_option,
    device_option,
    echo,
    echo_lines,
    number_or_text,
    set_option,
)

# Seconds between pages of `status --watch`.
WATCH_S = 2.0


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


@click.command()
@click.argument("out", type=OUT)
@click.option("--figure", "names", multiple=True, metavar="NAME", help="One of the figures, e.g. depth; repeatable.")
@click.option("--to", "folder", type=OUT, help="Folder for the files.  [default: OUT/figures]")
@click.option(
    "--width",
    type=click.Choice(["column", "text"]),
    help="For a paper: its column (3.25 in) or its text (6.75 in).  [default: what each figure needs]",
)
@click.option(
    "--format",
    "forms",
    type=click.Choice(["png", "svg", "pdf"]),
    multiple=True,
    default=["png", "svg"],
    help="Repeatable.",
)
def plot(
    out: Path,
    names: Sequence[str],
    folder: Path | None,
    width: Literal["column", "text"] | None,
    forms: Sequence[Literal["png", "svg", "pdf"]],
) -> None:
    """Draw the figures of the results in OUT, each as png and svg, with the csv of what it draws.

    Without --figure: convergence, signals and depth, running, prelu and phase where there is something to draw. Others,
    by name: theory, paper, heatmap, propagation, decay, survival, effects.
    """
    from initlab.plots import save_figures
    from initlab.store.studies import load

    results = load(out)
    say = partial(click.echo, err=True)
    echo_lines(save_figures(results, names or None, folder, say, width=width, forms=forms))
    echo_lines(results.problems, err=True)


@click.command()
@click.argument("outs", metavar="OUT...", type=OUT, nargs=-1, required=True)
@click.option("--out", type=OUT, help="The file to write; NAME.md is Markdown.  [default: OUT/report.html]")
@click.option("--format", "form", type=click.Choice(["html", "markdown"]), help="[default: by the file's ending]")
@click.option(
    "--by", metavar="FIELD", help="The field whose values are compared.  [default: init.scheme, if it varies]"
)
def report(outs: Sequence[Path], out: Path | None, form: Literal["html", "markdown"] | None, by: str | None) -> None:
    """Write what the results in OUT say as one page: the answer, figures, every trial, how to get the same.

    html: one file that needs no network; a trial that is chosen shows its curves, and its signals beside theory.
    markdown: for papers and pull requests, its pictures in NAME-figures beside it.
    """
    from initlab.report.study_report import write_report
    from initlab.store.results import Results

    results = [Results(one) for one in outs]
    click.echo(write_report(results, out, form, by))
    for one in results:
        echo_lines(one.problems, err=True)


@click.command()
@click.argument("out", type=OUT)
@click.option(
    "--to",
    "form",
    type=click.Choice(["parquet", "csv", "tensorboard", "mlflow", "trackio"]),
    required=True,
    help="Form of the files, or the tracker that they are for.",
)
@click.option("--folder", type=OUT, help="An empty or new folder.  [default: OUT-FORM beside OUT]")
def export(out: Path, form: str, folder: Path | None) -> None:
    """Write the results in OUT, without checkpoints, in a few files.

    parquet: small, and read by initlab.load, status, plot and compare in place of OUT. csv: a file per frame, for
    other programs. tensorboard, mlflow, trackio: a run per trial, with its fields, verdict, curves and the logarithms
    of its signals; prints the command that shows them.
    """
    from initlab.store.studies import load
    from initlab.store.trackers import TRACKERS, export_to_tracker

    results = load(out)
    # Resolved, for `.` has no name.
    target = folder or out.resolve().with_name(f"{out.resolve().name}-{form}")
    if form in TRACKERS:
        click.echo(f"{target}: look at it with `{export_to_tracker(results, form, target)}`")
    else:
        echo_lines(results.export("csv" if form == "csv" else "parquet", target))
    echo_lines(results.problems, err=True)


@click.command()
@click.argument("outs", metavar="OUT...", type=OUT, nargs=-1, required=True)
@click.option("--by", metavar="FIELD", help="Compare trials by a field, e.g. init.scheme.")
@click.option(
    "--at", multiple=True, metavar="PATH=VALUE", callback=assignments, help="Trials with this value alone; repeatable."
)
@click.option("--paper", "figure", metavar="FIGURE", help="fig2 (22 layers) or fig3 (30 layers) of He et al. (2015).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def compare(outs: Sequence[Path], by: str | None, at: dict[str, Any], figure: str | None, as_json: bool) -> None:
    """Do the claims of the study hold in the results in OUT?

    With --by: which value of a field reaches the threshold sooner, and how sure is that? With --paper: does what a
    figure of the paper shows hold here? Exit code 0 where every claim holds, 1 where one does not or is open.
    """
    from initlab.store.studies import load

    if (by and figure) or (at and not by):
        raise click.UsageError("--by and --paper are two questions, and --at goes with --by; ask one")
    results = [load(out) for out in outs]
    if by:
        from initlab.analysis.arm_comparison import compare_arms
        from initlab.report.arm_table import arms_json, arms_text

        arms = compare_arms(results, by, at)
        echo(arms_json(arms) if as_json else arms_text(arms))
        return
    if figure:
        from initlab.analysis.comparison import compare_paper
        from initlab.report.paper_comparison import paper_json, paper_text

        comparison = compare_paper(results, figure)
        click.echo(paper_json(comparison) if as_json else paper_text(comparison))
        sys.exit(0 if comparison.agrees else 1)
    from initlab.analysis.declared import check_claims
    from initlab.report.claims_table import claims_text
    from initlab.report.json_text import json_text

    claims = check_claims(results)
    echo(json_text(claims, indent=2) if as_json else claims_text(claims))
    sys.exit(0 if all(claim.holds for claim in claims) else 1)


@click.command()
@click.argument("out", type=OUT)
@click.option("--repair", is_flag=True, help="Mend what can be mended, and say what was done.")
def verify(out: Path, repair: bool) -> None:
    """Is OUT whole? Checks ids, rows, checksums and checkpoints; names each fault by its trial and file.

    Exit code 0 where all is whole, or was mended; 1 where something is wrong.
    """
    from initlab.engine.lease import lease
    from initlab.store import verify as store
    from initlab.store.studies import load

    results = load(out)
    lines = store.faults(results)
    echo_lines(lines, err=True)
    if lines and repair and not results.exported:
        with lease(out):
            echo_lines(store.repair(results, lines))
        results = load(out)
        lines = store.faults(results)
        echo_lines((f"still: {line}" for line in lines), err=True)
    click.echo(f"{out}: {len(results.stored)} trials, {f'{len(lines)} faults' if lines else 'all whole'}")
    sys.exit(1 if lines else 0)


@click.command()
@click.argument("out", type=OUT)
def compact(out: Path) -> None:
    """Merge the rows of finished trials in OUT into few files; at any moment, also while trials run.

    All commands read OUT as before. Checkpoints stay, but for those of earlier attempts at a finished trial.
    """
    from initlab.store.compact import compact as merge

    echo_lines(merge(out))


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


COMMANDS = (doctor, run, plan, status, tail, plot, report, export, verify, compact, compare)
