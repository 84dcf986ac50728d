"""SelfSupervisedTraining: DINO on faceworld, a judge that is trained without labels."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from hdb.faceworld.base.augmentation import random_crops, swap_backgrounds
from hdb.faceworld.base.training import PartTraining
from hdb.faceworld.base.views import Views
from hdb.metrics.embedders import TimmEmbedder

NUM_PROTOTYPES = 512
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1
NUM_LARGE_CROPS, NUM_SMALL_CROPS = 2, 4


class SelfSupervisedTraining(PartTraining):
    """A student predicts from every crop what a teacher, the average of its weights, says of the large crops.

    Paper: 2 large and 8 small crops. Here: 2 and 4, for training on a CPU. Each crop has the background of another
    picture, because the backdrop is what two crops of a rendered picture share most plainly. Paper: colors are jittered
    and sides are flipped. Here: they are not, because training collapsed with both.

    Source: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, arXiv 2104.14294, section 3.1.
    """

    def __init__(self, views: Views, network: TimmEmbedder, **training):
        super().__init__(views, **training)
        self.embedder = network
        width = network.network.num_features
        for block in network.network.blocks:
            block.attn.fused_attn = False  # its backward pass is slow on a CPU
        head = nn.Sequential(
            nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 64), UnitNorm(), Prototypes(64, NUM_PROTOTYPES, bias=False)
        )
        self.student = nn.Sequential(network.network, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(NUM_PROTOTYPES))

    @property
    def trained_module(self) -> nn.Module:
        return self.student

    def logits(self, tower: nn.Sequential, images: Tensor) -> Tensor:
        """Logits over the prototypes, (n, prototypes). The head works in full precision: temperatures are small."""
        network, head = tower
        features = network(images)
        with torch.autocast(features.device.type, enabled=False):
            return head(features.float())

    def loss(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        images = self.views.pictures(indices).to(self.device)
        size = images.shape[-1]
        preprocessing = self.embedder.preprocess.config

        def crop(scale: tuple[float, float], side: int) -> Tensor:
            swapped = swap_backgrounds(images, generator=generator)
            crops = random_crops(swapped, scale=scale, size=side, generator=generator)
            return transforms.normalize(crops, preprocessing["mean"], preprocessing["std"])

        large = torch.cat([crop((0.6, 1.0), size) for _ in range(NUM_LARGE_CROPS)])
        small = torch.cat([crop((0.25, 0.6), size // 2) for _ in range(NUM_SMALL_CROPS)])
        with torch.no_grad():
            teacher_logits = self.logits(self.teacher, large)
            targets = F.softmax((teacher_logits - self.center) / TEACHER_TEMPERATURE, dim=-1).chunk(NUM_LARGE_CROPS)
            self.center.lerp_(teacher_logits.mean(0), 0.1)
        student_logits = [
            *self.logits(self.student, large).chunk(NUM_LARGE_CROPS),
            *self.logits(self.student, small).chunk(NUM_SMALL_CROPS),
        ]
        losses = []
        for teacher_crop, target in enumerate(targets):
            for student_crop, logits in enumerate(student_logits):
                if student_crop != teacher_crop:
                    log_probabilities = F.log_softmax(logits / STUDENT_TEMPERATURE, dim=-1)
                    losses.append(-(target * log_probabilities).sum(-1).mean())
        mean_target = torch.cat(targets).mean(0)
        entropy = -(mean_target * mean_target.clamp_min(1e-8).log()).sum()
        return {"loss": torch.stack(losses).mean(), "spread": entropy}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_teacher()  # a hook after the batch would run after checkpoints are written

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Moves the teacher's weights a little toward the student's."""
        momentum = 1 - 0.006 * (math.cos(math.pi * self.global_step / max(1, self.num_steps)) + 1) / 2
        for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            teacher.lerp_(student, 1 - momentum)

    def save(self, folder: Path) -> None:
        """Writes the teacher without its head."""
        self.embedder.network.load_state_dict(self.teacher[0].state_dict())
        self.embedder.save(folder)


class UnitNorm(nn.Module):
    """Vectors of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Prototypes(nn.Linear):
    """A linear layer with rows of length one, so that its outputs are cosines."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=1))
