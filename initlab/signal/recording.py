"""One forward pass in which every use of a parameter is noted: layers by first call, and what each parameter does."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initlab.init.layers import layer_fans
from initlab.init.uses import CONVOLUTIONS, Call, Use, Uses, fans_in
from initlab.nets.any_module import WeightLayer, layer_name, on_weight_layers, op_of
from initlab.nets.undisturbed import Batch, run_model, tensors_in
from initlab.signal.moments import NAN
from initlab.signal.probe import LayerSignals, NextActivation
from initlab.signal.recurrent import GATES, Run, written_out
from initlab.signal.trunk import on_trunk

# Parts of the packed weight of nn.MultiheadAttention, equal numbers of its rows.
PACKED = ("q", "k", "v")


@dataclass(frozen=True)
class Entry:
    """Where a parameter enters first."""

    role: str  # of `uses.ROLES`
    op: str  # the function, or the class of the module
    layer: str = ""  # the row whose weight or bias it is
    signals: LayerSignals | None = None  # what comes out of that function, where it is no layer's


class Recording:
    """What a pass showed: `layers` by first call with their `facts`, `entries` by parameter, and `steps`."""

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model = model
        self.parameters = {layer_name(name): p for name, p in model.named_parameters()}
        self.names = {id(parameter): name for name, parameter in self.parameters.items()}
        self.layers: dict[str, LayerSignals] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, Entry] = {}
        self.empty: set[str] = set()  # parameters that met a signal of no examples
        # Weights of a recurrent layer's state: those that met one, and those whose only steps began at 0.
        self.moving, self.resting = set[str](), set[str]()
        # What goes through all gates of a recurrent layer at each of its steps.
        self.steps: defaultdict[str, list[LayerSignals]] = defaultdict(list)
        # The weights of a layer that is no module, as they entered its calls.
        self.entered: defaultdict[str, dict[int, Tensor]] = defaultdict(dict)
        self.activations = NextActivation()
        self.uses = Uses(model, batch, self.note_call)
        self.uses.written_out = written_out(self.note_run)
        # Names of the weight layers whose forward runs now, and of their parameters.
        self.inside: list[tuple[str, set[str]]] = []
        self.joint: dict[tuple[str, ...], LayerSignals] = {}
        attentions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
        self.packed = {layer_name(f"{name}.in_proj_weight".lstrip(".")) for name, _ in attentions}

    def run(self, batch: Batch) -> Any:
        """Run the model; the hooks are gone before the backward pass, which may run layers a second time."""
        with ExitStack() as stack:
            self.trunk = stack.enter_context(on_trunk(self.model))
            layers = stack.enter_context(on_weight_layers(self.model, self.note_layer))
            for context in (self.following(layers), self.activations, self.uses):
                stack.enter_context(context)
            output = run_model(self.model, batch)
        self.resting -= self.moving
        for weight in self.resting:
            del self.entries[weight]
            self.layers = {name: row for name, row in self.layers.items() if not f"{name}.".startswith(f"{weight}.")}
        for name, layer in layers:
            if name not in self.layers:
                self.layers[name] = LayerSignals(name, op_of(layer), partial(getattr, layer, "weight"))
            # Of a weight that also ran in other calls, these.
            if name not in self.facts:
                self.facts[name] = layer_facts(layer)
        return output

    @contextmanager
    def following(self, layers: Sequence[tuple[str, WeightLayer]]) -> Iterator[None]:
        """Know which weight layer's forward runs, and whether an example came to it."""

        def enter(name: str, own: dict[str, str], layer: nn.Module, inputs: Any) -> None:
            """A call begins."""
            self.inside.append((name, set(own)))

        def leave(own: dict[str, str], layer: nn.Module, inputs: Any, output: Any) -> None:
            """A call ends."""
            self.inside.pop()
            if not any(tensor.numel() for tensor in tensors_in(output)):
                self.empty.update(own)

        with ExitStack() as hooks:
            for name, layer in layers:
                own = self.own_parameters(layer)
                hooks.callback(layer.register_forward_pre_hook(partial(enter, name, own)).remove)
                hooks.callback(layer.register_forward_hook(partial(leave, own)).remove)
            yield

    def note_layer(self, name: str, layer: WeightLayer, inputs: tuple[Any, ...], y: Tensor) -> None:
        """A convolution's or linear module's call."""
        if name not in self.layers:
            self.layers[name] = LayerSignals(name, op_of(layer), partial(getattr, layer, "weight"))
        self.layers[name].add_call(y)
        self.activations.waiting.append(self.layers[name])
        for parameter, role in self.own_parameters(layer).items():
            self.entries.setdefault(parameter, Entry(role, type(layer).__name__, name))

    def note_call(self, call: Call) -> None:
        """Any other call that parameters enter."""
        inside, own = self.inside[-1] if self.inside else ("", set[str]())
        uses = [use for use in call.uses if own.isdisjoint(use.sources)]
        # What is merged into the weight of the layer that runs is a part of it.
        for use in call.uses if call.y is not None and call.y.numel() else ():
            for name in use.sources if not own.isdisjoint(use.sources) else ():
                self.entries.setdefault(name, Entry(use.role, call.function, inside))
        if uses and call.y is not None and not call.y.numel():
            self.empty.update(name for use in uses for name in use.sources)
            return
        for use in uses:
            for name in set(use.sources) - set(self.parameters):
                self.parameters[name] = self.model.get_parameter(name)
        weight = next((use for use in uses if use.role == "weight"), None)
        layer = "" if weight is None or call.y is None else self.note_weight(call, weight, call.y)
        others = [use for use in uses if not (layer and use.role in ("weight", "bias"))]
        signals = self.signals_after(call, others) if others else None
        for use in uses:
            entry = Entry(use.role, call.function, signals=signals) if use in others else None
            for name in use.sources:
                self.entries.setdefault(name, entry or Entry(use.role, call.function, layer))

    def signals_after(self, call: Call, uses: Sequence[Use]) -> LayerSignals:
        """What comes out of the calls that these parameters enter together."""
        names = tuple(name for use in uses for name in use.sources)
        signals = self.joint.setdefault(names, LayerSignals(names[0], call.function, lambda: NAN))
        if call.y is not None:
            signals.add_call(call.y)
        return signals

    def note_weight(self, call: Call, use: Use, y: Tensor) -> str:
        """A matrix or filter in a call, each of its packed parts by itself; the name of the (first) row."""
        source = self.main_source(use.sources)
        parts = list(self.packed_parts(source, use.tensor)) if source in self.packed else []
        for part, rows, columns in parts:
            name, weight = f"{source}.{part}", self.parameters[source]
            self.layer_of(name, "linear", weight, rows).add_call(y[..., columns], (y, columns))
            side = rows.stop - rows.start
            facts = {"shape": (side, weight.shape[1]), "fan_in": weight.shape[1], "fan_out": side, "width": side}
            self.facts.setdefault(name, {"part": part} | facts)
        if parts:
            return f"{source}.{parts[0][0]}"
        name, (fan_in, fan_out, width) = row_name(source), fans_in(call, use)
        op = "conv" if call.function in CONVOLUTIONS else "bilinear" if call.function == "bilinear" else "linear"
        signals = self.layer_of(name, op, use.tensor)
        signals.add_call(y)
        self.activations.waiting.append(signals)
        facts = {"shape": tuple(use.tensor.shape), "fan_in": fan_in, "fan_out": fan_out, "width": width}
        self.facts.setdefault(name, {"part": ""} | facts)
        return name

    def packed_parts(self, source: str, entered: Tensor) -> Iterator[tuple[str, slice, slice]]:
        """(part, rows of the parameter, columns of the call's output) of a packed weight, or of a chunk of it."""
        weight = self.parameters[source]
        # A chunk of the rows shares the parameter's memory.
        begin = entered.storage_offset() // weight.shape[1] if len(entered) < len(weight) else 0
        side = len(weight) // len(PACKED)
        for number, part in enumerate(PACKED):
            start = number * side - begin
            if 0 <= start < len(entered):
                yield part, slice(number * side, (number + 1) * side), slice(start, start + side)

    def layer_of(self, name: str, op: str, weight: Tensor, rows: slice = slice(None)) -> LayerSignals:
        """The row of a layer that is no module, whose weight enters a call as this tensor."""
        self.entered[name].setdefault(id(weight), weight)
        return self.layers.setdefault(name, LayerSignals(name, op, weight.detach, rows))

    def note_run(self, run: Run) -> None:
        """A recurrent layer's run over its steps: a row for each gate of each weight, by its pre-activation."""
        tensors = (run.w_ih, run.w_hh, run.b_ih, run.b_hh, run.w_hr)
        sources = [() if tensor is None else self.uses.sources.get(tensor) or () for tensor in tensors]
        if not run.gates or not run.gates[0][0].numel() or not sources[0] or not sources[1]:
            self.empty.update(name for names in sources for name in names)
            return
        kind, hidden, rows = run.kind.partition("_")[0], run.gates[0][0].shape[-1], list[str]()
        gates = list(zip(*run.gates, strict=True))
        for number, gate in enumerate(GATES[run.kind]):
            gate_signals: LayerSignals | None = None
            for weight, names in zip((run.w_ih, run.w_hh), sources[:2], strict=True):
                rows.append(f"{self.main_source(names)}.{gate}".rstrip("."))
                signals = self.layer_of(rows[-1], kind, weight, slice(number * hidden, (number + 1) * hidden))
                signals.calls += 1
                # Both weights add to one pre-activation.
                gate_signals = gate_signals or signals
                signals.forward, signals.backward = gate_signals.forward, gate_signals.backward
                signals.sinks, signals.dtype = gate_signals.sinks, gates[number][0].dtype
                facts = {"part": gate, "shape": (hidden, weight.shape[1]), "fan_in": weight.shape[1]}
                self.facts.setdefault(rows[-1], facts | {"fan_out": hidden, "width": hidden})
            assert gate_signals is not None
            gate_signals.forward.add(torch.cat(gates[number]))
            for z in gates[number]:
                if z.requires_grad:
                    z.register_hook(gate_signals.receive)
        rests = len(run.gates) == 1 and run.begin is not None and not run.begin.any()
        (self.resting if rests else self.moving).update(sources[1])
        self.note_steps(self.main_source(sources[0]), run)
        for role, names in zip(("weight", "weight", "bias", "bias", "weight"), sources, strict=True):
            for name in names:
                row = next((row for row in rows if row.startswith(name)), rows[0])
                self.entries.setdefault(name, Entry(role, kind, row))
        for projected in run.projected:
            assert run.w_hr is not None
            name, (side, fan_in) = row_name(self.main_source(sources[4])), run.w_hr.shape
            self.layer_of(name, kind, run.w_hr).add_call(projected)
            facts = {"shape": (side, fan_in), "fan_in": fan_in, "fan_out": side, "width": side}
            self.facts.setdefault(name, {"part": "projection"} | facts)

    def note_steps(self, weight: str, run: Run) -> None:
        """The moments of each step; the calls of a cell are steps one after the other."""
        steps = self.steps[weight.replace(".weight_ih_", ".").replace("weight_ih_", "").removesuffix(".weight_ih")]
        begin = len(steps) if len(run.gates) == 1 else 0
        steps.extend(LayerSignals(weight, run.kind, lambda: NAN) for _ in range(begin + len(run.gates) - len(steps)))
        for step, gates in zip(steps[begin:], run.gates, strict=False):
            step.forward.add(torch.cat(gates, -1))
            for z in gates:
                if z.requires_grad:
                    z.register_hook(step.receive)

    def own_parameters(self, layer: WeightLayer) -> dict[str, str]:
        """Parameters that make up a layer's weight and bias, under whatever norm or parametrization, with that role."""
        roles = {}
        for key, parameter in layer.named_parameters():
            path = key.removeprefix("parametrizations.")
            for role in ("weight", "bias"):
                if path == role or path.startswith((f"{role}.", f"{role}_")):
                    # Unknown is what `torch.func.functional_call` puts in a parameter's place.
                    roles[self.names.get(id(parameter), "")] = role
        roles.pop("", None)
        return roles

    def signals(self) -> Iterator[LayerSignals]:
        """Everything that takes gradients."""
        yield from self.layers.values()
        yield from self.joint.values()
        for steps in self.steps.values():
            yield from steps

    def main_source(self, names: Sequence[str]) -> str:
        """The largest of the parameters that a weight is made of."""
        return max(names, key=lambda name: self.parameters[name].numel())


def row_name(parameter: str) -> str:
    """A module's `weight`, in whatever form, by the name of the module; other parameters by their own."""
    path, _, last = parameter.partition(".parametrizations.")[0].rpartition(".")
    if ".parametrizations." in f".{parameter}":
        return parameter.partition(".parametrizations.")[0]
    return path if last in ("weight", "weight_g", "weight_v", "weight_orig") else parameter


def layer_facts(module: WeightLayer) -> dict[str, Any]:
    """Shape of the weight, its fans, and the channels or features of the layer's output."""
    fan_in, fan_out = layer_fans(module)
    width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return {"part": "", "shape": tuple(module.weight.shape), "fan_in": fan_in, "fan_out": fan_out, "width": width}
