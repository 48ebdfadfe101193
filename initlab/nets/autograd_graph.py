"""The graph that autograd keeps of a run: its nodes, what they take from, and inputs that have nodes of their own."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from initlab.nets.undisturbed import map_tensors

# Of autograd; which attributes a node has depends on its function.
Node = Any
# Functions that leave all numbers as they are.
SHAPES = ("View", "Reshape", "UnsafeView", "Squeeze", "Alias")


def with_nodes(inputs: Any) -> tuple[Any, set[Node]]:
    """Inputs whose floating tensors are part of the graph, and the nodes that made these.

    Clones, since a leaf cannot be changed in place.
    """
    origins: set[Node] = set()

    def begin_graph(tensor: Tensor) -> Tensor:
        """A floating input with a node of its own."""
        if tensor.is_floating_point():
            tensor = tensor.requires_grad_().clone()
            origins.add(tensor.grad_fn)
        return tensor

    return map_tensors(inputs, begin_graph), origins


def function_of(node: Node) -> str:
    """`LeakyRelu` of `LeakyReluBackward0`."""
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def sources_of(node: Node) -> list[Node]:
    """The nodes that a node takes from."""
    return [source for source, _ in node.next_functions if source is not None]


def last_function(node: Node | None) -> str:
    """The function that gives an output, shapes aside; nothing where no graph is behind it."""
    while node is not None and function_of(node) in SHAPES and sources_of(node):
        node = sources_of(node)[0]
    return "" if node is None else function_of(node)


def is_leaf(node: Node) -> bool:
    """Whether a node is a parameter or an input."""
    return hasattr(node, "variable")


def in_order(ends: Iterable[Node | None], sources: Callable[[Node], list[Node]] = sources_of) -> list[Node]:
    """All nodes behind some, each after those that it takes from; None, of a result without a graph, has none."""
    ordered: dict[Node, None] = {}
    for end in ends:
        pending = [] if end is None else [(end, False)]
        while pending:
            node, ready = pending.pop()
            if ready:
                ordered.setdefault(node)
            elif node not in ordered:
                pending.append((node, True))
                pending.extend((source, False) for source in sources(node) if source not in ordered)
    return list(ordered)
