"""Mean field of a recurrent layer: what one unit of a wide layer does over time, by sampling units.

The rows of W_ih and W_hh are independent, so a wide layer's units are independent of each other, and the
pre-activations of a unit are jointly normal over steps t, s and examples a, b:

    E[z_ta z_sb] = n Var[W_ih] <x_ta x_sb> + N Var[W_hh] E[h_t-1,a h_s-1,b] + Var[b],

the same weights at every step being what correlates them. Going back, the gradient at h_t is W_hh^T of the gradients at
the next step's pre-activations, and normal likewise, independent of the forward pass (Chen, Pennington and Schoenholz
2018; Gilboa et al. 2019). E is taken over sampled units, whose gates follow torch's formulas; so the result is that of
infinite width, up to the sample's error of about 1 %.

One draw of N units strays from that as an average of N independent units does, and what each unit adds to the kernels
is felt by all later steps: `scatter` differentiates by the weight that each unit has in the averages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

State = tuple[Tensor, ...]
# A part of the diagonal that is added to it, since kernels may be singular: constant inputs, or one example twice.
JITTER = 1e-3


def lstm(z: Tensor, state: State) -> State:
    """One step from the pre-activations of the gates input, forget, cell and output, and (h, c)."""
    c = z[1].sigmoid() * state[1] + z[0].sigmoid() * z[2].tanh()
    return z[3].sigmoid() * c.tanh(), c


def gru(z: Tensor, state: State) -> State:
    """One step from reset, update, and the new gate's part of the input and part of the state."""
    new, update = (z[2] + z[0].sigmoid() * z[3]).tanh(), z[1].sigmoid()
    return (new + update * (state[0] - new),)


@dataclass(frozen=True)
class Cell:
    """A kind of recurrent layer: `step` takes the pre-activations (streams, examples, units) and the state."""

    step: Callable[[Tensor, State], State]
    gates: tuple[str, ...]
    streams: tuple[tuple[int | None, int | None], ...]  # of each stream: its gate in W_ih and in W_hh, or None
    states: int = 1

    def gate(self, number: int, z: Tensor) -> Tensor:
        """The pre-activation of a gate, from those of all streams."""
        return z[2] + z[0].sigmoid() * z[3] if len(self.streams) > len(self.gates) and number == 2 else z[number]


CELLS = {
    "lstm": Cell(lstm, ("input", "forget", "cell", "output"), tuple((i, i) for i in range(4)), states=2),
    "gru": Cell(gru, ("reset", "update", "new"), ((0, 0), (1, 1), (2, None), (None, 2))),
    "rnn_tanh": Cell(lambda z, state: (z[0].tanh(),), ("",), ((0, 0),)),
    "rnn_relu": Cell(lambda z, state: (z[0].relu(),), ("",), ((0, 0),)),
}


@dataclass(frozen=True)
class Moments:
    """The draw of a layer's weights, by stream: N Var of each matrix, and mean and variance of the bias."""

    width: int  # N
    ins: Tensor  # n Var[W_ih]; 0 where the stream takes no input
    state: Tensor  # N Var[W_hh]
    ins_back: Tensor  # N Var[W_ih]
    bias: Tensor  # mean
    bias_var: Tensor


class Normals:
    """Normals that are drawn step by step: each step's covariance with the steps so far is given when it comes."""

    def __init__(self, noise: Tensor) -> None:
        """`noise`: (steps, streams, examples, units), independent standard normals."""
        self.noise = noise.transpose(0, 1).flatten(1, 2)
        self.examples = noise.shape[2]
        # Of the covariance's triangular root, a block for each step.
        self.rows: list[Tensor] = []

    def draw(self, covariance: Tensor) -> Tensor:
        """The next step (streams, examples, units), of covariance (streams, examples, steps so far x examples)."""
        before, examples = len(self.rows) * self.examples, self.examples
        past, now = covariance[..., :before], covariance[..., before:]
        row = lean(solved, past, *self.rows) if self.rows else past
        left = now - row @ row.mT
        extra = JITTER * now.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-30
        corner = torch.linalg.cholesky(left + extra[:, None, None] * torch.eye(examples).to(left))
        row = torch.cat([row, corner], -1)
        self.rows.append(row)
        return row @ self.noise[:, : before + examples]


