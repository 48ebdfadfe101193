"""The study: a question, the fields that all its trials share, and the grid and cases that set them apart."""

import difflib
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from initlab.study.claims import Claim
from initlab.study.drawn_cases import with_drawn_cases
from initlab.study.field_types import Seed, Spec
from initlab.study.mistakes import Mistake, StudyError, dotted, explain, short
from initlab.study.paths import SECTIONS, TRIAL_PATHS, getattr_path, nested
from initlab.study.run_options import Run
from initlab.study.sections import DataSection, Init, Net
from initlab.study.spec import TrialSpec
from initlab.study.training import Probe, Train, Verdict
from initlab.study.yaml_text import parse_yaml, read_yaml

Overrides = dict[str, Any]  # dotted path -> value


class Study(Spec):
    """A study file. Each point of `cases` x `grid` overrides the shared fields and makes one trial."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)] = Field(
        description="names the default output folder"
    )
    question: str = Field("", description="what the study is to answer, in a sentence")
    data: DataSection = DataSection()
    net: Net = Net()
    init: Init = Init()
    train: Train = Train()
    probe: Probe = Probe()
    verdict: Verdict = Verdict()
    run: Run = Run()
    seed: Seed = Field(0, description="of weights, data order, augmentation and dropout")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {},
        description="dotted path -> its values; trials are their cross product",
        json_schema_extra={"propertyNames": {"enum": [*TRIAL_PATHS]}},
    )
    cases: list[Overrides] = Field(
        [],
        description="override sets (dotted path -> value), crossed with the grid",
        json_schema_extra={"items": {"type": "object", "propertyNames": {"enum": [*TRIAL_PATHS]}}},
    )

    claims: list[Claim] = Field([], description="what `initlab compare` is to find in the results")

    def points(self) -> Iterator[Overrides]:
        """Each case crossed with each point of the grid, cases outermost."""
        for case in self.cases or [{}]:
            for values in itertools.product(*self.grid.values()):
                yield {**case, **dict(zip(self.grid, values, strict=True))}

    def trial(self, overrides: Overrides, known: dict[str, Spec] | None = None) -> TrialSpec:
        """The spec of one point, before unused fields are dropped.

        Args:
            known: sections of other points, which this one may share; added to.
        """
        known = {} if known is None else known
        changed = nested(overrides)
        fields: dict[str, Any] = {"seed": changed.get("seed", self.seed)}
        for name, section_type in SECTIONS.items():
            key = f"{name} {changed.get(name)}"
            if key not in known:
                # The data section has a folder, download and cache, which that of a trial has not.
                shared = {key: getattr(getattr(self, name), key) for key in section_type.model_fields}
                known[key] = section_type.model_validate(shared | changed.get(name, {}))
            fields[name] = known[key]
        return TrialSpec.model_validate(fields)

    def run_with(self, **options: Any) -> Run:
        """The `run` section with a caller's options over it; None leaves what the study says.

        Raises:
            StudyError: options out of range, a line each: `--jobs: out of range (got 0); allowed: at least 1`.
        """
        options = {name: value for name, value in options.items() if value is not None}
        try:
            return Run.model_validate(self.run.model_dump() | options)
        except ValidationError as error:
            mistakes = explain(error, Run)
            raise StudyError(f"--{name.replace('_', '-')}: {text}" for name, text in mistakes) from None


ALL_SECTIONS: dict[str, type[Spec]] = {**SECTIONS, "data": DataSection, "verdict": Verdict, "run": Run}
# The paths that --set takes.
SETTABLE = [f"{name}.{key}" for name, section in ALL_SECTIONS.items() for key in section.model_fields]
SETTABLE += [name for name in Study.model_fields if name not in ALL_SECTIONS]


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read and validate a study file.

    Args:
        overrides: `dotted.path=value` texts, values as in YAML; one of a path that grid or cases vary fixes it, one
            of `grid.PATH` replaces the values that the grid gives it.

    Raises:
        StudyError: every mistake, one line each.
    """
    content, repeated = read_yaml(Path(path))
    content, undrawn = with_drawn_cases(content)
    lines = [f"--set {field}: {text}" for override in overrides for field, text in apply_override(content, override)]
    study, mistakes = validated(content)
    lines += [f"{path}: {field}: {text}" for field, text in repeated + undrawn + mistakes]
    if lines or study is None:
        raise StudyError(lines)
    return study


def validated(content: dict[str, Any]) -> tuple[Study | None, list[Mistake]]:
    """The study that the content of a file describes, None where it describes none, and every mistake in it."""
    empty = [key for key in ("grid", "cases") if key in content and content[key] in (None, {}, [])]
    hint = "give it something to vary, or remove it"
    mistakes: list[Mistake] = [(key, f"empty (got {short(content[key])}); {hint}") for key in empty]
    study = None
    try:
        study = Study.model_validate({key: value for key, value in content.items() if key not in empty})
    except ValidationError as error:
        mistakes += explain(error, Study)
    return study, mistakes + varied_mistakes(content.get("grid"), content.get("cases")) + claim_mistakes(study)


