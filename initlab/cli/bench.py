"""Commands that measure what initlab costs: `initlab bench probe`, `inspect`, `engine`, `data`, ..."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from initlab.cli.bench_quality import COMMANDS
from initlab.cli.options import OUT, data_dir_option, device_option, echo_lines, set_option


@click.group()
def bench() -> None:
    """Measure what initlab itself costs, and how right it is."""


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


for command in COMMANDS:
    bench.add_command(command)
