"""What the report of one or several studies says, whatever it is written as: the answer, the figures, every trial."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from initlab.analysis.arm_comparison import Statement, compare_arms
from initlab.analysis.arms import check_path
from initlab.analysis.declared import CheckedClaim, check_claims
from initlab.analysis.panels import SCHEME, SEED, Shown, as_list, rows_of, shown_trials
from initlab.errors import UserError
from initlab.plots.save import drawn
from initlab.report.arm_table import arm_rows
from initlab.report.trial_charts import thinned
from initlab.store import files
from initlab.store.results import Results
from initlab.study.paths import ALWAYS_TOLD, telling_paths

# A field with more values is not listed, and has no menu of its own.
MOST_VALUES = 12
# Rows of the table of trials: with their charts about a megabyte.
MOST_TRIALS = 1000
CAPTIONS = {
    "convergence": "Error against epoch, a line per initialisation; the band is the range over seeds. A line that "
    "stays at the dotted chance level has not started to train.",
    "signals": "Variance of each layer's pre-activation (forward) and of the gradient that arrives there (backward). "
    "A straight slope is a constant factor per layer.",
    "survival": "The share of runs still above the threshold; a run that never gets there stays in the count.",
    "effects": "How many times as many epochs one arm takes to the threshold as another, by pairs of equal seeds.",
    "propagation": "The factor by which a layer changes the variance before training. In the grey box signals survive "
    "all layers; to the lower left they vanish, to the upper right they explode.",
    "running": "The same variances over the epochs, as the training steps had them.",
    "depth": "The final training and validation error against depth.",
    "prelu": "The slopes that PReLU nets learned, per layer.",
    "phase": "The verdict over depth and standard deviation, with theory's critical line.",
}


@dataclass(frozen=True)
class Column:
    """A column of the table of trials, and the values between which its menu chooses."""

    head: str
    kind: str  # text, number, verdict, trial or reason
    place: int
    choices: list[str]


@dataclass(frozen=True)
class Findings:
    """Texts, tables of texts and figures."""

    title: str
    questions: list[str]
    facts: str
    claims: list[CheckedClaim]
    by: str | None
    arms: list[list[str]]  # the heads, then a row per arm
    statements: list[Statement]
    figures: dict[str, tuple[str, Figure]]  # by name, with its caption
    left_out: list[str]
    columns: list[Column]
    trials: pd.DataFrame  # the values of these columns, of at most `MOST_TRIALS`
    studies: list[dict[str, Any]]  # out, commands, yaml
    environment: list[tuple[str, str]]
    problems: list[str]


def findings(results: Shown, by: str | None = None) -> Findings:
    """What there is to say of one or several studies.

    Args:
        by: dotted path of the field that makes the arms; None is `init.scheme`, or the first field that varies.

    Raises:
        UserError: `by` is no field, or makes no arms.
    """
    several = as_list(results)
    trials, fields = shown_trials(results)
    varied = [path for path in [*fields, SEED] if trials[path].nunique(dropna=False) > 1]
    if by is not None:
        check_path(by, "--by")
    arms_by = by or next((path for path in [SCHEME, *varied] if path in varied and path != SEED), None)
    arms, statements = compared(results, arms_by, asked=by is not None)
    claims: list[CheckedClaim] = []
    if any(one.study.claims for one in several):
        try:
            claims = check_claims(results)
        except UserError as error:
            statements = [*statements, Statement(f"{error}.", False)]
    figures, reasons = drawn(results)
    left_out = [str(reason) for reason in (reasons if figures else reasons[:1])]
    table = trial_table(results, trials, varied)
    if len(table) > MOST_TRIALS:
        left_out.append(f"{MOST_TRIALS:,} of {len(table):,} trials have a row here, evenly chosen; the folder has all.")
        table = table.iloc[thinned(np.arange(len(table)), MOST_TRIALS)]
    return Findings(
        title=" and ".join(dict.fromkeys(one.study.name for one in several)),
        questions=list(dict.fromkeys(filter(None, (one.study.question for one in several)))),
        facts=facts(trials, varied),
        claims=claims,
        by=arms_by,
        arms=arms,
        statements=statements,
        figures={name: (CAPTIONS.get(name, name), figure) for name, (_, figure) in figures.items()},
        left_out=left_out,
        columns=columns_of(table),
        trials=table,
        studies=[origin(one) for one in several],
        environment=environment(several),
        problems=[problem for one in several for problem in one.problems],
    )


def compared(results: Shown, by: str | None, *, asked: bool) -> tuple[list[list[str]], list[Statement]]:
    """The table of the arms and what the seeds say of them; why there is none, where nobody asked for these arms."""
    if by is None:
        return [], [Statement("Nothing to compare: only the seed differs.", False)]
    try:
        comparison = compare_arms(results, by)
    except UserError as error:
        if asked:
            raise
        return [], [Statement(f"{error}.", False)]
    return arm_rows(comparison), comparison.statements


def facts(trials: pd.DataFrame, varied: list[str]) -> str:
    """`18 trials: 9 converged, 9 stalled. init.scheme: gaussian, xavier, he; seed: 0, 1, 2.`"""
    words = trials.verdict.fillna(trials.state).value_counts()
    counts = ", ".join(f"{count} {word}" for word, count in words.items()) or "none"
    values = []
    for path in varied:
        different = list(dict.fromkeys(trials[path].map(value_text)))
        listed = ", ".join(different) if len(different) <= MOST_VALUES else f"{len(different)} values"
        values.append(f"{path}: {listed}")
    return f"{len(trials)} trials: {counts}. " + (f"{'; '.join(values)}." if values else "")


def trial_table(results: Shown, trials: pd.DataFrame, varied: list[str]) -> pd.DataFrame:
    """A row per trial: verdict, or state of one unfinished; what tells it apart; how far it came, and why judged so."""
    verdicts = rows_of(results, trials, "verdicts").set_index("trial")
    told = [*ALWAYS_TOLD, *telling_paths([trial.spec for one in as_list(results) for trial in one.stored])]
    return pd.DataFrame(
        {
            "trial": trials.trial,
            "verdict": trials.verdict.fillna(trials.state),
            **{path: trials[path] for path in varied if path in told},
            "lowest error": trials.best_val_error,
            "epoch at threshold": trials.trial.map(verdicts.epoch_reached),
            "epochs": trials.epochs_done,
            "minutes": trials.wall_s.astype(float) / 60,
            "reason": trials.trial.map(verdicts.reason),
        }
    )


def columns_of(table: pd.DataFrame) -> list[Column]:
    """The kind of each column; those of fields and verdicts with few values can be chosen by value."""
    columns = []
    for place, head in enumerate(map(str, table)):
        numbers = pd.api.types.is_numeric_dtype(table[head]) and not pd.api.types.is_bool_dtype(table[head])
        kind = head if head in ("trial", "verdict", "reason") else "number" if numbers else "text"
        values = list(dict.fromkeys(table[head].map(value_text))) if head == "verdict" or is_field(head) else []
        columns.append(Column(head, kind, place, values if 1 < len(values) <= MOST_VALUES else []))
    return columns


def is_field(head: str) -> bool:
    """Whether a column is a field of the study."""
    return "." in head or head == SEED


def value_text(value: object) -> str:
    """`0.123`, `he`, `–` for what is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def origin(one: Results) -> dict[str, Any]:
    """Where a study's trials lie, and what made them."""
    study = (one.out / files.STUDY).read_text().partition(files.CRC_LINE.decode())[0]
    commands = dict.fromkeys(trial.environment.get("command") for trial in one.stored)
    known = [command for command in commands if command]
    return {"out": str(one.out), "commands": known or [f"initlab run {one.out / files.STUDY}"], "yaml": study}


def environment(several: list[Results]) -> list[tuple[str, str]]:
    """Each fact of where the trials ran, and of how many of them it is true where they differ."""
    ran = [trial.environment for one in several for trial in one.stored if trial.environment]
    rows = []
    for key in dict.fromkeys(key for facts in ran for key in facts if key != "command"):
        counts = Counter(str(facts[key]) for facts in ran if facts.get(key) is not None)
        texts = [value if len(counts) == 1 else f"{value} ({count} trials)" for value, count in counts.items()]
        if texts:
            rows.append((key.replace("_", " "), ", ".join(texts)))
    return rows
