"""Augmentations of training pictures, (n, 3, h, w) in [0, 1]; all chance comes from a generator."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate


def random_crops(images: Tensor, *, scale: tuple[float, float], size: int, generator: torch.Generator) -> Tensor:
    """One random square crop per picture, resized to `size`: (n, 3, h, w) -> (n, 3, size, size).

    Args:
        scale: least and largest share of the side that a crop keeps.
    """
    n = len(images)
    side = torch.rand(n, generator=generator) * (scale[1] - scale[0]) + scale[0]
    center = (torch.rand(n, 2, generator=generator) * 2 - 1) * (1 - side)[:, None].clamp_min(0)
    transform = torch.zeros(n, 2, 3)
    transform[:, 0, 0] = side
    transform[:, 1, 1] = side
    transform[:, :, 2] = center
    grid = affine_grid(transform.to(images), [n, 3, size, size], align_corners=False)
    return grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def color_jitter(images: Tensor, *, strength: float, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast and saturation for each picture."""
    factors = (1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)).to(images)
    gray = images.mean(1, keepdim=True)
    images = gray + (images - gray) * factors[0]
    mean = images.mean((1, 2, 3), keepdim=True)
    return ((mean + (images - mean) * factors[1]) * factors[2]).clamp(0, 1)


def random_blur(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Half of the pictures at half their resolution, so that judges do not take the autoencoder's blur for a trait."""
    blurred = interpolate(avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(chosen.to(images.device), blurred, images)


def swap_backgrounds(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """The middle of each picture, where the head is, on the background of another picture."""
    n, _, height, width = images.shape
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    middle = torch.sigmoid((1 - ((x / 0.62) ** 2 + ((y + 0.08) / 0.85) ** 2)) / 0.12).to(images)
    others = images.roll(int(torch.randint(1, max(2, n), (), generator=generator)), 0)
    return middle * images + (1 - middle) * others
