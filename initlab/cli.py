"""The `initlab` command: each subcommand is a few lines over the public Python API.

Exit codes: 0 all done; 1 some trials failed, or the answer asked for is no; 2 bad usage or study; 3 stopped on
request, resumable; 4 the output folder is held by another launch.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from initlab import __version__

if TYPE_CHECKING:
    from initlab.models import Subject
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
    initlab inspect resnet18           what goes through a model, and whether it will start to train
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
@click.option("--devices", type=int, help="Processes that train one trial together (inline).")
@click.option("--gpus-per-trial", type=float, help="A fraction lets trials share a GPU (ray).")
@click.option("--pack", type=int, help="Trials of one net that a process trains as one.  [default: the study's, or 1]")
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
    """One line per (net, depth, scheme): trials, verdicts, range of validation errors, epochs to the threshold."""
    from initlab.spec import net_label

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
@click.argument("name", required=False)
@click.option("--input", "shape", metavar="CxHxW", help="Shape of an image, or its side.  [default: 3x224x224]")
@click.option("--classes", type=int, help="[default: 1000]")
@set_option
def nets(name: str | None, shape: str | None, classes: int | None, overrides: Sequence[str]) -> None:
    """List the nets of the paper with their counts, or draw the layer table of NAME."""
    from initlab.layer_tables import catalog_lines, net_lines

    for line in (
        catalog_lines(shape, classes, overrides) if name is None else net_lines(name, shape, classes, overrides)
    ):
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
        name = f"{trial.id}  {net.label} {init.scheme} seed {trial.spec.seed}"
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


@main.command()
@click.argument("outs", metavar="OUT...", type=OUT, nargs=-1, required=True)
@click.option("--paper", "figure", required=True, metavar="FIGURE", help="fig2 (22 layers) or fig3 (30 layers).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def compare(outs: Sequence[Path], figure: str, as_json: bool) -> None:
    """Does what a figure of He et al. (2015) shows hold in the results in OUT?

    Exit code 0 where every claim agrees, 1 where one does not or is open.
    """
    from initlab.compare import compare_paper, json_of, text_of
    from initlab.store.results import load

    found = compare_paper([load(out) for out in outs], figure)
    click.echo(json_of(found) if as_json else text_of(found))
    sys.exit(0 if found.agrees else 1)


MODEL_OPTIONS = (
    click.option("--input", "input_text", metavar="CxHxW", help="One image.  [default: what the net is made for]"),
    click.option("--batch-size", type=int, default=8, show_default=True),
    click.option("--seed", type=int, default=0, show_default=True, help="Of weights, images and labels."),
    click.option("--init", "scheme", metavar="SCHEME", help="Initialise it so first (a scheme, or your function)."),
    click.option("--data", metavar="NAME", help="Images of a data set instead of random numbers, e.g. digits."),
    click.option("--data-dir", type=OUT, envvar="INITLAB_DATA", help="Where data files lie.  [env: INITLAB_DATA]"),
    click.option("--set", "texts", multiple=True, metavar="KEY=VALUE", help="An argument of the net, e.g. depth=22."),
    click.option("--allow-code", is_flag=True, help="Import pkg.module:callable."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text."),
)


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options by which MODEL and its batch are given."""
    for option in reversed(MODEL_OPTIONS):
        command = option(command)
    return command


def subject_of(model: str, options: dict[str, Any], *, double: bool = False, also: Sequence[str] = ()) -> "Subject":
    """The model and batch that a command line describes, initialised where it says how."""
    from initlab.models import initialised, parse_options, parse_shape, resolve_model

    text = options["input_text"]
    subject = resolve_model(
        model, input_shape=parse_shape(text) if text else None, options=parse_options(options["texts"]), double=double,
        also=also, **{key: options[key] for key in ("batch_size", "seed", "data", "data_dir", "allow_code")},
    )  # fmt: skip
    scheme = options["scheme"]
    return initialised(subject, scheme, options["seed"], options["allow_code"]) if scheme else subject


