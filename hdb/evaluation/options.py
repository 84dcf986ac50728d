"""Options of evaluations and measurements, in a file without torch so that commands check their settings at once."""

import math
from dataclasses import dataclass, field, replace

from hdb.diffusion.options import CUDA_GRAPH, DTYPES, MEMORY, SamplingOptions
from hdb.hypernet.options import HyperNetOptions
from hdb.lidb.options import LiDBOptions
from hdb.limits import choice_field, number_field
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.options import FinetuningOptions, accelerator_field, check_precision, precision_field

# Dense products in bfloat16 and in float32, TFLOP/s. Source: NVIDIA's data sheets of H100 SXM, A100 SXM and RTX 4090.
DEVICES = {"h100": (989.0, 67.0), "a100": (312.0, 19.5), "4090": (165.2, 82.6)}


@dataclass
class ProtocolOptions:
    """How much is drawn of how many. Paper: 100 identities, 30 prompts, 10 pictures each.

    `num_gallery` counts the unseen people among whom a picture's person is looked for: those evaluated and others of
    the test split, at most as many as there are. `prompts` is a text file with one per line. Methods are given the
    first `num_photos` of the references of each person; those that take one photo are given the first.
    `identity_guidance_scales` maps a method to its own `identity_guidance_scale`, where another than that of `sampling`
    was better on validation people; null guides it by the prompt alone. With `sampling.identity_guidance_scale=null`
    all are guided by the prompt alone. `subjects_per_batch` people are personalized together. `num_resamples` is of the
    bootstrap intervals.
    """

    subjects_per_batch: int = number_field(1, ge=1)
    num_identities: int = 100
    num_references: int = 1
    num_photos: int = number_field(1, ge=1)
    num_gallery: int = 200
    prompts: str = "configs/prompts/people.txt"
    num_prompts: int = 30
    num_pictures: int = number_field(10, ge=1)
    num_resamples: int = number_field(10_000, ge=1)
    identity_guidance_scales: dict[str, float | None] = field(default_factory=dict)

    def check_conflicts(self, prefix: str) -> None:
        """Raises ValueError if a scale of identity guidance is negative or not finite."""
        for method, scale in self.identity_guidance_scales.items():
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"{prefix}identity_guidance_scales.{method} is {scale}, expected 0 or more, or null")

    def sampling_for(self, method: str, sampling: SamplingOptions) -> SamplingOptions:
        """The options that this method's pictures are drawn with."""
        if sampling.identity_guidance_scale is not None and method in self.identity_guidance_scales:
            return replace(sampling, identity_guidance_scale=self.identity_guidance_scales[method])
        return sampling


@dataclass
class RateOptions:
    """How many operations a second: `tflops`, or the share `utilization` of what the device's data sheet says.

    `device` this measures matrix products on this machine. `results` is the results.json of a benchmark, whose measured
    steps say the rate in the place of all that.
    """

    device: str = choice_field("h100", (*DEVICES, "this"))
    utilization: float = number_field(0.4, gt=0, le=1)
    tflops: float | None = number_field(None, gt=0)
    results: str | None = None


@dataclass
class WorkloadOptions:
    """What is measured. `base` is a base or a folder of configs alone; `batch_size` is that of pretraining."""

    base: str = "sd15-config"
    dtype: str = choice_field("float32", DTYPES)
    lidb: LiDBOptions = field(default_factory=LiDBOptions)
    hypernet: HyperNetOptions = field(default_factory=HyperNetOptions)
    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions(num_inference_steps=25))
    instance_prompt: str = INSTANCE_PROMPT
    batch_size: int = number_field(8, ge=1)
    num_pictures: int = number_field(4, ge=1)
    num_steps: int = number_field(10, ge=1)
    accelerator: str = accelerator_field()
    precision: str = precision_field()
    memory: str = choice_field("normal", MEMORY)
    cuda_graph: str = choice_field("auto", CUDA_GRAPH)

    def check_conflicts(self, prefix: str) -> None:
        """Raises ValueError if gradients would not survive in such a base."""
        check_precision(self.precision, self.dtype)
