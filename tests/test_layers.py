"""Imports go one way: study -> plan -> engine -> train -> store -> plots, report; the bottom rooms import no room.

What lies to the right comes as an argument; only the public API, the CLI and what they launch wire rooms together.
One exception, `LAZY`: a method of the public API whose object lives in a bottom room, which imports when it is called.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "initlab"

BOTTOM = {"errors", "streams", "transfer", "nets", "init", "signal", "data", "faults", "paper"}
ROOMS = [  # from left to right; those in a set stand side by side
    {"code", "study_file", "spec_values", "spec", "study", "unused", "shallow"},
    {"layout", "conflicts", "cost", "plan", "packs"},
    {"engine"},
    {"train"},
    {"store"},
    {"plots"},
    {"report"},
]
WIRES = {
    "__init__", "__main__", "against", "assemble", "bench", "cli", "compare", "examine", "launch", "layer_tables",
    "models", "planning", "progress", "scoring", "settings", "testing", "work", "work_pack",
}  # fmt: skip
LAZY = {
    ("signal/inspection.py", "plots")
}  # Inspection.plot draws: inside that method, so that looking loads no figures
PLACE = dict.fromkeys(BOTTOM, 0) | {name: i for i, rooms in enumerate(ROOMS, start=1) for name in rooms}


def room_of(module: str) -> str:
    """`initlab.nets.build` is in `nets`; `initlab` itself is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def deferred(tree: ast.AST) -> set[int]:
    """Lines inside functions, which run only when these are called."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {line for node in functions for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def imported(tree: ast.AST, module: str, is_package: bool, names: set[str]) -> Iterator[tuple[int, str]]:
    """(line, room) of each import from initlab, inside functions too; `names` are the package's rooms and modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "initlab":
                    yield node.lineno, room_of(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*anchor, *filter(None, [node.module])])
            if base == "initlab":
                for alias in node.names:
                    if alias.name != "__version__":
                        yield node.lineno, alias.name if alias.name in names else "__init__"
            elif base.startswith("initlab."):
                yield node.lineno, room_of(base)


def against_the_way(package: Path) -> list[str]:
    """Imports that go to the right, up from the bottom, or to what wires; and modules that have no place."""
    names = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    found = [f"{name}: no place among the rooms; give it one in {Path(__file__).name}"
             for name in sorted(names - PLACE.keys() - WIRES)]  # fmt: skip
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package.parent)
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        room = room_of(module)
        if room in WIRES or room not in PLACE:
            continue
        tree = ast.parse(path.read_text())
        later = deferred(tree)
        for line, other in imported(tree, module, path.name == "__init__.py", names):
            if line in later and (relative.relative_to(package.name).as_posix(), other) in LAZY:
                continue
            if other in WIRES or PLACE.get(other, 0) > PLACE[room]:
                found.append(f"{relative}:{line}: {room} imports {other}")
    return found


def test_imports_go_one_way():
    assert against_the_way(PACKAGE) == []


def test_the_bottom_and_the_rooms_that_design_names_exist():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert {"study", "plan", "engine", "train", "store", "plots", "nets", "init", "signal", "data"} <= modules


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("nets/build.py", "from initlab.spec import TrialSpec", "nets imports spec"),
        ("signal/probe.py", "from initlab.train.trial import Trial", "signal imports train"),
        ("signal/inspection.py", "from initlab.plots.inspection import inspection", "signal imports plots"),
        ("signal/probe.py", "def f():\n    from initlab.plots import signals", "signal imports plots"),
        ("plan.py", "import initlab.store.results", "plan imports store"),
        ("study.py", "from initlab.plan import plan", "study imports plan"),
        ("engine/inline.py", "def f():\n    from initlab.train import trial", "engine imports train"),
        ("engine/inline.py", "from initlab import store", "engine imports store"),
        ("engine/inline.py", "from ..store import files", "engine imports store"),
        ("engine/__init__.py", "from ..store import files", "engine imports store"),
        ("engine/inline.py", "from .. import store", "engine imports store"),
        ("train/trial.py", "from initlab.store.writer import AttemptWriter", "train imports store"),
        ("store/results.py", "from initlab import plots", "store imports plots"),
        ("store/results.py", "from initlab.launch import run", "store imports launch"),
        ("plots/signals.py", "from initlab import load", "plots imports __init__"),
        ("plots/signals.py", "import initlab", "plots imports __init__"),
        ("plots/signals.py", "if TYPE_CHECKING:\n    from initlab.cli import main", "plots imports cli"),
        ("helpers.py", "", "helpers: no place among the rooms"),
    ],
)
def test_a_wrong_import_is_found(file: str, line: str, complaint: str, tmp_path: Path):
    assert [entry for entry in against_the_way(planted(tmp_path, file, line)) if complaint in entry]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("signal/probe.py", "from initlab.init.apply import layer_name"),  # bottom rooms stand side by side
        ("signal/inspection.py", "def plot():\n    from initlab.plots.inspection import inspection"),
        ("store/results.py", "from initlab.plan import plan"),
        ("store/results.py", "from initlab.engine.lease import is_held"),
        ("store/writer.py", "from initlab import __version__"),
        ("engine/inline.py", "from .stopping import asked"),
        ("plots/signals.py", "import pandas\nfrom initlab.store.results import Results"),
        ("cli/studies.py", "from initlab.store import files\nfrom initlab.launch import run"),
    ],
)
def test_a_right_import_is_left_alone(file: str, line: str, tmp_path: Path):
    assert against_the_way(planted(tmp_path, file, line)) == []


def planted(folder: Path, file: str, text: str) -> Path:
    """A small package with every room, one file of which has this text."""
    package = folder / "initlab"
    for room in ("nets", "signal", "engine", "train", "store", "plots", "cli"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    (package / file).write_text(text)
    return package
