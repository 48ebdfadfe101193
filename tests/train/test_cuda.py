"""What a step does on a GPU, as far as a CPU can tell: captured steps, waits for the device, compilation."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from initlab.data.in_memory import ImageSet
from initlab.nets.build import to_modules
from initlab.plan.dimensions import describe
from initlab.study.spec import TrialSpec
from initlab.study.training import OPTIMIZERS
from initlab.train.cuda import WARM_UP, Captured, Compiled, kernels
from initlab.train.objective import Guess, Objective
from initlab.train.packed import Pack
from initlab.train.trial import Trial
from tests.train.tape import tape
from tests.train.test_packed import FOUR, Memory, alone, assert_same, assert_same_moments, begun, images, spec

VARIED = [
    one.model_copy(update={"train": one.train.model_copy(update={"dropout": 0.3})}) for one in FOUR
]  # a cosine and a plateau schedule, flips and shifts, two data sets, masks


@pytest.mark.parametrize("specs", [FOUR, VARIED], ids=["plain", "dropout"])
def test_a_captured_pack_gives_the_numbers_of_the_trials_alone(specs: list[Any]) -> None:
    trials = [begun(one) for one in specs]
    replays: list[int] = []

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        again = tape(step)
        return lambda: (replays.append(1), again())[1]

    pack = Pack(trials, capture)
    assert pack.unpackable_because() is None
    pack.run(lambda: False, 1e9)
    assert pack.eager is None
    assert len(replays) == 50 - WARM_UP - 1  # every step after the capture
    for trial, one in zip(trials, specs, strict=True):
        assert_same(alone(one)[0], trial)


def test_a_pack_that_a_trial_leaves_is_captured_anew() -> None:
    specs = [spec(0), spec(1, lr=1e9), spec(2, epochs=6)]
    trials = [begun(one) for one in specs]
    pack = Pack(trials, tape)
    pack.run(lambda: False, 1e9)
    assert pack.eager is None
    for i in (0, 2):
        assert_same(alone(specs[i])[0], trials[i])


def test_a_step_that_cannot_be_captured_runs_as_it_is_and_says_why() -> None:
    def capture(step: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors\nmight be")

    trials = [begun(spec(0)), begun(spec(1))]
    pack = Pack(trials, capture)
    pack.run(lambda: False, 1e9)
    assert pack.eager == "CUDA graph: RuntimeError: operation not permitted when stream is capturing CUDA kernel errors"
    assert_same(alone(spec(0))[0], trials[0])


def test_a_replay_that_differs_is_found_and_undone() -> None:
    weight, change = torch.zeros(3), torch.ones(3)
    steps = iter(range(100))

    def step() -> None:
        weight.add_(change * next(steps))  # a number that a capture holds fast

    captured = Captured(step, [weight], tape)
    for _ in range(10):
        captured()
    # the capture itself drew number 4, the other ten are those of a step each
    assert weight.tolist() == [sum(range(11)) - 4] * 3
    assert captured.reason == "CUDA graph: a replayed step differed from the step itself"


class Waits(TorchDispatchMode):
    """Operations for which the host waits for a device, and copies between devices that it waits for."""

    NAMES = ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.sent = 0
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.count += 1
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        masks = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) and index.dim() > 0
            for index in tree_leaves(args[1:2])
        )
        if name.lstrip("_") in [one.lstrip("_") for one in self.NAMES] or masks:
            self.waits.append(name)
        devices = {t.device.type for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor) and t.dim() > 0}
        if len(devices) > 1:
            self.sent += 1
            if not (kwargs.get("non_blocking") or (name == "copy" and True in args[2:3])):
                self.waits.append(f"{name} that waits")
        return result


def bare(trial_spec: TrialSpec) -> nn.Module:
    return to_modules(describe(trial_spec, 10, (1, 8, 8))).double()


HARD = {"data": {"flip": True, "shift": 1}, "dropout": 0.3, "net": {"activation": "prelu"}, "schedule": "cosine"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trials_step_waits_for_nothing(optimizer: str) -> None:
    trial = begun(spec(0, **HARD, optimizer=optimizer, clip_norm=1.0))
    trial.update()
    with Waits() as waits:
        for _ in range(3):
            trial.update()
    assert waits.waits == []
    with Waits() as waits:  # it does see what waits
        trial.log.sums[0].item()
        trial.log.sums[trial.log.sums > 0]
    assert {"_local_scalar_dense", "index"} <= set(waits.waits)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lion"])
def test_a_packs_step_waits_for_nothing_and_grows_little_with_the_pack(optimizer: str) -> None:
    fields = {**HARD, "optimizer": optimizer, "clip_norm": 1.0}
    counts, data = [], images(spec(0, **fields))
    for size in (2, 8):
        trials = [Trial(one, bare(one), data, Memory()) for one in (spec(seed, **fields) for seed in range(size))]
        pack = Pack(trials)
        pack.update()
        with Waits() as waits:
            pack.update()
        assert waits.waits == []
        counts.append(waits.count)
    assert counts[1] < 1.5 * counts[0]  # the draws of each trial on the CPU are not shared


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors that say they are on a GPU and hold nothing: any look at their numbers fails."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "backward", lambda loss: None)  # torch's engine wants a device that is there
    monkeypatch.setattr(torch.autograd, "grad", lambda total, weights: [torch.zeros_like(w) for w in weights])
    monkeypatch.setattr(nn.Module, "to", lambda net, **_: net)  # fake weights cannot be swapped for others
    objective = Objective("classes", Guess(0.9, None, math.log(10)))
    monkeypatch.setattr("initlab.train.trial.objective_of", lambda loss, data: objective)
    monkeypatch.setattr(Trial, "draws_ahead", False)  # another thread knows nothing of fake tensors
    with FakeTensorMode():
        yield


def on_fake_cuda(specs: list[TrialSpec], channels_last: bool | None = None) -> list[Trial]:
    """Trials whose images and nets lie on the fake GPU."""
    with torch.device("cuda"):
        data = ImageSet(
            train_inputs=torch.zeros(80, 3, 8, 8, dtype=torch.uint8),
            train_labels=torch.zeros(80, dtype=torch.int64),
            val_inputs=torch.zeros(40, 3, 8, 8, dtype=torch.uint8),
            val_labels=torch.zeros(40, dtype=torch.int64),
            mean=torch.zeros(3, 8, 8),
            factor=1.0,
            num_classes=10,
            flip=True,
            shift=1,
        )
        nets = [to_modules(describe(one, 10, (3, 8, 8))) for one in specs]
    return [Trial(one, net, data, Memory(), channels_last=channels_last) for one, net in zip(specs, nets, strict=True)]


@pytest.mark.parametrize("channels_last", [None, False])
def test_a_trials_step_on_cuda_sends_without_waiting(fake_cuda: None, channels_last: bool | None) -> None:
    (trial,) = on_fake_cuda([spec(0, **HARD, precision="float32")], channels_last)
    plain: list[bool] = []
    trial.net[0].register_forward_pre_hook(lambda _, inputs: plain.append(inputs[0].is_contiguous()))
    trial.update()
    with Waits() as waits:
        trial.update()
    assert waits.waits == []
    assert plain == [channels_last is False] * 2
    assert waits.sent == 1 + 2  # moves, and the masks of two layers; an epoch's order comes in its first step
    with pytest.raises(DataDependentOutputException):
        trial.log.sums[0].item()
    with Waits() as waits:
        torch.ones(3).to("cuda")
    assert waits.waits == ["_to_copy that waits"]


@pytest.mark.parametrize("running_every", [0, 1])
def test_a_packs_step_on_cuda_sends_once_for_all_its_trials(fake_cuda: None, running_every: int) -> None:
    probe = {"running_every": running_every}
    pack = Pack(on_fake_cuda([spec(seed, **HARD, precision="float32", probe=probe) for seed in range(4)]))
    pack.update()
    with Waits() as waits:
        pack.update()
    assert waits.waits == []
    # moves, masks, the learning rates of a cosine, and for which trials a step gives running moments
    assert waits.sent == 1 + 2 + 1 + running_every


class Compilations:
    """A backend for torch.compile that runs what it is given, and counts the pieces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.pieces, self.error = 0, error
        compiled = torch.compile
        monkeypatch.setattr(torch, "compile", lambda net, mode: compiled(net, backend=self))

    def __call__(self, module: Any, inputs: Any) -> Any:
        self.pieces += 1
        if self.error:
            raise self.error
        return module


