"""`try_inits`: a model of the user's under several initialisations, each trained a little, as trials of a study.

A study names code as `pkg.module:callable`. What a notebook has at hand is in no module, so one is made of it, whose
name has a hash of what is in it: trials of another model, other data or other code have other ids.
"""

import hashlib
import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import cloudpickle
import torch
from torch import nn

from initlab.data.brought import brought_examples
from initlab.data.examples import PARTS, Examples
from initlab.data.in_memory import pixel_statistics
from initlab.engine.task import State
from initlab.errors import UserError, one_line
from initlab.launch.run import run
from initlab.store.files import writable
from initlab.store.results import Results
from initlab.study.paths import nested
from initlab.study.study import validated

Build = Callable[[], nn.Module]
LOADING = '''"""What `initlab.try_inits` was given, as its worker processes import it."""

from pathlib import Path

import cloudpickle

globals().update(cloudpickle.loads(Path(__file__).with_suffix(".pkl").read_bytes()))
'''


def try_inits(
    build: Build,
    data: Any,
    *,
    schemes: Sequence[str | Callable[..., Any]] = ("torch_default", "xavier", "he", "orthogonal"),
    seeds: int = 3,
    steps: int = 300,
    lr: float = 0.01,
    batch_size: int = 32,
    loss: str | Callable[..., Any] | None = None,
    out: str | Path | None = None,
    jobs: int = 1,
    fields: Mapping[str, Any] = MappingProxyType({}),
    show: Literal["table", "lines", "nothing"] = "lines",
) -> Results:
    """Train a model of yours for some steps under several initialisations; the results are those of a study.

    Args:
        build: gives a new model at every call; its parameters are then drawn by the scheme.
        data: see `initlab.data.brought.brought_examples`.
        schemes: names, or functions `(normals, layer) -> weight`.
        seeds: each scheme is drawn with the seeds 0 to seeds - 1; a seed's draws and batches are the same for all.
        steps: updates of each trial.
        loss: as `train.loss` in a study, or a function (output, labels).
        out: output folder, in which a later call with the same model, data and functions of yours goes on and
            repeats nothing; None is a temporary one, which is gone with the results.
        jobs: trials at once; more than one run in processes of their own, for which all is pickled by value.
        fields: further fields of a study, under their paths: `{"train.momentum": 0.0, "probe.every": 50}`.

    Raises:
        UserError: something that cannot be used, in one line; where all trials fail for one reason, that reason.
    """
    if not callable(build) or isinstance(build, nn.Module):
        text = f"got {'a model' if isinstance(build, nn.Module) else type(build).__name__}"
        raise UserError(f"try_inits: build: no function that makes a model ({text}); give one, as lambda: Net()")
    for name, value in (("seeds", seeds), ("steps", steps), ("batch_size", batch_size), ("jobs", jobs)):
        if type(value) is not int or value < 1:
            raise UserError(f"try_inits: {name}: out of range (got {value!r}); allowed: at least 1")
    model = checked_model(build)
    examples = brought_examples(data, most=2 * steps * batch_size)
    functions = named_functions(build, schemes, loss)
    module = f"tried_{fingerprint(model, examples, functions)}"
    given = {id(function): f"{module}:{name}" for name, function in functions.items()}
    content = nested(
        {
            **{"name": "tries", "data.name": f"{module}:data", "net.name": f"{module}:build"},
            **{"train.lr": lr, "train.loss": given.get(id(loss), loss), "run.jobs": jobs, "run.isolate": "none"},
            **fields_of(examples, steps, batch_size),
            **fields,
        }
    )
    names = [given.get(id(scheme), scheme) for scheme in schemes]
    study, mistakes = validated({**content, "grid": {"init.scheme": names, "seed": list(range(seeds))}})
    if study is None or mistakes:
        raise UserError("; ".join(f"try_inits: {path}: {text}" for path, text in mistakes))
    contents = {**functions, "build": lambda num_classes, input_shape: build(), "data": lambda: examples}
    temporary = tempfile.TemporaryDirectory(prefix="initlab-") if out is None else None
    folder = Path(temporary.name if temporary else str(out))
    with importable(module, contents, folder / "code", pickled=jobs > 1):
        results = run(study, folder, allow_code=True, show=show)
    results.temporary = temporary
    errors = {str(trial.status.get("error")) for trial in results.stored}
    if len(errors) == 1 and all(trial.status["state"] == State.FAILED for trial in results.stored):
        raise UserError(f"try_inits: every trial failed: {one_line(errors.pop())}")
    return results


