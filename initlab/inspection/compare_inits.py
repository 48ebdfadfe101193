"""`compare_inits`: several initialisations of one model, measured on one batch with several seeds, side by side."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from initlab.errors import UserError, one_line
from initlab.inspection.candidates import AS_IS, Candidate, Schemes, candidates_of
from initlab.inspection.comparison import DIRECTIONS, Comparison, failed_row, table_row
from initlab.inspection.comparison_check import check_run
from initlab.inspection.diagnosis import Diagnosis
from initlab.inspection.inspect import diagnosed, evidence_of, unjudged_notes
from initlab.inspection.prediction import predicted_columns
from initlab.inspection.progress_bar import progress_bar
from initlab.inspection.pupil import Pupil
from initlab.inspection.ranking import best_of
from initlab.nets.copies import copied
from initlab.nets.undisturbed import Batch
from initlab.signal.probe import Loss
from initlab.signal.start import Start
from initlab.signal.survey import survey
from initlab.study.training import Train
from initlab.verdict.forecast import forecast_at, train_of
from initlab.verdict.odds import VERDICTS as OUTCOMES, Forecast

DEFAULT = (AS_IS, "torch_default", "xavier", "he", "orthogonal")
DRIFT_NOTE = (
    "verdicts are those of the signals alone; `initlab.inspect` also tries whether a copy learns all the same, as nets "
    "of few layers may"
)


@dataclass(frozen=True)
class Draw:
    """A candidate's weights of one seed, measured and judged."""

    seed: int
    table: pd.DataFrame
    diagnosis: Diagnosis
    forecast: Forecast | None
    sets: str
    notes: list[str]

    def row(self) -> dict[str, Any]:
        """Its row of `Comparison.verdicts`."""
        row: dict[str, Any] = {"seed": self.seed, "verdict": self.diagnosis.verdict, "reason": self.diagnosis.reason}
        drifts = {drift.direction: drift for drift in self.diagnosis.drifts}
        row |= {f"{d}_factor": drifts[d].factor if d in drifts else math.nan for d in DIRECTIONS}
        row |= {f"{d}_change": drifts[d].change if d in drifts else math.nan for d in DIRECTIONS}
        row |= self.forecast.probabilities if self.forecast else dict.fromkeys(OUTCOMES, math.nan)
        row["forecast"] = self.forecast.verdict if self.forecast else ""
        return {**row, "calibrated": bool(self.forecast and self.forecast.calibrated)}


@dataclass(frozen=True)
class Ground:
    """What all candidates are measured on."""

    model: nn.Module
    batch: Batch
    labels: Any
    loss: Loss | None
    train: Train | None

    def draws(self, candidate: Candidate, seeds: int) -> Iterator[Draw]:
        """The candidate's draws of the seeds from 0 on, beside what theory says of it.

        Raises:
            ValueError, RuntimeError: an initialisation that fails on this model, or after which the model fails.
        """
        theory: pd.DataFrame | None = None
        notes: list[str] = []
        for seed in range(seeds):
            model = copied(self.model)
            sets = candidate.apply(model, self.batch, seed)
            if theory is None:
                # Of a scheme its own variances, of all else those of the weights that came.
                source = model if candidate.scheme is None else self.model
                theory, notes = predicted_columns(source, self.batch, self.labels, self.loss, candidate.scheme)
            signals = survey(model, self.batch, self.labels, loss=self.loss)
            pupil = Pupil(model, self.batch, self.labels, self.loss)
            evidence = evidence_of(pupil, signals, learning=False)
            table, diagnosis = diagnosed(signals, theory, evidence)
            forecast = self.forecast(model, table, evidence.start)
            yield Draw(seed, table, diagnosis, forecast, sets, [*notes, *unjudged_notes(signals)])

    def forecast(self, model: nn.Module, table: pd.DataFrame, start: Start | None) -> Forecast | None:
        """The odds of training at the learning rate; None without one, or where there is no gradient or no chance."""
        if self.train is None or start is None or math.isnan(start.chance):
            return None
        try:
            return forecast_at(model, table, start, self.train)
        except ValueError:
            return None


