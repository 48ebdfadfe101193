"""The rule of `nn.LSTM`, `nn.GRU` and `nn.RNN`: mean field of gates over time, in all layers and both directions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from initlab.signal.theory.field import NoRule, common
from initlab.signal.theory.gates import CELLS, Cell, Moments, Units, kernel_of, scatter
from initlab.signal.theory.kernels import Steps, field_from, sampled, steps_of
from initlab.signal.theory.meanfield import Context, GateRow, Gradient, Result, Signal
from initlab.signal.theory.scatter import Noise, mixed
from initlab.signal.theory.trace import Operation

# Units that are sampled, and the longest sequence that is followed: the cost grows with the square of the steps.
UNITS, LONGEST = 512, 128
# Correlation of the gradients at two steps from which on they are one gradient, as that of a mean over steps.
ALIKE = 0.5


@dataclass
class Layer:
    """One layer in one direction."""

    units: Units
    names: list[str]  # of its two weights, where they are the model's parameters
    backwards: bool

    def turned(self, kernel: Tensor) -> Tensor:
        """A kernel over steps in the order in which the layer runs, or back from that."""
        return kernel.flip(1, 3) if self.backwards else kernel

    @property
    def outputs(self) -> Tensor:
        """h by the steps of the sequence."""
        h = self.units.outputs
        return h.flip(0) if self.backwards else h

    @property
    def kernel(self) -> Tensor:
        """The kernel of h for the next layer; of the layer's own number of units, whose pairs scatter."""
        whole, narrow = kernel_of(self.outputs, self.units.weights), self.outputs[..., : self.units.width]
        drawn = kernel_of(narrow, torch.ones_like(narrow[0])).detach()
        root = (torch.einsum("atat->at", whole) / torch.einsum("atat->at", drawn).clamp(min=1e-300)).detach().sqrt()
        return whole + (torch.einsum("at,atbs,bs->atbs", root, drawn, root) - whole).detach()


@dataclass
class Run:
    """A call of a recurrent function, followed on a few examples."""

    kind: str
    last: bool  # whether it is the last h of each layer and direction that goes on, or the outputs of all steps
    examples: int  # of the batch
    axis: int  # of the steps, counted from the end
    scale: Tensor  # of the inputs' kernel, 1: what depends on it follows the inputs' level
    noise: Noise  # of the inputs
    context: Context
    layers: list[list[Layer]] = field(default_factory=list)

    @property
    def all_layers(self) -> list[Layer]:
        """One after the other, in torch's order."""
        return [layer for both in self.layers for layer in both]

    def values(self) -> list[tuple[Tensor, Tensor]]:
        """What goes on: (steps, examples, units) and the units' weights, of each part of the channels or positions."""
        if self.last:
            return [(layer.units.outputs[-1:], layer.units.weights) for layer in self.all_layers]
        return [(layer.outputs, layer.units.weights) for layer in self.layers[-1]]

    def kernel(self) -> Tensor:
        """Its kernel; different layers and directions have nothing in common."""
        kernels = [kernel_of(*value) for value in self.values()]
        if not self.last:
            return torch.stack(kernels).mean(0)
        whole = torch.zeros(len(kernels[0]), len(kernels), len(kernels[0]), len(kernels), dtype=torch.float64)
        for place, kernel in enumerate(kernels):
            whole[:, place, :, place] = kernel[:, 0, :, 0].detach()
        return whole

    def level(self, chosen: Sequence[int]) -> Tensor:
        """Mean square over some of the positions."""
        if self.last:
            return torch.stack([(h**2 * weights).mean() for h, weights in (self.values()[n] for n in chosen)]).mean()
        return torch.stack([(h[list(chosen)] ** 2 * weights).mean() for h, weights in self.values()]).mean()

    def scattered(self, levels: Sequence[Tensor], noise: Noise | None = None) -> list[Noise]:
        """How levels scatter over draws: with the inputs', with what else is given, and by themselves."""
        with torch.inference_mode(False), torch.enable_grad():
            all_units = [layer.units for layer in self.all_layers]
            each = scatter(levels, self.scale, all_units, self.examples)
        parts = [(1.0, noise)] if noise else []
        return [mixed((power, self.noise), *parts).having(self.context.source(variance)) for power, variance in each]


