"""Layers of nets for sequences (N, positions, features): positions, causal self-attention, an LSTM's outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Positions(nn.Module):
    """Adds a learned vector to each position."""

    def __init__(self, positions: int, features: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(positions, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, features), T at most `positions`, to the same.

        Raises:
            ValueError: a longer sequence.
        """
        if x.shape[1] > self.embedding.num_embeddings:
            raise ValueError(
                f"positions: too many (got {x.shape[1]}); allowed: at most {self.embedding.num_embeddings}"
            )
        places: Tensor = self.embedding(torch.arange(x.shape[1], device=x.device))
        return x + places


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, sec. 3.2): a position attends to itself and to those before it."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(features, features) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, features) to the same."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y

    def extra_repr(self) -> str:
        """The arguments, as torch prints a module."""
        return f"heads={self.heads}"


class LSTM(nn.Module):
    """Layers of torch's LSTM, of which only the last one's outputs go on."""

    def __init__(self, features: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.LSTM(features, features, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, features) to the same."""
        y: Tensor = self.layers(x)[0]
        return y
