"""Transfers from the host to the device, of what is drawn on the CPU at every step."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; on CUDA through pinned memory, so that the host does not wait for the device.

    A plain `.to(device)` from pageable memory synchronises the stream.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def copy_into(tensor: Tensor, place: Tensor) -> None:
    """Copy `tensor` from the host into `place`, a tensor that stays where it is; the host does not wait for it."""
    if place.device.type == "cuda":
        place.copy_(tensor.pin_memory(), non_blocking=True)
    else:
        place.copy_(tensor)
