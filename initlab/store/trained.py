"""A trained net as the store keeps it: the weights of a checkpoint, and the spec in the trial.json beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from initlab.store import files
from initlab.store.checkpoint import read_checkpoint
from initlab.store.files import StoreError
from initlab.store.trial_folder import TrialFolder
from initlab.study.spec import TrialSpec


@dataclass(frozen=True)
class Trained:
    """A checkpoint: its file, the trial that it is of, and the net's weights after `step` updates."""

    path: Path
    trial: str
    spec: TrialSpec
    source: dict[str, str]  # hash of the user's code that the trial names
    step: int
    weights: dict[str, Tensor]


def read_trained(place: str | Path) -> Trained:
    """Read a trained net; a `StoreError` says what is absent, damaged or of a newer initlab.

    `place` is OUT/trials/ID (then the newest attempt that has a checkpoint), an attempt's folder, or a checkpoint file
    with the trial.json beside it or one folder up.
    """
    path = checkpoint_of(Path(place))
    folders = [TrialFolder.at(path.parent), TrialFolder.at(path.parent.parent)]
    trial = next((folder for folder in folders if folder.trial_file.exists()), None)
    if trial is None:
        raise StoreError(
            f"{path}: no {files.TRIAL} beside it (looked in {path.parent} and above); "
            "keep the one of its trial with it: it says which net and data the weights are for"
        )
    spec, description = trial.spec(), trial.description()
    state = read_checkpoint(path)
    if not isinstance(state.get("net"), dict) or "step" not in state:
        raise StoreError(f"{path}: no net in it (got {', '.join(state)}); give the checkpoint of a trial")
    name, source = description.get("id", trial.id), description.get("source", {})
    if state.get("trial", name) != name:
        raise StoreError(f"{path}: of another trial than the {files.TRIAL} beside it (got {state['trial']})")
    return Trained(path, name, spec, source, state["step"], state["net"])


def checkpoint_of(place: Path) -> Path:
    """The checkpoint file that a trial's folder, an attempt's folder or the file itself stands for."""
    if place.is_file():
        return place
    if not place.exists():
        raise StoreError(f"{place}: no such checkpoint; give OUT/trials/ID, an attempt folder in it or a checkpoint.pt")
    if (place / files.COMPACTED).exists():
        raise StoreError(f"{place}: exported results have no checkpoints; give trials of the folder they came from")
    if (place / files.STUDY).exists():
        raise StoreError(f"{place}: a whole study; give some of its trials: {place / files.TRIALS}/ID")
    if (place / files.CHECKPOINT).exists():
        return place / files.CHECKPOINT
    trial = TrialFolder.at(place)
    if path := trial.checkpoint():
        return path
    state = f"its state: {trial.status()['state']}" if trial.status_file.exists() else "not a trial"
    raise StoreError(f"{place}: no checkpoint in it ({state}); a trial that ran to its end has one")


def load_weights(net: nn.Module, trained: Trained) -> None:
    """Put the weights into the net that the spec describes; a `StoreError` names the first that is another net's."""
    weights: Mapping[str, Tensor] = net.state_dict()
    for name in dict.fromkeys([*weights, *trained.weights]):
        expected, got = (shape_in(tensors, name) for tensors in (weights, trained.weights))
        if expected != got:
            raise StoreError(
                f"{trained.path}: weights of another net than its {files.TRIAL} describes, {trained.spec.net.label} "
                f"(got {name}: {got}; wanted: {expected}); give the checkpoint of trial {trained.trial}"
            )
    net.load_state_dict(trained.weights)


def shape_in(weights: Mapping[str, Tensor], name: str) -> str:
    """`64x3x7x7`, or `none`."""
    return "x".join(map(str, weights[name].shape)) or "one value" if name in weights else "none"
