"""The initialisation that suits a model: one call of `init_`, which is tried before advice, lint and `--fix` give it.

- A rectifier takes He's gain for its slope, and SELU, whose own gain is 1, LeCun's weights.
- Where gradients grow or fall by more than `CHAOTIC` per layer under the gain that keeps unit variance, and the signal
  is stable, it is the critical gain, under which they keep (Schoenholz et al. 2017): 1 for tanh, 10.1493 for sigmoid.
- All others are scaled on data by lsuv. No gain keeps the variance of GELU and SiLU stable.

Measured at width 128 on digits: the loss after 30 steps of SGD at the best of five rates, where chance is 2.303.
tanh, 50 layers: 2.01 under its own gain 1.5925, which lets gradients grow 2,500-fold; 1.02 under gain 1.
SiLU, 20 layers: 2.18 under its own gain 1.6765, 1.94 under lsuv. ELU, 50 layers: 0.7 under 1.2452, 0.2 under lsuv.
GELU, 20 layers: 1.68 under 1.5335, 1.77 under lsuv; 50 layers: chance, and a signal that grows 800-fold, or stays.
Sigmoid, 20 layers: chance; gradients fall by 1e-15 under 1.8462, by 1e-14.5 under lsuv, by 0.25 under 10.1493.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import mode
from typing import Any

import pandas as pd
from torch import Tensor, nn

from initlab.init.activations import Activation, resolve
from initlab.init.apply import init_
from initlab.init.expectations import Elementwise, Rectifier
from initlab.init.joints import Phi
from initlab.init.layers import EMBEDDINGS
from initlab.init.maps import critical_point
from initlab.init.shapes import LayerShape
from initlab.inspection.diagnosis import Diagnosis
from initlab.inspection.lint.finding import scaled
from initlab.inspection.lint.runs import CHAOTIC
from initlab.inspection.lint.sites import Site, gain_squared, variance_slope
from initlab.inspection.suspects.suspect import Suspect
from initlab.nets.undisturbed import Batch
from initlab.signal.drift import second_moments

# fan_in Var[w] of schemes that are often left in or chosen for rectifiers.
KNOWN = {1 / 3: "torch's default", 1.0: "LeCun's and Xavier's"}

# Rms of logits from which on the gradient of a cross-entropy is that of its few largest, whatever the net.
LARGE_LOGITS = 6.0


@dataclass(frozen=True)
class Remedy:
    """A call of `init_`, to be printed or done."""

    scheme: str  # "" draws weights of variance gain^2 / fan_in
    phi: Phi  # the activation that the weights make up for
    gain: float  # gain^2 is the fan_in E[w^2] that it needs
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of `init_`, no more precise than printed
    sine: bool = False  # whether the first layer follows SIREN's own rule

    @property
    def call(self) -> str:
        """The call, with `model` and, for lsuv, `batch` as the user's names."""
        scaled = f"lambda normals, layer: normals * {self.gain} / layer.fan_in**0.5"
        if self.sine:
            first = "3**-0.5 / layer.fan_in"
            scaled = f"lambda normals, layer: normals * ({self.gain} / layer.fan_in**0.5 if layer.index else {first})"
        arguments = ["model", f'"{self.scheme}"' if self.scheme else scaled]
        arguments += [f"{name}={value:.6g}" for name, value in self.options.items()]
        return f"initlab.init_({', '.join(arguments + ['batch=batch'] * (self.scheme == 'lsuv'))})"

    def apply(self, model: nn.Module, images: Batch, seed: int = 0) -> nn.Module:
        """Initialise the model in place: at seed 0 exactly what `call` does."""
        return init_(model, self.scheme or self.scaled, seed=seed, batch=images, **self.options)

    def scaled(self, normals: Tensor, layer: LayerShape) -> Tensor:
        """The weights of a layer where there is no scheme; of a sine net's first one of variance 1/(3 fan_in^2)."""
        std = 3**-0.5 / layer.fan_in if self.sine and not layer.index else self.gain / layer.fan_in**0.5
        weight: Tensor = normals * std
        return weight


def remedy_for(activation: Activation | Phi) -> Remedy:
    """The initialisation of layers behind this activation, at any depth.

    `remedy_for("prelu").call` is `initlab.init_(model, "he", negative_slope=0.25)`.
    """
    phi = activation if isinstance(activation, Rectifier | Elementwise) else resolve(activation)
    gain = math.sqrt(gain_squared(phi))
    if phi.name.startswith("sin("):
        # E[sin^2] is 1/2 at unit variance of w0 y (Sitzmann et al. 2020, sec. 3.2).
        w0 = float(phi.name.removeprefix("sin(").removesuffix("x)") or 1)
        return Remedy("", phi, float(f"{math.sqrt(2) / w0:.6g}"), sine=True)
    if isinstance(phi, Rectifier):
        slope = float(f"{phi.a_squared**0.5:.6g}")
        return Remedy("xavier" if slope == 1 else "he", phi, gain, {"negative_slope": slope} if 0 < slope != 1 else {})
    if variance_slope(phi) < 1 and abs(math.log(gain**2 * phi.slope_second(1.0))) > math.log(CHAOTIC):
        try:
            gain, _ = critical_point(phi.function, 0.0)
        # There is none, as for softplus.
        except ValueError:
            return Remedy("lsuv", phi, gain)
    elif abs(gain - 1) > 1e-3:
        return Remedy("lsuv", phi, gain)
    if abs(gain - 1) < 1e-3:
        return Remedy("lecun", phi, 1.0)
    # Logits under a gain of 10 start at a loss far above chance.
    return Remedy("", phi, round(gain, 4), {"last_factor": float(f"{1 / gain:.2g}")} if gain > 2 else {})


