"""Advice on a verdict: the cause and the remedy that was tried on a copy, or that nothing which was tried helps."""

from dataclasses import replace

import pandas as pd

from initlab.inspection.cause import MOST, Cure, cure_among, cure_of, handicap_of
from initlab.inspection.diagnosis import Diagnosis
from initlab.inspection.lint.sites import sites_of, variance_slope
from initlab.inspection.remedy import large_logits, remedy_of, schemes_of
from initlab.inspection.suspects.collect import suspects_of
from initlab.inspection.suspects.inputs import half_precision
from initlab.inspection.suspects.outputs import PROBABILITIES, odd_outputs
from initlab.inspection.trial import HEALTHY, NotCopied, Outcome, Trials
from initlab.nets.undisturbed import untouched

NORMS_HOLD = (
    "norm layers undo any scale of the weights, so no scheme changes this; such nets train with a learning rate that "
    "is small in the first epochs"
)


def advise(
    trials: Trials, table: pd.DataFrame, diagnosis: Diagnosis, ending: str = ""
) -> tuple[list[str], Cure | None]:
    """What to do about the verdict, a text each, and the cure where there is one; nothing for a healthy net.

    A 30-layer ReLU net with torch's default weights gets the text that fan_in Var[w] is 0.333 where relu needs 2, with
    the call `initlab.init_(model, "he")`, and what it gave on a copy.

    Args:
        table: that of the inspection which gave the diagnosis.
        ending: autograd's name of the function that gives the output.
    """
    held = [NORMS_HOLD] if diagnosis.verdict == "uneven" else []
    # Of a net whose signals are healthy only what keeps it from learning is of interest, which labels show.
    healthy = diagnosis.verdict in HEALTHY
    if healthy and trials.labels is None:
        return held, None
    try:
        return tried(trials, table, diagnosis, ending, held)
    except NotCopied as error:
        return held if healthy else [f"no remedy was tried, since the model cannot be copied: {error}"], None


def tried(
    trials: Trials, table: pd.DataFrame, diagnosis: Diagnosis, ending: str, held: list[str]
) -> tuple[list[str], Cure | None]:
    """The advice after trials on copies, `held` first where the net is healthy."""
    healthy = diagnosis.verdict in HEALTHY
    if diagnosis.verdict == "underflow":
        # Of weights in float32 it is a matter of autocast. No steps are tried: in float16 they take a CPU minutes.
        kept = [*half_precision(trials.model, trials.batch)]
        cure = cure_among(replace(trials, labels=None), Outcome(diagnosis), kept) if kept else None
        return (cure_texts(cure) if cure else []), cure
    # Reading a weight may be a computation that leaves its mark.
    with untouched(trials.model, backward=False):
        sites, _ = sites_of(trials.model, trials.batch)
        suspects = suspects_of(trials.model, sites, trials.batch)
        if healthy and trials.loss is None:
            suspects += large_logits(trials.model, sites, table)
        schemes, resort = ([], []) if healthy else schemes_of(trials.model, sites, table, diagnosis)
    if healthy:
        if ending in PROBABILITIES:
            suspects += odd_outputs(trials.model, trials.batch, trials.labels, trials.loss)
        cure = handicap_of(trials, suspects)
        return [*held, *(cure_texts(cure) if cure else [])], cure
    suspects = [*suspects[: MOST - len(schemes)], *schemes]
    before = trials.judged("")
    if before.healthy:
        # Without theory's bands chance is allowed more than here.
        trials = replace(trials, judge=trials.strict)
        before = trials.judged("")
    cure = cure_of(trials, before, suspects, resort)
    nothing = f"none of {len(suspects) + len(resort)} changes that were tried on a copy makes it better"
    texts = cure_texts(cure) if cure else [nothing]
    slope = variance_slope(remedy_of(sites).phi)
    if slope > 1 + 1e-6 and diagnosis.verdict in ("vanishing", "exploding"):
        name = remedy_of(sites).phi.name.partition("(")[0].lower()
        texts.append(f"with {name} no gain keeps unit variance stable (slope {slope:.3f} of the variance map)")
    # Decay is not the cause of a vanishing signal, so it comes last.
    if diagnosis.verdict == "vanishing" and (table.decay_ratio > 1).any():
        worst = table.name[table.decay_ratio == table.decay_ratio.max()].iloc[0]
        texts.append(f"while gradients are this small, weight decay is what moves such layers, most of all `{worst}`")
    return texts, cure


def cure_texts(cure: Cure) -> list[str]:
    """The cause with the code that was tried and what it gave; a text per suspect."""
    if len(cure.suspects) == 1:
        return [f"{cure.cause}; {cure.trial}: `{cure.call}`"]
    texts = [f"{suspect.words}: `{suspect.code}`" for suspect in cure.suspects]
    return [*texts, f"all {len(texts)} of these together were {cure.trial}"]
