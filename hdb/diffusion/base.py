"""The frozen base that is asked for, read and fitted to this machine."""

from dataclasses import dataclass

import torch

from hdb.diffusion.stable_diffusion import CHECKS, PUBLISHED, StableDiffusion
from hdb.limits import choice_field

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MIXED = {"bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16, "16-mixed": torch.float16, "16": torch.float16}
MEMORY = ("normal", "low")


@dataclass
class BaseOptions:
    """The frozen text-to-image model: a folder in diffusers' layout, or a hub id and the revision it is pinned to.

    `path` is that folder or id. `revision` is of a hub id alone. `dtype` is the precision of the weights.

    It may be a single safetensors file in the original layout, too; `config` then is a folder or hub id that describes
    it and has its tokenizer, null Stable Diffusion 1.5.
    `variant` fp16 takes weights called *.fp16.safetensors; null those without such a name, or what is in the folder.
    `check` shapes takes what was made for another finetune of the same shapes, and says so; digest refuses it.
    """

    path: str = PUBLISHED
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
    """The base that the options name, on the device.

    Args:
        memory, precision: See `prepare_for_device`.
        identifier: See `StableDiffusion.set_identifier`.

    Raises:
        ValueError: An unknown precision or memory, or see `StableDiffusion.from_pretrained`.
    """
    if options.dtype not in DTYPES:
        raise ValueError(f"base.dtype is {options.dtype!r}, expected one of {', '.join(DTYPES)}")
    asked = {"dtype": DTYPES[options.dtype], "revision": options.revision, "variant": options.variant}
    diffusion = StableDiffusion.from_pretrained(options.path, config=options.config, **asked)
    diffusion.check = options.check
    diffusion.set_identifier(identifier)
    return prepare_for_device(diffusion.to(device), memory=memory, precision=precision)


def prepare_for_device(diffusion: StableDiffusion, *, memory: str, precision: str = "32-true") -> StableDiffusion:
    """Fits a base to the device it is on: plain attention on a CPU, a quarter faster to train there.

    Args:
        memory: `low` trades time for it.
        precision: A Trainer's. A mixed one is also that of pictures drawn and encoded outside of the Trainer.
    """
    if memory not in MEMORY:
        raise ValueError(f"memory is {memory!r}, expected normal or low")
    diffusion.mixed = MIXED.get(precision)
    if diffusion.device.type == "cpu":
        diffusion.use_plain_attention()
    return diffusion.use_less_memory() if memory == "low" else diffusion
