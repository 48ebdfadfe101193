"""Some of the steps that a recurrent layer gave, most often the last: each has a level of its own."""

from dataclasses import replace

import torch

from initlab.signal.theory.kernels import Steps
from initlab.signal.theory.meanfield import Context, Gradient, Result, Signal
from initlab.signal.theory.shapes import TURNED, reshaped, turned
from initlab.signal.theory.trace import LIVE, Operation

# Indices, whose result is one tensor.
PICKING = ("getitem", "__getitem__", "select")


def stepped(context: Context, op: Operation, x: Signal) -> Result:
    """A change of shape as `shapes` has it; single steps that are picked have their own kernel."""
    signal, pull = reshaped(context, op, x)
    if x.steps is None:
        return signal, pull
    if op.function in TURNED:
        return replace(signal, steps=replace(x.steps, axis=turned(op, x.steps.axis))), pull
    chosen = chosen_steps(op, x.steps)
    if not chosen:
        return replace(signal, steps=None), pull
    left, whole, f = x.steps.at(chosen), len(x.steps.within), signal.field
    level, c = left.pairs
    field = replace(f, q=torch.tensor(level, dtype=torch.float64), c=c, positions=len(chosen))
    field = replace(field, mean=f.mean * (x.field.level / level) ** 0.5)
    noise = x.noise if left.noise is None else left.noise(range(len(chosen)))

    def placed(g: Gradient) -> list[Gradient | None]:
        """The gradient at these steps; all others have none."""
        back = Steps.of_gradient(g.steps, g.level, g.c, len(chosen)).placed(chosen, whole)
        level, c = back.pairs
        return [replace(g, q=torch.full_like(x.field.q, level), c=c, parts=(), steps=back)]

    kept = left if len(op.shape) == len(op.in_shapes[0]) else None
    return replace(signal, field=field, noise=noise, steps=kept), placed


def chosen_steps(op: Operation, steps: Steps) -> list[int]:
    """The steps that an index picks, with all channels; none where it picks otherwise."""
    shape = op.in_shapes[0]
    if op.function.__name__ not in PICKING or op.shape[-1:] != shape[-1:]:
        return []
    numbers = torch.arange(len(steps.within)).reshape(
        [-1 if d - len(shape) == steps.axis else 1 for d in range(len(shape))]
    )
    args = [numbers.expand(shape) if value is LIVE else value for value in op.args]
    chosen: list[int] = op.function(*args, **op.kwargs).unique().tolist()
    return chosen