def test_a_compiled_net_is_one_piece_and_gives_the_nets_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    compilations = Compilations(monkeypatch)
    plain, compiled = begun(spec(0, **HARD)), begun(spec(0, **HARD))
    compiled.passes.forward = Compiled(compiled.net)  # as on a GPU
    for trial in (plain, compiled):
        trial.run(lambda: False, 1e9)
    assert (compilations.pieces, compiled.passes.forward.reason) == (1, None)  # dropout's masks come from outside
    assert_same(plain, compiled)


def test_every_net_of_a_long_sweep_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compilations = Compilations(monkeypatch)
    compiled = [Compiled(nn.Sequential(*(nn.Linear(2, 2) for _ in range(depth)))) for depth in range(1, 13)]
    for one in compiled:
        for _ in range(2):
            one(torch.ones(3, 2))
    assert compilations.pieces == 12
    compiled[0](torch.ones(3, 2))  # one that is still in use
    assert (compilations.pieces, {one.reason for one in compiled}) == (13, {None})


@pytest.mark.parametrize("every", [1, 3])
def test_sampled_steps_are_a_second_piece_with_the_moments_of_the_net_itself(
    every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations = Compilations(monkeypatch)
    watched = spec(0, **HARD, probe={"running_every": every})
    plain, compiled = begun(watched), begun(watched)
    compiled.passes.forward = Compiled(compiled.net)
    for trial in (plain, compiled):
        trial.run(lambda: False, 1e9)
    assert (compilations.pieces, compiled.passes.forward.reason) == (1 if every == 1 else 2, None)
    assert_same(plain, compiled)
    assert len(plain.recorder.running) > 20
    assert_same_moments(plain.recorder, compiled.recorder)


def test_where_torch_cannot_compile_the_net_runs_as_it_is_and_the_trial_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Compilations(monkeypatch, ValueError("no triton here\nsecond line"))
    plain, compiled = begun(spec(0, **HARD)), begun(spec(0, **HARD))
    compiled.passes.forward = Compiled(compiled.net)
    outcomes = [trial.run(lambda: False, 1e9) for trial in (plain, compiled)]
    assert_same(plain, compiled)
    assert "eager" not in outcomes[0].figures
    assert outcomes[1].figures["eager"].startswith("torch.compile: BackendCompilerFailed: ")
    assert "no triton here" in outcomes[1].figures["eager"]
    assert "\n" not in outcomes[1].figures["eager"]


def test_an_error_of_the_net_itself_is_no_failure_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda net, mode: net)
    compiled = Compiled(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiled(torch.ones(2, 4))
    assert compiled.reason is None


def test_on_cuda_float32_is_float32_and_the_settings_are_the_callers_again_afterwards() -> None:
    def settings() -> tuple[Any, ...]:
        backends = torch.backends
        return backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(), backends.cudnn.benchmark

    torch.set_float32_matmul_precision("high")
    before = settings()
    try:
        with kernels(torch.device("cuda")):
            assert settings() == (False, "highest", True)
        assert settings() == before
        with kernels(torch.device("cpu")):
            assert settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")
