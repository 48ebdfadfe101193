"""Shallow pre-training: one shared shallow trial, run first, whose layers the deeper nets start from."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from initlab.launch.run import run
from initlab.nets.build import build_net
from initlab.plan.plan import plan, shallow_of
from initlab.store.files import CHECKPOINT
from initlab.study.mistakes import StudyError
from initlab.study.study import load_study
from initlab.train.start import start_from

DEEP = {"depth": 14}
TRAIN = {"shallow_depth": 11, "shallow_epochs": 1, "epochs": 0.5}


def test_first_four_convolutions_and_three_linear_layers_are_copied_and_no_others() -> None:
    torch.manual_seed(0)
    options = {"width": 4, "linear_width": 8, "input_shape": (1, 8, 8), "activation": "prelu"}
    shallow, deep = (build_net("plain", depth=depth, **options) for depth in (11, 22))
    before = {key: value.clone() for key, value in deep.state_dict().items()}
    copied = start_from(deep, shallow.state_dict())
    assert copied == ["conv1_1", "conv1_2", "conv1_3", "conv2_1", "fc1", "fc2", "fc3"]
    for key, value in deep.state_dict().items():
        taken = key.split(".")[0] in copied
        assert torch.equal(value, shallow.state_dict()[key] if taken else before[key]), key


def test_a_layer_that_does_not_fit_is_named() -> None:
    shallow, deep = (build_net("plain", depth=11, width=w, input_shape=(1, 8, 8)) for w in (4, 5))
    with pytest.raises(ValueError, match=r"conv1_1.weight does not fit \(got \(5, 1, 3, 3\)\); wanted \(4, 1, 3, 3\)"):
        start_from(deep, shallow.state_dict())


def test_deeper_nets_of_a_seed_share_one_shallow_trial(tiny: Callable[..., Path]) -> None:
    study = load_study(tiny(net=DEEP, train=TRAIN, grid={"net.depth": [13, 14], "seed": [0, 1]}))
    trials = plan(study)
    assert [(t.spec.net.depth, t.spec.seed) for t in trials] == [(11, 0), (13, 0), (11, 1), (13, 1), (14, 0), (14, 1)]
    shallow = shallow_of(trials[1].spec)
    assert shallow == trials[0].spec
    assert (shallow.train.epochs, shallow.train.shallow_depth, shallow.train.shallow_epochs) == (1.0, None, 14.0)


def test_a_deep_trial_starts_from_its_trained_shallow_net(tiny: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(tiny(net=DEEP, train=TRAIN))
    shallow, deep = (trial.id for trial in plan(study))
    results = run(study, tmp_path / "out", jobs=1, device="cpu", show="nothing")
    assert results.trials.state.tolist() == ["done", "done"]
    path = tmp_path / "out/trials" / shallow / "attempt-000" / CHECKPOINT
    trained = torch.load(path, weights_only=True)["net"]
    signals = results.signals[results.signals.step == 0].set_index(["trial", "name"]).weight_var
    for name in ("conv1_1", "conv2_1", "fc1", "fc3"):
        variance = trained[f"{name}.weight"].double().var(correction=0).item()
        assert signals[deep, name] == pytest.approx(variance, rel=1e-9)
        assert signals[shallow, name] != pytest.approx(variance, rel=1e-6)  # it has learned since
    alone = run(study, tmp_path / "alone", jobs=1, device="cpu", only=[deep], show="nothing")
    (failed,) = [t.status for t in alone.stored if t.id == deep]
    assert f"the shallow net's trial {shallow} is not finished; run the study without --only" in failed["error"]


@pytest.mark.parametrize(("depth", "words"), [(14, "not below the net's own .got 14."), (5, "too small for 3 stages")])
def test_a_shallow_net_must_be_one(depth: int, words: str, tiny: Callable[..., Path]) -> None:
    with pytest.raises(StudyError, match=f"train.shallow_depth: {words}"):
        plan(load_study(tiny(net=DEEP, train={"shallow_depth": depth})))
