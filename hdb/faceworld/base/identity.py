"""IdentityTraining: a network that tells people apart over poses, contexts and styles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hdb.faceworld.base.part import Part, crops, jitter
from hdb.faceworld.base.views import Views


class IdentityTraining(Part):
    """Margin softmax over the training identities, and regression of the person's true parameters.

    The second is what only a drawn world can offer: 2,000 identities teach less than their parameters do.

    Args:
        embed: pictures in [0, 1] -> embeddings (n, embedding_size), through `network`.
        write: saves the trained network to a folder.

    Source: Wang et al., CosFace, arXiv 1801.09414, equation 4.
    """

    def __init__(
        self,
        views: Views,
        network: nn.Module,
        *,
        embed: Callable[[Tensor], Tensor],
        write: Callable[[Path], None],
        embedding_size: int,
        margin: float = 0.2,
        scale: float = 24.0,
        trait_weight: float = 1.0,
        **part,
    ):
        super().__init__(views, **part)
        torch.manual_seed(self.seed)
        self.network, self._embed, self._write = network, embed, write
        self.margin, self.scale, self.trait_weight = margin, scale, trait_weight
        self.centers = nn.Parameter(F.normalize(torch.randn(views.identities, embedding_size), dim=1))
        self.trait_head = nn.Sequential(
            nn.BatchNorm1d(embedding_size),
            nn.Linear(embedding_size, 256),
            nn.GELU(),
            nn.Linear(256, views.traits.shape[1]),
        )
        mean, std = views.traits.mean(0), views.traits.std(0).clamp_min(1e-3)
        self.register_buffer("traits", ((views.traits - mean) / std).clamp(-4, 4), persistent=False)

    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        images = jitter(self.views.pictures(flat), strength=0.25, generator=generator).to(self.device)
        images = crops(images, scale=(0.85, 1.0), size=images.shape[-1], generator=generator)
        identities = self.views.identities_of(flat).to(self.device)
        embeddings = self._embed(images)
        cosine = F.normalize(embeddings, dim=1) @ F.normalize(self.centers, dim=1).T
        # the margin grows in over the first third: from the start it would only push embeddings into a corner
        margin = self.margin * min(1.0, 3 * self.global_step / max(1, self.num_steps))
        logits = self.scale * (cosine - margin * F.one_hot(identities, cosine.shape[1]))
        margin_loss = F.cross_entropy(logits, identities)
        trait_loss = F.mse_loss(self.trait_head(embeddings), self.traits[identities])
        return {
            "loss": margin_loss + self.trait_weight * trait_loss,
            "margin_softmax": margin_loss,
            "traits": trait_loss,
            "accuracy": (cosine.argmax(1) == identities).float().mean(),
        }

    def save(self, folder: Path) -> None:
        self._write(folder)
