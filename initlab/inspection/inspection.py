"""`Inspection`: what `inspect` gives back."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from initlab.inspection.cause import Cure
from initlab.inspection.diagnosis import Diagnosis
from initlab.inspection.text import as_text, cell, trunk_lines
from initlab.inspection.two_inits import Ratios, check_same_layers, ratios_of
from initlab.signal.exponents import Exponents, exponents_of
from initlab.signal.trunk import COLUMNS as TRUNK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Inspection:
    """What one batch shows of a model's signals.

    `table` has one row per weight layer: layer, name, part (`q`, `k`, `v` of a packed weight, a recurrent layer's gate,
    else ""), op (`linear`, `conv`, `bilinear`, `lstm`, `gru`, `rnn`), calls, shape (of the weight), fan_in, fan_out,
    width (channels or features of y), outputs (numbers in y of one example and call), activation (the function that
    comes next), what rounding takes from gradients (`initlab.signal.precision`), the measured columns;
    forward_predicted (the median over draws), forward_low, forward_high (the 95 % band), the same of backward, and
    basis, as `initlab.predict` gives them; and status, a word per layer. A layer is whatever applies a matrix or a
    filter, in a module or not; one that is no module is named by its parameter.

    `parameters` has a row for each parameter of the model with its role and `steps` one for each step of each recurrent
    layer, as `initlab.signal.survey.Survey` describes them, `unjudged` and `judged_share` too.

    `trunk` has a row for the signal before the first block of the trunk and behind each: block, name, cosine and
    distance between two tokens, gradient_square (`initlab.signal.trunk`). It is empty for a model of fewer than three
    equal blocks in a row.
    """

    table: pd.DataFrame
    diagnosis: Diagnosis
    advice: list[str]
    notes: list[str] = field(default_factory=list)  # what could not be done or judged
    cure: Cure | None = None
    parameters: pd.DataFrame = field(default_factory=pd.DataFrame)
    steps: pd.DataFrame = field(default_factory=pd.DataFrame)
    unjudged: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of parameters that were not seen
    judged_share: float = 1.0  # of all numbers in parameters
    trunk: pd.DataFrame = field(default_factory=partial(pd.DataFrame, columns=TRUNK))

    @property
    def verdict(self) -> str:
        """One word of `initlab.inspection.diagnosis.VERDICTS`."""
        return self.diagnosis.verdict

    @property
    def reason(self) -> str:
        """The sentence that justifies the verdict, with its figures."""
        return self.diagnosis.reason

    @property
    def cause(self) -> str:
        """Which parameters are wrong and by how much, found by what makes a copy better; "" where nothing was found."""
        return self.cure.cause if self.cure else ""

    @property
    def remedy(self) -> str:
        """The lines that made a copy better, with `model` and `batch` as the names; "" where there are none."""
        return self.cure.call if self.cure else ""

    @property
    def healthy(self) -> bool:
        """Whether training can be expected to start: the verdict is `healthy` or `uneven`."""
        return self.verdict in ("healthy", "uneven")

    @property
    def remarks(self) -> list[str]:
        """What is said below the reason: advice, notes, and what the trunk does to angles and gradients."""
        return [*self.advice, *self.notes, *trunk_lines(self.trunk)]

    @property
    def exponents(self) -> Exponents:
        """How fast the trunk's tokens drift apart and its gradient grows, per block; NaN where there is no trunk."""
        return exponents_of(self.trunk)

    def against(self, other: "Inspection") -> Ratios:
        """How much larger the signals are here than in another inspection of the same net, layer by layer.

        Both should be of one batch, with the same labels and loss. Two schemes of a seed have the same normals, so that
        Xavier's over He's forward variances are 2^-(l + 1) at layer l from 0 of a ReLU net without biases.

        Raises:
            UserError: nets whose layers differ in name or shape.
        """
        check_same_layers(*(dict(zip(table.name, table["shape"], strict=True)) for table in (self.table, other.table)))
        return ratios_of(self.table, other.table)

    def plot(self, ax: Any = None) -> "Figure":
        """Forward and backward variance against the layer, with the theory's band where the table has it.

        Args:
            ax: two matplotlib Axes (forward, backward); None makes a figure.

        Raises:
            UserError: another number of axes.
        """
        # matplotlib is loaded only here.
        from initlab.plots.inspection import inspection

        return inspection(self.table, f"{self.verdict}: {self.reason}", ax)

    def __repr__(self) -> str:
        return as_text(self.table, self.diagnosis, self.remarks)

    def _repr_html_(self) -> str:
        from initlab.inspection.html import inspection_html

        return inspection_html(self.table, self.verdict, self.reason, self.remarks)

    def report(self, path: str | Path, title: str = "An inspection") -> Path:
        """Write one HTML file that needs nothing else: verdict, advice, figure, and the layers; returns its path.

        Raises:
            UserError: it cannot be written there.
        """
        from initlab.inspection.html import inspection_content, write_page

        content = inspection_content(self.table, self.verdict, self.reason, self.remarks)
        content |= {
            "columns": list(self.table),
            "rows": self.table.map(cell).to_numpy().tolist(),
            "remedy": self.remedy,
        }
        return write_page(path, "inspection_page.html", self.plot(), title=title, **content)
