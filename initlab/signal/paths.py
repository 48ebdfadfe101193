"""Paths through a model: along which weight layers a signal is to be compared with itself.

Rows in order of first call are no path: a query and the layer that expands a block differ in size on purpose. What is
compared is the trunk, which are the layers that every way from the input to the output passes, where nothing is added
around them; layers in a row elsewhere; and layers of one role in block after block, queries with queries (`paths_of`).
Which layer takes what is read off the autograd graph of one pass (`wiring_of`).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from initlab.nets.autograd_graph import Node, function_of, in_order, is_leaf, sources_of

# Stands among the sources of a call for the model's input.
INPUT = -1
# What autograd calls the operations that multiply a signal by a matrix.
PRODUCTS = {"Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "Linear", "MkldnnLinear", "Embedding"}
# Joins that leave the signals which they join on one scale, and those that skips end in.
NEUTRAL, SUMS = {"Cat", "Stack"}, {"Add", "Sub"}
# What `op` is of rows that are gates.
RECURRENT = ("lstm", "gru", "rnn")
# Layers in a row beside the trunk are a path from so many on: a branch of two or three has no depth.
LONGEST_BRANCH = 3


@dataclass(frozen=True)
class Wiring:
    """The calls of weight layers in an order that the signal may take, and which of them each takes its input from."""

    calls: tuple[str, ...]  # names of layers, or of parameters that are used without one
    sources: tuple[frozenset[int], ...]  # positions in `calls`, `INPUT` for the model's input; none for a constant
    ends: frozenset[int]  # whose result reaches an output through no other layer
    joins: frozenset[str]  # autograd's names of what joins different signals: Add, Mul, Cat

    @property
    def constant(self) -> set[str]:
        """Layers whose input does not depend on the model's."""
        live = self.live()
        return {name for call, name in enumerate(self.calls) if call not in live} if live else set()

    @property
    def end_names(self) -> set[str]:
        """Layers that give an output of the model."""
        return {self.calls[call] for call in self.ends if call != INPUT}

    @property
    def skips(self) -> bool:
        """Whether somewhere a signal is joined with what was made of it, around a layer or more."""
        above: list[set[int]] = []
        for sources in (*self.sources, self.ends):
            ancestors = set().union(*(above[source] for source in sources if source != INPUT))
            if ancestors & sources:
                return True
            above.append(ancestors | sources)
        return False

    def live(self) -> set[int]:
        """Calls that depend on the model's input, all where none is known to."""
        live: set[int] = set()
        for call, sources in enumerate(self.sources):
            if INPUT in sources or sources & live:
                live.add(call)
        return live

    def useful(self) -> set[int]:
        """Calls that depend on the input and on which an output depends."""
        useful = set(self.ends)
        for call in reversed(range(len(self.calls))):
            if call in useful:
                useful |= self.sources[call]
        return useful & (self.live() or set(range(len(self.calls))))

    def trunk(self) -> list[str]:
        """The layers that every way from the input to an output passes, in order."""
        useful, readers = sorted(self.useful()), [*self.sources, self.ends]
        trunk = []
        reach = dict.fromkeys((INPUT, *useful), -1)
        for reader in (*useful, len(self.calls)):
            for source in readers[reader] & reach.keys():
                reach[source] = max(reach[source], reader)
        furthest = reach[INPUT]
        for call in useful:
            if furthest <= call:
                trunk.append(self.calls[call])
            furthest = max(furthest, reach[call])
        return trunk

    def rows(self) -> Iterator[list[str]]:
        """Layers in a row: each takes the result of the one before alone, which no other takes."""
        readers: dict[int, list[int]] = defaultdict(list)
        useful = self.useful()
        for call in sorted(useful):
            for source in self.sources[call]:
                readers[source].append(call)
        for end in self.ends:
            readers[end].append(len(self.calls))
        following = {
            source: taker
            for source, (taker, *others) in readers.items()
            if source != INPUT and not others and taker < len(self.calls) and len(self.sources[taker]) == 1
        }
        for start in sorted(useful - set(following.values())):
            row = [start]
            while row[-1] in following:
                row.append(following[row[-1]])
            yield [self.calls[call] for call in row]

    def longest(self) -> list[str]:
        """The way through most layers."""
        lengths: list[list[int]] = []
        for call, sources in enumerate(self.sources):
            before = max((lengths[source] for source in sources if source != INPUT), key=len, default=[])
            lengths.append([*before, call])
        best = max((lengths[end] for end in self.ends if end != INPUT), key=len, default=[])
        return [self.calls[call] for call in best]


def paths_of(table: pd.DataFrame, wiring: Wiring | None) -> list[list[int]]:
    """Rows of the table that are to be compared with each other, in order, a list per path; none of a single row.

    The layers that give an output are left out: one of small or zero weights gets its own gradient in full and opens
    by itself. So are those whose input is the same for all examples.

    Args:
        table: as `initlab.signal.drift.drift` takes it, with `name`, `op` and `shape` where there are any.
        wiring: None, or one that knows none of these layers, makes one path of all rows but the last.
    """
    names = list(table.name)
    rows = {} if wiring is None else rows_of(names, wiring.calls)
    if wiring is None or not any(rows.values()):
        return [list(range(len(names) - 1))] if len(names) > 2 else []
    ends = {row for call in wiring.end_names | wiring.constant for row in rows[call]}
    # The gates of a recurrent layer are several roles at one place.
    gates = set(np.flatnonzero(table.op.isin(RECURRENT))) if "op" in table else set()
    left_out = ends | gates
    ways = [way for way in wiring.rows() if len(way) > LONGEST_BRANCH]
    # Between layers around which signals are added, blocks of other kinds lie.
    if not wiring.joins & SUMS:
        ways.append(wiring.trunk())
    if wiring.joins <= NEUTRAL:
        ways.append(wiring.longest())
    paths = [list(dict.fromkeys(row for call in way for row in rows[call] if row not in left_out)) for way in ways]
    paths += roles(table, [row for row in range(len(names)) if row not in left_out])
    unique = {tuple(path): path for path in paths if len(path) > 1}
    return [path for path in unique.values() if not any(is_part(path, other) for other in unique.values())]


