"""TextTraining: captions and pictures meet in one space, contrastively; this world's CLIP."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTextModel

from hdb.faceworld.base import models
from hdb.faceworld.base.part import Part, crops, jitter
from hdb.faceworld.base.views import Views
from hdb.metrics.embedders import ClipEmbedder
from hdb.prompts import remove_identifier


class TextTraining(Part):
    """CLIP's loss, but pictures with the same caption are all right answers.

    Source: Radford et al., arXiv 2103.00020, section 2.3; several positives as in Khosla et al., arXiv 2004.11362.
    """

    def __init__(self, views: Views, *, resolution: int, **part):
        super().__init__(views, **part)
        self.tokenizer = models.tokenizer()
        self.clip = ClipEmbedder.from_parts(models.clip(resolution, self.tokenizer), self.tokenizer, seed=self.seed)
        # fused attention is slow in backward on a CPU: half of a step's time
        self.clip.model.set_attn_implementation("eager")

    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        captions = self.views.captions_of(flat, generator)
        images = jitter(self.views.pictures(flat), strength=0.2, generator=generator).to(self.device)
        images = crops(images, scale=(0.85, 1.0), size=images.shape[-1], generator=generator)
        scale = self.clip.model.logit_scale.exp().clamp(max=100)
        logits = scale * self.clip.image_features(images) @ self.clip.text_features(captions).T
        meanings = [remove_identifier(caption) for caption in captions]
        same = torch.tensor([[a == b for b in meanings] for a in meanings], device=self.device).float()
        right = same / same.sum(1, keepdim=True)
        to_image = F.cross_entropy(logits.T, right)
        to_text = F.cross_entropy(logits, right)
        hit = (same.gather(1, logits.argmax(1, keepdim=True))).mean()
        return {"loss": (to_image + to_text) / 2, "accuracy": hit}

    def save(self, folder: Path) -> None:
        self.clip.save(folder)


def text_encoder_of(clip_folder: Path) -> CLIPTextModel:
    """The text tower of a saved CLIP as the text encoder that a Stable Diffusion holds."""
    return CLIPTextModel.from_pretrained(clip_folder, dtype=torch.float32)
