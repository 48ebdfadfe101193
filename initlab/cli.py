"""The `initlab` command: each subcommand is a few lines over the public Python API.

Exit codes: 0 all done; 1 some trials failed, or the answer asked for is no; 2 bad usage or study; 3 stopped on
request, resumable; 4 the output folder is held by another launch.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from initlab import __version__

if TYPE_CHECKING:
    from initlab.store.results import Results

OUT = click.Path(path_type=Path)


class OneLine(click.Group):
    """Errors of ours become one line on stderr and an exit code; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from initlab.engine.lease import Held
        from initlab.errors import UserError

        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(str(error), err=True)
            ctx.exit(2)
        except Held as error:
            click.echo(str(error), err=True)
            ctx.exit(4)
        except KeyboardInterrupt:
            click.echo("stopped at once; the same command goes on from the last checkpoints", err=True)
            ctx.exit(3)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="initlab")
def main() -> None:
    """Will a deep net start to train, under which initialisation, and why?

    \b
    initlab plan sweeps/demo.yaml      what a study would run, and what it costs
    initlab run sweeps/demo.yaml       run it; again: only what has no result yet
    initlab plot results/demo          its figures, as png, svg and csv
    """


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field, e.g. train.lr=1e-3."
)
out_option = click.option("--out", type=OUT, help="Output folder.  [default: results/NAME]")


@main.command()
@click.argument("study", type=OUT)
@out_option
@click.option(
    "--engine", type=click.Choice(["inline", "ray"]), help="Where trials run.  [default: the study's, or inline]"
)
@click.option("--jobs", type=int, help="Trials at once.  [default: the cores on a CPU, 1 on a GPU]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
@click.option("--gpus-per-trial", type=float, help="A fraction lets trials share a GPU (ray).")
@click.option("--address", help="A running Ray cluster, host:port or auto (ray).")
@set_option
@click.option("--only", multiple=True, metavar="ID", help="Run this trial alone (an id or its beginning); repeatable.")
@click.option("--force", is_flag=True, help="A fresh attempt at finished trials too.")
@click.option("--skip-hopeless", is_flag=True, help="Stop trials that have stalled; a run without it goes on.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable names in the study.")
@click.option("--data-dir", type=OUT, envvar="INITLAB_DATA", help="Where data files lie.  [env: INITLAB_DATA]")
def run(study: Path, **options: Any) -> None:
    """Run the trials of STUDY that have no result yet.

    Ctrl-C, or a file STOP in the output folder, stops with a checkpoint in every trial; the same command goes on.
    """
    from initlab.launch import run as launch
    from initlab.progress import on_terminal

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
    """One line per (depth, scheme): trials, verdicts, range of validation errors, epochs to the threshold."""
    trials = results.trials[results.trials.in_study].merge(results.verdicts[["trial", "epoch_reached"]], on="trial")
    wide = max(10, *trials["init.scheme"].str.len())
    lines = [f"{'net':<10} {'init':<{wide}} {'trials':>6}  {'verdicts':<28} {'best val_error':<16} epochs to threshold"]
    for (net, depth, scheme), group in trials.groupby(["net.name", "net.depth", "init.scheme"]):
        counts = group.verdict.fillna(group.state).value_counts()
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        best, reached = group.best_val_error.dropna(), group.epoch_reached.dropna()
        errors = f"{best.min():.3f} – {best.max():.3f}" if len(best) else "–"
        epochs = f"{reached.min():.3g} – {reached.max():.3g}" if len(reached) else "–"
        lines.append(f"{f'{net}-{depth}':<10} {scheme:<{wide}} {len(group):>6}  {verdicts:<28} {errors:<16} {epochs}")
    return "\n".join(lines)


@main.command()
@click.argument("study", type=OUT, required=False)
@set_option
@click.option("--out", type=OUT, help="Where finished trials tell the time to expect.  [default: results/NAME]")
@click.option("--schema", is_flag=True, help="Print the JSON schema of study files, for editors.")
def plan(study: Path | None, overrides: Sequence[str], out: Path | None, schema: bool) -> None:
    """List the trials of STUDY with their ids and what each costs."""
    if schema:
        from initlab.study import study_schema

        click.echo(json.dumps(study_schema(), indent=2))
        return
    if study is None:
        raise click.UsageError("give a STUDY file, or --schema")
    from initlab.planning import plan_lines

    for line in plan_lines(study, overrides, out):
        click.echo(line)


@main.command()
@click.argument("out", type=OUT)
def status(out: Path) -> None:
    """Show how far the trials in OUT are."""
    from initlab.progress import figures
    from initlab.store.results import load

    results = load(out)
    for trial in results.stored:
        net, init = trial.spec.net, trial.spec.init
        name = f"{trial.id}  {net.name}-{net.depth} {init.scheme} seed {trial.spec.seed}"
        click.echo(f"{name}: {trial.status['state']}{figures(trial.status)}")
    for problem in results.problems:
        click.echo(problem, err=True)
    click.echo(repr(results))


@main.command()
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


@main.group()
def bench() -> None:
    """Measure what initlab itself costs on this machine."""


@bench.command("probe")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs of each arm, alternating.")
def bench_probe(repeats: int) -> None:
    """The probe's share of a trial's wall time, against the same loop with the probe off."""
    from initlab.bench.probe import bench_probe as measure

    for line in measure(repeats):
        click.echo(line)


@bench.command("engine")
@click.argument("study", type=OUT, default=Path("sweeps/demo.yaml"))
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes in every arm.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Runs of each arm, alternating.")
@set_option
def bench_engine(study: Path, jobs: int, repeats: int, overrides: Sequence[str]) -> None:
    """A study's wall time inline and under Ray, against a plain loop without initlab, as ratios."""
    from initlab.bench.engine import bench_engine as measure

    for line in measure(study, jobs, repeats, overrides):
        click.echo(line)


@bench.command("forecast")
@click.argument("source", type=OUT)
@click.option("--write", is_flag=True, help="Keep the fit as the forecast that comes with initlab.")
def bench_forecast(source: Path, write: bool) -> None:
    """How right the forecast is on held-out trials of SOURCE, a phase study's folder or its figures/forecast.csv."""
    from initlab.bench.forecast import bench_forecast as measure

    for line in measure(source, write):
        click.echo(line)
