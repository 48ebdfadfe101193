"""Mean squares of the gradients of weights, each taken when it arrives, so that they are never there all at once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor

from initlab.signal.moments import mean_square

# The tensors that were one weight in its calls, and which of its rows are asked for.
Weight = tuple[Sequence[Tensor], slice]


class WeightGradients:
    """The gradients of some weights in backward passes with respect to `tensors`."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights = weights
        self.tensors = list({id(t): t for entered, _ in weights for t in entered if t.requires_grad}.values())
        # Gradients of several tensors are added up, for which they have to be kept.
        self.added = {id(tensor) for entered, _ in weights if len(entered) > 1 for tensor in entered}
        self.rows: defaultdict[int, list[slice]] = defaultdict(list)
        for entered, rows in weights:
            for tensor in entered:
                self.rows[id(tensor)].append(rows)
        # By tensor, and by the first and last of the rows.
        self.squares: dict[tuple[int, int | None, int | None], Tensor] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Take in the gradients of the first pass within; of what passes give only `mean_squares` knows the use."""
        with ExitStack() as hooks:
            for tensor in self.tensors:
                hooks.callback(tensor.register_hook(partial(self.take, tensor)).remove)
            yield

    def take(self, tensor: Tensor, gradient: Tensor) -> Tensor | None:
        """Take a gradient in. Unless it is needed, autograd gets one of a single number to keep in its place."""
        # An embedding may ask for sparse ones.
        is_dense = gradient.layout is torch.strided
        dense = gradient if is_dense else gradient.to_dense()
        for rows in self.rows[id(tensor)]:
            if (key := (id(tensor), rows.start, rows.stop)) not in self.squares:
                self.squares[key] = mean_square(dense[rows] if dense.dim() else dense)
        needed = id(tensor) in self.added or tensor.grad_fn is not None or not is_dense
        return None if needed else gradient.new_zeros(()).expand_as(gradient)

    def mean_squares(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Of each weight the mean square of its gradient, None where none came; `gradients` are the first pass's."""
        came = {id(t): gradient for t, gradient in zip(self.tensors, gradients, strict=True) if gradient is not None}
        results: list[Tensor | None] = []
        for entered, rows in self.weights:
            numbers = [id(tensor) for tensor in entered if id(tensor) in came]
            if len(numbers) > 1:
                total = torch.stack([came[number] for number in numbers]).sum(0)
                results.append(mean_square(total[rows]))
            else:
                results.append(self.squares[numbers[0], rows.start, rows.stop] if numbers else None)
        return results
