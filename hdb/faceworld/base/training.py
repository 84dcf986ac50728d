"""PartTraining: what the trainings of all networks of the base share."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import torch
from lightning import LightningModule
from timm.optim import Muon
from torch import Tensor, nn

from hdb.faceworld.base.options import OPTIMIZERS
from hdb.faceworld.base.views import Views
from hdb.training.fitting import Steps


class PartTraining(LightningModule):
    """Trains one network on pictures of faceworld for a number of steps.

    Everything random in a step is a function of (seed, step), so an interrupted training resumes as if it had not been
    interrupted. Subclasses define `loss` and `save`.

    Args:
        optimizer: "adamw"; or "muon": orthogonal updates of matrices, including convolutions as matrices of outputs by
            inputs and positions, and AdamW with a tenth of `lr` for vectors.

    Raises:
        ValueError: an unknown optimizer.
    """

    def __init__(
        self,
        views: Views,
        *,
        num_steps: int,
        batch_size: int,
        lr: float,
        optimizer: str = "adamw",
        weight_decay: float = 0.01,
        seed: int = 0,
    ):
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {optimizer!r}, expected {' or '.join(OPTIMIZERS)}")
        self.views = views
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.seed = seed

    @abstractmethod
    def loss(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of some pictures; "loss" is the one that is minimized."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the trained network to `folder`, as safetensors in half precision."""

    @property
    def trained_module(self) -> nn.Module:
        """The module whose parameters are trained."""
        return self

    def batch_indices(self, step: int) -> Tensor:
        """Indices of the pictures of a step."""
        return self.views.batch_indices(step, self.batch_size, seed=self.seed)

    def training_step(self, step: int, batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(((self.seed + 1) * 10_000_019 + step) % 2**63)
        losses = self.loss(self.batch_indices(step), generator)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, prog_bar=True, batch_size=1)
        return losses["loss"]

    def train_dataloader(self) -> Steps:
        return Steps(self.num_steps)

    def configure_optimizers(self) -> dict:
        parameters = [parameter for parameter in self.trained_module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.optimizer == "muon":
            optimizer = Muon(
                groups, lr=self.lr, nesterov=True, adjust_lr_fn="original", fallback_lr_scale=0.1, betas=(0.9, 0.99)
            )
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.lr, total_steps=self.num_steps + 1, pct_start=0.05, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
