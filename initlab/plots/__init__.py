"""Figures of a study; each is two functions: `NAME_table` makes the numbers, `NAME` draws that table and nothing else.

Every function takes one `Results` or a sequence of them, `per_class` what a test found; drawing returns a matplotlib
Figure, or draws into `ax=`.
`save_figures` writes each of `FIGURES` as PNG, SVG and the CSV of its table. No torch is needed.
"""

from initlab.plots.convergence import convergence, convergence_table
from initlab.plots.depth import depth, depth_table
from initlab.plots.per_class import per_class, per_class_table
from initlab.plots.phase import phase, phase_table
from initlab.plots.prelu import prelu, prelu_table
from initlab.plots.running import running, running_table
from initlab.plots.save import FIGURES, save_figures
from initlab.plots.signals import signals, signals_table

__all__ = [
    "FIGURES",
    "convergence",
    "convergence_table",
    "depth",
    "depth_table",
    "per_class",
    "per_class_table",
    "phase",
    "phase_table",
    "prelu",
    "prelu_table",
    "running",
    "running_table",
    "save_figures",
    "signals",
    "signals_table",
]
