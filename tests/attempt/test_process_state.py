"""What a trial sets for its process ends with it: the next trial has the numbers that it has alone."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import initlab
from initlab.attempt.process_state import SETTINGS, process_state_kept
from tests.engine.mine import net

CPU = torch.device("cpu")


def unsettle() -> None:
    """Change all that a process has of settings."""
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("medium")
    torch.set_num_threads(3)
    torch.autograd.set_detect_anomaly(True)
    torch.set_flush_denormal(True)
    torch.set_autocast_enabled("cpu", True)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic = True
    torch.backends.mkldnn.enabled = False
    os.environ["INITLAB_TEST_LEFT"] = "1"
    os.environ.pop("PATH", None)
    os.chdir("/")
    random.seed(1)
    np.random.seed(1)


def test_every_setting_is_as_before() -> None:
    def now() -> list[object]:
        draws = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return [*(get() for get, _ in SETTINGS), dict(os.environ), os.getcwd(), *draws]

    before = now()
    with pytest.raises(ValueError, match="on the way"), process_state_kept(CPU):
        unsettle()
        torch.rand(3, device="cpu")
        with torch.random.fork_rng(devices=[]):
            assert sum(a != b for a, b in zip(now(), before, strict=True)) >= 15
        raise ValueError("on the way")
    assert now() == before


def settled(num_classes: int, input_shape: tuple[int, int, int], unsettles: bool = False) -> nn.Module:
    """A small net; building it may change every setting of the process."""
    made = net(num_classes, input_shape)
    if unsettles:
        unsettle()
    return made


@pytest.mark.parametrize("pack", [1, 2])
def test_a_trial_after_one_that_sets_everything_has_the_numbers_it_has_alone(
    pack: int, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    def losses(name: str, options: list[dict[str, bool]]) -> pd.Series:
        study = tiny(
            net={"name": "tests.attempt.test_process_state:settled"},
            train={"epochs": 1},
            run={"isolate": "none", "pack": pack},
            grid={"net.options": options},
        )
        results = initlab.run(study, tmp_path / name, jobs=1, device="cpu", show="nothing", allow_code=True)
        last = [trial.id for trial in results.stored if not trial.spec.net.options.get("unsettles")]
        return results.scalars[results.scalars.trial.isin(last)].train_loss.reset_index(drop=True)

    alone = losses("alone", [{}])
    assert len(alone) > 3
    pd.testing.assert_series_equal(losses("after", [{"unsettles": True}, {}]), alone, check_exact=pack == 1)
