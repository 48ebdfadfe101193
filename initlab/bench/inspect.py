"""`initlab bench inspect`: what looking at a model costs, in plain forward and backward passes of the same run."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median

import torch

from initlab.bench.timing import in_turn, seconds
from initlab.init.apply import init_
from initlab.inspection.inspect import inspect
from initlab.inspection.subject import Subject
from initlab.nets.build import build_net
from initlab.nets.undisturbed import first_tensor, untouched
from initlab.plan.dimensions import shape_text
from initlab.signal.probe import measure, summed_loss
from initlab.signal.theory.predict import predict


def bench_inspect(subject: Subject, repeats: int, draws: int) -> Iterator[str]:
    """Lines of text: seconds and passes of the measurement, the theory, `inspect` without and with its redraws.

    The arms take turns, and each figure is the median over `repeats`; redrawn bands run once.
    """
    model, images, labels = subject.module, subject.images, subject.labels
    # The command names no inputs of its own, so that a model gets images or numbers.
    assert isinstance(images, torch.Tensor)
    arms: dict[str, Callable[[], object]] = {
        "plain pass": partial(plain_pass, subject),
        "measure": partial(measure, model, images, labels),
        "predict": partial(predict, model, batch=images, labels=labels),
        "no redraws": partial(inspect, model, images, labels, redraws=0),
        "inspect": partial(inspect, model, images, labels),
    }
    measured = in_turn({name: partial(seconds, work, images.device) for name, work in arms.items()}, repeats + 1)
    # The first round warms caches up.
    medians = {name: median(rounds[1:]) for name, rounds in measured.items()}
    yield f"{subject.name}, {len(images)} images of {shape_text(images.shape[1:])}, median of {repeats} rounds"
    if draws:
        redrawn = partial(predict, model, batch=images, labels=labels, draws=draws)
        medians[f"{draws} draws"] = seconds(redrawn, images.device)
    for name, spent in medians.items():
        yield f"{name:<12} {spent:8.3f} s {spent / medians['plain pass']:7.2f} passes"


def bench_memory(resolve: Callable[[], Subject]) -> Iterator[str]:
    """Lines of text: the most memory that a training step and an inspection took, each in a process of its own."""
    peaks = {}
    for arm in (training_step, inspected):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, peaks[arm] = pool.apply(peak_of, (resolve, arm))
    step = peaks[training_step]
    yield f"memory, of which {before:.0f} MB are there before the model; then of tensors alone, however these are freed"
    for arm, peak in peaks.items():
        yield f"{arm.__name__.replace('_', ' '):<13} {peak:8.0f} MB {(peak - before) / (step - before):6.2f} steps"
    # The model is part of either.
    sizes = {arm: most_bytes(partial(resolved, resolve, arm)) / 2**20 for arm in peaks}
    for arm, size in sizes.items():
        yield f"{arm.__name__.replace('_', ' '):<13} {size:8.0f} MB {size / sizes[training_step]:6.2f} steps"


def most_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors on a CPU that were there at once because of the work, whatever becomes of freed ones.

    4,000,000 for `lambda: torch.ones(1_000_000)`.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes: list[int] = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes, initial=0))


def resolved(resolve: Callable[[], Subject], work: Callable[[Subject], object]) -> None:
    """The work on a subject, from its making on."""
    work(resolve())


def peak_of(resolve: Callable[[], Subject], work: Callable[[Subject], object]) -> tuple[float, float]:
    """MB that this process took at most before and after the work on a subject."""
    before = peak_memory()
    resolved(resolve, work)
    return before, peak_memory()


def peak_memory() -> float:
    """The most memory that this process had, in MB, as Linux counts it from the process's own start."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def training_step(subject: Subject) -> None:
    """Forward, backward and a step of AdamW."""
    optimizer = torch.optim.AdamW(subject.module.parameters())
    summed_loss(first_tensor(subject.module(subject.images)), subject.labels, None).backward()
    optimizer.step()


def inspected(subject: Subject) -> None:
    """What `inspect` does."""
    inspect(subject.module, subject.images, subject.labels)


def bench_depths(depths: Sequence[int], repeats: int) -> Iterator[str]:
    """Lines of text: what rectifier nets of so many linear layers cost under He's weights, in all and per layer."""
    images, labels = torch.randn(64, 64), torch.arange(64) % 10
    yield f"linear layers of 64 units and ReLUs, 64 examples; seconds, and ms a layer; median of {repeats} rounds"
    yield f"{'layers':>6} {'plain pass':>10} {'predict':>14} {'inspect':>14}"
    for depth in depths:
        net = build_net("mlp", depth=depth, width=64, num_classes=10, input_shape=(64,))
        subject = Subject("mlp", init_(net, "he", seed=0), images, labels)
        arms: dict[str, Callable[[], object]] = {
            "plain pass": partial(plain_pass, subject),
            "predict": partial(predict, net, batch=images, labels=labels),
            "inspect": partial(inspect, net, images, labels),
        }
        measured = in_turn({name: partial(seconds, work, images.device) for name, work in arms.items()}, repeats + 1)
        plain, *others = (median(rounds[1:]) for rounds in measured.values())
        cells = " ".join(f"{spent:8.2f} {1000 * spent / depth:5.1f}" for spent in others)
        yield f"{depth:>6} {plain:>10.3f} {cells}"


def plain_pass(subject: Subject) -> None:
    """Forward and backward through the model, as a training step has them."""
    with untouched(subject.module, backward=True):
        output = first_tensor(subject.module(subject.images))
        loss = output.sum() if subject.labels is None else summed_loss(output, subject.labels, None)
        torch.autograd.grad(loss, [p for p in subject.module.parameters() if p.requires_grad], allow_unused=True)
