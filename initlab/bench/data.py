"""`initlab bench data`: the loader alone, the net alone and both together, in images per second of one run.

The loader alone makes training batches that nobody uses; the net alone trains on one batch again and again; both
together are a trial's own loop. The arms alternate, so that what else the machine does falls on all of them.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from initlab.bench.timing import in_turn, seconds
from initlab.bench.trials import first_trial, silent_trial
from initlab.launch.checks import check_data
from initlab.launch.settings import resolve
from initlab.train.trial import Trial

# Steps before the clock starts: first kernels, first processes.
WARM_UP = 2
# Without a study: pictures of digits, of all sizes, in a folder that lasts as long as the measurement.
DIGITS = {
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

    The last column is the rate of both over that of the slower one alone: 1 where loading hides behind training. The
    first trial of `study` is measured, without one a trial on pictures of digits; no `workers` takes the study's.

    Raises:
        StudyError: as `load_study` and `plan`, or data that is not there.
    """
    loaded, planned = first_trial(study, DIGITS, overrides)
    with ExitStack() as folders:
        if study is None:
            data_dir = Path(folders.enter_context(tempfile.TemporaryDirectory(prefix="initlab-bench-")))
            write_digits(data_dir)
        spec = planned.spec
        settings = resolve(loaded, {"engine": "inline", "jobs": 1, "device": device}, data_dir=data_dir)
        check_data([planned], settings.access)
        torch.set_num_threads(settings.run.threads)
        what = f"{spec.data.name} at batch {spec.train.batch_size}, {spec.net.name}-{spec.net.depth}"
        where = f"{settings.run.device}, {settings.run.threads} threads"
        yield f"{what}, {where}: median of {repeats} runs of {steps} steps each, in turn"
        yield f"{'workers':>7}  {'loader':>10}  {'net':>10}  {'both':>10}  {'of the slower':>13}"
        for count in workers or [settings.run.workers]:
            # Each count decodes anew, unless the study keeps decoded pictures.
            cache = folders.enter_context(tempfile.TemporaryDirectory(prefix="initlab-bench-"))
            folder = settings.access.cache if settings.access.keep_decoded else cache
            # Pictures that stay on the device leave no loader to measure.
            access = settings.access.model_copy(update={"workers": count, "cache": folder, "resident": False})
            trial = silent_trial(spec, torch.device(settings.run.device or "cpu"), access)
            arms = {arm: partial(timed, arm, trial, steps) for arm in ("loader", "net", "both")}
            images = steps * spec.train.batch_size
            loader, net, both = (images / median(times) for times in in_turn(arms, repeats).values())
            share = both / min(loader, net)
            yield f"{count:>7}  {loader:>8,.0f}/s  {net:>8,.0f}/s  {both:>8,.0f}/s  {share:>13.2f}"


def timed(arm: str, trial: Trial, steps: int) -> float:
    """Seconds of `steps` steps of one arm, after a warm-up; the weights go on from those of the last arm."""
    spec, trial.step = trial.spec, 0
    batches = trial.data.train_batches(spec.seed, spec.train.batch_size, 0, WARM_UP + steps)
    trial.batches = repeat(next(batches)) if arm == "net" else batches
    step = partial(next, batches) if arm == "loader" else trial.update
    for _ in range(WARM_UP):
        step()
    return seconds(step, trial.data.device, steps)


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
