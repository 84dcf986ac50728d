"""IdentityTraining: a network that tells people apart over poses, contexts and styles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hdb.faceworld.base.part import Part, crops, jitter, soften
from hdb.faceworld.base.views import Views

TEMPERATURE = 0.1  # of the cosines


class IdentityTraining(Part):
    """Margin softmax over the people of a batch, and regression of what is true of them.

        cosines of b x k pictures -> cross entropy of a picture's own person, whose cosines count `margin` less

    The classes are the batch's people, not all of training: with nine views each, class centers see few pictures. The
    two were not compared under equal conditions. The regression is what only a drawn world can offer.

    Args:
        embed: pictures in [0, 1] -> embeddings (n, embedding_size), through `network`.
        write: saves the trained network to a folder.
        views_per_person: k; the batch holds batch_size / k people.

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
        **part,
    ):
        super().__init__(views, **part)
        self.network, self._embed, self._write = network, embed, write
        self.views_per_person, self.margin = views_per_person, margin
        self.trait_head = nn.Sequential(
            nn.BatchNorm1d(embedding_size), nn.Linear(embedding_size, views.traits.shape[1])
        )
        self.register_buffer("traits", views.traits, persistent=False)

    def pick(self, step: int) -> Tensor:
        people = self.batch_size // self.views_per_person
        return self.views.pick_people(step, people=people, views=self.views_per_person, seed=self.seed)

    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        images = jitter(self.views.pictures(flat), strength=0.2, generator=generator).to(self.device)
        images = crops(images, scale=(0.88, 1.0), size=images.shape[-1], generator=generator)
        images = soften(images, generator=generator)
        identities = self.views.identities_of(flat).to(self.device)
        embeddings = self._embed(images)
        margin_loss = batch_margin_softmax(
            F.normalize(embeddings, dim=1), identities, margin=self.margin, temperature=TEMPERATURE
        )
        trait_loss = F.mse_loss(self.trait_head(embeddings), self.traits[identities])
        return {
            "loss": margin_loss + trait_loss,
            "margin_softmax": margin_loss,
            "traits": trait_loss,
        }

    def save(self, folder: Path) -> None:
        self._write(folder)


def batch_margin_softmax(
    vectors: Float[Tensor, "n d"], identities: Int[Tensor, " n"], *, margin: float, temperature: float
) -> Float[Tensor, ""]:
    """Mean over pictures of -log softmax of their cosines with the other pictures of the same person.

    Every picture needs another of its person in the batch.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    same = (identities[:, None] == identities[None]) & ~itself
    logits = (vectors @ vectors.T - margin * same) / temperature
    log_shares = F.log_softmax(logits.masked_fill(itself, float("-inf")), dim=1).masked_fill(~same, 0.0)
    return -(log_shares.sum(1) / same.sum(1)).mean()
