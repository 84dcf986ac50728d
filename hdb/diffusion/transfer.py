"""Tensors on their way to the device: a GPU is not waited for."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a copy to a GPU starts from pinned memory, behind what is still computed there.

    A plain `.to` from ordinary memory waits until the GPU has nothing left to do, and then lets it stand idle.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
