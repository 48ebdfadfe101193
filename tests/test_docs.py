"""The words that users rely on: commands, studies and files that the documents name exist and work."""

import re
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
import yaml

from initlab.cli import main
from initlab.plan.plan import plan
from initlab.store.columns import COLUMNS, Column
from initlab.study.study import Study, load_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_named_exists_with_its_options(document: str) -> None:
    for words in re.findall(r"`?initlab ([a-z][^`\n#]*)", (ROOT / document).read_text()):
        name, *rest = words.split()
        if name not in main.commands:
            assert not rest or name in ("is", "trains", "costs", "measures", "itself", "the"), f"initlab {words}"
            continue
        command = main.commands[name]
        if isinstance(command, click.Group) and rest:
            command = command.commands[rest[0]]
        if "--" in rest:  # what stands behind it is for `run`
            of_run = {option for parameter in main.commands["run"].params for option in parameter.opts}
            assert {word for word in rest[rest.index("--") + 1 :] if word.startswith("--")} <= of_run, (
                f"initlab {words}"
            )
            rest = rest[: rest.index("--")]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in rest if word.startswith("--")}
        assert used <= known, f"initlab {words}"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_we_ship_can_be_planned(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    assert study.question
    assert len(plan(study, str(path))) > 1


def test_the_readmes_study_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    path = tmp_path / "readme.yaml"
    path.write_text(text)
    assert len(plan(load_study(path))) == 2 * 3 * 3 * 2
    assert yaml.safe_load(text)["question"].endswith("?")


def test_the_readmes_table_names_the_fields_of_every_section() -> None:
    for name in ("data", "net", "init", "train", "probe", "verdict", "run"):
        (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", README, re.M)
        section = Study.model_fields[name].annotation
        missing = {field for field in section.model_fields if f"`{field}`" not in row}
        assert not missing, f"{name}: {missing}"


def column_table(columns: Sequence[Column]) -> str:
    """A table in markdown: each column's name and meaning."""
    return "\n".join(
        ["| column | is |", "| --- | --- |", *(f"| `{column.name}` | {column.meaning} |" for column in columns), ""]
    )


def test_the_readme_explains_every_measured_column() -> None:
    names = [column.name for column in COLUMNS["signals"]]
    assert column_table(COLUMNS["signals"][names.index("forward_mean") :]) in README


@pytest.mark.parametrize("frame", COLUMNS)
def test_the_documented_columns_of_every_frame_are_those_of_the_store(frame: str) -> None:
    text = (ROOT / "docs/columns.md").read_text()
    assert f"## `results.{frame}`\n\n{column_table(COLUMNS[frame])}" in text


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_named_in_a_link_or_table_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    for link in links:
        assert ((ROOT / document).parent / link).exists(), link
    if document == "CONTRIBUTING.md":
        for name in re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text):
            files = [*ROOT.glob(f"initlab/**/{name}"), *ROOT.glob(name)]
            assert files, name
