"""Recurrent layers written out step by step: the same values as torch's fused calls, with every gate's pre-activation.

With x_t the input, h the state before and per-gate rows of the weights, the pre-activations z_t that a `Run` holds are

- LSTM: z = W_ih x_t + b_ih + W_hh h + b_hh for the gates input, forget, cell, output;
  c' = s(forget) c + s(input) tanh(cell), h' = s(output) tanh(c'), with projections W_hr h';
- GRU: the same z for reset and update, and new = W_in x_t + b_in + s(reset) (W_hn h + b_hn);
  h' = (1 - s(update)) tanh(new) + s(update) h;
- RNN: z as above, h' = tanh(z) or relu(z).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GATES = {
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("reset", "update", "new"),
    "rnn_tanh": ("",),
    "rnn_relu": ("",),
}
State = tuple[Tensor, ...]


@dataclass
class Run:
    """One layer of one direction over all steps, in the order in which they are run."""

    kind: str
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None
    # By step: the pre-activation of each gate, (examples of this step, hidden).
    gates: list[tuple[Tensor, ...]] = field(default_factory=list)
    begin: Tensor | None = None  # the state before the first step
    projected: list[Tensor] = field(default_factory=list)  # W_hr h', where there is a projection

    def step(self, from_input: Tensor, state: State) -> State:
        """The state after one step; `from_input` is W_ih x_t + b_ih."""
        self.begin = state[0] if self.begin is None else self.begin
        from_state = F.linear(state[0], self.w_hh, self.b_hh)
        if self.kind == "gru":
            (r, u, n), (r_h, u_h, n_h) = from_input.chunk(3, -1), from_state.chunk(3, -1)
            reset, update = r + r_h, u + u_h
            new = n + reset.sigmoid() * n_h
            self.gates.append((reset, update, new))
            return (new.tanh() + update.sigmoid() * (state[0] - new.tanh()),)
        z = from_input + from_state
        if self.kind != "lstm":
            self.gates.append((z,))
            return (z.tanh() if self.kind == "rnn_tanh" else z.relu(),)
        i, f, g, o = z.chunk(4, -1)
        self.gates.append((i, f, g, o))
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        if self.w_hr is not None:
            h = F.linear(h, self.w_hr)
            self.projected.append(h)
        return h, c

    def over(self, x: Tensor, sizes: Sequence[int], state: State, backwards: bool) -> tuple[Tensor, State]:
        """The outputs of all steps, one after the other as `x` has its own, and the last state.

        Args:
            x: (sum of sizes, features): the examples of each step, longest sequences first.
            sizes: how many examples each step has.
            state: (examples, hidden) each; of a sequence that is over, or not begun, it stays.
            backwards: from the last step to the first.
        """
        inputs = list(F.linear(x, self.w_ih, self.b_ih).split(list(sizes)))
        outputs = list(inputs)
        for t in reversed(range(len(inputs))) if backwards else range(len(inputs)):
            active = self.step(inputs[t], tuple(part[: sizes[t]] for part in state))
            outputs[t] = active[0]
            state = tuple(
                torch.cat([now, before[sizes[t] :]]) if sizes[t] < len(before) else now
                for now, before in zip(active, state, strict=True)
            )
        return torch.cat(outputs), state


def written_out(note: Callable[[Run], None]) -> dict[str, Callable[..., Any]]:
    """Torch's fused recurrent functions by name, each written out; `note` gets every run once its output is there."""
    return {kind: partial(layers, kind, note) for kind in GATES} | {
        f"{kind}_cell": partial(cell, kind, note) for kind in GATES
    }


def cell(kind: str, note: Callable[[Run], None], x: Tensor, hx: Any, *weights: Tensor | None) -> Any:
    """`lstm_cell` and its like: one step; weights are W_ih, W_hh, b_ih, b_hh."""
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None and w_hh is not None
    run = Run(kind, w_ih, w_hh, b_ih, b_hh)
    state = run.step(F.linear(x, w_ih, b_ih), tuple(hx) if kind == "lstm" else (hx,))
    note(run)
    return state if kind == "lstm" else state[0]


def layers(kind: str, note: Callable[[Run], None], x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """`lstm` and its like, on (steps, examples, features), or packed: the outputs, and the last states by layer."""
    packed = isinstance(arguments[2], (tuple, list))
    if packed:
        batch_sizes, hx, weights, has_biases, num_layers, dropout, train, two_ways = arguments
        sizes = batch_sizes.tolist()
    else:
        hx, weights, has_biases, num_layers, dropout, train, two_ways, batch_first = arguments
        x = x.transpose(0, 1) if batch_first else x
        sizes = [x.shape[1]] * x.shape[0]
        x = x.flatten(0, 1)
    states = tuple(hx) if kind == "lstm" else (hx,)
    per_run = len(weights) // (num_layers * (1 + two_ways))
    ends: list[State] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(1 + two_ways):
            number = layer * (1 + two_ways) + direction
            w_ih, w_hh, *others = weights[number * per_run : (number + 1) * per_run]
            b_ih, b_hh = others[:2] if has_biases else (None, None)
            w_hr = others[-1] if len(others) in (1, 3) else None
            run = Run(kind, w_ih, w_hh, b_ih, b_hh, w_hr)
            output, end = run.over(x, sizes, tuple(state[number] for state in states), backwards=direction == 1)
            note(run)
            outputs.append(output)
            ends.append(end)
        x = torch.cat(outputs, -1)
        if layer < num_layers - 1:
            x = F.dropout(x, dropout, train)
    if not packed:
        x = x.unflatten(0, (len(sizes), -1))
        x = x.transpose(0, 1) if batch_first else x
    return x, *(torch.stack(state) for state in zip(*ends, strict=True))
