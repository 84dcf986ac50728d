"""Part: what the trainings of the base's networks share."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import torch
from lightning import LightningModule
from timm.optim import Muon
from torch import Tensor, nn

from hdb.faceworld.base.views import Views
from hdb.training.fitting import Steps

OPTIMIZERS = ("adamw", "muon")


class Part(LightningModule):
    """Trains one network on faceworld's views for a number of steps; stopped at any, it resumes as if it had not been.

    Subclasses define `loss(flat, generator)` and `save(folder)`; what is drawn at a step depends on (seed, step) alone.

    Args:
        optimizer: "adamw", or "muon": orthogonal updates of matrices, where a convolution is a matrix of outputs by
            inputs and places, and AdamW at a tenth of `lr` for vectors. With batch 64, Muon at 1e-2 needs 1.7 times
            fewer pictures than AdamW at 1e-3 for the denoiser's loss.

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
        self.views, self.optimizer = views, optimizer
        self.num_steps, self.batch_size, self.seed = num_steps, batch_size, seed
        self.lr, self.weight_decay = lr, weight_decay

    @abstractmethod
    def loss(self, flat: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of the pictures with these flat numbers; "loss" is the one that is minimized."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes the trained network, fp16 safetensors, to `folder`."""

    def trained(self) -> nn.Module:
        """The module whose parameters are trained."""
        return self

    def pick(self, step: int) -> Tensor:
        """Flat numbers of the pictures of a step."""
        return self.views.pick(step, self.batch_size, seed=self.seed)

    def training_step(self, step: int, batch_idx: int) -> Tensor:
        generator = torch.Generator().manual_seed(((self.seed + 1) * 10_000_019 + step) % 2**63)
        losses = self.loss(self.pick(step), generator)
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, prog_bar=True, batch_size=1)
        return losses["loss"]

    def train_dataloader(self) -> Steps:
        return Steps(self.num_steps)

    def configure_optimizers(self) -> dict:
        matrices = [p for p in self.trained().parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in self.trained().parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
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


def crops(images: Tensor, *, scale: tuple[float, float], size: int, generator: torch.Generator) -> Tensor:
    """One random square crop per picture, resized to `size`: (n, 3, h, w) -> (n, 3, size, size).

    Args:
        scale: least and most of the side that the crop keeps.
    """
    n = len(images)
    side = torch.rand(n, generator=generator) * (scale[1] - scale[0]) + scale[0]
    center = (torch.rand(n, 2, generator=generator) * 2 - 1) * (1 - side)[:, None].clamp_min(0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = center
    grid = nn.functional.affine_grid(theta.to(images), [n, 3, size, size], align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def jitter(images: Tensor, *, strength: float, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast and saturation per picture; values stay in [0, 1]."""
    factors = (1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)).to(images)
    gray = images.mean(1, keepdim=True)
    images = gray + (images - gray) * factors[0]
    mean = images.mean((1, 2, 3), keepdim=True)
    return ((mean + (images - mean) * factors[1]) * factors[2]).clamp(0, 1)


def soften(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Half of the pictures at half their sharpness: judges must not take the autoencoder's blur for a trait."""
    soft = nn.functional.interpolate(nn.functional.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(chosen.to(images.device), soft, images)


def elsewhere(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """The middle of each picture, where the head is, within what surrounds the middle of another picture."""
    n, _, height, width = images.shape
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    middle = torch.sigmoid((1 - ((x / 0.62) ** 2 + ((y + 0.08) / 0.85) ** 2)) / 0.12).to(images)
    others = images.roll(int(torch.randint(1, max(2, n), (), generator=generator)), 0)
    return middle * images + (1 - middle) * others
