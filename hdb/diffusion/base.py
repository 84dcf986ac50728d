"""Loads the base that options name and prepares it for the device."""

import torch

from hdb.diffusion.graphs import Graphs
from hdb.diffusion.options import CUDA_GRAPH, MEMORY, BaseOptions
from hdb.diffusion.stable_diffusion import StableDiffusion

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# The dtype of autocast for each of Lightning's mixed precisions.
AUTOCAST_DTYPES = {
    "bf16-mixed": torch.bfloat16,
    "bf16": torch.bfloat16,
    "16-mixed": torch.float16,
    "16": torch.float16,
}


def load_base(
    options: BaseOptions,
    *,
    device: torch.device | str = "cpu",
    memory: str = "normal",
    precision: str = "32-true",
    cuda_graph: str = "auto",
    identifier: str | None = None,
) -> StableDiffusion:
    """Loads the base that the options name onto the device.

    Args:
        memory: As in `prepare_for_device`.
        precision: As in `prepare_for_device`.
        cuda_graph: As in `prepare_for_device`.
        identifier: As in `StableDiffusion.set_identifier`.

    Raises:
        ValueError: Precision, memory or cuda_graph is unknown, or as `StableDiffusion.from_pretrained`.
    """
    if options.dtype not in DTYPES:
        raise ValueError(f"base.dtype is {options.dtype!r}, expected one of {', '.join(DTYPES)}")
    diffusion = StableDiffusion.from_pretrained(
        options.path,
        dtype=DTYPES[options.dtype],
        revision=options.revision,
        variant=options.variant,
        config=options.config,
    )
    diffusion.check = options.check
    diffusion.set_identifier(identifier)
    return prepare_for_device(diffusion.to(device), memory=memory, precision=precision, cuda_graph=cuda_graph)


def prepare_for_device(
    diffusion: StableDiffusion, *, memory: str, precision: str = "32-true", cuda_graph: str = "auto"
) -> StableDiffusion:
    """Chooses attention, memory use, autocast and CUDA graphs for the device that the base is on.

    Args:
        memory: `low` takes less memory and more time.
        precision: A Lightning Trainer's. With a mixed one, sampling and encoding outside of the Trainer use autocast,
            too.
        cuda_graph: Whether CUDA graphs hold the steps of training and drawing: `auto` where they can, `false` never.
            `true` makes it an error later where one cannot. See `hdb.diffusion.graphs.Graphs`.
    """
    if memory not in MEMORY:
        raise ValueError(f"memory is {memory!r}, expected normal or low")
    if cuda_graph not in CUDA_GRAPH:
        raise ValueError(f"cuda_graph is {cuda_graph!r}, expected auto, true or false")
    diffusion.graphs = Graphs(cuda_graph)
    diffusion.autocast_dtype = AUTOCAST_DTYPES.get(precision)
    if diffusion.device.type == "cpu":
        diffusion.use_plain_attention()
    if diffusion.device.type == "cuda":  # the order in which cuDNN convolves; it would copy all it is given to that
        diffusion.unet.to(memory_format=torch.channels_last)
        diffusion.vae.to(memory_format=torch.channels_last)
    return diffusion.use_less_memory() if memory == "low" else diffusion
