"""The house has one total order: each room imports only from the rooms below it, and no module imports in a circle.

Imports inside functions and under TYPE_CHECKING count like all others; there are no exemptions. CONTRIBUTING.md names
every room in this order, and every module in the list of its room.
"""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "initlab"
TOP = ["__main__", "cli", "bench", "__init__"]
ROOMS = [
    *["report", "testing", "launch", "attempt", "inspection", "plots", "analysis", "train", "store", "verdict", "plan"],
    *["engine", "study", "signal", "init", "nets", "data", "paper", "page"],
]
GROUND = ["random_streams", "to_device", "user_code", "errors", "version"]
ORDER = [*TOP, *ROOMS, *GROUND]  # from the roof to the ground


def module_name(path: Path, package: Path) -> str:
    """`initlab/nets/build.py` is `initlab.nets.build`."""
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """`initlab.nets.build` is in `nets`; `initlab` itself is `__init__`."""
    _, *parts = module.split(".")
    return parts[0] if parts else "__init__"


def imports(path: Path, package: Path, modules: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module) of each import from the package, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "initlab")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = module_name(path, package).split(".")
                depth = node.level - (path.name == "__init__.py")
                base = ".".join([*own[: len(own) - depth], *filter(None, [node.module])])
            if base.split(".")[0] == "initlab":
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield node.lineno, inner if inner in modules else base


def against_the_order(package: Path) -> list[str]:
    """Imports that go up, circles, and modules that have no place."""
    paths = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    homeless = sorted({*map(room_of, paths)} - {*ORDER})
    complaints = [f"{room}: no place in ORDER of {Path(__file__).name}" for room in homeless]
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        room = room_of(module)
        for line, other in imports(path, package, set(paths)):
            graph.setdefault(module, set()).add(other)
            if room in ORDER and room_of(other) in ORDER and ORDER.index(room_of(other)) < ORDER.index(room):
                complaints.append(f"{path.relative_to(package.parent)}:{line}: {room} imports {room_of(other)}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        complaints.append(f"circle: {' -> '.join(error.args[1])}")
    return complaints


def test_imports_go_down_and_never_in_a_circle():
    assert against_the_order(PACKAGE) == []


def test_at_most_five_modules_lie_loose():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", *GROUND}


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
# The list of each room's modules, a line each, behind a heading with its name.
MODULES = {
    room: re.findall(r"^- `([a-z_/]+\.py)`: .", lines, re.M)
    for room, lines in re.findall(r"^### `([a-z_]+)/`\n\n((?:- .*\n)+)", CONTRIBUTING, re.M)
}


def test_contributing_names_every_room_in_this_order():
    assert re.findall(r"^\| `([a-z_]+)(?:/|\.py)` \| .+ \|$", CONTRIBUTING, re.M) == ORDER


@pytest.mark.parametrize("room", [room for room in ORDER if (PACKAGE / room).is_dir()])
def test_contributing_names_every_module_in_its_room(room: str):
    paths = (PACKAGE / room).rglob("*.py")
    modules = {path.relative_to(PACKAGE / room).as_posix() for path in paths if path.name != "__init__.py"}
    assert MODULES[room] == sorted(modules), f"the list of `{room}/` in CONTRIBUTING.md"


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("nets/build.py", "from initlab.study.spec import TrialSpec", "nets imports study"),
        ("signal/probe.py", "from initlab.train.trial import Trial", "signal imports train"),
        ("signal/probe.py", "def f():\n    from initlab.plots import signals", "signal imports plots"),
        ("init/lsuv.py", "from initlab.signal.probe import measure", "init imports signal"),
        ("plan/plan.py", "import initlab.store.results", "plan imports store"),
        ("engine/inline.py", "def f():\n    from initlab.train import trial", "engine imports train"),
        ("engine/inline.py", "from initlab import store", "engine imports store"),
        ("engine/inline.py", "from ..store import files", "engine imports store"),
        ("engine/__init__.py", "from ..store import files", "engine imports store"),
        ("engine/inline.py", "from .. import store", "engine imports store"),
        ("plots/signals.py", "import initlab", "plots imports __init__"),
        ("plots/signals.py", "from initlab import load", "plots imports __init__"),
        ("plots/signals.py", "if TYPE_CHECKING:\n    from initlab.cli import main", "plots imports cli"),
        ("errors.py", "from initlab.version import __version__\nimport initlab.cli", "errors imports cli"),
        ("helpers.py", "", "helpers: no place"),
        ("nets/build.py", "def f():\n    import initlab.nets.build", "circle"),
        ("nets/build.py", "from initlab.nets import build", "circle"),
    ],
)
def test_a_wrong_import_is_found(file: str, line: str, complaint: str, tmp_path: Path):
    assert [entry for entry in against_the_order(planted(tmp_path, file, line)) if complaint in entry]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("signal/probe.py", "from initlab.nets.build import layer_name"),
        ("inspection/inspect.py", "def plot():\n    from initlab.plots.signals import inspection"),
        ("store/results.py", "from initlab.engine.inline import is_held"),
        ("store/results.py", "from initlab.version import __version__"),
        ("engine/inline.py", "from .stopping import asked"),
        ("bench/gpu.py", "import initlab"),
        ("cli/studies.py", "from initlab.store import results\nfrom initlab.launch import run"),
    ],
)
def test_a_right_import_is_left_alone(file: str, line: str, tmp_path: Path):
    assert against_the_order(planted(tmp_path, file, line)) == []


def planted(folder: Path, file: str, text: str) -> Path:
    """A small package with a few rooms, one file of which has this text."""
    package = folder / "initlab"
    for module in (
        "__init__.py",
        "version.py",
        "nets/__init__.py",
        "nets/build.py",
        "signal/__init__.py",
        "engine/__init__.py",
        "store/__init__.py",
        "store/results.py",
        "plots/__init__.py",
        "plots/signals.py",
        "cli/__init__.py",
        file,
    ):
        (package / module).parent.mkdir(parents=True, exist_ok=True)
        (package / module).touch()
    (package / file).write_text(text)
    return package
