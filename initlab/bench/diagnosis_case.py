"""One case of the benchmark of diagnosis: a net, its fault, what training shows of it, and what each tool says.

A fault matters if a run of the same steps on the same batch ends above the middle of what the sound net's loss fell, or
in numbers that are not finite, or not at all. A remedy works if the run after it ends at most a tenth of that fall
above the sound net's end.
"""

import math
from collections.abc import Collection, Iterator
from statistics import median
from typing import Any

import torch
from torch import nn

from initlab.bench.diagnosis_faults import Planted, plant
from initlab.bench.diagnosis_nets import NETS, Recipe, half_of, mean_loss, recipes
from initlab.bench.diagnosis_rules import Watch
from initlab.bench.sound_nets import SoundNet
from initlab.inspection.inspect import inspect
from initlab.inspection.lint.finding import Finding
from initlab.inspection.lint.lint import lint
from initlab.inspection.trial import carried_out
from initlab.nets.any_module import layer_name

# Shares of the fall of the sound net's loss.
WORSE, AS_WELL = 0.5, 0.1
# Of the last steps, whose median is a run's end.
LAST = 5
# Shares of the planted parameters that must be named, and of the named ones that must be planted ones.
NAMED, PRECISE = 0.5, 0.5
Row = dict[str, Any]


def trained(net: SoundNet, recipe: Recipe) -> tuple[list[float], Watch]:
    """Train a net in place: the loss before each step, and what other tools saw.

    It ends early at a loss that is not finite.
    """
    torch.manual_seed(0)
    net.model.train()
    watch, optimizer = Watch(net.model, recipe.steps), recipe.optimizer(net.model)
    losses: list[float] = []
    with watch.hooked():
        for step in range(recipe.steps):
            optimizer.zero_grad()
            output, loss = mean_loss(net)
            loss.backward()
            losses.append(loss.item())
            right = (output.detach().argmax(-1) == net.labels).float() if net.loss is None else torch.tensor(math.nan)
            watch.after_backward(step, losses[-1], right.mean().item())
            if not math.isfinite(losses[-1]):
                break
            optimizer.step()
            watch.after_step()
    return losses, watch


def end_of(losses: list[float]) -> float:
    """The median of the last losses; inf where the last is not finite."""
    return median(losses[-LAST:]) if losses and math.isfinite(losses[-1]) else math.inf


def sound_row(name: str, steps: int) -> Row:
    """How the sound net trains under the best of its recipes, and what other tools say of it."""
    runs = {recipe: trained(NETS[name](0), recipe) for recipe in recipes(name, steps)}
    recipe, (losses, watch) = min(runs.items(), key=lambda item: end_of(item[1][0]))
    start, end = losses[0], end_of(losses)
    return {
        **{"kind": "sound", "model": name, "half": half_of(name), "steps": steps, "rate": recipe.rate},
        **{"start": start, "end": end, "trains": end < start / 2, "others": fired_rules(watch)},
    }


def fired_rules(watch: Watch) -> dict[str, list[str]]:
    """The rules that fired, by tool."""
    return {tool: sorted(rules) for tool, rules in watch.alarms.items()}


def draw_row(name: str, seed: int) -> Row:
    """What initlab says of a draw of a sound net."""
    net = NETS[name](seed)
    inspection = inspect(net.model, net.batch, net.labels, loss=net.loss)
    faults = [entry for entry in lint(net.model, net.batch) if entry.severity == "fault"]
    return {
        **{"kind": "draw", "model": name, "half": half_of(name), "seed": seed, "verdict": inspection.verdict},
        **{"reason": inspection.reason, "lint": [entry.rule for entry in faults]},
        "false_alarm": not inspection.healthy or bool(faults),
    }


