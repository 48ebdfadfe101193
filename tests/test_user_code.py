"""Code named in a study: what is imported, what is hashed, and what is said where neither can be."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from initlab.user_code import CodeError, import_callable, source_hash, well_formed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of the user's; what importing leaves behind is undone."""
    (tmp_path / "mynets.py").write_text("def make():\n    return 'made'\n\n\nnumber = 3\n")
    (tmp_path / "raises.py").write_text("raise RuntimeError('this ran')\n")
    (tmp_path / "needs.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("mynets", "raises", "needs"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["a:b", "pkg.mod:make_net", "_a._b:C"])
def test_a_code_name_is_a_module_a_colon_and_a_callable(name: str):
    assert well_formed(name)


@pytest.mark.parametrize(
    "name", ["", ":", "a", "a:b:c", ":x", "x:", "a.:b", ".a:b", "a..b:c", "a b:c", "a:b.c", "a-b:c"]
)
def test_other_names_are_refused_in_words(name: str):
    assert not well_formed(name)
    for use in (import_callable, source_hash):
        with pytest.raises(CodeError, match=r"^net.name: not a usable code name .*; allowed: pkg.module:callable$"):
            use("net.name", name)


def test_a_callable_comes_from_the_working_folder(here: Path):
    assert import_callable("net.name", "mynets:make")() == "made"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent:make", "net.name: no module named 'absent' .got 'absent:make'."),
        ("needs:make", "net.name: no module named 'no_such_thing' .got 'needs:make'."),
        ("mynets:build", "net.name: mynets has no callable 'build' .got 'mynets:build'."),
        ("mynets:number", "net.name: mynets has no callable 'number'"),
    ],
)
def test_a_name_without_a_callable_behind_it_is_one_line(here: Path, name: str, message: str):
    with pytest.raises(CodeError, match=message):
        import_callable("net.name", name)


def test_the_source_is_hashed_without_being_run(here: Path):
    assert source_hash("net.name", "raises:make") == hashlib.sha256((here / "raises.py").read_bytes()).hexdigest()
    assert "raises" not in sys.modules


@pytest.mark.parametrize("name", ["absent:make", "mynets.inner:make", "sys:exit", "__main__:make"])
def test_a_module_without_a_file_cannot_be_hashed(here: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    # As under `python -m initlab`, which pytest is not.
    if name.startswith("__main__"):
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(CodeError, match=r"data.name: no file of a module"):
        source_hash("data.name", name)
