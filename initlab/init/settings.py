"""What `init_` set a model's parameters to, what it left and why: a row per parameter."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from initlab.init.layers import EMBEDDINGS
from initlab.init.shapes import LayerShape
from initlab.nets.any_module import layer_name

# The rule of an LSTM's biases, where the other gates' are 0.
FORGETS = "0, forget gate 1"


@dataclass(frozen=True)
class Setting:
    """What one parameter was set to, or why it was left."""

    rule: str  # the scheme, a number, or `kept`
    layer: LayerShape | None = None  # of a weight
    scheme_std: float | None = None  # where a scheme is one standard deviation
    reason: str = ""
    keeps: str | None = None  # the signal whose variance it keeps


# By the id of the parameter.
Settings = dict[int, Setting]


def unchanged(reason: str) -> Setting:
    """The setting of what is left as it is."""
    return Setting("kept", reason=reason)


def add(settings: Settings, more: Settings) -> None:
    """Add what was set later; a packed parameter of which a part is left names what was done to the others."""
    for key, new in more.items():
        old = settings.get(key, new)
        main, other = (old, new) if new.rule == "kept" or old.rule == FORGETS else (new, old)
        in_part = f"kept in part: {other.reason}" if main.rule != other.rule == "kept" else other.reason
        settings[key] = replace(main, reason=main.reason or in_part)


def parameter_rows(model: nn.Module, settings: Settings) -> Iterator[dict[str, Any]]:
    """A row per parameter: what it was set to, and the moments that it has now."""
    homes = {id(parameter): module for module in model.modules() for parameter in module.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        setting = settings.get(id(parameter)) or unchanged(unruled(homes[id(parameter)]))
        layer, moments = setting.layer, (math.nan, math.nan)
        if parameter.numel() and parameter.is_floating_point():
            values = parameter.detach().double()
            moments = values.mean().item(), values.std(correction=0).item()
        yield {
            **{"name": layer_name(name), "rule": setting.rule, "shape": tuple(parameter.shape)},
            **{"fan_in": layer and layer.fan_in, "fan_out": layer and layer.fan_out, "scheme_std": setting.scheme_std},
            **{"mean": moments[0], "std": moments[1], "reason": setting.reason},
            "keeps": setting.keeps,
        }


def unruled(module: nn.Module) -> str:
    """Why no rule is for a parameter of this module."""
    if isinstance(module, EMBEDDINGS):
        return "an embedding, which embedding_std= draws"
    if isinstance(module, nn.PReLU):
        return "the slope of an activation"
    return f"no rule is known for a parameter of {type(module).__name__}"
