"""Theory beside a study's measured signals: what draws of the same initialisation give before training."""

from functools import lru_cache

import numpy as np
import pandas as pd

from initlab.analysis.panels import SCHEME, Shown, as_list
from initlab.data.facts import FACTS
from initlab.errors import UserError
from initlab.nets.build import to_modules
from initlab.plan.dimensions import describe, image_facts
from initlab.signal.theory.predict import predict
from initlab.study.spec import TrialSpec
from initlab.user_code import is_code

BAND = ("median", "low", "high")


def theory_table(results: Shown, lines: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """One row per panel, scheme, direction and layer: median, low and high of the 95 % band, and points inside it.

    Inputs count as independent numbers of the study's scale, in batches of the probe's size. Gradients are relative in
    theory, so they start from the measured ones of the last layer. `inside` of the line's `points` (layer, seed) lie in
    the band; the last layer's gradients, where theory starts, do not count.

    Args:
        lines: panel, `init.scheme` and trial of what is drawn.
        measured: trial, layer, direction and variance at step 0.

    Raises:
        UserError: a net, a scheme or data that is the user's code, of which nothing is known before it runs; or text.
    """
    specs = {trial.id: trial.spec for one in as_list(results) for trial in one.stored}
    frames = []
    for (panel, scheme), line in lines.groupby(["panel", SCHEME], sort=False):
        theory = predicted(specs[line.trial.iloc[0]].model_copy(update={"seed": 0}))
        for direction in ("forward", "backward"):
            points = measured[measured.trial.isin(line.trial) & (measured.direction == direction)]
            if len(points):
                of_line = {"panel": str(panel), "direction": direction, SCHEME: str(scheme)}
                frames.append(band_beside(theory, points, direction).assign(**of_line))
    return pd.concat(frames, ignore_index=True)


def band_beside(theory: pd.DataFrame, measured: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The band of one direction in the units of what was measured, with how many points lie inside."""
    band = theory[["layer", *(f"{direction}_{name}" for name in BAND)]].set_axis(["layer", *BAND], axis=1)
    last = int(band.layer.max())
    if direction == "backward":
        ends = measured.variance[(measured.layer == last) & (measured.variance > 0)]
        band[list(BAND)] *= float(np.exp(np.log(ends).mean())) if len(ends) else np.nan
        measured = measured[measured.layer < last]
    points = measured.merge(band, on="layer")
    inside = int(points.variance.between(points.low, points.high).sum())
    return band.assign(inside=inside, points=len(points))


@lru_cache(maxsize=256)
def predicted(spec: TrialSpec) -> pd.DataFrame:
    """`predict` for a trial's net, scheme and inputs."""
    init = spec.init
    for path, name in (("net.name", spec.net.name), ("init.scheme", init.scheme), ("data.name", spec.data.name)):
        if is_code(name):
            hint = "your own code is predicted by initlab.predict"
            raise UserError(f"signals: no theory for {path} (got {name}); {hint}")
    if FACTS[spec.data.name].tokens:
        hint = "initlab.predict takes a batch of them"
        raise UserError(f"signals: no theory for inputs that are tokens (got data.name {spec.data.name}); {hint}")
    classes, shape = image_facts(spec)
    return predict(
        to_modules(describe(spec, classes, shape)),
        **init.model_dump(),
        input_shape=shape,
        batch_size=spec.probe.examples,
        input_moments=(0.0, spec.data.scale**2),
    )
