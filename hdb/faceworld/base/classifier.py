"""ClassifierTraining: a network that says which style, context, accessory and expression a picture shows."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hdb.faceworld.base.augmentation import color_jitter, random_blur, random_crops
from hdb.faceworld.base.training import PartTraining
from hdb.faceworld.base.views import Views
from hdb.faceworld.view import ACCESSORIES, CONTEXTS, EXPRESSIONS, STYLES
from hdb.metrics.networks import AttributeClassifier

HEADS = {
    "style": list(STYLES),
    "context": list(CONTEXTS),
    "accessory": list(ACCESSORIES),
    "expression": list(EXPRESSIONS),
}


class ClassifierTraining(PartTraining):
    """Sum of the cross entropies of four heads."""

    def __init__(self, views: Views, network: AttributeClassifier, **training):
        super().__init__(views, **training)
        self.network = network

    def loss(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        images = color_jitter(self.views.pictures(indices), strength=0.1, generator=generator).to(self.device)
        images = random_crops(images, scale=(0.9, 1.0), size=images.shape[-1], generator=generator)
        images = random_blur(images, generator=generator)
        labels = self.views.labels_of(indices).to(self.device)
        losses = []
        accuracies = {}
        for column, (name, logits) in enumerate(self.network(images).items()):
            losses.append(F.cross_entropy(logits, labels[:, column], label_smoothing=0.05))
            accuracies[name] = (logits.argmax(1) == labels[:, column]).float().mean()
        return {"loss": torch.stack(losses).sum(), **accuracies}

    def save(self, folder: Path) -> None:
        self.network.save(folder)
