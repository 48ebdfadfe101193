"""Rows of recurrent layers, whose runs over their steps come one by one while a model is recorded."""

from collections.abc import Mapping

import torch
from torch import Tensor

from initlab.signal.moments import NAN
from initlab.signal.probe import LayerSignals
from initlab.signal.recorded import Entry, Recorded, row_name
from initlab.signal.recurrent import GATES, Run


class RecurrentRuns:
    """The runs of recurrent layers in a pass, noted in what is recorded of it."""

    def __init__(self, recorded: Recorded, sources: Mapping[Tensor, tuple[str, ...]]) -> None:
        """`sources` has the names of the parameters that a tensor is made of."""
        self.recorded = recorded
        self.sources = sources
        # Weights of a layer's state: those that met one, and those whose steps began at 0.
        self.moving, self.resting = set[str](), set[str]()

    def note(self, run: Run) -> None:
        """A recurrent layer's run over its steps: a row for each gate of each weight, by its pre-activation."""
        tensors = (run.w_ih, run.w_hh, run.b_ih, run.b_hh, run.w_hr)
        sources = [() if tensor is None else self.sources.get(tensor) or () for tensor in tensors]
        if not run.gates or not run.gates[0][0].numel() or not sources[0] or not sources[1]:
            self.recorded.empty.update(name for names in sources for name in names)
            return
        kind, hidden, rows = run.kind.partition("_")[0], run.gates[0][0].shape[-1], list[str]()
        gates = list(zip(*run.gates, strict=True))
        for number, gate in enumerate(GATES[run.kind]):
            gate_signals: LayerSignals | None = None
            for weight, names in zip((run.w_ih, run.w_hh), sources[:2], strict=True):
                rows.append(f"{self.recorded.main_source(names)}.{gate}".rstrip("."))
                signals = self.recorded.layer_of(rows[-1], kind, weight, slice(number * hidden, (number + 1) * hidden))
                signals.calls += 1
                # Both weights add to one pre-activation.
                gate_signals = gate_signals or signals
                signals.forward, signals.backward = gate_signals.forward, gate_signals.backward
                signals.sinks, signals.dtype = gate_signals.sinks, gates[number][0].dtype
                facts = {"part": gate, "shape": (hidden, weight.shape[1]), "fan_in": weight.shape[1]}
                self.recorded.facts.setdefault(rows[-1], facts | {"fan_out": hidden, "width": hidden})
            assert gate_signals is not None
            gate_signals.forward.add(torch.cat(gates[number]))
            for z in gates[number]:
                if z.requires_grad:
                    z.register_hook(gate_signals.receive)
        rests = len(run.gates) == 1 and run.begin is not None and not run.begin.any()
        (self.resting if rests else self.moving).update(sources[1])
        self.note_steps(self.recorded.main_source(sources[0]), run)
        for role, names in zip(("weight", "weight", "bias", "bias", "weight"), sources, strict=True):
            for name in names:
                row = next((row for row in rows if row.startswith(name)), rows[0])
                self.recorded.entries.setdefault(name, Entry(role, kind, row))
        for projected in run.projected:
            assert run.w_hr is not None
            name, (side, fan_in) = row_name(self.recorded.main_source(sources[4])), run.w_hr.shape
            self.recorded.layer_of(name, kind, run.w_hr).add_call(projected)
            facts = {"shape": (side, fan_in), "fan_in": fan_in, "fan_out": side, "width": side}
            self.recorded.facts.setdefault(name, {"part": "projection"} | facts)

    def note_steps(self, weight: str, run: Run) -> None:
        """The moments of each step; the calls of a cell are steps one after the other."""
        layer = weight.replace(".weight_ih_", ".").replace("weight_ih_", "").removesuffix(".weight_ih")
        steps = self.recorded.steps[layer]
        begin = len(steps) if len(run.gates) == 1 else 0
        steps.extend(LayerSignals(weight, run.kind, lambda: NAN) for _ in range(begin + len(run.gates) - len(steps)))
        for step, gates in zip(steps[begin:], run.gates, strict=False):
            step.forward.add(torch.cat(gates, -1))
            for z in gates:
                if z.requires_grad:
                    z.register_hook(step.receive)

    def end(self) -> None:
        """Leave out the weights whose only steps began at 0."""
        recorded = self.recorded
        recorded.resting = self.resting - self.moving
        for weight in recorded.resting:
            del recorded.entries[weight]
            recorded.layers = {n: row for n, row in recorded.layers.items() if not f"{n}.".startswith(f"{weight}.")}