def apply_override(content: dict[str, Any], text: str) -> list[Mistake]:
    """Set one `dotted.path=value` in the raw content of a study file; where it is wrong, say how and leave it."""
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path:
        return [(short(text), "not an assignment; allowed: dotted.path=value, e.g. train.lr=0.01")]
    if path not in SETTABLE and not path.startswith("grid."):
        return [(path, no_such_path(path, SETTABLE))]
    parsed, mistakes = parse_yaml(value, f"--set {path}")
    mistakes += validated({"name": "any", **nested({path: parsed})})[1]
    if not mistakes:
        vary_no_more(content, path)
        section, dot, key = path.partition(".")
        fields = content.setdefault(section, {}) if dot else content
        # A section that is no mapping stays, and is a mistake of the file.
        if isinstance(fields, dict):
            fields[key or section] = parsed
    return mistakes


def vary_no_more(content: dict[str, Any], path: str) -> None:
    """Take a path out of grid and cases; cases that differed in nothing else become one."""
    grid, cases = content.get("grid"), content.get("cases")
    if isinstance(grid, dict) and path in grid:
        content["grid"] = {key: values for key, values in grid.items() if key != path}
        if not content["grid"]:
            del content["grid"]
    if isinstance(cases, list) and any(isinstance(case, dict) and path in case for case in cases):
        content["cases"] = remaining = []
        for case in cases:
            rest = {key: value for key, value in case.items() if key != path} if isinstance(case, dict) else case
            if rest not in remaining:
                remaining.append(rest)
        if remaining == [{}]:
            del content["cases"]


def varied_mistakes(grid: Any, cases: Any) -> list[Mistake]:
    """What is wrong with paths and values in grid and cases, each at the place where it was written.

    Where one of them is no mapping or list, the validation of the study says so.
    """
    grid = grid if isinstance(grid, dict) else {}
    mistakes: list[Mistake] = []
    for path, values in grid.items():
        place, earlier = dotted(["grid", str(path)]), set()
        if path not in TRIAL_PATHS:
            mistakes.append((place, no_such_path(path, TRIAL_PATHS)))
            continue
        for value in values if isinstance(values, list) else []:
            resolved, problems = resolve(path, value)
            mistakes += [(place, text) for text in problems]
            if resolved in earlier:
                mistakes.append((place, f"duplicate trial (got {short(value)} twice); keep one"))
            earlier |= {resolved} - {None}
    for index, case in enumerate(cases if isinstance(cases, list) else []):
        for path, value in case.items() if isinstance(case, dict) else []:
            place = dotted(["cases", index, str(path)])
            problems = resolve(path, value)[1] if path in TRIAL_PATHS else [no_such_path(path, TRIAL_PATHS)]
            mistakes += [(place, text) for text in problems]
            if path in grid:
                mistakes.append((place, f"set by the grid too (got {short(value)}); vary a path in one of them"))
    return mistakes


def claim_mistakes(study: Study | None) -> list[Mistake]:
    """What is wrong with the paths and values of the arms that claims are about."""
    mistakes: list[Mistake] = []
    for index, claim in enumerate(study.claims if study else []):
        for key, where in (("arm", claim.arm), ("than", claim.than)):
            for path, value in where.items():
                problems = resolve(path, value)[1] if path in TRIAL_PATHS else [no_such_path(path, TRIAL_PATHS)]
                mistakes += [(dotted(["claims", index, key, path]), text) for text in problems]
    return mistakes


def resolve(path: str, value: Any) -> tuple[str | None, list[str]]:
    """The value that a field takes, as text to compare by (14 and 14.0 are one), or what is wrong with it."""
    try:
        return json.dumps(getattr_path(TrialSpec.model_validate(nested({path: value})), path), sort_keys=True), []
    except ValidationError as error:
        return None, [text for _, text in explain(error, TrialSpec)]


def no_such_path(path: Any, allowed: Collection[str]) -> str:
    """What to say of a path that is not among the allowed ones, which are those of trials or of a whole study."""
    fields = [name for name in allowed if name.startswith(f"{path}.")]
    if fields:
        return f"a section, not a field (got {short(path)}); allowed: a path in it, e.g. {fields[0]}"
    if any(name == path or name.startswith(f"{path}.") for name in SETTABLE):
        return f"not part of a trial (got {short(path)}); allowed: to set it once, for the whole study"
    near = difflib.get_close_matches(str(path), allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    section = str(path).partition(".")[0]
    siblings = [name for name in allowed if name.startswith(f"{section}.")]
    paths = ", ".join(siblings) or "a path in " + ", ".join(dict.fromkeys(name.partition(".")[0] for name in allowed))
    return f"no such field (got {short(path)}); allowed: {paths}{hint}"


def dump_study(study: Study) -> str:
    """The study as YAML with every field visible; a grid or cases that vary nothing, and no claims, are left out."""
    content = study.model_dump(mode="json")
    content = {key: value for key, value in content.items() if key not in ("grid", "cases", "claims") or value}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def study_schema() -> dict[str, Any]:
    """JSON schema of study files, for editors that complete and check YAML."""
    schema = Study.model_json_schema()
    zipped = {"description": "dotted path -> its values; the first values of all paths together, then the second, ..."}
    drawn = {
        "description": "samples, seed, and dotted path -> {uniform | log_uniform | int: [a, b]} or {choice: [...]}"
    }
    schema["properties"] |= {"zip": {"type": "object", **zipped}, "random": {"type": "object", **drawn}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
