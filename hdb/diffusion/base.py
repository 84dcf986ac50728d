"""Loads the base that options name and prepares it for the device."""

import torch

from hdb.diffusion.options import MEMORY, BaseOptions
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
    identifier: str | None = None,
) -> StableDiffusion:
    """Loads the base that the options name onto the device.

    Args:
        memory: As in `prepare_for_device`.
        precision: As in `prepare_for_device`.
        identifier: As in `StableDiffusion.set_identifier`.

    Raises:
        ValueError: Precision or memory is unknown, or as `StableDiffusion.from_pretrained`.
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
    return prepare_for_device(diffusion.to(device), memory=memory, precision=precision)


def prepare_for_device(diffusion: StableDiffusion, *, memory: str, precision: str = "32-true") -> StableDiffusion:
    """Chooses attention, memory use and autocast for the device that the base is on.

    Args:
        memory: `low` takes less memory and more time.
        precision: A Lightning Trainer's. With a mixed one, sampling and encoding outside of the Trainer use autocast,
            too.
    """
    if memory not in MEMORY:
        raise ValueError(f"memory is {memory!r}, expected normal or low")
    diffusion.autocast_dtype = AUTOCAST_DTYPES.get(precision)
    if diffusion.device.type == "cpu":
        diffusion.use_plain_attention()
    return diffusion.use_less_memory() if memory == "low" else diffusion
