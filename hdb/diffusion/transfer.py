"""Copies of tensors to a GPU that do not wait for it."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a tensor to the device. From CPU to GPU the copy is asynchronous, from pinned memory.

    A plain `.to` from pageable memory waits until the GPU has finished all its work, and leaves it idle afterwards.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
