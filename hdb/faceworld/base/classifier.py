"""ClassifierTraining: what style, context, accessory and expression a picture shows."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hdb.faceworld.base.part import Part, crops, jitter, soften
from hdb.faceworld.base.views import Views
from hdb.faceworld.view import ACCESSORIES, CONTEXTS, EXPRESSIONS, STYLES
from hdb.metrics.networks import AttributeClassifier

HEADS = {
    "style": list(STYLES),
    "context": list(CONTEXTS),
    "accessory": list(ACCESSORIES),
    "expression": list(EXPRESSIONS),
}


class ClassifierTraining(Part):
    """One network, one head per label, cross entropy summed."""

    def __init__(self, views: Views, network: AttributeClassifier, **part):
        super().__init__(views, **part)
        self.network = network

    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        images = jitter(self.views.pictures(flat), strength=0.1, generator=generator).to(self.device)
        images = crops(images, scale=(0.9, 1.0), size=images.shape[-1], generator=generator)
        images = soften(images, generator=generator)
        labels = self.views.labels_of(flat).to(self.device)
        heads = self.network(images).values()
        losses = [F.cross_entropy(logits, labels[:, k], label_smoothing=0.05) for k, logits in enumerate(heads)]
        right = torch.stack([(logits.argmax(1) == labels[:, k]).float().mean() for k, logits in enumerate(heads)])
        names = dict(zip(HEADS, right, strict=True))
        return {"loss": torch.stack(losses).sum(), **names}

    def save(self, folder: Path) -> None:
        self.network.save(folder)
