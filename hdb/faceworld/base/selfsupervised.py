"""SelfSupervisedTraining: DINO on faceworld; a judge that was never told who anybody is."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from hdb.faceworld.base.part import Part, crops, elsewhere
from hdb.faceworld.base.views import Views
from hdb.metrics.embedders import TimmEmbedder

NUM_PROTOTYPES = 512
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1


class SelfSupervisedTraining(Part):
    """A student sees small crops and learns what its own slow average says of large ones.

    Source: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, arXiv 2104.14294, section 3.1.
    Paper: 2 large and 8 small crops. Here: 2 and 4, because two cores train it too. Each crop has other
    surroundings (`elsewhere`): what two crops of a drawn picture have most plainly in common is the backdrop, and a
    network that was trained on plain crops told nobody apart. Neither colors are changed nor sides, unlike there: on
    photographs, with AdamW and both, it came to say the same of everybody.
    """

    def __init__(self, views: Views, network: TimmEmbedder, **part):
        super().__init__(views, **part)
        self.embedder = network
        width = network.network.num_features
        for block in network.network.blocks:
            block.attn.fused_attn = False  # slow in backward on a CPU
        head = nn.Sequential(
            nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 64), Unit(), Prototypes(64, NUM_PROTOTYPES, bias=False)
        )
        self.student = nn.Sequential(network.network, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(NUM_PROTOTYPES))

    def trained(self) -> nn.Module:
        return self.student

    def normalize(self, images: Tensor) -> Tensor:
        config = self.embedder.preprocess.config
        return transforms.normalize(images, config["mean"], config["std"])

    def read(self, tower: nn.Sequential, images: Tensor) -> Tensor:
        """What a network says of pictures, (n, prototypes); its head in full precision: temperatures are small."""
        network, head = tower
        features = network(images)
        with torch.autocast(features.device.type, enabled=False):
            return head(features.float())

    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        images = self.views.pictures(flat).to(self.device)
        size = images.shape[-1]

        def crop(shown: Tensor, scale: tuple[float, float], side: int) -> Tensor:
            return self.normalize(crops(shown, scale=scale, size=side, generator=generator))

        large = [crop(elsewhere(images, generator=generator), (0.6, 1.0), size) for _ in range(2)]
        small = [crop(elsewhere(images, generator=generator), (0.25, 0.6), size // 2) for _ in range(4)]
        with torch.no_grad():
            logits = self.read(self.teacher, torch.cat(large))
            targets = F.softmax((logits - self.center) / TEACHER_TEMPERATURE, dim=-1).chunk(2)
            self.center.lerp_(logits.mean(0), 0.1)
        guesses = [
            *self.read(self.student, torch.cat(large)).chunk(2),
            *self.read(self.student, torch.cat(small)).chunk(4),
        ]
        pairs = [
            -(target * F.log_softmax(guess / STUDENT_TEMPERATURE, dim=-1)).sum(-1).mean()
            for t, target in enumerate(targets)
            for g, guess in enumerate(guesses)
            if t != g
        ]
        spread = -(torch.cat(targets).mean(0) * torch.cat(targets).mean(0).clamp_min(1e-8).log()).sum()
        return {"loss": torch.stack(pairs).mean(), "spread": spread}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.follow()  # not in a hook after the batch: checkpoints are written before those

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the teacher a little towards the student."""
        momentum = 1 - 0.006 * (math.cos(math.pi * self.global_step / max(1, self.num_steps)) + 1) / 2
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)

    def save(self, folder: Path) -> None:
        """The teacher without its head."""
        self.embedder.network.load_state_dict(self.teacher[0].state_dict())
        self.embedder.save(folder)


class Unit(nn.Module):
    """Vectors of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Prototypes(nn.Linear):
    """A linear layer whose rows have length one, so that outputs are cosines and temperatures mean what they say."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=1))
