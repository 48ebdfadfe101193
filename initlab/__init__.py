"""initlab: the initialisation-convergence laboratory.

Public names are imported on first use, so that `import initlab` costs nothing of torch or pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from initlab.version import __version__ as __version__

if TYPE_CHECKING:
    from initlab import plots as plots
    from initlab.analysis.arm_comparison import ArmComparison as ArmComparison, compare_arms as compare_arms
    from initlab.analysis.comparison import PaperComparison as PaperComparison, compare_paper as compare_paper
    from initlab.init.apply import init_ as init_
    from initlab.init.gains import gain as gain
    from initlab.inspection.compare_inits import compare_inits as compare_inits
    from initlab.inspection.comparison import Comparison as Comparison
    from initlab.inspection.inspect import inspect as inspect
    from initlab.inspection.inspection import Inspection as Inspection
    from initlab.inspection.lint.finding import Finding as Finding
    from initlab.inspection.lint.lint import lint as lint
    from initlab.launch.callbacks import (
        lightning_callback as lightning_callback,
        transformers_callback as transformers_callback,
    )
    from initlab.launch.run import run as run
    from initlab.launch.tries import try_inits as try_inits
    from initlab.launch.watch import Watch as Watch, watch as watch
    from initlab.nets.build import build_net as build_net
    from initlab.signal.theory.predict import predict as predict
    from initlab.store.results import Results as Results
    from initlab.store.studies import Studies as Studies, load as load
    from initlab.study.mistakes import StudyError as StudyError
    from initlab.study.study import Study as Study, load_study as load_study
    from initlab.testing.dense import dense_scores as dense_scores
    from initlab.testing.evaluate import Evaluated as Evaluated, evaluate as evaluate
    from initlab.verdict.forecast import forecast as forecast

# The module that each public name lives in; the imports above are for type checkers.
_HOMES = {
    name: module
    for module, names in {
        "initlab.analysis.arm_comparison": "ArmComparison compare_arms",
        "initlab.analysis.comparison": "PaperComparison compare_paper",
        "initlab.init.apply": "init_",
        "initlab.init.gains": "gain",
        "initlab.inspection.compare_inits": "compare_inits",
        "initlab.inspection.comparison": "Comparison",
        "initlab.inspection.inspect": "inspect",
        "initlab.inspection.inspection": "Inspection",
        "initlab.inspection.lint.finding": "Finding",
        "initlab.inspection.lint.lint": "lint",
        "initlab.launch.callbacks": "lightning_callback transformers_callback",
        "initlab.launch.run": "run",
        "initlab.launch.tries": "try_inits",
        "initlab.launch.watch": "Watch watch",
        "initlab.nets.build": "build_net",
        "initlab.plots": "plots",
        "initlab.signal.theory.predict": "predict",
        "initlab.store.results": "Results",
        "initlab.store.studies": "Studies load",
        "initlab.study.mistakes": "StudyError",
        "initlab.study.study": "Study load_study",
        "initlab.testing.dense": "dense_scores",
        "initlab.testing.evaluate": "Evaluated evaluate",
        "initlab.verdict.forecast": "forecast",
    }.items()
    for name in names.split()
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'initlab' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    home = import_module(_HOMES[name])
    value = home if name == "plots" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*_HOMES, "__version__"]
