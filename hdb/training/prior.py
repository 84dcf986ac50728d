"""Prior preservation: while a person is learned, the base's own pictures of anybody stay what they were."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import SamplingOptions
from hdb.diffusion.transfer import to_device
from hdb.prompts import CLASS_PROMPT


@dataclass(frozen=True, eq=False)
class Prior:
    """What is to be preserved, and how much it weighs beside the person.

        loss = loss of the person's photo + weight · loss of a class picture under the class prompt

    Args:
        latents: of k class pictures.

    Source: Ruiz et al., DreamBooth, section 3.3, https://arxiv.org/abs/2208.12242
    """

    latents: Float[Tensor, "k c h w"]
    weight: float = 1.0
    prompt: str = CLASS_PROMPT

    def draw(self, num: int, generator: torch.Generator) -> Float[Tensor, "num c h w"]:
        """Some of the class pictures."""
        rows: Int[Tensor, " num"] = torch.randint(len(self.latents), (num,), generator=generator)
        return self.latents[to_device(rows, self.latents.device)]


def draw_class_latents(
    personalized: PersonalizedDiffusion, *, num: int, sampling: SamplingOptions, seed: int = 0
) -> Float[Tensor, "num c h w"]:
    """Latents of `num` pictures that the base itself draws for the class prompt.

    Raises:
        ValueError: none are asked for.
    """
    if num < 1:
        raise ValueError(f"num_class_pictures is {num}, expected at least 1 where prior_preservation is above 0")
    latents = []
    for start in range(0, num, sampling.batch_size):
        seeds = range(seed + start, seed + min(start + sampling.batch_size, num))
        pictures = personalized.pictures(None, [CLASS_PROMPT] * len(seeds), seeds=seeds, sampling=sampling)
        latents.append(personalized.diffusion.encode_images(pictures).float())
    return torch.cat(latents)
