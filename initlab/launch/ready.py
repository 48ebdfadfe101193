"""What is ready to run: a study and a caller's options, all checked before anything is written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from initlab.launch.checks import check_data, check_shareable
from initlab.launch.settings import Settings, resolve
from initlab.plan.plan import PlannedTrial, plan, shard_of
from initlab.store import files
from initlab.store.files import StoreError, writable
from initlab.study.mistakes import StudyError
from initlab.study.shard import Shard
from initlab.study.study import Study, load_study
from initlab.study.trial_code import code_names, source_hashes
from initlab.version import __version__


@dataclass(frozen=True)
class Launch:
    """A launch that nothing is known to be wrong with; nothing has been written for it."""

    study: Study
    trials: list[PlannedTrial]  # of the whole study
    requested: list[PlannedTrial]  # that this launch may run
    sources: dict[str, dict[str, str]]  # of each trial, dotted path -> hash of the user's code that it names
    shard: Shard | None
    settings: Settings
    folder: Path  # the output folder
    lines: list[str]  # what the user should know

    @property
    def fingerprint(self) -> str:
        """Of all trials and the code that they name: what changes it would make queued jobs run something else."""
        content = json.dumps([__version__, sorted(self.sources.items())], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def ready(
    study: Study | str | Path,
    out: str | Path | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    shard: str | None = None,
    max_trials: int | None = None,
    expect: str | None = None,
    address: str | None = None,
    allow_code: bool = False,
    skip_hopeless: bool = False,
    data_dir: str | Path | None = None,
    gpus: int | None = None,
) -> Launch:
    """Check a launch; arguments and errors as `initlab.launch.run.run` has them.

    Args:
        options: fields of `Run` that the caller gives.
        gpus: of the machine that will run it; None is this one.
    """
    part = Shard.parse(shard) if shard is not None else None
    if max_trials is not None and max_trials < 1:
        raise StudyError([f"--max-trials: out of range (got {max_trials}); allowed: at least 1"])
    study, trials = planned(study, [overrides] if isinstance(overrides, str) else overrides)
    requested = chosen(trials, [only] if isinstance(only, str) else only)
    if part:
        requested = [trial for trial in requested if shard_of(trial, part.count) == part.number]
    settings = resolve(
        study,
        options,
        own_code=any(code_names(trial.spec) for trial in requested),
        address=address,
        data_dir=data_dir,
        allow_code=allow_code,
        skip_hopeless=skip_hopeless,
        gpus=gpus,
        shard=part,
    )
    check_shareable(requested, settings.run.devices)
    # The nodes of a cluster look for the data themselves.
    lines = [] if address else check_data(requested, settings.access)
    if skip_hopeless and (others := sum(trial.spec.train.optimizer != "sgd" for trial in requested)):
        text = f"stops none of {others} trials whose optimiser is not sgd: what it goes by was found for sgd"
        lines.append(f"--skip-hopeless: {text}")
    folder = Path(out) if out else Path("results") / study.name
    with writable(folder):
        if (folder / files.COMPACTED).exists():
            raise StoreError(f"{folder}: holds exported results, which can't be added to; give another --out")
    launch = Launch(study, trials, requested, sources_of(trials, allow_code), part, settings, folder, lines)
    if expect not in (None, launch.fingerprint):
        text = f"trials, their code or initlab changed since submission (got {launch.fingerprint}, expected {expect})"
        raise StudyError([f"--expect: {text}; put them back, or submit again with `initlab launch`"])
    return launch


def planned(study: Study | str | Path, overrides: Sequence[str]) -> tuple[Study, list[PlannedTrial]]:
    """The study, read where a path is given, and its trials."""
    if isinstance(study, Study):
        if overrides:
            raise StudyError(["overrides: go with a study file (got a Study); change the Study instead"])
        trials = plan(study)
    else:
        path, study = str(study), load_study(study, overrides)
        trials = plan(study, path)
    if any(trial.spec.watched for trial in trials):
        raise StudyError(["study: of loops that initlab.watch watched, which cannot be run; run your own code"])
    return study, trials


def sources_of(trials: Sequence[PlannedTrial], allow_code: bool) -> dict[str, dict[str, str]]:
    """The hashes of the user's code that each trial names; each file is read once."""
    hashes: dict[str, dict[str, str]] = {}
    sources = {}
    for trial in trials:
        names = str(code_names(trial.spec))
        if names not in hashes:
            hashes[names] = source_hashes(trial.spec, allow_code)
        sources[trial.id] = hashes[names]
    return sources


def chosen(trials: list[PlannedTrial], only: Sequence[str]) -> list[PlannedTrial]:
    """The trials whose id begins with one of `only`; all where it is empty."""
    for prefix in only:
        if not any(trial.id.startswith(prefix) for trial in trials):
            raise StudyError(
                [f"--only: no such trial (got {prefix!r}); allowed: an id that `initlab plan` lists, or its beginning"]
            )
    return [trial for trial in trials if not only or trial.id.startswith(tuple(only))]
