"""initlab: the initialisation-convergence laboratory.

Public names are imported on first use, so that `import initlab` costs nothing of torch or pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initlab import plots
    from initlab.init.apply import init_
    from initlab.init.gains import gain
    from initlab.launch import run
    from initlab.nets.build import build_net
    from initlab.signal.forecast import forecast
    from initlab.signal.inspection import Inspection, inspect
    from initlab.store.results import Results, load
    from initlab.study import Study, load_study
    from initlab.study_file import StudyError

__version__ = "0.1.0"

_HOMES = {
    "Inspection": "initlab.signal.inspection",
    "Results": "initlab.store.results",
    "Study": "initlab.study",
    "StudyError": "initlab.study_file",
    "build_net": "initlab.nets.build",
    "forecast": "initlab.signal.forecast",
    "gain": "initlab.init.gains",
    "init_": "initlab.init.apply",
    "inspect": "initlab.signal.inspection",
    "load": "initlab.store.results",
    "load_study": "initlab.study",
    "plots": "initlab.plots",
    "run": "initlab.launch",
}

__all__ = [
    "Inspection",
    "Results",
    "Study",
    "StudyError",
    "build_net",
    "forecast",
    "gain",
    "init_",
    "inspect",
    "load",
    "load_study",
    "plots",
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
