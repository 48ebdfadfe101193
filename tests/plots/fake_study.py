"""Studies by hand: `Fake` has the frames of `Results` that figures read, filled from a few numbers per trial."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from initlab.store.columns import names
from initlab.study.claims import Claim
from initlab.study.spec import TrialSpec

STEPS_PER_EPOCH = 10
NAN = math.nan


@dataclass
class Fake:
    """Trials are added one by one; the frames are made as they are read."""

    threshold: float | None = None
    out: Path = Path("fake")
    extra: list[str] = field(default_factory=list)  # dotted paths with a column in `trials`, as if they varied
    claims: list[Claim] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    learned: list[dict[str, Any]] = field(default_factory=list)
    sampled: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        scheme: str,
        seed: int = 0,
        depth: int = 30,
        *,
        val: dict[float, float] | None = None,
        train: dict[int, tuple[float, float]] | None = None,
        probes: dict[int, list[tuple[float, float]]] | None = None,
        slopes: dict[int, list[tuple[float, float]]] | None = None,
        running: dict[int, list[tuple[float, float]]] | None = None,
        verdict: str | None = "slow",
        state: str = "done",
        in_study: bool = True,
        fields: dict[str, Any] | None = None,
    ) -> str:
        """A trial with validation errors by epoch, (loss, error) by step, and (forward, backward) per layer by step.

        `slopes` are (mean, std) per layer by step; `running` as `probes`.
        """
        trial = f"t{len(self.rows):03d}-{scheme}-{seed}-{depth}"
        val = {} if val is None else val
        last = val[max(val)] if val else NAN
        fields = fields or {}
        self.rows.append(
            {
                "trial": trial,
                "state": state,
                "attempts": 1,
                "seed": seed,
                "net.name": "plain",
                "net.depth": depth,
                "init.scheme": scheme,
                **{path: fields[path] for path in self.extra},
                "verdict": verdict,
                "val_error": last,
                "best_val_error": min(val.values(), default=NAN),
                "epochs_done": max(val, default=0.0),
                "in_study": in_study,
                "fields": fields,
            }
        )
        points: dict[int, dict[str, float]] = {}
        for epoch, error in val.items():
            points.setdefault(round(epoch * STEPS_PER_EPOCH), {})["val_error"] = error
        for step, (loss, error) in (train or {}).items():
            points.setdefault(step, {}).update(train_loss=loss, train_error=error)
        self.curves += [
            {"trial": trial, "attempt": 0, "step": step, "epoch": step / STEPS_PER_EPOCH, **points[step]}
            for step in sorted(points)
        ]
        self.probes += layer_rows(trial, probes, "layer", "forward_var", "backward_var", op="conv")
        self.sampled += layer_rows(trial, running, "layer", "forward_var", "backward_var", op="conv", samples=2)
        self.learned += [
            {**row, "min": row["mean"] - row["std"], "max": row["mean"] + row["std"]}
            for row in layer_rows(trial, slopes, "act", "mean", "std", channels=4)
        ]
        return trial

    @property
    def trials(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows).drop(columns="fields")

    @property
    def scalars(self) -> pd.DataFrame:
        return pd.DataFrame(self.curves, columns=names("scalars"))

    @property
    def verdicts(self) -> pd.DataFrame:
        """As given; reached at the first validation at or below the threshold, unless diverged or unfinished."""
        level = 0.45 if self.threshold is None else self.threshold
        rows = []
        for row in self.rows:
            points = [
                (curve["epoch"], curve.get("val_error", NAN)) for curve in self.curves if curve["trial"] == row["trial"]
            ]
            counts = row["verdict"] not in (None, "diverged")
            epoch = next((epoch for epoch, error in points if counts and error <= level), NAN)
            rows.append([row["trial"], row["verdict"], "as told", epoch, math.isnan(epoch), level])
        return pd.DataFrame(rows, columns=names("verdicts"))

    @property
    def signals(self) -> pd.DataFrame:
        return pd.DataFrame(self.probes, columns=names("signals"))

    def signals_near(self, epochs: Sequence[float | str]) -> pd.DataFrame:
        """All of them: which are nearest, the figure sees for itself."""
        return self.signals

    @property
    def running(self) -> pd.DataFrame:
        return pd.DataFrame(self.sampled, columns=names("running"))

    @property
    def slopes(self) -> pd.DataFrame:
        return pd.DataFrame(self.learned, columns=names("slopes"))

    @property
    def study(self) -> SimpleNamespace:
        return SimpleNamespace(verdict=SimpleNamespace(threshold=self.threshold), claims=self.claims)

    @property
    def stored(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(
                id=row["trial"],
                spec=spec_of(row),
                status={"state": row["state"], "chance": 0.9, "train_examples": 1437},
            )
            for row in self.rows
        ]

    @property
    def figures(self) -> Path:
        return self.out / "figures"


def layer_rows(
    trial: str, by_step: dict[int, list[tuple[float, float]]] | None, name: str, first: str, second: str, **fields: Any
) -> list[dict[str, Any]]:
    """A row per step and layer, its two values in the columns `first` and `second`."""
    return [
        {
            **{"trial": trial, "attempt": 0, "step": step, "epoch": step / STEPS_PER_EPOCH},
            **{"layer": layer, "name": f"{name}{layer}", first: values[0], second: values[1]},
            **fields,
        }
        for step, layers in (by_step or {}).items()
        for layer, values in enumerate(layers)
    ]


def spec_of(row: dict[str, Any]) -> TrialSpec:
    content: dict[str, Any] = {"net": {"depth": row["net.depth"]}, "init": {"scheme": row["init.scheme"]}}
    for path, value in row["fields"].items():
        section, key = path.split(".")
        content.setdefault(section, {})[key] = value
    return TrialSpec.model_validate({**content, "seed": row["seed"]})
