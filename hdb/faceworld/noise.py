"""Value noise and soft masks, of which every painted surface is made.

Lattice values come from an int32 hash, not from a generator: the same point has the same value on every machine and
in every batch.
"""

import torch
from torch import Tensor

# Odd constants of common integer hashes. Other large odd numbers would do, but would change every pixel.
_X, _Y, _Z, _SEED, _MIX = 374761393, 668265263, 1440670441, 974634777, 1274126177


def smoothstep(lower: float | int | Tensor, upper: float | int | Tensor, x: Tensor) -> Tensor:
    """Cubic ramp from 0 at `lower` to 1 at `upper`; falls instead when `lower > upper`."""
    return _ease(((x - lower) / (upper - lower)).clamp(0, 1))


def bump(x: Tensor, width: float) -> Tensor:
    """Gaussian bump exp(-(x / width)^2)."""
    return torch.exp(-((x / width) ** 2))


def _ease(t: Tensor) -> Tensor:
    """Cubic ramp of values in [0, 1]."""
    return t * t * (3 - 2 * t)


def _lattice(key: Tensor) -> Tensor:
    """Hashes int32 keys to floats in [0, 1]; overflow wraps around."""
    key = key ^ (key >> 13)
    key = key * _MIX
    key = key ^ (key >> 16)
    return (key & 0xFFFF).float() * (1 / 65535)


def _seed_key(seed: int | Tensor) -> int | Tensor:
    if isinstance(seed, Tensor):
        return seed.to(torch.int32) * 7919
    return (int(seed) * 7919) & 0x3FFFFFFF


def noise_2d(x: Tensor, y: Tensor, seed: int | Tensor = 0) -> Tensor:
    """Smooth value noise in [0, 1] with one lattice cell per unit; x, y and seed broadcast."""
    column, row = torch.floor(x), torch.floor(y)
    u, v = _ease(x - column), _ease(y - row)
    left, top = column.int() * _X, row.int() * _Y + _seed_key(seed)
    right, bottom = left + _X, top + _Y
    upper = torch.lerp(_lattice(left + top), _lattice(right + top), u)
    lower = torch.lerp(_lattice(left + bottom), _lattice(right + bottom), u)
    return torch.lerp(upper, lower, v)


def noise_3d(points: Tensor, seed: int | Tensor = 0) -> Tensor:
    """Smooth value noise in [0, 1] of points (..., 3)."""
    cell = torch.floor(points)
    u, v, w = _ease(points - cell).unbind(-1)
    i, j, k = cell.int().unbind(-1)
    x = (i * _X, i * _X + _X)
    y = (j * _Y, j * _Y + _Y)
    base = k * _Z + _seed_key(seed)
    z = (base, base + _Z)
    planes = []
    for depth in z:
        rows = [torch.lerp(_lattice(x[0] + side + depth), _lattice(x[1] + side + depth), u) for side in y]
        planes.append(torch.lerp(rows[0], rows[1], v))
    return torch.lerp(planes[0], planes[1], w)


def fractal_noise(x: Tensor, y: Tensor, *, seed: int, octaves: int = 4) -> Tensor:
    """Sum of `octaves` noises, each twice as fine and half as strong; about [0, 1]."""
    octave = torch.arange(octaves, device=x.device).view(-1, *[1] * x.dim())
    scale = 2.0**octave
    layers = noise_2d(x * scale, y * scale, (octave + seed).expand(octaves, *x.shape))
    return (layers * 0.5 ** (octave + 1)).sum(0)
