"""How the levels of attention scatter from head to head: one draw of a net has few, each with weights of its own.

What a head gives is a product of draws of all of its weights, W_v X softmax(X W_q W_k X), and so is what it sends back:
near equal weights a gradient goes to its queries through the (d, d) matrix W_v X X W_k, the same for all rows and, so
far as their tokens are alike, for all examples. So single heads are drawn, run and compared; a layer's own level
scatters as the mean over its heads does.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from initlab.signal.theory.attention_weights import GROUP, Heads, Tokens, projected


@dataclass(frozen=True)
class HeadScatter:
    """Variance over draws of each mean square about attention, relative to it."""

    heads: Heads
    number: int  # of heads in the layer
    examples: int  # of the batch
    dims: int  # of a value

    @cached_property
    def drawn_values(self) -> Tensor:
        """(heads, 2, keys, dims)."""
        return projected(self.heads.tokens, self.dims, 5)

    def of(self, signals: Tensor) -> float:
        """That of signals or gradients (heads, 2 examples, positions, dims)."""
        levels = signals.square().mean((2, 3)).unflatten(0, (-1, GROUP))
        around = (levels - levels.mean(1, keepdim=True)) / levels.mean().clamp(min=1e-300)
        alone, both = (float(x.mean()) * GROUP / (GROUP - 1) for x in (around.square(), around.prod(-1)))
        return max(alone / self.examples + (1 - 1 / self.examples) * both, 0.0) / self.number

    def forward(self) -> float:
        """Of what attention gives."""
        return self.of(self.heads.weights @ self.drawn_values)

    def backward(self, gradients: Tokens, course: Tensor) -> tuple[float, float, float]:
        """Of the gradients at queries, keys and values, for those at the output.

        `course` is their mean square at each row, over that of all.
        """
        a, values = self.heads.weights, self.drawn_values
        g = projected(gradients.drawn(len(a), len(self.heads.block), 6), self.dims, 7)
        # A row stands for a block of independent ones.
        shares = torch.zeros(len(self.heads.places)).double().index_add(0, self.heads.block, course)
        g = g[:, :, self.heads.places] * shares.sqrt()[:, None]
        to_weights = g @ values.mT
        to_scores = a * (to_weights - (a * to_weights).sum(-1, keepdim=True))
        return self.of(to_scores @ self.heads.keys), self.of(to_scores.mT @ self.heads.queries), self.of(a.mT @ g)
