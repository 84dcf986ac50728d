"""Recordings in the place of CUDA graphs, which need a GPU, and what shows that work can be held by a graph."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Replay:
    """Records nothing, and does the work again. Its results are the same tensors every time, as a graph's are."""

    def __init__(self, work, *, stream, pool):
        self.work = work
        self.outputs = work()
        with torch.inference_mode(False):  # a graph writes into its results whatever the mode is
            self.outputs = tuple(output.clone() for output in self.outputs)
        self.num_replays = 0

    def replay(self):
        self.num_replays += 1
        with torch.no_grad():
            torch._foreach_copy_(list(self.outputs), list(self.work()))
        return self.outputs


class OldNumbers(Replay):
    """Has the numbers of the capture baked in."""

    def replay(self):
        return self.outputs


class OneOldOutput(Replay):
    """Forgets the gradient, or whatever the work computes second."""

    def replay(self):
        second = self.outputs[1].clone()
        super().replay()
        self.outputs[1].copy_(second)
        return self.outputs


class OutOfMemory:
    def __init__(self, work, *, stream, pool):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand more lines")


class Recorder:
    """Gives recordings of a class and keeps them."""

    def __init__(self, kind=Replay):
        self.kind = kind
        self.made = []

    def __call__(self, work, **place):
        self.made.append(self.kind(work, **place))
        return self.made[-1]


class OnDeviceAlone(TorchDispatchMode):
    """Raises where a tensor of the CPU is made, read or copied: a graph could not hold that."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, results)) if isinstance(one, torch.Tensor)]
        # A single number of the CPU beside tensors of the device is an argument of the kernel.
        assert all(one.device.type == "meta" or one.ndim == 0 for one in tensors), function
        assert all(one.device.type == "meta" for one in tree_leaves(results) if isinstance(one, torch.Tensor)), function
        return results
