"""Prior preservation: the base keeps its idea of a face while it learns one person's."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.transfer import to_device
from hdb.prompts import CLASS_PROMPT


@dataclass(frozen=True, eq=False)
class Prior:
    """Class pictures whose diffusion loss is added to that of the person's photos.

        loss = loss of the photos + weight · loss of class pictures under the class prompt

    Args:
        latents: Of k class pictures.

    Source: Ruiz et al., DreamBooth, section 3.3, https://arxiv.org/abs/2208.12242
    """

    latents: Float[Tensor, "k c h w"]
    weight: float = 1.0
    prompt: str = CLASS_PROMPT

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "num c h w"]:
        """Latents of `num` class pictures, drawn with replacement."""
        rows = torch.randint(len(self.latents), (num,), generator=generator)
        return self.latents[to_device(rows, self.latents.device)]


def draw_class_latents(
    personalized: PersonalizedDiffusion, *, num: int, sampling: SamplingOptions, seed: int = 0
) -> Float[Tensor, "num c h w"]:
    """Latents of `num` pictures of the class prompt, drawn by the base without any person.

    Raises:
        ValueError: `num` is below 1.
    """
    if num < 1:
        raise ValueError(f"num_class_pictures is {num}, expected at least 1 where prior_preservation is above 0")
    latents = []
    for start in range(0, num, sampling.batch_size):
        seeds = range(seed + start, seed + min(start + sampling.batch_size, num))
        pictures = personalized.pictures(None, [CLASS_PROMPT] * len(seeds), seeds=seeds, sampling=sampling)
        latents.append(personalized.diffusion.encode_images(pictures).float())
    return torch.cat(latents)
