"""`initlab bench inspect`: what looking at a model costs, in plain forward and backward passes of the same run."""

import time
from collections.abc import Callable, Iterator
from statistics import median

import torch

from initlab.inspection.inspect import inspect
from initlab.inspection.subject import Subject
from initlab.nets.undisturbed import first_tensor, untouched
from initlab.signal.probe import measure, summed_loss
from initlab.signal.theory.predict import predict


def bench_inspect(subject: Subject, repeats: int, draws: int) -> Iterator[str]:
    """Lines of text: seconds and passes of the measurement, the theory, both (`inspect`) and redrawn bands.

    The arms take turns, and each figure is the median over `repeats`; redrawn bands run once.
    """
    model, images, labels = subject.module, subject.images, subject.labels
    arms: dict[str, Callable[[], object]] = {
        "plain pass": lambda: plain_pass(subject),
        "measure": lambda: measure(model, images, labels),
        "predict": lambda: predict(model, batch=images, labels=labels),
        "inspect": lambda: inspect(model, images, labels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats + 1):
        for name, arm in arms.items():
            spent = timed(arm)
            if repeat:  # the first round warms caches up
                seconds[name].append(spent)
    unit = median(seconds["plain pass"])
    yield f"{subject.name}, {len(images)} images of {'x'.join(map(str, images.shape[1:]))}, median of {repeats} rounds"
    for name, rounds in seconds.items():
        yield f"{name:<12} {median(rounds):8.3f} s {median(rounds) / unit:7.2f} passes"
    if draws:
        redrawn = timed(lambda: predict(model, batch=images, labels=labels, draws=draws))
        yield f"{f'{draws} draws':<12} {redrawn:8.3f} s {redrawn / unit:7.2f} passes"


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def plain_pass(subject: Subject) -> None:
    """Forward and backward through the model, as a training step has them."""
    with untouched(subject.module, backward=True):
        output = first_tensor(subject.module(subject.images))
        loss = output.sum() if subject.labels is None else summed_loss(output, subject.labels, None)
        torch.autograd.grad(loss, [p for p in subject.module.parameters() if p.requires_grad], allow_unused=True)