def recurrent(context: Context, op: Operation, x: Signal) -> Result:
    """The outputs of all steps (place 0 of what the call gives), or the last h of each layer and direction (place 1).

    Exact for wide layers of independent weights, but for the sample of units (1 to 3 % of a level).
    """
    if op.place > 1:
        raise NoRule(op.function, "the last state of its cells goes on")
    # Gradients by the weights of sampled units, whatever the caller's mode.
    with torch.inference_mode(False), torch.enable_grad():
        run = forward(context, op, x)
        kernel = run.kernel().detach()
        mean = float(torch.stack([h.detach().mean() for h, _ in run.values()]).mean())
    steps = steps_of(kernel, run.axis, lambda chosen: run.scattered([run.level(chosen)])[0])
    channels = op.shape[-1]
    f = field_from(kernel, mean, channels)
    rows = context.gates.setdefault(id(op.args), gate_rows(run))
    signal = Signal(f, run.scattered([run.level(range(f.positions))])[0], axis=-1, steps=steps)

    def pull(g: Gradient) -> list[Gradient | None]:
        """Through all steps of all layers."""
        given = Steps.of_gradient(g.steps, g.level, g.c, f.positions)
        if g.steps is None and f.positions > 1 and g.c.within < ALIKE:
            context.reasons.append(f"{op.function.__name__}: gradients that come in at many steps are alike by label")
            g = replace(g, basis="approximate" if g.basis == "theory" else g.basis)
        with torch.inference_mode(False), torch.enable_grad():
            return [backward(run, op, x, sampled(given, g.spread, len(kernel)), g, rows)]

    return signal, pull


def forward(context: Context, op: Operation, x: Signal) -> Run:
    """All layers on a few examples, from the kernel that the run had, at the level that the signal has."""
    if op.kernel is None:
        raise NoRule(op.function, "packed sequences, or one without a batch")
    hx, flat, has_biases, num_layers, dropout, _, two_ways, batch_first = op.args[1:]
    kind = op.function.__name__
    if any(bool(state.any()) for state in (hx if isinstance(hx, tuple) else (hx,))):
        raise NoRule(op.function, "a first state that is not 0")
    if context.dropout and dropout and num_layers > 1:
        raise NoRule(op.function, "dropout between its layers")
    per_run = len(flat) // (num_layers * (1 + two_ways))
    if per_run != 2 + 2 * has_biases:
        raise NoRule(op.function, "projections")
    cell, kernel = CELLS[kind], op.kernel
    sampled_level = float(torch.einsum("atat->", kernel)) / (kernel.shape[0] * kernel.shape[1])
    if sampled_level == 0:
        raise NoRule(op.function, "inputs of 0")
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    inputs = kernel * (scale * (x.field.level / sampled_level))
    if kernel.shape[1] > LONGEST:
        raise NoRule(op.function, f"{kernel.shape[1]} steps, more than {LONGEST}")
    first, second, _ = op.in_shapes[0]
    if not batch_first and (op.inputs == [-1] or second != context.examples == first):
        raise NoRule(op.function, "a batch whose steps come first, which count as its examples")
    axis = -2 if batch_first or op.place else -3
    run = Run(kind, op.place == 1, context.examples, -3 if op.place else axis, scale, x.noise, context)
    generator = np.random.default_rng(0)
    for number in range(num_layers):
        both = []
        for direction in range(1 + two_ways):
            begin = (number * (1 + two_ways) + direction) * per_run
            weights = flat[begin : begin + per_run]
            ones = torch.ones(len(kernel), UNITS, dtype=torch.float64, requires_grad=True)
            names = [context.names[id(w)] for w in weights[:2] if id(w) in context.names]
            layer = Layer(Units(cell, moments(context, cell, weights), ones, generator), names, direction == 1)
            layer.units.forward(layer.turned(inputs))
            both.append(layer)
        run.layers.append(both)
        inputs = torch.stack([layer.kernel for layer in both]).mean(0)
    return run


