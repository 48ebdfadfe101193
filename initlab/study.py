"""The study: a question, the fields that all its trials share, and the grid and cases that set them apart."""

import difflib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from initlab.spec import Data, DataSection, Init, Net, Probe, Run, Spec, Train, TrialSpec, Verdict
from initlab.study_file import StudyError, explain, parse_yaml, read_yaml, short

Overrides = dict[str, Any]  # dotted path -> value
SECTIONS = {"data": Data, "net": Net, "init": Init, "train": Train, "probe": Probe}
TRIAL_PATHS = [f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields] + ["seed"]


class Study(Spec):
    """A study file. Each point of `cases` x `grid` overrides the shared fields and makes one trial."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")] = Field(description="names the default output folder")
    question: str = Field("", description="what the study is to answer, in a sentence")
    data: DataSection = DataSection()
    net: Net = Net()
    init: Init = Init()
    train: Train = Train()
    probe: Probe = Probe()
    verdict: Verdict = Verdict()
    run: Run = Run()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field({}, description="dotted path -> its values")
    cases: list[Overrides] = Field([], description="override sets (dotted path -> value), crossed with the grid")

    def points(self) -> Iterator[Overrides]:
        """Each case crossed with each point of the grid, cases outermost."""
        for case in self.cases or [{}]:
            for values in itertools.product(*self.grid.values()):
                yield {**case, **dict(zip(self.grid, values, strict=True))}

    def trial(self, overrides: Overrides) -> TrialSpec:
        """The spec of one point, before unused fields are dropped."""
        fields = {name: getattr(self, name).model_dump(include=set(s.model_fields)) for name, s in SECTIONS.items()}
        fields["seed"] = self.seed
        for path, value in overrides.items():
            set_path(fields, path, value)
        return TrialSpec.model_validate(fields)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read and validate a study file.

    Args:
        overrides: `dotted.path=value` texts, values as in YAML; one of a path that grid or cases vary fixes it.

    Raises:
        StudyError: every mistake found, one line each.
    """
    where = str(path)
    content = read_yaml(Path(path))
    for text in overrides:
        apply_override(content, text)
    mistakes = []
    study = None
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        mistakes += explain(error, Study)
    for key in ("grid", "cases"):
        if key in content and not content[key]:
            mistakes.append((key, f"empty (got {short(content[key])}); give it something to vary, or remove it"))
    mistakes += varied_mistakes(content)
    if mistakes or study is None:
        raise StudyError(f"{where}: {at}: {text}" for at, text in mistakes)
    return study


def apply_override(content: dict[str, Any], text: str) -> None:
    """Set one `dotted.path=value` in the raw content of a study file."""
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path:
        raise StudyError([f"--set: not an assignment (got {text!r}); allowed: dotted.path=value, e.g. train.lr=0.01"])
    parsed = parse_yaml(value, f"--set {path}")
    section, _, key = path.partition(".")
    if section == "grid" and key:
        content.setdefault("grid", {})[key] = parsed
        return
    for varied in [content.get("grid"), *as_list(content.get("cases"))]:
        if isinstance(varied, dict):
            varied.pop(path, None)
    if not content.get("grid"):
        content.pop("grid", None)
    set_path(content, path, parsed)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def set_path(content: dict[str, Any], path: str, value: Any) -> None:
    """`set_path(d, "net.depth", 22)` sets d["net"]["depth"], making sections as needed."""
    *sections, key = path.split(".")
    for section in sections:
        if not isinstance(content.get(section), dict):
            content[section] = {}
        content = content[section]
    content[key] = value


def varied_mistakes(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Paths that do not exist and values out of range in grid and cases, each at the place where it was written."""
    mistakes = []
    grid = content.get("grid")
    cases = [case for case in as_list(content.get("cases")) if isinstance(case, dict)]
    settings = [("grid", path, value) for path, values in (grid or {}).items() for value in as_list(values)] \
        if isinstance(grid, dict) else []  # fmt: skip
    settings += [(f"cases[{i}]", path, value) for i, case in enumerate(cases) for path, value in case.items()]
    for place, path, value in settings:
        if path not in TRIAL_PATHS:
            mistakes.append((f"{place}.{path}", no_such_path(path)))
            continue
        fields: dict[str, Any] = {}
        set_path(fields, path, value)
        try:
            TrialSpec.model_validate(fields)
        except ValidationError as error:
            mistakes += [(f"{place}.{path}", text) for _, text in explain(error, TrialSpec)]
    varied = set(grid) if isinstance(grid, dict) else set()
    for i, case in enumerate(cases):
        mistakes += [
            (f"cases[{i}].{path}", "set by the grid too; vary a path in one of them") for path in case if path in varied
        ]
    return mistakes


def no_such_path(path: Any) -> str:
    """What to say of a grid path that is not a field of a trial."""
    section, _, key = str(path).partition(".")
    if section in SECTIONS and not key:
        return f"a section, not a field; give a path in it, e.g. {section}.{next(iter(SECTIONS[section].model_fields))}"
    if section in ("verdict", "run", "name", "question") or f"data.{key}" in ("data.folder", "data.download"):
        return f"not part of a trial (got {path!r}); set it once for the study"
    near = difflib.get_close_matches(str(path), TRIAL_PATHS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    allowed = ", ".join(TRIAL_PATHS) if not near else "a field of a trial, see initlab plan --schema"
    return f"no such field (got {path!r}); allowed: {allowed}{hint}"


def dump_study(study: Study) -> str:
    """The study as YAML with every field visible."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
