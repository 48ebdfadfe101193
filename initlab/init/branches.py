"""The residual branches of a model, read off the autograd graph of one run, and how rules scale their weights.

A sum of signals is residual if one of its terms, the skip, comes from where the others start. What lies on another term
alone is a branch; its end is its last weight. A skip with a projection is the term of the fewest weights.
"""

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from initlab.init.layers import Matrix
from initlab.init.shapes import Branches
from initlab.nets.autograd_graph import Node, in_order, is_leaf, sources_of, with_nodes
from initlab.nets.undisturbed import Batch, first_tensor, run_model, to_model, untouched

# How roles are called whose size T-Fixup leaves alone.
QUERIES_AND_KEYS = ("q", "k", "q_proj", "k_proj", "query", "key", "wq", "wk", "to_q", "to_k")
# How the names of autograd's functions begin: gates on a branch, norms, and what leaves a parameter one.
GATES = ("Sigmoid", "Hardsigmoid", "Softmax")
NORMED = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "NativeLayerNorm", "NativeGroupNorm", "FusedRmsNorm")
RESHAPED = (
    *("TBackward", "Transpose", "Permute", "View", "Reshape", "UnsafeView", "Alias", "Clone", "ToCopy", "Expand"),
    *("Slice", "Select", "Split", "Squeeze", "Unsqueeze", "WeightNormInterface"),
)


@dataclass(frozen=True)
class Branch:
    """The ids of a branch's parameters: its end, a weight or the gain of a norm behind the last, and its weights."""

    end: int
    weights: tuple[int, ...]


@dataclass(frozen=True)
class Factors:
    """Factors on weights, by the name of their draw, and on the gains of norms, by their id; 1 of those missing."""

    weights: Mapping[str, float]
    gains: Mapping[int, float]


def check_branches(rule: str | None, batch: object) -> None:
    """Raise a ValueError for an unknown rule, or one without a batch."""
    if rule is not None and rule not in get_args(Branches):
        raise ValueError(f"init: unknown branches (got {rule!r}); allowed: {', '.join(get_args(Branches))}")
    if rule is not None and batch is None:
        raise ValueError("init: branches are found by a run of the model (got no batch); give batch=images")


def branch_factors(model: nn.Module, batch: Batch | None, matrices: Sequence[Matrix], rule: str | None) -> Factors:
    """What a rule makes of a model with B residual branches; nothing where there is no rule, or no batch.

    - `scaled`: the end of each branch by 1 / sqrt(B), which is 1 / sqrt(2L) for L blocks of two (Radford et al. 2019).
    - `zero`: the end of each branch by 0, so that a block starts as its skip (Goyal et al. 2017, and as ReZero does).
    - `fixup`: that, the last layer by 0, and others in a branch of m weights by B^(-1 / (2m - 2)) (Zhang et al. 2019).
    - `t-fixup`: all but queries and keys by 0.67 (B / 2)^(-1/4) (Huang et al. 2020, sec. 3.2, for encoders).

    Where a norm follows a branch's last weight, which would undo any factor, its gain is the end.

    Raises:
        ValueError: the model has no residual branch on this batch.
    """
    if rule is None or batch is None:
        return Factors({}, {})
    ids = {id(matrix.parameters[-1]) for matrix in matrices}
    output = output_node(model, batch)
    branches = list(branches_of(output, ids))
    if not branches:
        raise ValueError(f"init: branches={rule!r} needs residual branches (got none on this batch); leave it out")
    factors: dict[int, float] = {}
    for branch in branches:
        factors |= factors_of(branch, len(branches), rule)
    if rule == "fixup":
        factors[last_weight(output, ids)] = 0.0
    weights = {}
    for matrix in matrices:
        name = matrix.layer.name
        exempt = rule == "t-fixup" and name.rpartition(".")[2] in QUERIES_AND_KEYS
        weights[name] = 1.0 if exempt else factors.get(id(matrix.parameters[-1]), 1.0)
    return Factors(weights, {key: factor for key, factor in factors.items() if key not in ids})


def factors_of(branch: Branch, count: int, rule: str) -> dict[int, float]:
    """The factors of a branch's parameters, of which branches there are `count`."""
    if rule == "scaled":
        return {branch.end: 1 / math.sqrt(count)}
    if rule == "t-fixup":
        return dict.fromkeys(branch.weights, 0.67 * (count / 2) ** -0.25)
    others = [weight for weight in branch.weights if weight != branch.end]
    inner = count ** (-1 / (2 * len(others))) if rule == "fixup" and others else 1.0
    return dict.fromkeys(others, inner) | {branch.end: 0.0}


