"""initlab: the initialisation-convergence laboratory.

Public names are imported on first use, so that `import initlab` costs nothing of torch or pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initlab import plots
    from initlab.compare import PaperComparison, compare_paper
    from initlab.faults.finding import Finding
    from initlab.faults.lint import lint
    from initlab.init.apply import init_
    from initlab.init.gains import gain
    from initlab.launch import run
    from initlab.nets.build import build_net
    from initlab.signal.forecast import forecast
    from initlab.signal.inspection import Inspection, inspect
    from initlab.signal.theory.predict import predict
    from initlab.store.results import Results, load
    from initlab.study import Study, load_study
    from initlab.study_file import StudyError
    from initlab.testing import Evaluated, evaluate
    from initlab.train.dense import dense_scores

__version__ = "0.1.0"

_HOMES = {
    "Evaluated": "initlab.testing",
    "Finding": "initlab.faults.finding",
    "Inspection": "initlab.signal.inspection",
    "PaperComparison": "initlab.compare",
    "Results": "initlab.store.results",
    "Study": "initlab.study",
    "StudyError": "initlab.study_file",
    "build_net": "initlab.nets.build",
    "compare_paper": "initlab.compare",
    "dense_scores": "initlab.train.dense",
    "evaluate": "initlab.testing",
    "forecast": "initlab.signal.forecast",
    "gain": "initlab.init.gains",
    "init_": "initlab.init.apply",
    "inspect": "initlab.signal.inspection",
    "lint": "initlab.faults.lint",
    "load": "initlab.store.results",
    "load_study": "initlab.study",
    "plots": "initlab.plots",
    "predict": "initlab.signal.theory.predict",
    "run": "initlab.launch",
}

__all__ = [
    "Evaluated",
    "Finding",
    "Inspection",
    "PaperComparison",
    "Results",
    "Study",
    "StudyError",
    "build_net",
    "compare_paper",
    "dense_scores",
    "evaluate",
    "forecast",
    "gain",
    "init_",
    "inspect",
    "lint",
    "load",
    "load_study",
    "plots",
    "predict",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'initlab' has no attribute {name!r}; it has {', '.join(__all__)}")
    home = import_module(_HOMES[name])
    value = home if name == "plots" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
