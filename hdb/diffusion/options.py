"""Options of the base and of sampling, in a file without torch so that commands check their settings at once."""

from dataclasses import dataclass
from pathlib import Path

from hdb.limits import choice_field, number_field

DEFAULT_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CHECKS = ("digest", "shapes")  # whether personal weights must be made for this base, or for one of the same shapes
DTYPES = ("float32", "float16", "bfloat16")
MEMORY = ("normal", "low")
CUDA_GRAPH = ("auto", "true", "false")
# Classes of diffusers. Those that need further libraries are left out.
SAMPLERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


@dataclass
class BaseOptions:
    """The frozen text-to-image model: a folder in diffusers' layout, a hub id, or a single file.

    `path` is that folder, id or file. `revision` is the branch, tag or commit of a hub id. `dtype` is the precision of
    the weights.

    A single safetensors file is in the original layout of Stable Diffusion 1.x or XL. `config` is a folder or hub id
    that describes it and has its tokenizers, null the published base of its family.
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


@dataclass
class SamplingOptions:
    """How pictures are sampled.

    `num_inference_steps` is the number of denoising steps. `guidance_scale` is the strength of the prompt, with 1 for
    no guidance. `batch_size` is the number of pictures sampled together.

    `identity_guidance_scale` is a separate strength of the identity, with 0 for the base's picture and null for
    classifier-free guidance alone, as other programs do it. Higher values resemble the photo more. It takes a third
    prediction per step. `identity_guidance_end` is the share of the denoising process, as diffusers' `denoising_end`,
    after which the identity's scale is 1; 0.5 keeps more of the prompt's style than 1.

    `scheduler` is the sampler by its class name in diffusers, null for that of the base's family: DDIMScheduler, or
    EulerDiscreteScheduler for Stable Diffusion XL. Of 1,000 training timesteps at
    most 999 can be steps: with all of them DDIM's spacing goes beyond the last one.
    """

    num_inference_steps: int = number_field(50, ge=1, le=999)
    guidance_scale: float = number_field(7.5, ge=0)
    batch_size: int = number_field(8, ge=1)
    identity_guidance_scale: float | None = number_field(None, ge=0)
    identity_guidance_end: float = number_field(1.0, ge=0, le=1)
    scheduler: str | None = choice_field(None, SAMPLERS)

    @property
    def num_predictions(self) -> int:
        """UNet evaluations per picture and step."""
        if self.identity_guidance_scale is not None:
            return 3
        return 1 if self.guidance_scale == 1 else 2


def check_base_path(path: str) -> None:
    """Raises ValueError if there is nothing at a base's path and it is no hub id either."""
    if not Path(path).exists() and (path.startswith((".", "/", "~")) or path.count("/") != 1):
        raise ValueError(
            f"no Stable Diffusion at {path}: expected a folder in diffusers' layout or a hub id owner/name"
        )