def output_node(model: nn.Module, batch: Batch) -> Node:
    """The node of autograd that made the model's output; the model is left as it was."""
    with torch.inference_mode(False), untouched(model, backward=True), torch.enable_grad():
        inputs, _ = with_nodes(to_model(model, batch, None)[0])
        return first_tensor(run_model(model, inputs)).grad_fn


def branches_of(output: Node, weights: set[int]) -> Iterator[Branch]:
    """The branches behind a node, in the order of the run; `weights` are the ids of the parameters that count."""
    nodes = in_order([output])
    used = {node: weight_of(node, weights) for node in nodes}
    users = Counter(source for node in nodes for source in sources_of(node))
    # The nodes behind each node, itself among them.
    behind: dict[Node, set[Node]] = {}
    for node in nodes:
        behind[node] = {node}.union(*(behind[source] for source in sources_of(node)))
    # A sum that goes into another sum alone is part of it.
    parts = {source for node in nodes if is_sum(node) for source in sources_of(node) if is_sum(source)}
    parts = {part for part in parts if users[part] == 1}
    for node in nodes:
        if is_sum(node) and node not in parts:
            yield from branches_into(list(terms_of(node, parts)), behind, used)


def branches_into(terms: list[Node], behind: dict[Node, set[Node]], used: dict[Node, int]) -> Iterator[Branch]:
    """The terms of a sum that are branches: those with more weights of their own than the skip, which is one term."""
    exclusive = {
        term: behind[term].difference(*(behind[other] for other in terms if other is not term)) for term in terms
    }
    counts = {term: sum(used[node] > 0 for node in exclusive[term]) for term in terms}
    fewest = min(counts.values(), default=0)
    joined = set.intersection(*(behind[term] for term in terms)) if terms else set()
    if list(counts.values()).count(fewest) != 1 or not any(not is_parameter(node) for node in joined):
        return
    for term in terms:
        end = end_of(term, exclusive[term], behind, used)
        if counts[term] > fewest and end:
            yield Branch(end, tuple(dict.fromkeys(used[node] for node in exclusive[term] if used[node])))


def end_of(term: Node, exclusive: set[Node], behind: dict[Node, set[Node]], used: dict[Node, int]) -> int:
    """The id of the last weight or norm's gain on the way to a sum; 0 where there is none.

    Of several, as in a product, it is the one with the most behind it; what comes through a gate's sigmoid is none.
    """
    ends: list[tuple[int, int]] = []
    pending, visited = [term], set[Node]()
    while pending:
        node = pending.pop()
        if node in visited or node not in exclusive or node.name().startswith(GATES):
            continue
        visited.add(node)
        gains = [p for p in map(parameter_of, sources_of(node)) if p is not None] if is_norm(node) else []
        if used[node] or gains:
            ends.append((len(behind[node]), used[node] or id(gains[0])))
        else:
            pending += sources_of(node)
    return max(ends, default=(0, 0))[1]


def last_weight(output: Node, weights: set[int]) -> int:
    """The id of the weight that is nearest to the output; 0 where none is behind it."""
    pending, visited = deque([output]), {output}
    while pending:
        node = pending.popleft()
        if weight := weight_of(node, weights):
            return weight
        pending.extend(source for source in sources_of(node) if source not in visited)
        visited.update(sources_of(node))
    return 0


def is_norm(node: Node) -> bool:
    """Whether a node is a norm layer of torch."""
    return str(node.name()).startswith(NORMED)


def is_sum(node: Node) -> bool:
    """Whether a node adds two signals, rather than a parameter to one."""
    sources = sources_of(node)
    return str(node.name()).startswith("AddBackward") and len(sources) == 2 and not any(map(is_parameter, sources))


def is_parameter(node: Node) -> bool:
    """Whether a node gives a parameter, perhaps in another shape."""
    return parameter_of(node) is not None


def terms_of(node: Node, parts: set[Node]) -> Iterator[Node]:
    """The terms of a sum, and of the sums that go into it alone."""
    for source in sources_of(node):
        yield from terms_of(source, parts) if source in parts else (source,)


def weight_of(node: Node, weights: set[int]) -> int:
    """The id of the weight that a node applies to a signal; 0 where it applies none."""
    if node.name().startswith(RESHAPED) or is_leaf(node):
        return 0
    applied = [id(p) for p in map(parameter_of, sources_of(node)) if p is not None and id(p) in weights]
    return applied[0] if applied else 0


def parameter_of(node: Node) -> nn.Parameter | None:
    """The parameter that a node is, or only reshapes, casts or normalises; None where it is a signal."""
    while not is_leaf(node):
        sources = sources_of(node)
        if not node.name().startswith(RESHAPED) or not sources:
            return None
        # The first source of weight norm is its direction.
        node = sources[0]
    return node.variable if isinstance(node.variable, nn.Parameter) else None