def is_part(path: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a path is part of a longer one."""
    return len(path) < len(other) and set(path) <= set(other)


def rows_of(names: Sequence[str], calls: Iterable[str]) -> dict[str, list[int]]:
    """The rows that belong to each call, looked up by the beginnings of names, since a deep net has many of both."""
    exactly, within = defaultdict(list), defaultdict(list)
    for row, name in enumerate(names):
        exactly[name].append(row)
        for beginning in beginnings(name):
            within[beginning].append(row)
    return {
        call: sorted([*exactly[call], *within[call], *(row for name in beginnings(call) for row in exactly[name])])
        for call in calls
    }


def beginnings(name: str) -> Iterator[str]:
    """`a.b` and `a` of `a.b.c`: the modules around it."""
    return (name[:place] for place, letter in enumerate(name) if letter == ".")


def belongs(row: str, call: str) -> bool:
    """Whether a row of the table is of a call: its module or parameter, or a part of that.

    `attn.in_proj_weight.q` is of the call `attn.in_proj_weight`, and `0` of `0.parametrizations.weight.original1`.
    """
    return row == call or row.startswith(f"{call}.") or call.startswith(f"{row}.")


def roles(table: pd.DataFrame, rows: Sequence[int]) -> list[list[int]]:
    """Rows of one role in block after block: names that differ in numbers alone, and weights of a kind."""
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row in rows:
        shape = table["shape"].iloc[row] if "shape" in table else ()
        shape = shape if isinstance(shape, tuple) else ()
        wider = (shape[0] > shape[1]) - (shape[0] < shape[1]) if len(shape) > 1 else 0
        depthwise = len(shape) > 2 and shape[1] == 1
        groups[role(table.name.iloc[row]), shape[2:], wider, depthwise].append(row)
    return list(groups.values())


def role(name: str) -> str:
    """`layers.*.q` of `layers.3.q`, and `features.*.*.block.0` of `features.1.0.block.0`: blocks are numbered before
    the part of a block is.
    """
    words = name.split(".")
    numbered = [place for place, word in enumerate(words) if re.search(r"\d", word)]
    for place in numbered:
        if len(numbered) == 1 or place != len(words) - 1:
            words[place] = re.sub(r"\d+", "*", words[place])
    return ".".join(words)


def wiring_of(
    outputs: Iterable[Tensor], layers: dict[Node, tuple[str, Node]], parameters: dict[int, str], origins: set[Node]
) -> Wiring:
    """The wiring behind some outputs.

    Args:
        layers: of each call's node, the layer's name and the node that made its input.
        parameters: names of the matrices, by `id`, that functions may use without a layer.
        origins: the nodes that made the model's floating inputs; none where it has only tokens.
    """
    calls: list[str] = []
    sources: list[frozenset[int]] = []
    joins: set[str] = set()
    # Calls that depend on the input, and the input.
    varying = {INPUT}
    # Of each node the calls that its result is made of, or None and the parameters where it is made of those alone.
    known: dict[Node, tuple[frozenset[int] | None, frozenset[str]]] = {}

    def settle(node: Node, parts: list[Node]) -> None:
        """What is known of a node, once it is known of its parts."""
        if node in origins:
            known[node] = frozenset([INPUT]), frozenset()
            return
        signals = [known[part][0] for part in parts]
        live = [signal for signal in signals if signal is not None]
        names = frozenset[str]().union(*(known[part][1] for part in parts if known[part][0] is None))
        name = layers[node][0] if node in layers else ""
        if is_leaf(node):
            names = frozenset(filter(None, [parameters.get(id(node.variable))]))
        elif not name and names and function_of(node) in PRODUCTS:
            name = min(names)
        if not name and not live:
            known[node] = None, names
            return
        joined = frozenset[int]().union(*live)
        if len({signal & varying for signal in live} - {frozenset()}) > 1:
            joins.add(function_of(node))
        if name:
            looked_up = not origins or function_of(node) == "Embedding"
            calls.append(name)
            sources.append(joined or frozenset([INPUT] if looked_up else []))
            if sources[-1] & varying:
                varying.add(len(calls) - 1)
            joined = frozenset([len(calls) - 1])
        known[node] = joined, frozenset()

    def parts_of(node: Node) -> list[Node]:
        """What a node takes from; of a layer's call its input alone."""
        return [node for node in [layers[node][1]] if node is not None] if node in layers else sources_of(node)

    results = [output.grad_fn for output in outputs if output.grad_fn is not None]
    for node in in_order(results, parts_of):
        settle(node, parts_of(node))
    ends = set[int]().union(*(known[result][0] or () for result in results))
    return Wiring(tuple(calls), tuple(sources), frozenset(ends), frozenset(joins))