def remedy_of(sites: Sequence[Site]) -> Remedy:
    """The remedy of most layers of a model: Xavier's if all are linear, ReLU's where nothing is known."""
    phis = [site.joint.phi for site in sites if site.joint.before != "input" and site.joint.phi]
    if not phis:
        return remedy_for("linear" if any(site.joint.before == "layer" for site in sites) else "relu")
    kinds = [(phi.name, phi.a_squared if isinstance(phi, Rectifier) else 0.0) for phi in phis]
    remedy = remedy_for(phis[kinds.index(mode(kinds))])
    if remedy.scheme == "he" and any(isinstance(phi, Rectifier) and phi.a_squared for phi in phis):
        # Else `init_` takes the first slope.
        return replace(remedy, options={"negative_slope": 0.0} | remedy.options)
    return remedy


def schemes_of(
    model: nn.Module, sites: Sequence[Site], table: pd.DataFrame, diagnosis: Diagnosis
) -> tuple[list[Suspect], list[Suspect]]:
    """The suspects that concern a model as a whole: large logits and the weights' scheme; and scales set on a batch.

    The second list is the last resort, since it fits the weights to one batch.

    Args:
        sites: the weight layers as they ran.
        table: that of the inspection which gave the diagnosis.
    """
    suspects: list[Suspect] = []
    resort: list[Suspect] = []
    remedy = remedy_of(sites)
    embedded = {id(module._parameters.get("weight")) for module in model.modules() if isinstance(module, EMBEDDINGS)}
    weights = tuple(name for name, p in model.named_parameters() if p.dim() > 1 and id(p) not in embedded)
    rows = table[table.status == diagnosis.verdict]
    if diagnosis.verdict == "saturated":
        suspects += logits_of(model, [site for site in sites if site.name == diagnosis.last], rows)
    product = (rows.fan_in * rows.weight_var).median()
    fits = diagnosis.verdict in ("vanishing", "exploding") and suits(product, remedy)
    if not fits:
        known = any(site.joint.phi or site.joint.before == "layer" for site in sites)
        suspects.append(Suspect("scheme", weights, scheme_words(rows, diagnosis, remedy, known=known), remedy.call))
    if remedy.scheme != "lsuv" or fits:
        name = activation_name(remedy)
        scaled_on_data = replace(remedy, scheme="lsuv", options={})
        words = (
            f"the weights from `{diagnosis.first}` to `{diagnosis.last}` have the scale that {name} needs "
            f"(fan_in·Var[w] = {product:.3g}), so zero padding, pooling, other fans or a few layers do it, and each "
            "layer is to be scaled on a batch"
            if fits
            else f"each layer is to be scaled on a batch, from `{diagnosis.first}` to `{diagnosis.last}`"
        )
        resort.append(Suspect("scale_on_batch", weights, words, scaled_on_data.call))
    return suspects, resort


def large_logits(model: nn.Module, sites: Sequence[Site], table: pd.DataFrame) -> list[Suspect]:
    """The last layers, where a cross-entropy starts from large logits, though its loss does not show it yet."""
    rows = table[second_moments(table, "forward") > LARGE_LOGITS**2]
    return logits_of(model, [site for site in sites if site.joint.after == "output"], rows)


def logits_of(model: nn.Module, last: Sequence[Site], rows: pd.DataFrame) -> list[Suspect]:
    """The suspects among last layers whose output is in the rows: an rms of 1 is usual."""
    names = {module: name for name, module in model.named_modules()}
    suspects = []
    for site in last:
        row = rows[rows.name == site.name]
        if len(row) and "weight" in site.module._parameters:
            rms = math.sqrt(second_moments(row, "forward")[-1])
            words = f"the logits, of `{site.name}`, have an rms of {rms:.3g}, where about 1 is usual"
            name = f"{names[site.module]}.weight".lstrip(".")
            suspects.append(Suspect("logits", (name,), words, scaled([site], float(f"{1 / rms:.2g}"))))
    return suspects


def activation_name(remedy: Remedy) -> str:
    """`elu` of `ELU(alpha=0.5)`."""
    return remedy.phi.name.partition("(")[0].lower()


def scheme_words(rows: pd.DataFrame, diagnosis: Diagnosis, remedy: Remedy, *, known: bool) -> str:
    """What the weights have, and what the activation needs, where one is `known`."""
    product = (rows.fan_in * rows.weight_var).median()
    origin = next((f", as {scheme}" for value, scheme in KNOWN.items() if abs(product / value - 1) < 0.05), "")
    need = f"{remedy.gain**2:.3g}"
    needed = f"{activation_name(remedy)} needs {need}" if known else f"{need} is usual where no activation is known"
    return (
        f"from `{diagnosis.first}` to `{diagnosis.last}` fan_in·Var[w] is {product:.3g}{origin} (median of {len(rows)} "
        f"layers); {needed}"
    )


def suits(product: float, remedy: Remedy) -> bool:
    """Whether fan_in Var[w] is what the activation needs, by a fifth more or less."""
    return 0.8 < product / remedy.gain**2 < 1.25
