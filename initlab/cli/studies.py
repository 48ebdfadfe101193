"""Commands on a study and its output folder: run, plan, status, plot, export, compare."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from initlab.cli.options import OUT, data_dir_option, device_option, echo_lines, set_option


@click.command()
@click.argument("study", type=OUT)
@click.option("--out", type=OUT, help="Output folder.  [default: results/NAME]")
@click.option(
    "--engine", type=click.Choice(["inline", "ray"]), help="Where trials run.  [default: the study's, or inline]"
)
@click.option("--jobs", type=int, help="Trials at once.  [default: the cores on a CPU, 1 on a GPU]")
@device_option
@click.option("--devices", type=int, help="Processes that train one trial together.")
@click.option("--gpus-per-trial", type=float, help="A fraction lets trials share a GPU (ray).")
@click.option("--pack", type=int, help="Trials of one net that a process trains as one.  [default: the study's, or 1]")
@click.option(
    "--max-failures", type=int, help="Failures alike, in a row and before any success, that end it.  [default: 3]"
)
@click.option("--max-hours", type=float, help="Stop with a checkpoint after so long; also before a Slurm job's end.")
@click.option("--address", help="A running Ray cluster, host:port or auto (ray).")
@set_option
@click.option("--only", multiple=True, metavar="ID", help="Run this trial alone (an id or its beginning); repeatable.")
@click.option("--force", is_flag=True, help="A fresh attempt at finished trials too.")
@click.option("--skip-hopeless", is_flag=True, help="Stop trials that have stalled; a run without it goes on.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable names in the study.")
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
    lines, errors, ending = summary(results, options["only"])
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
    from initlab.report.plan_table import plan_lines

    echo_lines(plan_lines(study, overrides, out))


@click.command()
@click.argument("out", type=OUT)
def status(out: Path) -> None:
    """Show how far the trials in OUT are."""
    from initlab.report.summary import status_lines
    from initlab.store.results import load

    results = load(out)
    echo_lines(status_lines(results))
    echo_lines(results.problems, err=True)
    click.echo(results)


@click.command()
@click.argument("out", type=OUT)
@click.option("--figure", "names", multiple=True, metavar="NAME", help="One of the figures, e.g. depth; repeatable.")
@click.option("--to", "folder", type=OUT, help="Folder for the files.  [default: OUT/figures]")
def plot(out: Path, names: Sequence[str], folder: Path | None) -> None:
    """Draw the figures of the results in OUT, each as png, svg and the csv of what it draws."""
    from initlab.plots import save_figures
    from initlab.store.results import load

    results = load(out)
    echo_lines(save_figures(results, names or None, folder, say=lambda line: click.echo(line, err=True)))
    echo_lines(results.problems, err=True)


@click.command()
@click.argument("out", type=OUT)
@click.option("--to", "form", type=click.Choice(["parquet", "csv"]), required=True, help="Form of the files.")
@click.option("--folder", type=OUT, help="An empty or new folder.  [default: OUT-FORM beside OUT]")
def export(out: Path, form: Literal["parquet", "csv"], folder: Path | None) -> None:
    """Write the results in OUT, without checkpoints, in a few files.

    parquet: small, and read by initlab.load, status, plot and compare in place of OUT. csv: a file per frame, for
    other programs.
    """
    from initlab.store.results import load

    results = load(out)
    # Resolved, for `.` has no name.
    target = folder or out.resolve().with_name(f"{out.resolve().name}-{form}")
    echo_lines(results.export(form, target))
    echo_lines(results.problems, err=True)


@click.command()
@click.argument("outs", metavar="OUT...", type=OUT, nargs=-1, required=True)
@click.option("--paper", "figure", required=True, metavar="FIGURE", help="fig2 (22 layers) or fig3 (30 layers).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def compare(outs: Sequence[Path], figure: str, as_json: bool) -> None:
    """Does what a figure of He et al. (2015) shows hold in the results in OUT?

    Exit code 0 where every claim agrees, 1 where one does not or is open.
    """
    from initlab.analysis.comparison import compare_paper
    from initlab.report.paper_comparison import paper_json, paper_text
    from initlab.store.results import load

    comparison = compare_paper([load(out) for out in outs], figure)
    click.echo(paper_json(comparison) if as_json else paper_text(comparison))
    sys.exit(0 if comparison.agrees else 1)


COMMANDS = (run, plan, status, plot, export, compare)
