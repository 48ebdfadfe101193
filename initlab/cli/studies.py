"""Commands on a study and its output folder: run, plan, status, plot, export, compare."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from initlab.cli.options import OUT, data_dir_option, device_option, set_option

if TYPE_CHECKING:
    from initlab.store.results import Results


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
@click.option("--address", help="A running Ray cluster, host:port or auto (ray).")
@set_option
@click.option("--only", multiple=True, metavar="ID", help="Run this trial alone (an id or its beginning); repeatable.")
@click.option("--force", is_flag=True, help="A fresh attempt at finished trials too.")
@click.option("--skip-hopeless", is_flag=True, help="Stop trials that have stalled; a run without it goes on.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable names in the study.")
@data_dir_option
def run(study: Path, **options: Any) -> None:
    """Run the trials of STUDY that have no result yet.

    Ctrl-C, or a file STOP in the output folder, stops with a checkpoint in every trial; the same command goes on.
    """
    from initlab.launch.progress import on_terminal
    from initlab.launch.run import run as launch

    results = launch(study, show="table" if on_terminal() else "lines", **options)
    sys.exit(summarise(results, options["only"]))


def summarise(results: "Results", only: Sequence[str] = ()) -> int:
    """Print what came of the study's trials, or of those asked for; returns the exit code."""
    asked = [trial for trial in results.planned if trial.startswith(tuple(only) or "t")]
    trials = results.trials[results.trials.trial.isin(asked)]
    table = verdict_table(results)
    for problem in results.problems:
        click.echo(problem, err=True)
    click.echo(table)
    if lost := set(asked) - set(trials.trial):
        click.echo(f"{len(lost)} of {len(asked)} trials cannot be read: {', '.join(sorted(lost))}", err=True)
        return 1
    failed = [t for t in results.stored if t.status["state"] == "failed" and t.id in set(trials.trial)]
    if failed:
        click.echo(f"{len(failed)} of {len(trials)} trials failed; their tracebacks are in status.json", err=True)
        for trial in failed:
            click.echo(f"  {trial.id}: {trial.status['error']}", err=True)
        return 1
    unfinished = int((~trials.state.isin(["done", "diverged", "stopped"])).sum())
    stopped = [t.status for t in results.stored if t.status["state"] == "stopped" and t.id in set(trials.trial)]
    if stopped:
        steps = sum(t.status.get("steps", 0) for t in results.stored if t.id in set(trials.trial))
        saved = sum(status["steps"] - status["step"] for status in stopped)
        click.echo(f"stopped {len(stopped)} hopeless trials, saved {saved:,} of {steps:,} steps")
    if unfinished:
        click.echo(f"stopped with {unfinished} of {len(trials)} trials to go; the same command goes on")
        return 3
    click.echo(f"all {len(trials)} trials done; next: initlab plot {results.out}")
    return 0


def verdict_table(results: "Results") -> str:
    """One line per (net, depth, scheme): trials, verdicts, range of validation errors, epochs to the threshold."""
    from initlab.study.spec import net_label

    trials = results.trials[results.trials.in_study].merge(results.verdicts[["trial", "epoch_reached"]], on="trial")
    wide = max(10, *trials["init.scheme"].str.len())
    net_wide = max(10, *map(len, map(net_label, trials["net.name"], trials["net.depth"])))
    head = f"{'net':<{net_wide}} {'init':<{wide}} {'trials':>6}  {'verdicts':<28} {'best val_error':<16}"
    lines = [f"{head} epochs to threshold"]
    for (_, _, scheme), group in trials.groupby(["net.name", "net.depth", "init.scheme"]):
        counts = group.verdict.fillna(group.state).value_counts()
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        best, reached = group.best_val_error.dropna(), group.epoch_reached.dropna()
        errors = f"{best.min():.3f} – {best.max():.3f}" if len(best) else "–"
        epochs = f"{reached.min():.3g} – {reached.max():.3g}" if len(reached) else "–"
        name = net_label(group["net.name"].iloc[0], group["net.depth"].iloc[0]).ljust(net_wide)
        lines.append(f"{name} {scheme:<{wide}} {len(group):>6}  {verdicts:<28} {errors:<16} {epochs}")
    return "\n".join(lines)


@click.command()
@click.argument("study", type=OUT, required=False)
@set_option
@click.option("--out", type=OUT, help="Where finished trials tell the time to expect.  [default: results/NAME]")
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

    for line in plan_lines(study, overrides, out):
        click.echo(line)


@click.command()
@click.argument("out", type=OUT)
def status(out: Path) -> None:
    """Show how far the trials in OUT are."""
    from initlab.launch.progress import figures
    from initlab.store.results import load
    from initlab.study.trial_names import trial_names

    results = load(out)
    names = trial_names([trial.spec for trial in results.stored])
    for trial, name in zip(results.stored, names, strict=True):
        click.echo(f"{trial.id}  {name}: {trial.status['state']}{figures(trial.status)}")
    for problem in results.problems:
        click.echo(problem, err=True)
    click.echo(repr(results))


@click.command()
@click.argument("out", type=OUT)
@click.option("--figure", "names", multiple=True, metavar="NAME", help="One of the figures, e.g. depth; repeatable.")
@click.option("--to", "folder", type=OUT, help="Folder for the files.  [default: OUT/figures]")
def plot(out: Path, names: Sequence[str], folder: Path | None) -> None:
    """Draw the figures of the results in OUT, each as png, svg and the csv of what it draws."""
    from initlab.plots import save_figures
    from initlab.store.results import load

    results = load(out)
    for path in save_figures(results, names or None, folder, say=lambda line: click.echo(line, err=True)):
        click.echo(path)
    for problem in results.problems:
        click.echo(problem, err=True)


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
    whole = out.resolve()  # of `.` too
    target = folder or whole.with_name(f"{whole.name}-{form}")
    for path in results.export(form, target):
        click.echo(path)
    for problem in results.problems:
        click.echo(problem, err=True)


@click.command()
@click.argument("outs", metavar="OUT...", type=OUT, nargs=-1, required=True)
@click.option("--paper", "figure", required=True, metavar="FIGURE", help="fig2 (22 layers) or fig3 (30 layers).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def compare(outs: Sequence[Path], figure: str, as_json: bool) -> None:
    """Does what a figure of He et al. (2015) shows hold in the results in OUT?

    Exit code 0 where every claim agrees, 1 where one does not or is open.
    """
    from initlab.analysis.claims import compare_paper, json_of, text_of
    from initlab.store.results import load

    found = compare_paper([load(out) for out in outs], figure)
    click.echo(json_of(found) if as_json else text_of(found))
    sys.exit(0 if found.agrees else 1)
