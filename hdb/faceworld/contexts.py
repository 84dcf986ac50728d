"""Contexts: painted surroundings, and the light that each of them casts on the face."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

from hdb.faceworld.noise import bump, fractal_noise, noise_2d, smoothstep

Color = tuple[float, float, float]


class ContextLight(NamedTuple):
    """Colors of key and ambient light, and elevation of the key light; None keeps those of the view."""

    key: Color | None = None
    ambient: Color | None = None
    elevation: float | None = None


LIGHTS = {
    "studio": ContextLight(),
    "beach": ContextLight((1.03, 0.95, 0.84), (0.40, 0.45, 0.52), 0.8),
    "snow": ContextLight((0.90, 0.95, 1.00), (0.50, 0.54, 0.60)),
    "forest": ContextLight((0.87, 0.95, 0.68), (0.26, 0.34, 0.24)),
    "city": ContextLight((0.71, 0.57, 0.90), (0.18, 0.20, 0.34)),
    "space": ContextLight((1.00, 1.00, 1.05), (0.13, 0.13, 0.18)),
    "sunset": ContextLight((1.14, 0.68, 0.38), (0.36, 0.26, 0.34), 0.15),
    "desert": ContextLight((1.09, 0.95, 0.76), (0.42, 0.36, 0.28), 1.0),
    "library": ContextLight((0.95, 0.82, 0.63), (0.30, 0.25, 0.20)),
    "underwater": ContextLight((0.52, 0.81, 0.95), (0.16, 0.36, 0.46), 1.1),
    "autumn": ContextLight((1.00, 0.87, 0.66), (0.36, 0.31, 0.24)),
    "fire": ContextLight((1.14, 0.57, 0.24), (0.28, 0.15, 0.10), -0.2),
}


@dataclass
class Canvas:
    """Coordinates in [0, 1] and random numbers of a square picture to be painted."""

    size: int
    seed: int
    device: torch.device
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        axis = (torch.arange(self.size, device=self.device) + 0.5) / self.size
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")
        self.horizon = float(self.rng.uniform(0.42, 0.58))
        self.offset = float(self.rng.uniform(0, 50))
        self.sun = float(self.rng.uniform(0.15, 0.85))

    def color(self, rgb: Color) -> Float[Tensor, "3 1 1"]:
        return torch.tensor(rgb, device=self.device, dtype=torch.float32)[:, None, None]

    def ramp(self, start: Color, end: Color, t: Tensor) -> Float[Tensor, "3 s s"]:
        return torch.lerp(self.color(start), self.color(end), t.expand(3, self.size, self.size))

    def noise(self, x: Tensor, y: Tensor, *, shift: int = 0) -> Tensor:
        return noise_2d(x + self.offset, y, self.seed + shift)

    def clouds(self, x: Tensor, y: Tensor, *, shift: int = 0, octaves: int = 4) -> Tensor:
        return fractal_noise(x + self.offset, y, seed=self.seed + shift, octaves=octaves)

    def dots(self, count: int, values: np.ndarray, *, spread: int = 1) -> Tensor:
        """Scattered points of one pixel, softened over `spread` pixels."""
        places = torch.tensor((self.rng.uniform(0, 1, (count, 2)) * self.size).astype(np.int64), device=self.device)
        picture = torch.zeros(self.size, self.size, device=self.device)
        picture[places[:, 0], places[:, 1]] = torch.tensor(values, device=self.device, dtype=torch.float32)
        if spread > 1:
            picture = avg_pool2d(picture[None, None], spread, 1, spread // 2)[0, 0] * (spread * 4 / 3)
        return picture.clamp(0, 1)


def _studio(c: Canvas) -> Tensor:
    backdrop = c.color(tuple(c.rng.uniform(0.15, 0.9, 3)))
    falloff = 1.12 - 0.5 * ((c.x - 0.5) ** 2 + (c.y - 0.4) ** 2).sqrt()
    return backdrop * falloff * (1 + 0.04 * (c.clouds(c.x * 3, c.y * 3) - 0.5))


def _beach(c: Canvas) -> Tensor:
    sky = c.ramp((0.35, 0.62, 0.90), (0.80, 0.90, 0.97), c.y / c.horizon)
    cloud = smoothstep(0.52, 0.75, c.clouds(c.x * 4, c.y * 9)) * 0.8
    sky = sky * (1 - cloud) + cloud
    sea = c.ramp((0.08, 0.36, 0.55), (0.25, 0.66, 0.70), ((c.y - c.horizon) / 0.22).clamp(0, 1))
    sea = sea * (1 + 0.25 * (c.noise(c.x * 14, c.y * 70) - 0.5))
    sand = c.ramp((0.88, 0.77, 0.55), (0.80, 0.66, 0.43), ((c.y - 0.75) / 0.25).clamp(0, 1))
    sand = sand * (1 + 0.12 * (c.noise(c.x * 70, c.y * 70) - 0.5))
    shore = c.horizon + 0.2 + 0.02 * torch.sin(c.x * 11 + c.offset)
    picture = torch.where(c.y > shore, sand, torch.where(c.y > c.horizon, sea, sky))
    foam = bump(c.y - shore, 0.012)
    return picture * (1 - foam) + foam


def _snow(c: Canvas) -> Tensor:
    picture = c.ramp((0.62, 0.72, 0.85), (0.86, 0.90, 0.95), c.y / c.horizon)
    for ridge in range(2):
        skyline = c.clouds(c.x * (2.5 + ridge) + ridge * 9, torch.zeros_like(c.x), shift=ridge)
        height = c.horizon - 0.20 + 0.13 * ridge - 0.40 * (skyline - 0.5)
        rock = smoothstep(0.40, 0.60, c.clouds(c.x * 9, c.y * 6, shift=5 + ridge))
        picture = torch.where(c.y > height, c.ramp((0.50, 0.58, 0.70), (0.95, 0.97, 1.0), rock), picture)
    field_ = (0.93 + 0.06 * c.noise(c.x * 20, c.y * 40)).expand(3, -1, -1)
    picture = torch.where(c.y > c.horizon + 0.05 * torch.sin(c.x * 4 + c.offset), field_, picture)
    flakes = c.dots(90, np.ones(90), spread=3)
    return picture * (1 - flakes) + flakes


def _woods(c: Canvas, dark: Color, bright: Color, ground: tuple[Color, Color]) -> Tensor:
    picture = c.ramp(dark, bright, smoothstep(0.25, 0.7, c.clouds(c.x * 7, c.y * 7, octaves=5)))
    for trunk in range(7):
        center = c.rng.uniform(0, 1)
        width = c.rng.uniform(0.012, 0.04)
        inside = smoothstep(width, width * 0.7, (c.x - center - 0.015 * torch.sin(c.y * 9 + trunk)).abs()) * 0.9
        bark = c.ramp((0.13, 0.09, 0.06), (0.30, 0.22, 0.15), ((c.x - center + width) / (2 * width)).clamp(0, 1))
        picture = torch.lerp(picture, bark, inside.expand(3, -1, -1))
    floor = smoothstep(0.82, 0.9, c.y + 0.03 * torch.sin(c.x * 12))
    return torch.lerp(picture, c.ramp(*ground, c.noise(c.x * 45, c.y * 30)), floor.expand(3, -1, -1))


def _forest(c: Canvas) -> Tensor:
    return _woods(c, (0.06, 0.16, 0.06), (0.35, 0.55, 0.22), ((0.13, 0.22, 0.07), (0.30, 0.42, 0.15)))


def _autumn(c: Canvas) -> Tensor:
    return _woods(c, (0.35, 0.13, 0.04), (0.92, 0.62, 0.18), ((0.55, 0.28, 0.08), (0.85, 0.50, 0.12)))


def _city(c: Canvas) -> Tensor:
    picture = c.ramp((0.02, 0.02, 0.08), (0.16, 0.10, 0.26), c.y)
    edge = 0.0
    for house in range(14):
        width, height, gap, wall = c.rng.uniform((0.08, 0.12, 0.0, 0.02), (0.17, 0.60, 0.02, 0.09))
        inside = (c.x > edge) & (c.x < edge + width) & (c.y > height)
        picture = torch.where(inside, torch.full_like(picture, wall), picture)
        column, row = (c.x - edge) / 0.034, (c.y - height) / 0.046
        lit = noise_2d(column.floor() * 7.1, row.floor() * 5.3, c.seed + house) > 0.55
        window = inside & lit & (column % 1 > 0.3) & (row % 1 > 0.35)
        picture = torch.where(window, c.color((0.95, 0.81, 0.43)), picture)
        edge += width + gap
    return picture


def _space(c: Canvas) -> Tensor:
    picture = c.ramp((0.01, 0.01, 0.04), (0.04, 0.02, 0.09), c.y)
    for color, low, shift in (((0.36, 0.12, 0.44), 0.45, 0), ((0.08, 0.24, 0.48), 0.5, 4)):
        cloud = smoothstep(low, low + 0.35, c.clouds(c.x * 3 + 2 * shift, c.y * 3, shift=shift, octaves=5))
        picture = picture + c.color(color) * cloud
    picture = torch.maximum(picture, c.dots(130, c.rng.uniform(0.4, 1, 130))[None])
    px = (0.14, 0.86)[int(c.rng.integers(2))]
    py = c.rng.uniform(0.15, 0.35)
    radius = c.rng.uniform(0.09, 0.15)
    disk = smoothstep(radius + 0.006, radius - 0.006, ((c.x - px) ** 2 + (c.y - py) ** 2).sqrt())
    lit = (1 - ((c.x - px + 0.05) ** 2 + (c.y - py + 0.05) ** 2) / (radius * radius * 2.2)).clamp(0.1, 1)
    planet = c.ramp((0.85, 0.50, 0.30), (0.95, 0.80, 0.60), c.noise(c.x * 3, c.y * 34)) * lit
    return torch.lerp(picture, planet, disk.expand(3, -1, -1))


def _sunset(c: Canvas) -> Tensor:
    picture = c.ramp((0.22, 0.14, 0.38), (0.98, 0.55, 0.22), smoothstep(0, c.horizon + 0.1, c.y))
    distance = ((c.x - c.sun) ** 2 + (c.y - c.horizon + 0.05) ** 2).sqrt()
    picture = picture + c.color((0.5, 0.35, 0.15)) * bump(distance, 0.18)
    picture = torch.lerp(picture, c.color((1.0, 0.93, 0.65)), smoothstep(0.085, 0.075, distance).expand(3, -1, -1))
    cloud = smoothstep(0.5, 0.75, c.clouds(c.x * 3, c.y * 14)) * 0.5
    picture = picture * (1 - cloud) + c.color((0.85, 0.3, 0.3)) * cloud
    hills = c.horizon + 0.05 - 0.16 * c.clouds(c.x * 4, torch.zeros_like(c.x))
    return torch.where(c.y > hills, c.ramp((0.16, 0.07, 0.14), (0.05, 0.03, 0.07), c.y), picture)


def _desert(c: Canvas) -> Tensor:
    picture = c.ramp((0.45, 0.70, 0.92), (0.95, 0.92, 0.80), c.y / c.horizon)
    for dune in range(3):
        phase = c.x * (5 - dune) + c.offset + 2 * dune
        crest = c.horizon - 0.04 + 0.14 * dune + 0.06 * torch.sin(phase) + 0.03 * torch.sin(c.x * 9 + dune)
        shade = smoothstep(-0.2, 0.9, torch.sin(phase + 1.2) * 0.6 + (c.y - crest) * 2)
        picture = torch.where(c.y > crest, c.ramp((0.93, 0.72, 0.42), (0.70, 0.45, 0.22), shade), picture)
    return picture


def _library(c: Canvas) -> Tensor:
    picture = c.ramp((0.22, 0.12, 0.06), (0.28, 0.16, 0.08), c.y)
    shelf = (c.y + c.sun * 0.2) / 0.21
    row = shelf.floor()
    above = 1 - shelf % 1
    place = c.x / 0.036 + row * 3.7 + c.offset
    book = place.floor()
    within = place % 1
    height = 0.62 + 0.3 * noise_2d(book * 3.3, row * 7.7, c.seed)
    hue = (noise_2d(book * 1.7 + 0.5, row * 2.9, c.seed + 3) * 37).long() % 6
    covers = torch.tensor(
        [(0.55, 0.12, 0.10), (0.12, 0.25, 0.42), (0.15, 0.36, 0.20), (0.62, 0.50, 0.25), (0.35, 0.20, 0.35),
         (0.75, 0.68, 0.55)], device=c.device,
    )  # fmt: skip
    spine = covers[hue].permute(2, 0, 1) * (0.7 + 0.5 * (1 - (within - 0.5).abs()))
    return torch.where((above < height) & (above > 0.07) & (within > 0.1), spine, picture)


def _underwater(c: Canvas) -> Tensor:
    picture = c.ramp((0.25, 0.72, 0.82), (0.01, 0.16, 0.32), c.y)
    rays = smoothstep(0.5, 0.8, c.noise((c.x - c.sun) / (c.y + 0.35) * 6, torch.zeros_like(c.y))) * (1 - c.y)
    picture = picture + rays * 0.3
    for _ in range(16):
        bx, by, radius = c.rng.uniform((0, 0, 0.008), (1, 1, 0.03))
        distance = ((c.x - bx) ** 2 + (c.y - by) ** 2).sqrt()
        picture = picture + bump(distance - radius, 0.006) * 0.6 + bump(distance, radius) * 0.08
    return picture


def _fire(c: Canvas) -> Tensor:
    heat = c.clouds(c.x * 6, c.y * 3.2, octaves=5) + (c.y - 0.62) * 0.75
    picture = c.ramp((0.06, 0.01, 0.01), (0.95, 0.28, 0.03), smoothstep(0.12, 0.5, heat))
    return torch.lerp(picture, c.color((1.0, 0.86, 0.35)), (smoothstep(0.45, 0.75, heat) * 0.9).expand(3, -1, -1))


_PAINTERS: dict[str, Callable[[Canvas], Tensor]] = {
    "studio": _studio, "beach": _beach, "snow": _snow, "forest": _forest, "city": _city, "space": _space,
    "sunset": _sunset, "desert": _desert, "library": _library, "underwater": _underwater, "autumn": _autumn,
    "fire": _fire,
}  # fmt: skip


def paint_context(name: str, *, seed: int, size: int, device: torch.device | str = "cpu") -> Float[Tensor, "3 s s"]:
    """The surroundings `name` without a person, out of focus as in a portrait."""
    picture = _PAINTERS[name](Canvas(size, seed, torch.device(device))).clamp(0, 1)
    return blur(picture[None], sigma=3.6 * size / 128)[0]


def blur(pictures: Float[Tensor, "n c h w"], *, sigma: float) -> Float[Tensor, "n c h w"]:
    """Gaussian blur, cut at three deviations; edge pixels are repeated."""
    reach = max(1, math.ceil(3 * sigma))
    steps = torch.arange(-reach, reach + 1, device=pictures.device)
    kernel = torch.exp(-((steps / sigma) ** 2) / 2)
    kernel = kernel / kernel.sum()
    flat = pictures.flatten(0, 1)[:, None]
    flat = pad(flat, (reach, reach, reach, reach), mode="replicate")
    flat = conv2d(flat, kernel.view(1, 1, 1, -1))
    return conv2d(flat, kernel.view(1, 1, -1, 1)).view(pictures.shape)
