"""`try_inits`: trials of a study, of a model and data that are at hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import initlab
from initlab.errors import UserError

INPUTS = 3 * torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()
FEW = {"schemes": ["he"], "seeds": 1, "steps": 4, "batch_size": 8, "show": "nothing"}


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def small(normals: Tensor, layer: object) -> Tensor:
    """A scheme of one's own."""
    return 0.01 * normals


def test_every_scheme_and_seed_is_a_trial_of_so_many_steps(tmp_path: Path):
    schemes = ["he", small]
    results = initlab.try_inits(
        build, (INPUTS, LABELS), schemes=schemes, seeds=2, steps=7, batch_size=8, out=tmp_path, show="nothing"
    )
    trials = results.trials
    assert [scheme.rpartition(":")[2] for scheme in trials["init.scheme"]] == ["he", "he", "small", "small"]
    assert trials.seed.tolist() == [0, 1, 0, 1]
    assert set(trials.state) == {"done"}
    assert results.scalars.groupby("trial").step.max().tolist() == [7] * 4
    # The scheme's own std, and He's 2 / fan_in, of the first layer.
    first = results.signals[(results.signals.step == 0) & (results.signals.layer == 0)].set_index("trial").weight_var
    of_small = first[trials[trials["init.scheme"] != "he"].trial]
    assert of_small.tolist() == pytest.approx([1e-4] * 2, rel=0.6)
    again = initlab.try_inits(
        build, (INPUTS, LABELS), schemes=schemes, seeds=2, steps=7, batch_size=8, out=tmp_path, show="nothing"
    )
    assert again.trials.attempts.tolist() == [1] * 4
    other = initlab.try_inits(build, (INPUTS + 1, LABELS), out=tmp_path, **FEW)
    assert len(other.trials) == 5
    assert set(other.trials.attempts) == {1}


def test_inputs_come_to_the_model_as_they_are():
    means: list[float] = []

    class Listens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            means.extend(inputs[:, 0].tolist())
            return self.layer(inputs)

    initlab.try_inits(Listens, (INPUTS, LABELS), **FEW)
    given = INPUTS[:, 0].tolist()
    assert all(min(abs(mean - value) for value in given) == 0 for mean in set(means))


def test_a_temporary_folder_lasts_as_long_as_the_results():
    results = initlab.try_inits(build, (INPUTS, LABELS), **FEW)
    folder = results.out
    assert len(results.signals)
    del results
    assert not folder.exists()


def test_what_a_function_closes_over_tells_trials_apart(tmp_path: Path):
    def of_width(width: int):
        return lambda: nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))

    for width in (4, 5):
        results = initlab.try_inits(of_width(width), (INPUTS, LABELS), out=tmp_path, **FEW)
    assert len(results.trials) == 2


@pytest.mark.slow
def test_processes_of_their_own_give_the_same_numbers():
    def local() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    options = {**FEW, "schemes": ["he", small], "loss": nn.functional.cross_entropy}
    here = initlab.try_inits(local, (INPUTS, LABELS), **options)
    there = initlab.try_inits(local, (INPUTS, LABELS), jobs=2, **options)
    losses = here.scalars.train_loss.dropna().tolist()
    assert len(losses) == 8
    assert there.scalars.train_loss.dropna().tolist() == losses


def test_what_cannot_be_pickled_is_said_before_anything_runs(tmp_path: Path):
    import threading

    lock = threading.Lock()

    def locked() -> nn.Module:
        with lock:
            return build()

    with pytest.raises(UserError, match=r"cannot be pickled for processes of their own \(.*lock.*give jobs=1"):
        initlab.try_inits(locked, (INPUTS, LABELS), out=tmp_path, jobs=2, **FEW)
    assert set(initlab.try_inits(locked, (INPUTS, LABELS), out=tmp_path, **FEW).trials.state) == {"done"}


SHARED = build()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"build": SHARED}, "build: no function that makes a model .got a model"),
        ({"build": lambda: SHARED}, "build: gives the same model twice"),
        ({"build": lambda: 3}, "build: gives no nn.Module .got int"),
        ({"build": lambda: nn.Linear(6, 1)}, r"does not fit labels of shape \(2,\) \(got \(2, 1\)"),
        ({"data": (INPUTS, LABELS - 1)}, "train_labels: out of range .got -1 to 0"),
        ({"data": (INPUTS, LABELS * 0)}, "every trial failed: .*labels are all alike"),
        ({"data": (INPUTS * float("nan"), LABELS)}, "NaN or infinite"),
        ({"data": (INPUTS, LABELS[:5])}, "not a label for each input"),
        ({"data": (INPUTS,)}, "no pair .got a tuple of 1"),
        ({"data": iter(())}, "gave no example"),
        ({"data": DataLoader(INPUTS, batch_size=4)}, "gives no pair .got Tensor"),
        ({"data": 3}, "no data set .got int"),
        ({"batch_size": 65}, "batch_size: more than there are to train on .got 65 of 64"),
        ({"steps": 0}, "steps: out of range .got 0"),
        ({"schemes": ["hee"]}, "init.scheme: unknown scheme .got 'hee'"),
        ({"loss": lambda output, labels: output.flatten()}, "every trial failed: .*train.loss"),
        ({"fields": {"train.momentun": 0.9}}, "train.momentun: unknown key"),
    ],
)
def test_wrong_use_is_one_line(change: dict, text: str):
    given = {"build": build, "data": (INPUTS, LABELS), **FEW, **change}
    with pytest.raises(UserError, match=text) as raised:
        initlab.try_inits(given.pop("build"), given.pop("data"), **given)
    assert "\n" not in str(raised.value)
