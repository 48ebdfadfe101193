"""Where the rules' one assumption fails: that what meets in a sum, product or layer comes of independent weights.

Each operation is given the weight layers whose outputs it holds as they are (its ends: those that no other layer has
mixed since), and all that lie before it. Terms with an end in common are not independent, nor is a layer of a signal
that the same weights made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch.nn.functional as F

from initlab.signal.theory.chains import DIFFERENCES, PRODUCTS, SUMS
from initlab.signal.theory.shapes import PICKED
from initlab.signal.theory.trace import RECURRENT, WEIGHTED, Operation

MEETINGS = SUMS | DIFFERENCES | PRODUCTS | {F.scaled_dot_product_attention}


@dataclass
class Origins:
    """Ends and layers of the operations so far, as bits of whole numbers; those of the model's input are bit 0."""

    ends: list[int] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    bits: dict[Any, int] = field(default_factory=dict)

    def bit(self, key: Any) -> int:
        """The bit of a weight or an end."""
        return 1 << self.bits.setdefault(key, len(self.bits) + 1)

    def skip(self) -> None:
        """An operation that nothing needs."""
        self.ends.append(0)
        self.layers.append(0)

    def add(self, op: Operation, sources: Sequence[int], picks_channels: bool) -> str | None:
        """Note an operation; the reason why its inputs are not independent, if they aren't."""
        ends = [self.ends[source] if source >= 0 else 1 for source in sources]
        before, together = 0, 0
        for source, end in zip(sources, ends, strict=True):
            before |= self.layers[source] if source >= 0 else 0
            together |= end
        reason = None
        if op.function in MEETINGS and any(one & other for one, other in combinations(ends, 2)):
            reason = f"{op.function.__name__.strip('_')}: what meets there has a part in common"
        if op.function in (*WEIGHTED, *RECURRENT):
            # Packed sequences come with the sizes of their steps, before the state and the parameters.
            place = 3 if op.function in RECURRENT and isinstance(op.args[3], (tuple, list)) else 2
            parameter = op.args[place][0] if op.function in RECURRENT else op.argument(1, "weight")
            weight = self.bit(op.layer or id(parameter))
            if before & weight:
                reason = f"{op.function.__name__}: {op.layer or 'a weight'} takes in what it gave itself"
            before, together = before | weight, self.bit((len(self.ends),))
        elif not sources or (op.function in PICKED and picks_channels):
            together = self.bit((len(self.ends),))
        self.ends.append(together)
        self.layers.append(before)
        return reason
