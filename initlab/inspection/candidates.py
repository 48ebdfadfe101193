"""Initialisations to compare, in each form that a caller may give them: names, functions of a layer, calls on a model.

"he"                                    a scheme of `initlab.init_`
"as_is"                                 the model as it stands
my_scheme                               a function (normals, layer) -> weight, as `initlab.init_` takes it
("mine", lambda model: ...)             a call that sets the model in place; {"mine": ...} too
"""

import inspect
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from initlab.errors import UserError, one_line
from initlab.init.apply import init_
from initlab.init.schemes import SCHEMES, Scheme
from initlab.inspection.changes import changes_between
from initlab.nets.copies import copied
from initlab.nets.undisturbed import Batch, streams_kept
from initlab.random_streams import stream_seed
from initlab.study.mistakes import suggestion

AS_IS = "as_is"
FORMS = (
    f"{AS_IS}, {', '.join(SCHEMES)}, a function (normals, layer) -> weight, "
    "or a pair of a name and a function that sets the model in place"
)
Given = str | Callable[..., Any]
Schemes = str | Callable[..., Any] | Iterable[Given | tuple[str, Given]] | Mapping[str, Given]


@dataclass(frozen=True)
class Candidate:
    """One initialisation under the name that it has in tables."""

    name: str
    init: Given

    @property
    def scheme(self) -> str | Scheme | None:
        """What `init_` takes; None where the candidate is the model as it stands, or a call on a model."""
        if callable(self.init):
            return None if takes_a_model(self.init) else self.init
        return None if self.init == AS_IS else self.init

    @property
    def is_random(self) -> bool:
        """Whether another seed gives other weights."""
        return self.init != AS_IS

    def apply(self, model: nn.Module, batch: Batch, seed: int) -> str:
        """Set the model in place; gives in short what was set to what.

        Raises:
            ValueError: an initialisation that fails on this model.
        """
        try:
            if self.scheme is not None:
                return drawn(model, self.scheme, self.name, batch, seed)
            return called(model, self.init, seed) if callable(self.init) else "nothing"
        except (ValueError, torch.OutOfMemoryError):
            raise
        # The user's code may raise anything.
        except Exception as error:
            raise ValueError(f"it raised {type(error).__name__}: {one_line(error)}") from error


def drawn(model: nn.Module, scheme: str | Scheme, name: str, batch: Batch, seed: int) -> str:
    """Draw the weights under a scheme of this name; gives how many parameters were set to what."""
    rows: list[dict[str, Any]] = []
    init_(model, scheme, seed=seed, batch=batch, on_parameter=rows.append)
    rules = Counter(row["rule"] if isinstance(row["rule"], str) else name for row in rows)
    by_rule = sorted(rules.items(), key=lambda item: item[0] == "kept")
    return ", ".join(f"{count} kept" if rule == "kept" else f"{count} to {rule}" for rule, count in by_rule)


def called(model: nn.Module, function: Callable[..., Any], seed: int) -> str:
    """Let a function set the model, under global random streams of this seed; gives how much it changed."""
    before, shapes = copied(model), shapes_of(model)
    with streams_kept(parameter.device for parameter in model.parameters()):
        number = stream_seed(seed, "compare_inits")
        torch.manual_seed(number)
        random.seed(number)
        np.random.seed(number % 2**32)
        result = function(model)
    if isinstance(result, nn.Module) and result is not model:
        raise ValueError("it gives another model (got a new module); set the one that is given, in place")
    if shapes_of(model) != shapes:
        raise ValueError("it changed the names or shapes of parameters; set their numbers, in place")
    return f"{len(changes_between(before, model))} of {len(shapes)} parameters changed"


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """The shape of each parameter by name."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def takes_a_model(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with one argument; a scheme takes two, the normals and the layer."""
    try:
        inspect.signature(function).bind(None)
    # What is written in C has no signature; what takes other arguments does not bind.
    except (TypeError, ValueError):
        return False
    return True


def candidates_of(schemes: Schemes) -> list[Candidate]:
    """The candidates in their order.

    Raises:
        UserError: none, an unknown scheme, what is no scheme, or two of one name.
    """
    listed = [schemes] if isinstance(schemes, str) or callable(schemes) else schemes
    if not isinstance(listed, Iterable):
        raise UserError(f"schemes: not a list of schemes (got {type(schemes).__name__}); allowed: a list of {FORMS}")
    candidates = [candidate_of(entry) for entry in (listed.items() if isinstance(listed, Mapping) else listed)]
    if not candidates:
        raise UserError(f"schemes: none to compare (got {schemes!r}); allowed: a list of {FORMS}")
    name, times = Counter(candidate.name for candidate in candidates).most_common(1)[0]
    if times > 1:
        raise UserError(
            f"schemes: {times} of the same name (got {name!r}); give each a name of its own: (name, scheme)"
        )
    return candidates


def candidate_of(entry: Any) -> Candidate:
    """The candidate of one entry."""
    name, init = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, entry)
    if isinstance(init, str) and init != AS_IS and init not in SCHEMES:
        raise UserError(f"schemes: no such scheme (got {init!r}{suggestion(init, SCHEMES)}); allowed: {FORMS}")
    if not (isinstance(init, str) or callable(init)) or not isinstance(name, str | None) or name == "":
        raise UserError(f"schemes: not a scheme (got {entry!r}); allowed: {FORMS}")
    if name is None:
        name = init if isinstance(init, str) else getattr(init, "__name__", type(init).__name__).strip("<>")
    return Candidate(name, init)
