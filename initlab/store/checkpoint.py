"""Checkpoints: written aside and renamed, read with weights_only, refused when another version wrote them."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from initlab.store.files import StoreError, atomic

CHECKPOINT_VERSION = 1


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain data) to `path`, atomically."""
    with atomic(path) as file:
        torch.save({"checkpoint_version": CHECKPOINT_VERSION, **compact(state)}, file)


def compact(value: Any) -> Any:
    """The same values, with tensors that are views of larger ones copied: torch saves a view with all of its base."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
    if isinstance(value, dict):
        return {key: compact(part) for key, part in value.items()}
    return [compact(part) for part in value] if isinstance(value, list) else value


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; a `StoreError` says that it is damaged, or of another version."""
    try:
        # torch does not look at the checksums.
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # A flipped bit can raise anything in the unpickler.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path}: damaged checkpoint ({reason})") from None
    version = state.get("checkpoint_version") if isinstance(state, dict) else None
    if version != CHECKPOINT_VERSION:
        raise StoreError(
            f"{path}: checkpoint of another version (got {version!r}); this initlab reads {CHECKPOINT_VERSION}"
        )
    return state