def compare_inits(
    model: nn.Module,
    batch: Batch,
    labels: Any = None,
    schemes: Schemes = DEFAULT,
    seeds: int = 5,
    *,
    loss: Loss | None = None,
    lr: float | None = None,
    weight_decay: float = 0.0,
    optimizer: str = "sgd",
) -> Comparison:
    """Initialise copies of a model under each scheme and seed, and measure and judge their signals; it stays as it was.

    Of what `inspect` does, a draw is surveyed and judged (one pass forward and backward that is measured, one forward
    for the loss) beside theory, which goes through the model once per scheme. No copy is trained to see whether it
    learns all the same, so that a drift which `inspect` would let pass after such a trial counts; no cause is looked
    for. Where layers get no gradient, as in closed branches, a copy takes 4 steps to see whether one comes.

    A 30-layer ReLU net under Xavier's weights is `vanishing` for each seed with a factor of about 1/2 per layer in both
    directions; under He's it is `healthy`, with factors near 1.

    Args:
        batch, labels, loss: as `initlab.inspect` takes them; copies of them are moved to the model's device.
        schemes: a list, of which each is a name (`as_is`, the model as it stands, or one of `initlab.init_`), a
            function (normals, layer) -> weight as `initlab.init_` takes it, or a pair (name, scheme), in which the
            scheme may also be a function of one argument that sets the model in place: `("mine", lambda model: ...)`.
            A dict of such pairs too.
        seeds: each scheme is drawn with the seeds 0 to seeds - 1, the same random numbers for all schemes; a function
            of the model finds the global random streams of torch, numpy and Python seeded. `as_is` is measured once.
        lr: learning rate, for the forecast, as `initlab.forecast` takes it; None makes none.
        weight_decay, optimizer: beside `lr`.

    Raises:
        UserError: wrong schemes, seeds, lr, weight_decay or optimizer; a batch that the model does not take, or that
            holds numbers that are not finite; labels or a loss that do not fit; a model that cannot be copied. A scheme
            that fails on this model has a row that says so.
    """
    candidates = candidates_of(schemes)
    if not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"seeds: out of range (got {seeds!r}); allowed: whole numbers from 1 on")
    train = None if lr is None else train_of("forecast", lr, weight_decay, optimizer)
    check_run(model, batch, labels, loss)
    counts = [seeds if candidate.is_random else 1 for candidate in candidates]
    work = f"{sum(counts)} measures and {len(candidates)} predictions"
    start = time.perf_counter()
    with progress_bar(work, sum(counts)) as advance:
        draws, errors = draws_of(Ground(model, batch, labels, loss, train), candidates, counts, advance)
    if not draws:
        name, reason = next(iter(errors.items()))
        raise UserError(f"schemes: none of {len(candidates)} can initialise this model (got, of {name}: {reason})")
    cost = f"{work} took {time.perf_counter() - start:.1f} s"
    verdicts = pd.DataFrame([{"scheme": name, **draw.row()} for name, own in draws.items() for draw in own])
    tables = [draw.table.assign(scheme=name, seed=draw.seed) for name, own in draws.items() for draw in own]
    signals = pd.concat(tables, ignore_index=True)
    signals = signals[["scheme", "seed", *tables[0].columns.drop(["scheme", "seed"])]]
    rows = [
        failed_row(name, errors[name]) if name in errors else table_row(name, verdicts, signals, draws[name][0].sets)
        for name in (candidate.name for candidate in candidates)
    ]
    table = pd.DataFrame(rows)
    notes = list(dict.fromkeys(note for own in draws.values() for draw in own for note in draw.notes))
    weak = int((tables[0].basis.notna() & (tables[0].basis != "theory")).sum())
    if weak:
        notes.append(
            f"theory is approximate in {weak} of {len(tables[0])} layers, whose points may lie outside its band"
        )
    if labels is not None and verdicts.verdict.isin(["vanishing", "exploding"]).any():
        notes.append(DRIFT_NOTE)
    if lr is not None:
        notes += forecast_notes([draw.forecast for own in draws.values() for draw in own])
    best, why = best_of(table, verdicts, labelled=bool(signals.backward_var.notna().any()))
    return Comparison(table, verdicts, signals, best, why, cost, notes, candidates, batch)


def draws_of(
    ground: Ground, candidates: Sequence[Candidate], counts: Sequence[int], advance: Callable[[], None]
) -> tuple[dict[str, list[Draw]], dict[str, str]]:
    """The draws of each candidate by its name, so many of each, and why those failed that have none."""
    draws: dict[str, list[Draw]] = {}
    errors: dict[str, str] = {}
    for candidate, count in zip(candidates, counts, strict=True):
        own: list[Draw] = []
        try:
            for draw in ground.draws(candidate, count):
                own.append(draw)
                advance()
            draws[candidate.name] = own
        except torch.OutOfMemoryError:
            raise
        # What `init_`, a function of the user's, or the model under such weights refuses.
        except (ValueError, RuntimeError) as error:
            errors[candidate.name] = one_line(error)
    return draws, errors


def forecast_notes(forecasts: Sequence[Forecast | None]) -> list[str]:
    """Why there is no forecast, or why it is not to be trusted."""
    made = [forecast for forecast in forecasts if forecast is not None]
    if not made:
        return ["no forecast: it takes class labels, and a model with weight layers that get a gradient"]
    outside = [forecast.outside[0] for forecast in made if forecast.outside]
    return [f"? the forecast is not calibrated for such nets: {outside[0]}"] if outside else []
