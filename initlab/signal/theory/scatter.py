"""How the mean square of a signal scatters over draws of the weights: a product of independent factors to some power.

Every weight layer adds a factor, its source, which the signals behind it share. An array holds the powers of all
sources so far, so that a net of a thousand layers costs a thousand short sums.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Noise:
    """The power with which each source's factor enters; a source beyond the last has none."""

    powers: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    shift: float = 0.0  # of the logarithm itself

    def __getitem__(self, source: int) -> float:
        """The power of a source."""
        return float(self.powers[source]) if source < len(self.powers) else 0.0

    def scaled(self, power: float) -> "Noise":
        """Of the product to this power."""
        return Noise(self.powers * power, self.shift * power)

    def having(self, source: int, power: float = 1.0) -> "Noise":
        """With the power of one source set."""
        powers = np.zeros(max(len(self.powers), source + 1))
        powers[: len(self.powers)] = self.powers
        powers[source] = power
        return Noise(powers, self.shift)

    def without(self, source: int | None) -> "Noise":
        """Without the factor of one source."""
        return self if source is None else self.having(source, 0.0)

    def shifted(self, by: float) -> "Noise":
        """With the logarithm moved."""
        return Noise(self.powers, self.shift + by)


def mixed(*parts: tuple[float, Noise]) -> Noise:
    """Scatter of a sum of mean squares to first order, from each part's share of it and factors."""
    powers = np.zeros(max((len(noise.powers) for _, noise in parts), default=0))
    for share, noise in parts:
        powers[: len(noise.powers)] += share * noise.powers
    return Noise(powers, sum(share * noise.shift for share, noise in parts))
