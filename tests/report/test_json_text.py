"""JSON for other programs: only what JSON has."""

import json
import math

import numpy as np
import torch

from initlab.report.json_text import json_text, plain_data


def test_plain_data_has_no_nan_and_no_numpy() -> None:
    odd = {"a": (np.float64("nan"), np.int64(3), float("inf")), "b": [np.bool_(True), None, torch.Size([2])]}
    assert plain_data(odd) == {"a": [None, 3, None], "b": [True, None, [2]]}
    assert plain_data({"a": [math.inf, 1.5, True]}) == {"a": [None, 1.5, True]}
    assert json.loads(json_text(odd, indent=2)) == plain_data(odd)
