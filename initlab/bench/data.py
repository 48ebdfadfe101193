"""`initlab bench data`: the loader alone, the net alone and both together, in images per second of one run.

The loader alone makes training batches that nobody uses; the net alone trains on one batch again and again; both
together are a trial's own loop. The arms alternate, so that what else the machine does falls on all of them.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from initlab.attempt.assemble import build_net, load_images
from initlab.bench.timing import wait as wait
from initlab.data.dataset import Images
from initlab.launch.checks import check_data
from initlab.launch.settings import Settings, resolve
from initlab.nets.layers import set_dropout_step
from initlab.plan.plan import PlannedTrial, plan
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.study import Study, load_study
from initlab.train.sgd import sgd

WARM_UP = 2  # steps before the clock starts: first kernels, first processes
DIGITS = {  # without a study: pictures of digits, of all sizes, in a folder that lasts as long as the measurement
    "name": "bench-data",
    "data": {"name": "imagefolder", "classes": 10, "crop": 56, "jitter": [64, 128], "color_std": 0.1},
    "net": {"depth": 11, "width": 8},
    "train": {"batch_size": 32},
}


def bench_data(
    study: Path | None,
    steps: int,
    repeats: int,
    workers: Sequence[int],
    device: str | None,
    data_dir: Path | None,
    overrides: Sequence[str],
) -> Iterator[str]:
    """Lines of text: a table with a row per number of decoding processes, each arm's median images per second.

    The last column is the rate of both over that of the slower one alone: 1 where loading hides behind training.

    Args:
        study: its first trial is measured; None takes one of pictures made for the purpose.
        workers: numbers of processes that decode; empty takes the study's.

    Raises:
        StudyError: as `load_study` and `plan`, or data that is not there.
    """
    with ExitStack() as held:
        if study is None:
            if overrides:
                raise StudyError([f"--set: goes with a study (got {overrides[0]!r} and none); name one"])
            data_dir = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="initlab-bench-")))
            write_digits(data_dir)
        loaded = load_study(study, overrides) if study else Study.model_validate(DIGITS)
        trial = plan(loaded, str(study) if study else None)[0]
        spec = trial.spec
        settings = resolve(loaded, {"engine": "inline", "jobs": 1, "device": device}, data_dir=data_dir)
        check_data([trial], settings.access)
        torch.set_num_threads(settings.run.threads)
        yield (
            f"{spec.data.name} at batch {spec.train.batch_size}, {spec.net.name}-{spec.net.depth}, "
            f"{settings.run.device}, {settings.run.threads} threads: "
            f"median of {repeats} runs of {steps} steps each, in turn"
        )
        yield f"{'workers':>7}  {'loader':>10}  {'net':>10}  {'both':>10}  {'of the slower':>13}"
        for count in workers or [settings.run.workers]:
            loader, net, both = rates(trial, settings, count, steps, repeats)
            share = both / min(loader, net)
            yield f"{count:>7}  {loader:>8,.0f}/s  {net:>8,.0f}/s  {both:>8,.0f}/s  {share:>13.2f}"


def rates(
    trial: PlannedTrial, settings: Settings, workers: int, steps: int, repeats: int
) -> tuple[float, float, float]:
    """Median images per second of the loader alone, the net alone, and both."""
    device = torch.device(settings.run.device or "cpu")
    with tempfile.TemporaryDirectory(prefix="initlab-bench-") as cache:
        changes = {"workers": workers, "cache": settings.access.cache if settings.access.keep_decoded else cache}
        data = load_images(trial.spec, device, settings.access.model_copy(update=changes), {}, lambda line: None)
        net = build_net(trial.spec, data, device)
        seconds: dict[str, list[float]] = {"loader": [], "net": [], "both": []}
        for _ in range(repeats):
            for arm, found in seconds.items():
                found.append(timed(arm, trial.spec, data, net, steps))
    images = steps * trial.spec.train.batch_size
    loader, alone, both = (images / median(found) for found in seconds.values())
    return loader, alone, both


def timed(arm: str, spec: TrialSpec, data: Images, net: nn.Module, steps: int) -> float:
    """Seconds of `steps` steps of one arm, the device's work waited for."""
    device, optimizer = data.mean.device, sgd(net, spec)
    batches = data.train_batches(spec.seed, spec.train.batch_size, 0, WARM_UP + steps)
    batch = next(batches)
    net.train()
    started = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            wait(device)
            started = time.perf_counter()
        if arm != "net" and step > 0:
            batch = next(batches)
        if arm != "loader":
            train_on(net, optimizer, batch, spec, step)
    wait(device)
    return time.perf_counter() - started


def train_on(
    net: nn.Module, optimizer: torch.optim.SGD, batch: tuple[torch.Tensor, torch.Tensor], spec: TrialSpec, step: int
) -> None:
    """A trial's step, without its records."""
    set_dropout_step(net, spec.seed, step)
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(net(batch[0]), batch[1]).backward()
    optimizer.step()


def write_digits(root: Path, train: int = 64, val: int = 8) -> None:
    """Digits as JPEG files of many sizes, `train` and `val` of each class."""
    bunch, rng = load_digits(), np.random.default_rng(0)
    for label in range(10):
        images = bunch.images[bunch.target == label][: train + val]
        for index, image in enumerate(images):
            folder = root / ("train" if index < train else "val") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            width, height = (int(side) for side in rng.integers(80, 321, 2))
            grey = Image.fromarray((image * 15).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
            grey.convert("RGB").save(folder / f"{index}.jpg", quality=90)