def fault_row(name: str, fault: str, sound: Row) -> Row:
    """A fault in a net: whether it matters, and what initlab and the others say and advise.

    Args:
        sound: the row of the sound net.
    """
    row = {"kind": "fault", "model": name, "half": half_of(name), "fault": fault, "steps": sound["steps"]}
    planted = plant(fault, NETS[name](0))
    if planted is None or not runs(planted.net):
        return {**row, "applies": False}
    recipe = next(recipe for recipe in recipes(name, sound["steps"]) if recipe.rate == sound["rate"])
    row |= {"applies": True, "planted": list(planted.parameters), **diagnosed(planted)}
    if row["call"]:
        row["remedy_end"] = remedied_end(planted.net, row["call"], recipe)
    try:
        losses, watch = trained(planted.net, recipe)
        row |= {"start": losses[0], "end": end_of(losses), "others": fired_rules(watch), "error": ""}
    # What torch refuses, as a class that there is not, ends a user's run too.
    except (RuntimeError, IndexError) as error:
        row |= {"start": math.nan, "end": math.inf, "others": {}, "error": str(error).partition("\n")[0]}
    fall = sound["start"] - sound["end"]
    row["matters"] = not row["end"] <= sound["end"] + WORSE * fall
    row["cured"] = row.get("remedy_end", math.inf) <= sound["end"] + AS_WELL * fall
    return row


def runs(net: SoundNet) -> bool:
    """Whether torch can run the model, which not all operations do in float16; labels are not looked at."""
    try:
        with torch.no_grad():
            net.model(net.batch)
    except RuntimeError:
        return False
    return True


def remedied_end(net: SoundNet, call: str, recipe: Recipe) -> float:
    """The end of a run after the advised lines were carried out on a copy; inf where they or the run fail."""
    try:
        model, batch = carried_out(call, net.model, net.batch.clone())
        return end_of(trained(SoundNet(model, batch, net.labels, net.loss), recipe)[0])
    except (RuntimeError, IndexError, ValueError):
        return math.inf


def diagnosed(planted: Planted) -> Row:
    """What initlab says of a net with a fault; a model that it refuses in one line counts as caught."""
    net = planted.net
    row: Row = {"verdict": "", "reason": "", "cause": "", "call": "", "lint": [], "refused": ""}
    named: list[list[str]] = []
    try:
        inspection = inspect(net.model, net.batch, net.labels, loss=net.loss)
        row |= {"verdict": inspection.verdict, "reason": inspection.reason, "cause": inspection.cause}
        row["call"] = inspection.remedy
        named += [list(inspection.cure.parameters)] if inspection.cure else []
        findings = [entry for entry in lint(net.model, net.batch) if entry.severity == "fault"]
        row["lint"] = [entry.rule for entry in findings]
        named += [parameters_of(net.model, entry) for entry in findings]
        row["call"] = row["call"] or "\n".join(dict.fromkeys(entry.fix for entry in findings if entry.fix))
    except ValueError as error:
        row["refused"] = str(error)
    row["caught"] = bool(row["refused"] or row["lint"] or row["verdict"] not in ("healthy", "uneven"))
    row["named"] = None
    if planted.parameters and row["caught"]:
        row["named"] = any(share(planted.parameters, names) >= NAMED for names in named)
        row["precise"] = bool(named) and share(named[0], planted.parameters) >= PRECISE and row["named"]
    row["suspects"] = named[0] if named else []
    return row


def share(of: Collection[str], among: Collection[str]) -> float:
    """The share of names that are among others; 0 of none."""
    return sum(name in among for name in of) / len(of) if of else 0.0


def parameters_of(model: nn.Module, entry: Finding) -> list[str]:
    """The parameters of the layers that a finding names: biases where its rule or text is about them, else weights."""
    of_biases = "bias" in entry.rule
    return list(matching(model, entry.layers, of_biases))


def matching(model: nn.Module, layers: Collection[str], of_biases: bool) -> Iterator[str]:
    """The weights, or biases, of these layers."""
    for name, _ in model.named_parameters():
        layer, _, key = name.rpartition(".")
        if layer_name(layer) in layers and ("bias" in key) == of_biases:
            yield name
