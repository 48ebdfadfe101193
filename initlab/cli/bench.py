"""Commands that measure what initlab costs: `initlab bench probe`, `inspect`, `engine`, `data`, ..."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from initlab.cli.options import OUT, data_dir_option, device_option, echo_lines, set_option


@click.group()
def bench() -> None:
    """Measure what initlab itself costs on this machine."""


@bench.command("probe")
@click.option("--repeats", type=click.IntRange(1), default=3, help="Medians of each way to watch.")
@click.option("--whole", type=click.IntRange(0), default=1, help="Whole trials of each, in turn.")
def bench_probe(repeats: int, whole: int) -> None:
    """What watching signals costs, as shares of a bare step.

    initlab's ways, hooks and histograms; and where they are installed wandb's, BackPACK's and Cockpit's.
    """
    from initlab.bench.probe import bench_probe as measure

    echo_lines(measure(repeats, whole))


@bench.command("inspect")
@click.argument("model", default="resnet50")
@click.option("--batch-size", type=click.IntRange(1), default=8, help="Images of the batch.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Rounds of all arms in turn.")
@click.option("--draws", type=click.IntRange(0), default=0, help="Time redrawn bands too.")
@click.option(
    "--depth",
    "depths",
    type=click.IntRange(4, 1000),
    multiple=True,
    help="Instead of MODEL: ReLU nets of so many linear layers, to see how the cost grows; repeatable.",
)
@click.option("--memory", is_flag=True, help="Also the memory of an inspection, against a training step's (Linux).")
@click.option("--set", "texts", multiple=True, metavar="NAME=VALUE", help="An option of MODEL; repeatable.")
@click.option("--allow-code", is_flag=True, help="Import pkg.module:callable.")
def bench_inspect(
    model: str,
    batch_size: int,
    repeats: int,
    draws: int,
    depths: Sequence[int],
    memory: bool,
    texts: Sequence[str],
    allow_code: bool,
) -> None:
    """What inspecting MODEL costs, in plain passes.

    A plain pass is one forward and backward through the model, in the same run.

    \b
    initlab bench inspect vit_b_16 --batch-size 2 --memory
    initlab bench inspect transformer --set depth=24 --set width=256 --set norm=pre
    """
    from initlab.bench.inspect import bench_depths, bench_inspect as measure, bench_memory
    from initlab.inspection.subject import parse_options, resolve_model

    if depths:
        echo_lines(bench_depths(depths, repeats))
        return
    options = parse_options(texts)
    resolve = partial(resolve_model, model, batch_size=batch_size, allow_code=allow_code, options=options)
    echo_lines(measure(resolve(), repeats, draws))
    if memory:
        echo_lines(bench_memory(resolve))


@bench.command("coverage")
@click.option("--nets", default="", help="Names with commas between them.  [default: all]")
@click.option("--draws", type=click.IntRange(2), default=100, help="Of each net.")
@click.option("--seed", type=int, default=0, help="Of the nets, their data and the draws.")
@click.option("--redrawn", type=click.IntRange(2), help="Judge the bands that so many draws give, not theory's.")
@click.option("--layers", is_flag=True, help="Show every layer of each net.")
def bench_coverage(nets: str, draws: int, seed: int, redrawn: int | None, layers: bool) -> None:
    """How often signals of fresh draws lie in theory's band.

    The band is that of 95 %, the nets are small ones of every family. A line per net: layers whose basis is theory of
    all layers; the share of points inside, forward, backward and of the last layer; and the median of what was measured
    over what was predicted. A band that is right holds 92 to 98 %.
    """
    from initlab.bench.coverage import bench_coverage as measure

    echo_lines(measure([name.strip() for name in nets.split(",") if name.strip()], draws, seed, redrawn or 0, layers))


@bench.command("engine")
@click.argument("study", type=OUT, required=False)
@click.option("--trials", type=click.IntRange(1), default=200, help="Without a STUDY: so many trivial ones.")
@click.option("--jobs", type=click.IntRange(1), default=2, help="Processes in every arm.")
@click.option("--repeats", type=click.IntRange(1), default=1, help="Runs of each arm, alternating.")
@set_option
def bench_engine(study: Path | None, trials: int, jobs: int, repeats: int, overrides: Sequence[str]) -> None:
    """What a trial costs inline and under Ray.

    Against a plain loop and a plain Ray Tune function of the same run.
    Without a STUDY the trials are trivial, 44 steps in a fifth of a second, so that what is around them shows.
    """
    from initlab.bench.engine import bench_engine as measure, trivial
    from initlab.study.study import load_study

    echo_lines(measure(load_study(study, overrides) if study else trivial(trials), jobs, repeats))


@bench.command("launch")
@click.option("--trials", type=click.IntRange(1), default=20_000, help="Of the launch that is stopped at its start.")
@click.option("--few", type=click.IntRange(2), default=200, help="Of the study that is run, and run again.")
@click.option("--jobs", type=click.IntRange(1), default=2, help="Trials at once.")
def bench_launch(trials: int, few: int, jobs: int) -> None:
    """How long launches take to begin and to stop.

    From the command to the first step of many trials, to stop them, and to find a study done.
    """
    from initlab.bench.launching import bench_launch as measure

    echo_lines(measure(trials, few, jobs))


@bench.command("store")
@click.option("--trials", "counts", type=click.IntRange(1), multiple=True, default=(100, 1000), help="Repeatable.")
@click.option("--folder", type=OUT, help="Keep the stores here, and read those that are there.  [default: temporary]")
def bench_store(counts: Sequence[int], folder: Path | None) -> None:
    """What reading an output folder costs, by its trials.

    Processor seconds and memory; each trial has 100 probes of 30 layers.
    """
    from initlab.bench.store import bench_store as measure

    echo_lines(measure(counts, folder))


@bench.command("data")
@click.argument("study", type=OUT, required=False)
@click.option("--steps", type=click.IntRange(1), default=20, help="Timed steps of each arm.")
@click.option("--repeats", type=click.IntRange(1), default=3, help="Runs of each arm, alternating.")
@click.option("--workers", type=click.IntRange(0), multiple=True, help="Processes that decode; repeatable.")
@device_option
@data_dir_option
@set_option
def bench_data(study: Path | None, **options: Any) -> None:
    """Images per second of the loader, of the net and of both.

    For the first trial of STUDY; without one: pictures of digits, written into a temporary folder.
    """
    from initlab.bench.data import bench_data as measure

    echo_lines(measure(study, **options))


@bench.command("forecast")
@click.argument("sources", metavar="TABLE...", type=OUT, nargs=-1, required=True)
@click.option("--write", is_flag=True, help="Keep the fit as the forecast that comes with initlab.")
def bench_forecast(sources: tuple[Path, ...], write: bool) -> None:
    """How right forecasts are on families they don't know.

    Each family of nets is foretold by a fit on the others.

    \b
    initlab bench forecast results/reference/forecast/*.csv

    TABLE is what this command leaves in the folder of a finished study of sweeps/forecast-*.yaml, figures/forecast.csv,
    or that folder.
    """
    from initlab.bench.forecast import bench_forecast as measure

    echo_lines(measure(sources, write))


@bench.command("exponents")
@click.argument("source", type=OUT)
def bench_exponents(source: Path) -> None:
    """How well two exponents at the start foretell the loss.

    Those of a transformer's trunk, and its loss after training. SOURCE is the folder of a study such as
    sweeps/transformer-exponents.yaml, whose figures get exponents.png, .svg and .csv; or that exponents.csv.
    """
    from initlab.bench.exponents import bench_exponents as measure

    echo_lines(measure(source))


@bench.command("gpu")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda")
@click.option("--quick", is_flag=True, help="Tiny nets and images, to try the command; the figures mean nothing.")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), default=8.0, help="No section begins that may end later."
)
@click.option("--section", "only", multiple=True, help="Beginning of a section's name; repeatable.  [default: all]")
@click.option("--out", type=OUT, help="Where figures go.  [default: results/bench/gpu-CARD.json]")
@click.option(
    "--study", type=OUT, help="Train it last, into results/NAME: in each trial as many iterations as --minutes hold."
)
@data_dir_option
@set_option
def bench_gpu(only: tuple[str, ...], **options: Any) -> None:
    """Measure initlab on a GPU, in a few minutes.

    Right numbers, large nets against the GPU's limit, many small trials at once, and what watching costs. Sections run
    in the order of their worth; each is written when it ends.

    \b
    initlab bench gpu --minutes 13 --section watching --study sweeps/tiny-fig3.yaml --data-dir DIR
    """
    from initlab.bench.gpu import bench_gpu as measure

    echo_lines(measure(only=only, **options))


@bench.command("diagnosis")
@click.option("--models", help="Names with commas between them.  [default: all 40]")
@click.option(
    "--faults", default="", help="Names with commas between them; none: false alarms alone.  [default: all 28]"
)
@click.option("--steps", type=click.IntRange(10), default=100, help="Training steps of each run.")
@click.option("--seeds", type=click.IntRange(0), default=13, help="Draws of each sound net.")
@click.option("--jobs", type=click.IntRange(1), default=2, help="Processes, of one thread each.")
@click.option("--quick", is_flag=True, help="Four small nets, 30 steps, 2 draws: under a minute, to try the command.")
@click.option("--out", type=OUT, help="File of rows, one JSON object a line.  [default: results/bench/diagnosis.jsonl]")
def bench_diagnosis(models: str, faults: str, steps: int, seeds: int, jobs: int, quick: bool, out: Path | None) -> None:
    """How well inspect and lint find planted faults.

    40 sound nets, 28 faults planted in each, one at a time. A fault matters if the same training steps end clearly
    worse than the sound net's. Of these, the table says how many are caught, whether the right parameters are named,
    and whether a net trains as well as the sound one after the advised remedy; and of fresh draws of the sound nets,
    how many are called faulty. Beside it stand the rules of SageMaker Debugger, AUTOTRAINER and torch's anomaly mode on
    the same runs.

    Half of the nets, by a checksum of their names, are held out: their misses are counted, but not listed.
    A run that is interrupted goes on from its file. docs/diagnosis.md explains the columns.

    \b
    initlab bench diagnosis --models gpt,lstm --faults "float16,labels off by one"
    """
    from initlab.bench.diagnosis import QUICK_MODELS, QUICK_SEEDS, QUICK_STEPS, bench_diagnosis as measure

    out = out or Path("results/bench") / f"diagnosis{'-quick' * quick}.jsonl"
    names, kinds = ([name.strip() for name in (text or "").split(",") if name.strip()] for text in (models, faults))
    if quick:
        names, steps, seeds = names or list(QUICK_MODELS), QUICK_STEPS, QUICK_SEEDS
    echo_lines(measure(names, kinds, steps, seeds, jobs, out))


@bench.command("ddp")
@click.argument("study", type=OUT, required=False)
@click.option("--devices", type=click.IntRange(1), multiple=True, help="Processes; repeatable.  [default: 1, 2, 4, …]")
@click.option("--steps", type=click.IntRange(1), default=20, help="Timed steps of each arm.")
@device_option
@data_dir_option
@set_option
def bench_ddp(study: Path | None, **options: Any) -> None:
    """Images per second of one trial over several processes.

    At one batch for all (strong scaling) and at a batch each (weak). The first trial of STUDY; without one, a plain net
    on images made for the purpose.
    """
    from initlab.bench.ddp import bench_ddp as measure

    echo_lines(measure(study, **options))
