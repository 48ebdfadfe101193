"""One forward pass in which every use of a parameter is noted: layers by first call, and what each parameter does."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from initlab.init.uses import CONVOLUTIONS, Call, Use, Uses, fans_in
from initlab.nets.any_module import WeightLayer, layer_name, on_weight_layers, op_of
from initlab.nets.undisturbed import Batch, run_model, tensors_in
from initlab.signal.moments import NAN
from initlab.signal.probe import LayerSignals, NextActivation
from initlab.signal.recorded import Entry, Recorded, layer_facts, row_name
from initlab.signal.recurrent import written_out
from initlab.signal.recurrent_runs import RecurrentRuns
from initlab.signal.trunk import on_trunk

# Parts of the packed weight of nn.MultiheadAttention, equal numbers of its rows.
PACKED = ("q", "k", "v")


class Recording(Recorded):
    """What a pass shows, filled in by `run`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.activations = NextActivation()
        # Names of the weight layers whose forward runs now, and of their parameters.
        self.inside: list[tuple[str, set[str]]] = []
        attentions = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
        self.packed = {layer_name(f"{name}.in_proj_weight".lstrip(".")) for name, _ in attentions}

    def run(self, batch: Batch) -> Any:
        """Run the model; the hooks are gone before the backward pass, which may run layers a second time."""
        # No attributes: in a circle with this recording they would hold the graph until Python's collector comes.
        uses = Uses(self.model, batch, self.note_call)
        runs = RecurrentRuns(self, uses.sources)
        uses.written_out = written_out(runs.note)
        with ExitStack() as stack:
            self.trunk = stack.enter_context(on_trunk(self.model))
            layers = stack.enter_context(on_weight_layers(self.model, self.note_layer))
            for context in (self.following(layers), self.activations, uses):
                stack.enter_context(context)
            output = run_model(self.model, batch)
        runs.end()
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
