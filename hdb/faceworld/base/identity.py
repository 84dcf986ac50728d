"""IdentityTraining: a network that recognizes people in any pose, context and style."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hdb.faceworld.base.augmentation import color_jitter, random_blur, random_crops
from hdb.faceworld.base.training import PartTraining
from hdb.faceworld.base.views import Views

TEMPERATURE = 0.1  # of the cosines


class IdentityTraining(PartTraining):
    """Margin softmax over the people of a batch, and regression of their true traits.

    The classes are the people of the batch, not all of training: with nine views of each, the center of a class would
    see few pictures. The regression needs labels that only a rendered world has.

    Args:
        embed: pictures in [0, 1] -> embeddings (n, embedding_size), through `network`.
        write: saves the trained network to a folder.
        views_per_person: the batch holds batch_size / views_per_person people.
        margin: subtracted from the cosines of pictures of the same person.

    Source: Khosla et al., Supervised Contrastive Learning, arXiv 2004.11362, equation 2; margin as in Wang et al.,
    CosFace, arXiv 1801.09414, equation 4.
    """

    def __init__(
        self,
        views: Views,
        network: nn.Module,
        *,
        embed: Callable[[Tensor], Tensor],
        write: Callable[[Path], None],
        embedding_size: int,
        views_per_person: int = 3,
        margin: float = 0.1,
        **training,
    ):
        super().__init__(views, **training)
        self.network = network
        self._embed = embed
        self._write = write
        self.views_per_person = views_per_person
        self.margin = margin
        self.trait_head = nn.Sequential(
            nn.BatchNorm1d(embedding_size), nn.Linear(embedding_size, views.traits.shape[1])
        )
        self.register_buffer("traits", views.traits, persistent=False)

    def batch_indices(self, step: int) -> Tensor:
        num_people = self.batch_size // self.views_per_person
        return self.views.people_indices(step, num_people, num_views=self.views_per_person, seed=self.seed)

    def loss(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        images = color_jitter(self.views.pictures(indices), strength=0.2, generator=generator).to(self.device)
        images = random_crops(images, scale=(0.88, 1.0), size=images.shape[-1], generator=generator)
        images = random_blur(images, generator=generator)
        identities = self.views.identities_of(indices).to(self.device)
        embeddings = self._embed(images)
        margin_loss = batch_margin_softmax(
            F.normalize(embeddings, dim=1), identities, margin=self.margin, temperature=TEMPERATURE
        )
        trait_loss = F.mse_loss(self.trait_head(embeddings), self.traits[identities])
        return {"loss": margin_loss + trait_loss, "margin_softmax": margin_loss, "traits": trait_loss}

    def save(self, folder: Path) -> None:
        self._write(folder)


def batch_margin_softmax(
    vectors: Float[Tensor, "n d"], identities: Int[Tensor, " n"], *, margin: float, temperature: float
) -> Float[Tensor, ""]:
    """Cross entropy of the pictures of the same person among all others, by the cosines of n unit vectors.

    Every picture needs another of its person in the batch.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    same = (identities[:, None] == identities[None]) & ~itself
    logits = (vectors @ vectors.T - margin * same) / temperature
    log_probabilities = F.log_softmax(logits.masked_fill(itself, float("-inf")), dim=1).masked_fill(~same, 0.0)
    return -(log_probabilities.sum(1) / same.sum(1)).mean()
