"""Loads the base that options name and prepares it for the device."""

from dataclasses import dataclass

import torch

from hdb.diffusion.stable_diffusion import CHECKS, DEFAULT_BASE, StableDiffusion
from hdb.limits import choice_field

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# The dtype of autocast for each of Lightning's mixed precisions.
AUTOCAST_DTYPES = {
    "bf16-mixed": torch.bfloat16,
    "bf16": torch.bfloat16,
    "16-mixed": torch.float16,
    "16": torch.float16,
}
MEMORY = ("normal", "low")


@dataclass
class BaseOptions:
    """The frozen text-to-image model: a folder in diffusers' layout, a hub id, or a single file.

    `path` is that folder, id or file. `revision` is the branch, tag or commit of a hub id. `dtype` is the precision of
    the weights.

    A single safetensors file is in the original layout of Stable Diffusion 1.x. `config` is a folder or hub id that
    describes it and has its tokenizer, null Stable Diffusion 1.5.
    `variant` fp16 takes weights called *.fp16.safetensors; null those without such a name, or what is in the folder.
    `check` shapes accepts personal weights made for another finetune of the same shapes, with a warning; digest refuses
    them.
    """

    path: str = DEFAULT_BASE
    config: str | None = None
    revision: str | None = None
    variant: str | None = None
    dtype: str = choice_field("float32", DTYPES)
    check: str = choice_field(CHECKS[0], CHECKS)


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