def lean(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A function of tensors that keeps nothing but these for its gradient: all steps so far, put together at each step,
    would take memory with the cube of their number."""
    result: Tensor = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return result


def solved(past: Tensor, *rows: Tensor) -> Tensor:
    """R^-1 past of the triangular root R whose blocks of rows are given, transposed."""
    root = torch.cat([pad(row, (0, rows[-1].shape[-1] - row.shape[-1])) for row in rows], -2)
    solution: Tensor = torch.linalg.solve_triangular(root, past.mT, upper=False)
    return solution.mT


def products(last: Tensor, *steps: Tensor) -> Tensor:
    """Sums over units of products of one step with several."""
    return last @ torch.cat(steps, -2).mT


@dataclass
class Units:
    """Sampled units of one layer and direction, in the order in which its steps run."""

    cell: Cell
    moments: Moments
    weights: Tensor  # (examples, units): each unit's weight in the averages, 1
    generator: np.random.Generator
    z: list[Tensor] = field(default_factory=list)
    states: list[State] = field(default_factory=list)

    @property
    def width(self) -> int:
        """The units of the layer itself."""
        return self.moments.width

    def noise(self, steps: int, streams: int) -> Tensor:
        """Standard normals (steps, streams, examples, units), within each stream of mean 0 and without correlations."""
        examples, units = self.weights.shape
        normals = self.generator.standard_normal((streams, units, 1 + steps * examples))
        normals[..., 0] = 1.0
        rows: Tensor = torch.linalg.qr(torch.from_numpy(normals))[0][..., 1:].mT * units**0.5
        return rows.reshape(streams, steps, examples, units).transpose(0, 1)

    def forward(self, inputs: Tensor) -> None:
        """Run the steps, of inputs with the kernel <x x> (examples, steps, examples, steps)."""
        steps, m = inputs.shape[1], self.moments
        normals = Normals(self.noise(steps, len(self.cell.streams)))
        examples, units = self.weights.shape
        state = (torch.zeros(examples, units, dtype=torch.float64),) * self.cell.states
        before = [state[0] * self.weights.sqrt()]
        for t in range(steps):
            seen = inputs[:, t, :, : t + 1].transpose(1, 2).flatten(1)
            made = lean(products, before[-1], *before) / units
            kernel = m.ins[:, None, None] * seen + m.state[:, None, None] * made + m.bias_var[:, None, None]
            self.z.append(normals.draw(kernel) + m.bias[:, None, None])
            self.states.append(state)
            state = self.cell.step(self.z[-1], state)
            before.append(state[0] * self.weights.sqrt())
        self.states.append(state)

    @property
    def outputs(self) -> Tensor:
        """h after each step: (steps, examples, units)."""
        return torch.stack([state[0] for state in self.states[1:]])

    def gates(self, number: int) -> Tensor:
        """The pre-activations of a gate: (steps, examples, units)."""
        return torch.stack([self.cell.gate(number, z) for z in self.z])

    def backward(self, kernel: Tensor) -> Tensor:
        """Gradients at the streams (steps, streams, examples, units), of the kernel of those that come in at h."""
        m, steps = self.moments, len(self.z)
        normals, units = Normals(self.noise(steps, 1)), self.weights.shape[1]
        carried = tuple(torch.zeros_like(part) for part in self.states[0])
        root = self.weights.sqrt()
        after = [torch.zeros_like(self.z[0])]
        deltas: list[Tensor] = []
        for t in reversed(range(steps)):
            coming = kernel[:, t].flip(2)[..., : steps - t].transpose(1, 2).flatten(1)
            through = (m.state[:, None, None] * lean(products, after[-1], *after)).sum(0) / units
            come = normals.draw((coming + through)[None])[0]
            pull = torch.func.vjp(self.cell.step, self.z[t], self.states[t])[1]
            delta, carried = pull((carried[0] + come, *carried[1:]))
            after.append(delta * root)
            deltas.append(delta)
        return torch.stack(deltas[::-1])


class Scatter(NamedTuple):
    """How a level moves: with that of the inputs, and by itself from draw to draw."""

    power: float  # d ln level / d ln of the inputs' level
    variance: float  # of its logarithm


def kernel_of(values: Tensor, weights: Tensor) -> Tensor:
    """Mean products over units of (steps, examples, units): (examples, steps, examples, steps)."""
    weighted = values * weights.sqrt()
    return torch.einsum("tau,sbu->atbs", weighted, weighted) / values.shape[-1]


def scatter(levels: Sequence[Tensor], scale: Tensor, populations: Sequence[Units], examples: int) -> list[Scatter]:
    """How each level scatters over draws, from what each sampled unit of each layer adds to it.

    A draw has `examples` examples, of which the sample has a few: those of a unit are correlated.
    """
    leaves = [scale, *(p.weights for p in populations)]
    # One after the other: all at once take as many times the memory.
    each = [torch.autograd.grad(level.log(), leaves, retain_graph=True, allow_unused=True) for level in levels]
    powers, *parts = (None if part[0] is None else torch.stack(part) for part in zip(*each, strict=True))
    variances = torch.zeros(len(levels), dtype=torch.float64)
    for population, part in zip(populations, parts, strict=True):
        if part is None:
            continue
        influence = part * part[0].numel()
        influence = influence - influence.mean(2, keepdim=True)
        products = influence @ influence.mT / influence.shape[2]
        sampled = products.shape[1]
        alone = products.diagonal(dim1=1, dim2=2).mean(1)
        pairs = (products.sum((1, 2)) - sampled * alone) / max(sampled * (sampled - 1), 1)
        shared = 1 - 1 / examples if sampled > 1 else 0.0
        variances += ((1 - shared) * alone + shared * pairs) / population.width
    powers = torch.zeros(len(levels)) if powers is None else powers
    return [Scatter(power, variance) for power, variance in zip(powers.tolist(), variances.tolist(), strict=True)]
