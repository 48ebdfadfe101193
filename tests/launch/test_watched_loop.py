"""`watch`: a loop of one's own trains as it would unwatched, and is read as a trial is."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

import initlab
from initlab.engine.lease import Held
from initlab.errors import UserError
from initlab.plots.signals import signals_table
from initlab.signal.probe import measure
from initlab.store.files import StoreError
from initlab.store.verify import faults


def batch(seed: int = 0, examples: int = 32) -> tuple[Tensor, Tensor]:
    """Two classes that the sign of the first input tells apart."""
    inputs = torch.randn(examples, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0] > 0).long()


X, Y = batch()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)
    return nn.Sequential(*layers)


def train(model: nn.Module, steps: int, watch=None, rate: float = 0.1) -> list[float]:
    """A plain loop with momentum and dropout; its losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    losses = []
    for step in range(steps):
        inputs, labels = batch(1 + step)
        output = model(inputs)
        loss = F.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if watch:
            watch.step(loss=loss, error=(output.argmax(1) != labels).float().mean(), lr=rate)
    return losses


def test_the_loop_trains_as_it_would_unwatched_to_the_bit(tmp_path: Path):
    plain, watched = net(), net()
    losses = train(plain, 12)
    state = torch.get_rng_state()
    with initlab.watch(watched, tmp_path, every=3, batch=batch()) as w:
        torch.manual_seed(0)
        net()
        assert train(watched, 12, w) == losses
    assert torch.equal(torch.get_rng_state(), state)
    for (name, a), b in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_store_has_what_the_probe_and_the_loop_had(tmp_path: Path):
    model = net()
    at_start = measure(model, *batch(), weight_decay=0.01)
    with initlab.watch(
        model, tmp_path, every=4, batch=batch(), weight_decay=0.01, steps_per_epoch=5, tags={"init.scheme": "he"}
    ) as w:
        losses = train(model, 10, w)
    results = initlab.load(tmp_path)
    assert results.problems == faults(results) == []
    assert results.scalars.step.tolist() == [0, 4, 8, 10]
    assert results.scalars.epoch.tolist() == [0, 0.8, 1.6, 2]
    means = [sum(part) / len(part) for part in (losses[:4], losses[4:8], losses[8:])]
    assert results.scalars.train_loss[1:].tolist() == pytest.approx(means)
    assert results.signals[results.signals.step == 0].forward_var.tolist() == [row["forward_var"] for row in at_start]
    # The loss is a mean times its examples here, and a sum there.
    assert results.signals.decay_ratio[:2].tolist() == pytest.approx([row["decay_ratio"] for row in at_start])
    (trial,) = results.trials.to_dict("records")
    assert (trial["state"], trial["init.scheme"]) == ("done", "he")
    assert trial["net.name"] == "torch.nn.modules.container:Sequential"
    assert set(results.signals_near(["end"]).step) == {10}
    assert results.forecasts.empty


def test_only_what_is_known_of_the_loop_is_written(tmp_path: Path):
    with initlab.watch(net(), tmp_path, batch=batch(), name="mine", tags={"seed": 3}):
        pass
    case = {"data.name": "watched:batch", "net.name": "torch.nn.modules.container:Sequential"}
    expected = {**case, "init.scheme": "watched:mine", "seed": 3}
    assert yaml.safe_load((tmp_path / "study.yaml").read_text()) == {"name": "watched", "cases": [expected]}
    assert "epochs" not in next(tmp_path.glob("trials/*/trial.json")).read_text()


@pytest.mark.parametrize("with_error", [True, False])
def test_the_verdict_tells_a_loop_that_learns_from_one_that_does_not(tmp_path: Path, with_error: bool):
    for name, shift in (("learns", 1.0), ("stands", 0.0)):
        with initlab.watch(net(), tmp_path, every=50, batch=batch(), name=name) as w:
            for _ in range(100):
                # Of two classes guessing has ln 2.
                error = 0.5 - 0.3 * shift if with_error else None
                w.step(loss=0.693 - 0.3 * shift, error=error)
    verdicts = initlab.load(tmp_path).verdicts
    assert verdicts.verdict.tolist() == ["slow", "stalled"]


def test_labels_that_only_the_loss_reads_have_no_verdict(tmp_path: Path):
    labels = {"classes": Y}
    loss = lambda output, labels: F.cross_entropy(output, labels["classes"])  # noqa: E731
    with initlab.watch(net(), tmp_path, batch=(X, labels), loss=loss) as w:
        w.step(loss=0.1, error=0.0)
    results = initlab.load(tmp_path)
    assert results.verdicts.verdict.tolist() == [None]
    assert "guessing has is not known" in results.verdicts.reason[0]
    assert (results.signals.backward_var > 0).all()


def test_a_loss_that_is_not_finite_is_a_divergence(tmp_path: Path):
    with initlab.watch(net(), tmp_path, batch=batch()) as w:
        w.step(loss=float("nan"))
    assert initlab.load(tmp_path).trials.verdict.tolist() == ["diverged"]


