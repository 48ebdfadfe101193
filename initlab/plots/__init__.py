"""Figures of a study; each is two functions: `NAME_table` makes the numbers, `NAME` draws that table and nothing else.

Every function takes one `Results` or a sequence of them, `per_class` the errors of a test; drawing returns a matplotlib
Figure, or draws into `ax=`. `save_figures` writes each of `FIGURES` as PNG, SVG and the CSV of its table. No torch is
needed.
"""

from initlab.plots.convergence import convergence as convergence, convergence_table as convergence_table
from initlab.plots.decay import decay as decay, decay_table as decay_table
from initlab.plots.depth import depth as depth, depth_table as depth_table
from initlab.plots.effects import effects as effects, effects_table as effects_table
from initlab.plots.heatmap import heatmap as heatmap, heatmap_table as heatmap_table
from initlab.plots.per_class import per_class as per_class, per_class_table as per_class_table
from initlab.plots.phase import phase as phase, phase_table as phase_table
from initlab.plots.prelu import prelu as prelu, prelu_table as prelu_table
from initlab.plots.propagation import propagation as propagation, propagation_table as propagation_table
from initlab.plots.running import running as running, running_table as running_table
from initlab.plots.save import FIGURES as FIGURES, save_figures as save_figures
from initlab.plots.signals import signals as signals, signals_table as signals_table
from initlab.plots.survival import survival as survival, survival_table as survival_table
