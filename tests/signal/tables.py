"""Tables of signals with chosen numbers, as `diagnose` takes them."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd


def table(
    forward: Sequence[float], *, backward: Sequence[float] | float = math.nan, width: Sequence[int] | int = 64
) -> pd.DataFrame:
    """One row per layer `a`, `b`, ...: these second moments, no means, half of the units active."""
    columns: dict[str, Any] = {
        "name": [chr(ord("a") + i % 26) * (1 + i // 26) for i in range(len(forward))],
        "calls": 1,
        "width": width,
        "forward_mean": 0.0,
        "forward_var": list(forward),
        "backward_mean": 0.0,
        "backward_var": backward,
        "weight_var": 1.0,
        "zero_fraction": 0.5,
        "decay_ratio": math.nan,
        "weight_grad_rms": 1.0,
    }
    rows = pd.DataFrame(columns)
    return rows.assign(outputs=rows.width.astype(float))
