"""Advice: which layers, which scheme and gain, and the call that does it, from what an inspection saw."""

import math

import pandas as pd
from torch import nn

from initlab.init.activations import NAMES, SLOPES
from initlab.init.gains import activation_moments
from initlab.init.maps import critical_point
from initlab.inspection.diagnosis import Diagnosis
from initlab.nets.any_module import first_slope
from initlab.signal.drift import HARMLESS, second_moments

KNOWN = {1 / 3: "torch's default", 1.0: "LeCun's and Xavier's"}  # fan_in Var[w] of schemes that relu nets get wrongly


def advise(model: nn.Module, table: pd.DataFrame, diagnosis: Diagnosis) -> list[str]:
    """What to do about the verdict, a text each; none for a healthy net.

    A 30-layer ReLU net with torch's default weights is told that fan_in Var[w] is 0.333 where relu needs 2, and
    `initlab.init_(model, "he", mode="fan_in")`.

    Args:
        table: as `diagnose` takes it, with fan_in and activation.
    """
    ran = table[table.calls > 0]
    match diagnosis.verdict:
        case "vanishing" | "exploding":
            return [*scale_advice(model, ran, diagnosis), *decay_advice(ran, diagnosis)]
        case "uneven":
            return [
                "norm layers undo any scale of the weights, so no scheme changes this: warm the learning rate up over "
                "the first epochs",
                f"a skip connection around every two or three layers slows the growth; so does {call(model, ran)} in a "
                "net without norms",
            ]
        case "saturated":
            rms = math.sqrt(second_moments(ran.tail(1), "forward")[0])
            return [
                f"scale the inputs to unit variance, or start the last layer, `{diagnosis.last}`, at "
                f"{math.sqrt(2) / rms:.2g} of its size: {call(model, ran, f', last_factor={math.sqrt(2) / rms:.2g}')}"
            ]
        case "dead":
            return [
                f"look at the biases before and the inputs of `{diagnosis.first}`; He's weights and zero biases: "
                + call(model, ran)
            ]
        case "nonfinite":
            return [
                "look at the batch for numbers that are not finite, and inspect the model in float32: `model.float()`",
                f"weights that are too large overflow: {call(model, ran)}",
            ]
    return []


def scale_advice(model: nn.Module, ran: pd.DataFrame, diagnosis: Diagnosis) -> list[str]:
    """The scheme that suits the activation, or the news that the weights' scale is not at fault."""
    name, _, gain = wanted(model, ran)
    place = f"from `{diagnosis.first}` to `{diagnosis.last}`"
    inside = ran[[word == diagnosis.verdict for word in diagnosis.status[: len(ran)]]]
    product = float((inside.fan_in * inside.weight_var).median())
    if 0.8 < product / gain**2 < 1.25:
        return [
            f"the weights {place} have the scale that {name} needs (fan_in·Var[w] = {product:.3g}), so zero padding, "
            "pooling, other fans or a few layers do it; scale each layer on a batch: "
            '`initlab.init_(model, "lsuv", batch=batch)`'
        ]
    whose = next((f", as {who}" for value, who in KNOWN.items() if abs(product / value - 1) < 0.05), "")
    advice = [
        f"{place} fan_in·Var[w] is {product:.3g}{whose} (median of {len(inside)} layers); {name} needs "
        f"{gain**2:.3g}: {call(model, ran)}"
    ]
    if name not in SLOPES and activation_moments(name).stable is False:
        advice.append(
            f"with {name} no gain keeps unit variance stable (slope {activation_moments(name).slope:.3f} of the "
            "variance map): inspect again, and put norm layers between if it drifts"
        )
    return advice


def decay_advice(ran: pd.DataFrame, diagnosis: Diagnosis) -> list[str]:
    """What decay does meanwhile; it is not the cause of a vanishing signal, so it comes second."""
    if diagnosis.verdict != "vanishing" or not (ran.decay_ratio > 1).any():
        return []
    worst = ran.name[ran.decay_ratio == ran.decay_ratio.max()].iloc[0]
    return [f"while gradients are this small, weight decay is what moves such layers, most of all `{worst}`"]


def wanted(model: nn.Module, ran: pd.DataFrame) -> tuple[str, str, float]:
    """(activation, scheme, gain) for this net: of a rectifier He's, else the gain that suits its depth."""
    seen = ran.activation[ran.activation.isin(NAMES)]
    name = str(seen.mode().iloc[0]) if len(seen) else "relu"
    if name == "hardtanh" and any(isinstance(module, nn.ReLU6) for module in model.modules()):
        name = "relu6"  # torch computes it by hardtanh
    if name in SLOPES:
        slope = first_slope(model)
        given = f", negative_slope={slope:.4g}" if slope else ""
        return name, f'"he", mode="fan_in"{given}', math.sqrt(2 / (1 + slope**2))
    gain = suitable_gain(name, len(ran))
    if abs(gain - 1) < 1e-3:
        return name, '"lecun"', 1.0
    return name, f"lambda normals, layer: normals * {gain:.4f} / layer.fan_in**0.5", gain


def suitable_gain(name: str, depth: int) -> float:
    """The moment-preserving gain if gradients stand it over this depth, else the critical one where there is one.

    For tanh 1.5925 up to 36 layers, for there chi_1 = 1.178; 1 beyond.
    """
    moments = activation_moments(name)
    if abs(math.log(moments.chi_1)) * depth <= HARMLESS:
        return moments.gain
    try:
        return critical_point(name, 0.0)[0]
    except ValueError:  # no critical point, as for sigmoid
        return moments.gain


def call(model: nn.Module, ran: pd.DataFrame, more: str = "") -> str:
    """The call of `init_` with the scheme wanted."""
    return f"`initlab.init_(model, {wanted(model, ran)[1]}{more})`"
