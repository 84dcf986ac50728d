"""TextTraining: this world's CLIP, a contrastive training of pictures and captions."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hdb.faceworld.base import models
from hdb.faceworld.base.augmentation import color_jitter, random_crops
from hdb.faceworld.base.training import PartTraining
from hdb.faceworld.base.views import Views
from hdb.metrics.embedders import ClipEmbedder
from hdb.prompts import remove_identifier


class TextTraining(PartTraining):
    """CLIP's loss, with all pictures of the same caption as positives.

    Source: Radford et al., arXiv 2103.00020, section 2.3; several positives as in Khosla et al., arXiv 2004.11362.
    """

    def __init__(self, views: Views, *, resolution: int, **training):
        super().__init__(views, **training)
        self.tokenizer = models.tokenizer()
        self.clip = ClipEmbedder.from_parts(models.clip(resolution, self.tokenizer), self.tokenizer, seed=self.seed)
        # On a CPU the backward pass of fused attention takes half of a step.
        self.clip.model.set_attn_implementation("eager")

    def loss(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        captions = self.views.sample_captions(indices, generator)
        images = color_jitter(self.views.pictures(indices), strength=0.2, generator=generator).to(self.device)
        images = random_crops(images, scale=(0.85, 1.0), size=images.shape[-1], generator=generator)
        scale = self.clip.model.logit_scale.exp().clamp(max=100)
        logits = scale * self.clip.image_features(images) @ self.clip.text_features(captions).T
        captions = [remove_identifier(caption) for caption in captions]
        same = torch.tensor([[one == other for other in captions] for one in captions], device=self.device).float()
        targets = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits.T, targets) + F.cross_entropy(logits, targets)) / 2
        accuracy = same.gather(1, logits.argmax(1, keepdim=True)).mean()
        return {"loss": loss, "accuracy": accuracy}

    def save(self, folder: Path) -> None:
        self.clip.save(folder)