def checked_model(build: Build) -> nn.Module:
    """A model that `build` gives; refuses what is none, and one that it gives twice."""
    model, another = build(), build()
    if not isinstance(model, nn.Module):
        raise UserError(f"try_inits: build: gives no nn.Module (got {type(model).__name__}); return the model")
    shared = {id(parameter) for parameter in model.parameters()} & {id(parameter) for parameter in another.parameters()}
    if model is another or shared:
        raise UserError("try_inits: build: gives the same model twice; build a new one, with parameters of its own")
    return model


def named_functions(
    build: Build, schemes: Sequence[str | Callable[..., Any]], loss: str | Callable[..., Any] | None
) -> dict[str, Callable[..., Any]]:
    """The user's functions under the names that a study has for them."""
    functions: dict[str, Callable[..., Any]] = {"build": build}
    for scheme in schemes:
        if callable(scheme):
            name = getattr(scheme, "__name__", "")
            free = name.isidentifier() and name not in (*functions, "data", "loss")
            functions[name if free else f"scheme_{len(functions)}"] = scheme
    return functions | ({"loss": loss} if callable(loss) else {})


def fingerprint(model: nn.Module, examples: Examples, functions: Mapping[str, Callable[..., Any]]) -> str:
    """Eight digits of a hash of what is tried: what is built, the source of functions and classes, and the data."""
    texts = [repr(model), *(f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items())]
    kinds = {type(module) for module in model.modules()}
    texts += sorted(source_of(kind) for kind in kinds if not kind.__module__.startswith("torch."))
    texts += [f"{name} {source_of(function)} {closed_over(function)}" for name, function in functions.items()]
    content = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", "\n".join(texts)).encode())
    for part in PARTS:
        tensor = getattr(examples, part).cpu().contiguous()
        content.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.view(-1).view(torch.uint8).numpy())
    return content.hexdigest()[:8]


def source_of(thing: Any) -> str:
    """The source of a function or class, its name where there is none."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return repr(thing)


def closed_over(function: Any) -> str:
    """The values of a function that are not in its source."""
    cells = getattr(function, "__closure__", None) or ()
    values = [repr(cell.cell_contents) for cell in cells] + [repr(getattr(function, "__defaults__", None))]
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    globals_ = getattr(function, "__globals__", {})
    return " ".join([*values, *(repr(globals_[name]) for name in names if name in globals_)])


def fields_of(examples: Examples, steps: int, batch_size: int) -> dict[str, Any]:
    """The fields of a study that come of the data and the number of steps.

    Raises:
        UserError: fewer examples than a batch has.
    """
    count = len(examples.train_labels)
    if count < batch_size:
        raise UserError(f"try_inits: batch_size: more than there are to train on (got {batch_size} of {count})")
    per_epoch = count // batch_size
    # A study sets the spread of inputs; these are to stay as they are.
    spread = 1.0 if not examples.train_inputs.is_floating_point() else pixel_statistics(examples.train_inputs)[1]
    return {
        "data.scale": spread or 1.0,
        "train.epochs": steps / per_epoch,
        "train.batch_size": batch_size,
        "train.validate_every": max(1, steps // 10) / per_epoch,
        "train.log_every": max(1, steps // 30),
        "probe.every": max(1, steps // 3),
    }


@contextmanager
def importable(module: str, contents: Mapping[str, Any], folder: Path, pickled: bool) -> Iterator[None]:
    """Inside, a module of this name has these contents; `pickled`: in processes that are started meanwhile, too."""
    path = folder / f"{module}.py"
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(LOADING)
        if pickled:
            try:
                path.with_suffix(".pkl").write_bytes(cloudpickle.dumps(dict(contents)))
            # Whatever an object's own way to be pickled raises.
            except Exception as error:
                text = f"cannot be pickled for processes of their own ({one_line(error)})"
                raise UserError(f"try_inits: jobs: build, loss or a scheme {text}; give jobs=1") from None
    made = ModuleType(module)
    made.__spec__ = ModuleSpec(module, None, origin=str(path))
    vars(made).update(contents)
    sys.modules[module] = made
    sys.path.append(str(folder.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(folder.resolve()))
        del sys.modules[module]