def test_figures_compare_the_loops_of_a_folder(tmp_path: Path):
    for scheme in ("he", "xavier"):
        for seed in (0, 1):
            with initlab.watch(net(), tmp_path, batch=batch(), tags={"init.scheme": scheme, "seed": seed}) as w:
                w.step(loss=0.7)
    results = initlab.load(tmp_path)
    table = signals_table(results)
    assert set(table.seeds) == {2}
    assert set(table["init.scheme"]) == {"he", "xavier"}
    figure = initlab.plots.signals(results)
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt(), "interrupted"), (RuntimeError("no more data"), "failed")]
)
def test_a_loop_that_ends_early_keeps_what_it_had(tmp_path: Path, error: BaseException, state: str):
    with pytest.raises(type(error)), initlab.watch(net(), tmp_path, every=2, batch=batch()) as w:
        for _ in range(3):
            w.step(loss=0.7)
        raise error
    results = initlab.load(tmp_path)
    assert results.trials.state.tolist() == [state]
    assert results.scalars.step.tolist() == ([0, 2, 3] if state == "interrupted" else [0, 2])
    if state == "failed":
        assert results.stored[0].status["error"] == "RuntimeError: no more data"


def test_a_loop_that_goes_on_is_a_new_attempt_at_the_same_trial(tmp_path: Path):
    model = net()
    with pytest.raises(KeyboardInterrupt), initlab.watch(model, tmp_path, every=2, batch=batch()) as w:
        train(model, 6, w)
        raise KeyboardInterrupt
    # The loop's own checkpoint is of step 4, so that what came behind it is done again.
    with initlab.watch(model, tmp_path, every=2, batch=batch(), step=4) as w:
        train(model, 4, w)
    results = initlab.load(tmp_path)
    assert results.scalars.step.tolist() == [0, 2, 4, 6, 8]
    assert results.scalars.attempt.tolist() == [0, 0, 0, 1, 1]
    assert results.trials.state.tolist() == ["done"]
    assert faults(results) == []
    with initlab.watch(model, tmp_path, every=2, batch=batch()) as w:
        w.step(loss=0.5)
    assert initlab.load(tmp_path).scalars.attempt.tolist() == [2, 2]


def test_what_was_never_kept_cannot_be_gone_on_with(tmp_path: Path):
    with pytest.raises(StoreError, match=r"nothing kept to go on from \(got step 5\)"):
        initlab.watch(net(), tmp_path, batch=batch(), step=5).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_the_same_loop_twice_at_once_is_refused_and_another_is_not(tmp_path: Path):
    with initlab.watch(net(), tmp_path, batch=batch(), name="one"):
        with pytest.raises(Held, match="held by another launch"):
            initlab.watch(net(), tmp_path, batch=batch(), name="one").__enter__()
        with initlab.watch(net(), tmp_path, batch=batch(), name="two"):
            assert initlab.load(tmp_path).trials.state.tolist() == ["running", "running"]
    assert initlab.load(tmp_path).trials.state.tolist() == ["done", "done"]


def test_a_loop_whose_process_is_killed_counts_as_interrupted(tmp_path: Path):
    code = f"""
import os, signal, torch, initlab
from torch import nn
with initlab.watch(nn.Linear(2, 2), {str(tmp_path)!r}, every=1, batch=(torch.eye(2), torch.arange(2))) as w:
    w.step(loss=0.7)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], timeout=120)
    results = initlab.load(tmp_path)
    assert results.trials.state.tolist() == ["interrupted"]
    assert results.problems == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batch": X}, "no pair"),
        ({"batch": (X, Y.int())}, "labels of a wrong type .*int32"),
        ({"batch": (X, Y + 5)}, "out of range .*5 to 6.*allowed: 0 to 1"),
        ({"batch": (X, torch.zeros_like(Y))}, "all alike"),
        ({"batch": (X * float("nan"), Y)}, "NaN or infinite in 192 of 192"),
        ({"batch": (X[:0], Y[:0])}, "no examples"),
        ({"batch": (X, Y), "every": 0}, "every: not a number of updates .*at least 1"),
        ({"batch": (X, Y), "name": "a b"}, "name: not a name"),
        ({"batch": (X, Y), "tags": {"init.scheem": "he"}}, "init.scheem: no such field"),
        ({"batch": (X, Y), "tags": {"init.scheme": "hee"}}, "init.scheme: unknown scheme"),
        ({"batch": (X, Y), "tags": {"net.depth": 7}}, "net.depth: says nothing of a model of yours"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(tmp_path: Path, arguments: dict, text: str):
    with pytest.raises(UserError, match=text) as raised, initlab.watch(net(), tmp_path, **arguments):
        pass
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_of_several_numbers_is_refused(tmp_path: Path):
    with (
        pytest.raises(UserError, match=r"loss: not a single number \(got shape \(32,\)\)"),
        initlab.watch(net(), tmp_path, batch=batch()) as w,
    ):
        w.step(loss=torch.zeros(32))


def test_a_folder_of_a_study_is_no_place_for_a_loop_nor_the_other_way_round(tmp_path: Path):
    (tmp_path / "study.yaml").write_text("name: a\n")
    with pytest.raises(StoreError, match="holds a study that initlab runs"):
        initlab.watch(net(), tmp_path, batch=batch()).__enter__()
    assert not (tmp_path / "trials").exists()
    other = tmp_path / "watched"
    with initlab.watch(net(), other, batch=batch()):
        pass
    with pytest.raises(UserError, match="which cannot be run"):
        initlab.run(other / "study.yaml", other, allow_code=True)
    with pytest.raises(StoreError, match=r"holds loops that initlab\.watch watched"):
        initlab.run(initlab.Study(name="a"), other, show="nothing")
