"""Commands that measure how right initlab is: `initlab bench coverage`, `forecast`, `exponents` and `diagnosis`."""

from pathlib import Path

import click

from initlab.cli.options import OUT, echo_lines


@click.command("coverage")
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


@click.command("forecast")
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


@click.command("exponents")
@click.argument("source", type=OUT)
def bench_exponents(source: Path) -> None:
    """How well two exponents at the start foretell the loss.

    Those of a transformer's trunk, and its loss after training. SOURCE is the folder of a study such as
    sweeps/transformer-exponents.yaml, whose figures get exponents.png, .svg and .csv; or that exponents.csv.
    """
    from initlab.bench.exponents import bench_exponents as measure

    echo_lines(measure(source))


@click.command("diagnosis")
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


COMMANDS = (bench_coverage, bench_forecast, bench_exponents, bench_diagnosis)