def moments(context: Context, cell: Cell, weights: Sequence[Tensor]) -> Moments:
    """Second moments of a layer's weights by stream, and the biases' means and variances as they are."""
    gates = len(cell.gates)
    squares = []
    for weight in weights[:2]:
        drawn = context.weight_moments.get(id(weight))
        each = [float(part.detach().double().square().mean()) for part in weight.chunk(gates)]
        squares.append(each if drawn is None else [drawn] * gates)
    (_, n_in), (_, width) = weights[0].shape, weights[1].shape
    biases = [bias.detach().double().cpu().chunk(gates) for bias in weights[2:]]
    zeros = torch.zeros(width, dtype=torch.float64)
    sums = [
        sum((part[gate] for part, gate in zip(biases, stream, strict=False) if gate is not None), zeros)
        for stream in cell.streams
    ]
    means = [common(bias) for bias in sums]

    def column(side: int, count: int) -> Tensor:
        """By stream, count times the second moment of one of the matrices; 0 where it has no part."""
        places = [stream[side] for stream in cell.streams]
        return torch.tensor([0.0 if place is None else count * squares[side][place] for place in places]).double()

    variances = [max(float(b.square().mean()) - mean**2, 0.0) for b, mean in zip(sums, means, strict=True)]
    bias = (torch.tensor(values, dtype=torch.float64) for values in (means, variances))
    return Moments(width, column(0, n_in), column(1, width), column(0, width), *bias)


def gate_rows(run: Run) -> list[GateRow]:
    """The gates of all layers, as `inspect` has them, for both weights of each."""
    gates = [
        (layer, number) for layer in run.all_layers if layer.names for number in range(len(layer.units.cell.gates))
    ]
    with torch.inference_mode(False), torch.enable_grad():
        ys = [(layer.units.gates(number), layer.units) for layer, number in gates]
        noises = run.scattered([(y**2 * units.weights).mean() for y, units in ys]) if gates else []
    rows = []
    for (layer, number), (y, units), noise in zip(gates, ys, noises, strict=True):
        gate = units.cell.gates[number]
        f = field_from(kernel_of(y, units.weights), float(y.detach().mean()), units.width)
        rows.append(
            GateRow([f"{name}.{gate}".rstrip(".") for name in layer.names], run.kind.partition("_")[0], f, noise)
        )
    return rows


def backward(run: Run, op: Operation, x: Signal, kernel: Tensor, g: Gradient, rows: list[GateRow]) -> Gradient:
    """The gradient at the inputs, of the kernel of that at what goes on; the rows of gates get theirs."""
    examples, steps = len(kernel), len(run.all_layers[0].units.z)
    above = torch.zeros(examples, steps, examples, steps, dtype=torch.float64) if run.last else kernel
    place = kernel.shape[1]
    deltas: list[tuple[Tensor, Tensor]] = []
    for both in reversed(run.layers):
        below = torch.zeros(examples, steps, examples, steps, dtype=torch.float64)
        for layer in reversed(both):
            come = layer.turned(above)
            if run.last:
                place -= 1
                ends = torch.zeros_like(come)
                ends[:, -1, :, -1] = kernel[:, place, :, place]
                come = come + ends
            delta, root = layer.units.backward(come), layer.units.weights
            streams = [kernel_of(delta[:, n], root) for n in range(delta.shape[1])]
            parts = [m * stream for m, stream in zip(layer.units.moments.ins_back, streams, strict=True)]
            below = below + layer.turned(torch.stack(parts).sum(0))
            if layer.names:
                deltas = [(delta[:, n], root) for n in range(len(layer.units.cell.gates))] + deltas
        above = below
    level = torch.einsum("atat->", above) / (examples * steps)
    levels = [(delta**2 * root).mean() for delta, root in deltas]
    noise, *noises = run.scattered([level, *levels], g.noise)
    for row, (delta, root), own in zip(rows, deltas, noises, strict=True):
        f = field_from(kernel_of(delta, root), 0.0, row.field.channels)
        # Where two parts of what the call gives go on, their squares add.
        before = row.gradient.q if row.gradient else 0.0
        row.gradient = Gradient(f.q + before, f.c, f.spread, own, basis=g.basis)
    f = field_from(above, 0.0, op.in_shapes[0][-1])
    # One draw of W_ih adds the scatter of its own columns.
    own_columns = 2 * run.context.average(f.c**2 + f.spread, f.positions) / op.in_shapes[0][-1]
    noise = noise.having(run.context.source(own_columns))
    return Gradient(f.q.expand(x.field.q.shape), f.c, f.spread, noise, basis=g.basis, steps=steps_of(above, -2))