@main.command()
@click.argument("model")
@model_options
@click.option("--weight-decay", type=float, help="For the ratio of decay to the loss gradient.")
@click.option("--fix", is_flag=True, help="Try the advised initialisation on a copy: the table before and after.")
@click.option("--against", metavar="B", help="Compare with a scheme, or another MODEL of the same layers.")
@click.option("--fail-on", default="", metavar="WORDS", help="Exit with 1 on such verdicts: any,stalled,exploding...")
@click.option("--html", type=OUT, help="Write the table as an HTML file.")
@click.option("--figure", type=OUT, help="Write the figure (png, svg or pdf).")
def inspect(model: str, weight_decay: float | None, fix: bool, against: str | None, fail_on: str, html: Path | None,
            figure: Path | None, **options: Any) -> None:  # fmt: skip
    """Measure and judge the signals of MODEL at its first training step.

    \b
    MODEL is a net of the catalog (plain), a classification model of torchvision (resnet18), or
    pkg.module:callable with --allow-code.
    """
    from initlab.examine import VERDICT_WORDS, check_words, examine, fails, json_of, other_init, text_of
    from initlab.init.schemes import SCHEMES

    words = check_words(fail_on, VERDICT_WORDS)
    if figure is not None and figure.suffix not in (".png", ".svg", ".pdf"):
        raise click.UsageError(f"--figure: not a picture's name (got {figure}); allowed: .png, .svg, .pdf")
    subject = subject_of(model, options, double=against is not None)  # ratios are exact to 1e-9 only in float64
    other = None
    if against is not None:
        other = other_init(subject, against, options["seed"], options["allow_code"])
        other = other or subject_of(against, options, double=True, also=list(SCHEMES))
    found = examine(
        subject, weight_decay=weight_decay, fix=fix, against=other.module if other else None, seed=options["seed"]
    )
    click.echo(json_of(found) if options["as_json"] else text_of(found))
    for path in filter(None, (html, figure)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if html is not None:
        html.write_text(found.seen._repr_html_(), encoding="utf-8")
    if figure is not None:
        found.seen.plot().savefig(figure)
    if fails(found.seen.verdict, words):
        click.echo(f"--fail-on {fail_on}: the verdict is {found.seen.verdict}", err=True)
        sys.exit(1)


@main.command()
@click.argument("model")
@model_options
@click.option("--fail-on", default="", metavar="WORDS", help="Exit with 1 on such findings: any, fault, or rules.")
def lint(model: str, fail_on: str, **options: Any) -> None:
    """Find faults in the initialisation of MODEL: defaults left in, wrong fans, gains that do not fit.

    MODEL is as in `initlab inspect`.
    """
    from initlab.examine import LINT_WORDS, check_words, lint_json, lint_text
    from initlab.faults.lint import lint as findings_of

    words = check_words(fail_on, LINT_WORDS)
    subject = subject_of(model, options)
    found = findings_of(subject.module, subject.images)
    click.echo(lint_json(subject.name, found) if options["as_json"] else lint_text(found))
    failing = [f for f in found if {"any", f.rule, f.severity} & set(words)]
    if failing:
        click.echo(f"--fail-on {fail_on}: {', '.join(dict.fromkeys(f.rule for f in failing))}", err=True)
        sys.exit(1)


@main.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option(
    "--views", type=click.Choice(["center", "10", "dense"]), default="center", show_default=True,
    help="One centre crop; four corners and centre, mirrored too; or every window of the last map of the whole image.",
)  # fmt: skip
@click.option(
    "--scales", metavar="S,S,…",
    help="Shorter sides in pixels, averaged over.  [default: as validated for center, else 8/7 of the net's input]",
)  # fmt: skip
@click.option("--flips/--no-flips", default=None, help="Mirrored views too.  [default: as trained; center: no]")
@click.option("--scores", type=click.Choice(["softmax", "logits"]), default="softmax", show_default=True,
              help="What is averaged over views, scales and checkpoints.")  # fmt: skip
@click.option("--batch-size", type=int, default=100, show_default=True, help="Images at once; fewer need less memory.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
@click.option("--data-dir", type=OUT, envvar="INITLAB_DATA", help="Where data files lie.  [env: INITLAB_DATA]")
@click.option("--out", type=OUT, help="Folder for evaluation.csv and .json, per_class.csv, .png and .svg.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable names of the trials.")
def evaluate(checkpoints: Sequence[str], scales: str | None, out: Path | None, **options: Any) -> None:
    """Test trained nets on the validation set that they were trained with: top-1 and top-5 errors, as fractions.

    CHECKPOINT is OUT/trials/ID, an attempt's folder in it, or a checkpoint.pt with its trial.json beside it. Several
    are an ensemble: their scores are averaged, and the table ends with what they reach together.

    \b
    initlab evaluate results/demo/trials/t0123456789ab                       as in training: one centre crop
    initlab evaluate results/demo/trials/t0123456789ab --views 10            the paper's tables 2 and 5
    initlab evaluate results/*/trials/t* --views dense --scales 256,384,480 --out results/test    tables 4 and 6

    Dense testing needs layers in a row, as in all nets of the catalog. At larger scales its windows differ from crops
    in one way: a crop has zero padding at its border where a window has its neighbours in the image.
    """
    from initlab.testing import evaluate as test
    from initlab.testing import parse_scales, table_lines

    result = test(checkpoints, scales=parse_scales(scales) if scales is not None else None, out=out, **options)
    for line in table_lines(result.table):
        click.echo(line)
    click.echo(f"written to {out}" if out else "errors per class: add --out FOLDER")


@main.group()
def bench() -> None:
    """Measure what initlab itself costs on this machine."""


@bench.command("probe")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Medians of each way to watch.")
@click.option("--whole", type=click.IntRange(0), default=1, show_default=True, help="Whole trials of each, in turn.")
def bench_probe(repeats: int, whole: int) -> None:
    """What watching signals costs, as shares of a bare step: initlab's ways, hooks, histograms; wandb's if installed.

    BackPACK and Cockpit are measured too where they are installed.
    """
    from initlab.bench.probe import bench_probe as measure

    for line in measure(repeats, whole):
        click.echo(line)


@bench.command("inspect")
@click.argument("model", default="resnet50")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Images of the batch.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Rounds of all arms in turn.")
@click.option("--draws", type=click.IntRange(0), default=0, show_default=True, help="Time redrawn bands too.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable.")
def bench_inspect(model: str, batch_size: int, repeats: int, draws: int, allow_code: bool) -> None:
    """What inspecting MODEL costs, in plain forward and backward passes of the same run."""
    from initlab.bench.inspect import bench_inspect as measure
    from initlab.models import resolve_model

    for line in measure(resolve_model(model, batch_size=batch_size, allow_code=allow_code), repeats, draws):
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


@bench.command("data")
@click.argument("study", type=OUT, required=False)
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Timed steps of each arm.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs of each arm, alternating.")
@click.option("--workers", type=click.IntRange(0), multiple=True, help="Processes that decode; repeatable.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
@click.option("--data-dir", type=OUT, envvar="INITLAB_DATA", help="Where data files lie.  [env: INITLAB_DATA]")
@set_option
def bench_data(study: Path | None, **options: Any) -> None:
    """Images per second of the loader alone, the net alone and both, for the first trial of STUDY.

    Without a study: pictures of digits, written into a temporary folder.
    """
    from initlab.bench.data import bench_data as measure

    for line in measure(study, **options):
        click.echo(line)


@bench.command("forecast")
@click.argument("source", type=OUT)
@click.option("--write", is_flag=True, help="Keep the fit as the forecast that comes with initlab.")
def bench_forecast(source: Path, write: bool) -> None:
    """How right the forecast is on held-out trials of SOURCE, a phase study's folder or its figures/forecast.csv."""
    from initlab.bench.forecast import bench_forecast as measure

    for line in measure(source, write):
        click.echo(line)


@bench.command("gpu")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="Tiny nets and images, to try the command; the figures mean nothing.")
@click.option("--out", type=OUT, default=Path("results/bench/gpu.json"), show_default=True, help="Where figures go.")
def bench_gpu(device: Any, quick: bool, out: Path) -> None:
    """Large nets against the GPU's limit, many small trials at once, and what watching costs, within 8 minutes."""
    from initlab.bench.gpu import bench_gpu as measure

    for line in measure(device, quick, out):
        click.echo(line)


@bench.command("ddp")
@click.argument("study", type=OUT, required=False)
@click.option("--devices", type=click.IntRange(1), multiple=True, help="Processes; repeatable.  [default: 1, 2, 4, …]")
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Timed steps of each arm.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda where there is one]")
@click.option("--data-dir", type=OUT, envvar="INITLAB_DATA", help="Where data files lie.  [env: INITLAB_DATA]")
@set_option
def bench_ddp(study: Path | None, **options: Any) -> None:
    """Images per second of one trial over several processes, at one batch (strong) and at a batch each (weak).

    The first trial of STUDY; without one, a plain net on images made for the purpose.
    """
    from initlab.bench.ddp import bench_ddp as measure

    for line in measure(study, **options):
        click.echo(line)
