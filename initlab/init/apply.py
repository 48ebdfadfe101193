"""Initialise a model in place, with random numbers common to all schemes.

Each weight starts from one standard-normal draw per (seed, layer name), made on the CPU; a scheme is a function of
those normals, so two Gaussian schemes at one seed differ in scale alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from initlab.init.arguments import check_numbers, checked_patterns, checked_seed
from initlab.init.branches import branch_factors, check_branches
from initlab.init.chosen import IS_CLOSED, left_alone
from initlab.init.draw import set_bias, set_embeddings, set_norms, set_weight
from initlab.init.equal_gradients import equal_gradients_
from initlab.init.expectations import Elementwise, Rectifier
from initlab.init.functional import bare_matrices
from initlab.init.joints import NOWHERE, joints_in_order
from initlab.init.layers import Matrix, matrices_of, numbered
from initlab.init.lsuv import unit_variance_
from initlab.init.schemes import Scheme, scheme_function
from initlab.init.settings import Settings, add, parameter_rows
from initlab.init.shapes import ON_A_BATCH, Branches, Distribution, LayerShape, Mode, check_choices
from initlab.init.sines import sine_frequency
from initlab.nets.any_module import first_slope, layer_name
from initlab.nets.undisturbed import Batch


@torch.no_grad()
def init_(
    model: nn.Module,
    scheme: str | Scheme = "he",
    *,
    mode: Mode = LayerShape.mode,
    distribution: Distribution = LayerShape.distribution,
    std: float = LayerShape.std,
    seed: int = 0,
    negative_slope: float | None = None,
    linear_std: float | None = None,
    last_std: float | None = None,
    last_factor: float = 1.0,
    w0: float | None = None,
    embedding_std: float | None = None,
    branches: Branches | None = None,
    keep: str | Sequence[str] = (),
    redraw: str | Sequence[str] = (),
    batch: Batch | None = None,
    on_parameter: Callable[[dict[str, Any]], None] | None = None,
    tell: Callable[[dict[str, Any]], None] | None = None,
) -> nn.Module:
    """Draw the weights of `model` under `scheme`, in place; biases become 0, norms get weight 1 and bias 0.

    Drawn are convolutions and linear layers (Hugging Face's Conv1D and other libraries' too), bilinear ones, query, key
    and value of `nn.MultiheadAttention`, and the gates of recurrent modules: weights of their state are orthogonal
    gate by gate (but under `torch_default`), an LSTM's forget gates get bias 1. Weight norm and spectral norm are
    written through.

    Left alone is what the model's author chose, unless `redraw` names it: weights of zeros, which close a branch until
    it learns (zero-init residual, LoRA's B, DiT's adaLN-zero); biases that are none of torch's draws (a focal prior);
    norms whose gain is one constant other than 1. So are embeddings, slopes and bare parameters, and a weight that an
    embedding shares; a weight that layers share is drawn for the last of them. `on_parameter` tells what and why.

    Args:
        scheme: a name of `initlab.init.schemes.SCHEMES`, or a function of yours: (normals, layer) -> weight.
        mode: `fan_in` keeps the forward variance, `fan_out` the backward one (xavier, he, truncated_normal, solved).
        distribution: `normal`, or `uniform` of the same standard deviation (gaussian, xavier, he, lecun, solved).
        std: standard deviation under `gaussian`.
        negative_slope: the rectifier's slope in the gain of all layers; None takes each layer's own activation, where
            it lies before the layer in an `nn.Sequential`, else the slope of the model's first rectifier.
        linear_std: standard deviation of the linear layers but the last, as `gaussian`; None leaves them to the scheme.
        last_std: standard deviation of the last linear layer, as `gaussian`; None leaves it to the scheme.
        last_factor: factor on the last linear layer's weights, whichever gave them.
        w0: of the activations sin(w0 y) under `siren`; None takes that of the model's sines, 30 where it has none.
        embedding_std: standard deviation of embeddings, normal, with padding rows 0; None leaves them as they are.
            GPT-2 and BERT take 0.02.
        branches: what becomes of residual branches, which a run on `batch` finds. `scaled`: the end of each of B by
            1 / sqrt(B) (GPT-2's 1 / sqrt(2L)); `zero`: by 0, so that blocks start as their skips (zero-init residual,
            ReZero's start); `fixup`, `t-fixup`: those papers' factors on the scheme's weights (see `branch_factors`).
        keep: names of parameters to leave as they are, with `*` and `?` as in file names.
        redraw: names of parameters to set even where their author chose them; `*` is all.
        batch: inputs as the model takes them, (N, ...), or its arguments as a mapping, tuple or list; for `lsuv`,
            `solved` and `branches`. A run on it also shows which bare parameters are weights, which are then drawn.
        on_parameter: called with a row for each parameter of what it was set to: name, rule (the scheme, `0`, `1` or
            `kept`), shape, fan_in, fan_out (None but for weights), scheme_std (None but where the scheme is one), mean,
            std, reason (why it was kept; empty where it was set), keeps (of weights, the signal whose variance the
            scheme keeps: `forward`, `backward` or None). `on_parameter=print`, or a list's `append`.
        tell: the old name of `on_parameter`.

    Returns:
        The model.

    Raises:
        ValueError: before anything is changed: unknown scheme, mode or distribution; a number that is none; `lsuv`
            or `solved` without a batch; `keep` or `redraw` that name no parameter; a weight that cannot be set (lazy,
            or computed in another way than by weight norm, spectral norm or pruning). Later: a function of yours that
            gives a wrong shape or numbers that are not finite; a batch that gives a layer no signal to be scaled by.
    """
    scheme_function(scheme)
    check_choices(mode, distribution)
    seed = checked_seed(seed)
    check_numbers(std=std, linear_std=linear_std, last_std=last_std, embedding_std=embedding_std)
    check_numbers(last_factor=last_factor, negative_slope=negative_slope, w0=w0)
    if scheme in ON_A_BATCH and batch is None:
        raise ValueError(f"init: {scheme} scales layers on a batch (got none); give batch=images")
    if on_parameter and tell:
        raise ValueError("init: on_parameter is given twice (got its old name tell too); give on_parameter alone")
    check_branches(branches, batch)
    matrices, names = matrices_of(model), [layer_name(name) for name, _ in model.named_parameters()]
    if batch is not None:
        matrices = numbered([*matrices, *bare_matrices(model, batch, matrices)])
    pinned, redrawn = checked_patterns("keep", keep, names), checked_patterns("redraw", redraw, names)
    # The caller's word on the last layer counts more than its author's.
    redrawn += names_in_last_layer(model, matrices) if last_std is not None or last_factor != 1 else []
    left = left_alone(model, matrices, pinned, redrawn, scheme)
    settings: Settings = {}
    targets: dict[nn.Module, tuple[Matrix, float]] = {}
    factors = branch_factors(model, batch, matrices, branches)
    frequency = w0 or (sine_frequency(model) if scheme == "siren" else LayerShape.w0)
    for matrix in with_gains(model, matrices, negative_slope):
        fixed_std = last_std if matrix.layer.is_last else linear_std if matrix.layer.is_linear else None
        layer_std, rule = (std, scheme) if fixed_std is None else (fixed_std, "gaussian")
        layer = replace(matrix.layer, mode=mode, distribution=distribution, std=layer_std, w0=frequency)
        matrix = replace(matrix, layer=layer)
        factor = factors.weights.get(layer.name, 1.0) * (last_factor if layer.is_last else 1.0)
        add(settings, set_bias(matrix, rule, seed, left))
        add(settings, set_weight(matrix, rule, seed, factor, left))
        if rule in ON_A_BATCH and settings[id(matrix.parameters[-1])].rule == rule and matrix.is_scalable and factor:
            targets[matrix.module] = matrix, factor
    add(settings, set_norms(model, left, factors))
    add(settings, set_embeddings(model, embedding_std, seed, left))
    if batch is not None and targets:
        scale = equal_gradients_ if scheme == "solved" and mode == "fan_out" else unit_variance_
        scale(model, batch, targets, str(scheme), closed=IS_CLOSED in left.values())
    if report := on_parameter or tell:
        for row in parameter_rows(model, settings):
            report(row)
    return model


def names_in_last_layer(model: nn.Module, matrices: list[Matrix]) -> list[str]:
    """The names of the parameters of the model's last linear layer."""
    last = {parameter for matrix in matrices if matrix.layer.is_last for parameter in matrix.parameters}
    return [layer_name(name) for name, parameter in model.named_parameters() if parameter in last]


def with_gains(model: nn.Module, matrices: list[Matrix], negative_slope: float | None) -> list[Matrix]:
    """The matrices, each with the gain of the activation that its input comes through.

    Known of layers in an `nn.Sequential`, attention and recurrence. All others, and layers with no activation before
    them, take the slope of the model's first rectifier, as the paper's nets have one rule in all layers. A slope of the
    caller's is that of all layers that may have a rectifier before them.
    """
    slope = first_slope(model) if negative_slope is None else negative_slope
    joints = joints_in_order(model) if negative_slope is None else {}
    gained = []
    for matrix in matrices:
        layer_slope, gain = slope if matrix.follows == "any" else 1.0, None
        phi = joints.get(matrix.layer.name, NOWHERE).phi
        if isinstance(phi, Rectifier) and not math.isclose(phi.a_squared, slope**2, rel_tol=1e-6):
            # Of equal slopes the first one is taken, since a mean over channels rounds.
            layer_slope = math.sqrt(phi.a_squared)
        elif isinstance(phi, Elementwise) and phi.second(1.0) > 0:
            gain = 1 / math.sqrt(phi.second(1.0))
        layer = replace(matrix.layer, negative_slope=layer_slope, activation_gain=gain)
        gained.append(replace(matrix, layer=layer))
    return gained
