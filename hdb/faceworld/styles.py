"""Styles: statues are materials under the same light; drawings are filters over the rendering and its outlines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate, pad

from hdb.faceworld.contexts import blur
from hdb.faceworld.light import Paint, Surface
from hdb.faceworld.noise import bump, fractal_noise, noise_2d, noise_3d, smoothstep

PIXEL = 4  # width of a block of pixel art, whatever the size of the picture


class StatueMaterial(NamedTuple):
    """Color, specular strength and gloss."""

    color: tuple[float, float, float]
    specular: float
    gloss: float


STATUES = {
    "marble": StatueMaterial((0.82, 0.82, 0.80), 0.25, 30),
    "gold": StatueMaterial((0.80, 0.52, 0.10), 1.0, 20),
    "bronze": StatueMaterial((0.30, 0.17, 0.07), 0.8, 18),
    "clay": StatueMaterial((0.52, 0.17, 0.09), 0.02, 10),
    "wood": StatueMaterial((0.44, 0.27, 0.12), 0.06, 12),
    "ice": StatueMaterial((0.55, 0.78, 0.95), 0.8, 40),
}


def carve(paint: Paint, surface: Surface, style: str, pixels: Tensor, *, detail: float) -> None:
    """Turns some pixels of one picture into a statue, in place. Dark paint stays a little darker, as relief would be.

    Veins and grain are fainter where `detail` is below 1: in a small face they would look like features.
    """
    material = STATUES[style]
    points = surface.position[pixels]
    if style == "marble":
        veins = noise_3d(points * 3 + 3 * noise_3d(points * 2)[:, None])
        grain = 1 - (0.14 + 0.21 * detail) * bump(veins - 0.5, 0.05)
    elif style == "wood":
        grain = 1 + (0.4 + 0.2 * detail) * (noise_3d(points * points.new_tensor([11.0, 1.3, 11.0])) - 0.5)
    else:
        grain = torch.ones(len(points), device=points.device)
    brightness = paint.albedo[pixels].mean(1)
    relief = 0.72 + 0.27 * (brightness / (brightness.mean() + 1e-6)).clamp(0.1, 1.4)
    paint.albedo[pixels] = points.new_tensor(material.color) * (grain * relief)[:, None]
    paint.specular[pixels] = material.specular
    paint.gloss[pixels] = material.gloss


@dataclass
class Drawing:
    """A finished rendering with its outlines, coverage and paper grain: what the filters of drawn styles take.

    `detail` in [0, 1] is the amount of texture; at 0 a style is tones, edges and colors only.
    """

    picture: Float[Tensor, "1 3 s s"]
    outline: Float[Tensor, "1 1 s s"]
    cover: Float[Tensor, "1 1 s s"]
    seed: int
    detail: float

    def __post_init__(self) -> None:
        self.size = self.picture.shape[-1]
        # Filters scale with the picture, down to the width of a pixel.
        self.scale = max(self.size / 128, 0.6)
        axis = (torch.arange(self.size, device=self.picture.device) + 0.5) / self.size
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")
        self.gray = luminance(self.picture)

    @property
    def grain(self) -> Tensor:
        """Paper grain of mean 0, within plus and minus half of `detail`."""
        return self.detail * (noise_2d(self.x * 90, self.y * 90, self.seed) - 0.5)

    @property
    def line(self) -> Tensor:
        """The outlines, softer where there is less detail."""
        return self.soft(self.outline, 1.2 - 0.7 * self.detail)

    def soft(self, picture: Tensor, sigma: float) -> Tensor:
        """Blurs by `sigma` pixels of a picture of 128 px."""
        return blur(picture, sigma=sigma * self.scale)

    def radius(self, pixels: int) -> int:
        """A filter radius of `pixels` in a picture of 128 px."""
        return max(1, round(pixels * self.size / 128))


def outlines(
    depth: Float[Tensor, "n 1 h w"], normal: Float[Tensor, "n 3 h w"], material: Float[Tensor, "n 1 h w"], *, size: int
) -> Float[Tensor, "n 1 s s"]:
    """Where depth, normal or material jump, at the final size."""

    def jump(values: Tensor) -> Tensor:
        center = values[..., :-1, :-1]
        return (values[..., 1:, :-1] - center).abs() + (values[..., :-1, 1:] - center).abs()

    edge = (jump(depth.clamp(max=12.0)) > 0.14).float() + 0.8 * (jump(normal).sum(1, keepdim=True) > 0.62)
    edge = (edge + 0.9 * (jump(material) > 0)).clamp(max=1)
    return adaptive_avg_pool2d(pad(edge, (0, 1, 0, 1)), size)


def luminance(picture: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Weighted mean of the channels."""
    return (picture * picture.new_tensor([0.30, 0.59, 0.11])[:, None, None]).sum(1, keepdim=True)


def _kuwahara(picture: Tensor, radius: int) -> Tensor:
    """The mean of the least varying of four windows around each pixel: flattens texture and keeps edges."""
    size, window = picture.shape[-1], radius + 1
    padded = pad(picture, (radius,) * 4, mode="replicate")
    means, squares = avg_pool2d(padded, window, 1), avg_pool2d(padded * padded, window, 1)
    best = least = None
    for dx in (0, radius):
        for dy in (0, radius):
            mean = means[..., dy : dy + size, dx : dx + size]
            variance = (squares[..., dy : dy + size, dx : dx + size] - mean * mean).sum(1, keepdim=True)
            if best is None:
                best, least = mean, variance
            else:
                best = torch.where(variance < least, mean, best)
                least = torch.minimum(variance, least)
    return best


def _saturate(picture: Tensor, amount: float) -> Tensor:
    gray = luminance(picture)
    return gray + (picture - gray) * amount


def _gray(d: Drawing) -> Tensor:
    return ((d.gray - 0.5) * 1.2 + 0.5 + 0.05 * d.grain).expand(-1, 3, -1, -1)


def _pencil(d: Drawing) -> Tensor:
    tone = d.soft(d.gray, 1.4)
    creases = (1 - (d.soft(d.gray, 1.2) - d.soft(d.gray, 3.0)).clamp(max=0).abs() * 6).clamp(0, 1)
    turn = 134.0
    hatching = (torch.sin((d.x + d.y) * turn), torch.sin((d.x - d.y) * turn * 1.15))
    light_shade = 0.30 * smoothstep(0.62, 0.15, tone) * (1 + d.detail * hatching[0])
    dark_shade = 0.30 * smoothstep(0.38, 0.08, tone) * (1 + d.detail * hatching[1])
    shade = (light_shade + dark_shade) * (0.35 + 0.65 * d.cover)
    paper = (0.94 - shade) * creases * (1 - 0.7 * d.line) * (1 + 0.1 * d.grain)
    return paper.clamp(0, 1) * d.picture.new_tensor([1.0, 0.985, 0.95])[:, None, None]


def _charcoal(d: Drawing) -> Tensor:
    tone = smoothstep(0.12, 0.66, d.soft(d.gray, 0.8) + 0.2 * d.grain) * (1 - 0.7 * d.line)
    tone = torch.lerp(torch.ones_like(tone), tone, 0.5 + 0.5 * d.cover)  # paper shines through the surroundings
    return (tone * 0.92 + 0.04) * d.picture.new_tensor([0.97, 0.96, 0.94])[:, None, None]


def _oil(d: Drawing) -> Tensor:
    warm = d.picture.new_tensor([1.05, 1.0, 0.92])[:, None, None]
    paint = _saturate(_kuwahara(d.picture, d.radius(2)), 1.6) * warm
    strokes = noise_2d((d.x * 0.8 + d.y * 0.6) * 60, (d.x * 0.6 - d.y * 0.8) * 12, d.seed)
    ridge = luminance(paint)
    relief = (ridge - pad(ridge, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]) * 0.3
    return paint + d.detail * (relief + (strokes - 0.5) * 0.12 * (1 - 0.55 * d.cover))


def _watercolor(d: Drawing) -> Tensor:
    wash = d.soft(_kuwahara(d.picture, d.radius(3)), 0.6)
    paper = fractal_noise(d.x * 6, d.y * 6, seed=d.seed)
    rim = d.soft(luminance(wash), 0.8) - d.soft(luminance(wash), 2.5)
    wash = wash.clamp(min=0) ** 0.75 * 0.72 + 0.28
    wash = (wash + rim * 1.2) * (1 - 0.25 * d.outline) * (1 + 0.22 * d.detail * (paper - 0.5))
    border = torch.minimum(torch.minimum(d.x, 1 - d.x), torch.minimum(d.y, 1 - d.y))
    inside = smoothstep(0.0, 0.14 - 0.04 * d.detail, border + 0.10 * d.detail * (paper - 0.5))
    return wash * inside + 0.97 * (1 - inside)


def _pixel(d: Drawing) -> Tensor:
    blocks = _saturate(avg_pool2d(d.picture, PIXEL), 1.3)
    step = torch.arange(blocks.shape[-1], device=blocks.device)
    dither = d.detail * (((step[:, None] + step) % 2) * 0.5 - 0.25)
    blocks = (torch.round(blocks * 7 + dither * 0.5) / 7).clamp(0, 1)
    return interpolate(blocks, scale_factor=PIXEL, mode="nearest")


def _cartoon(d: Drawing) -> Tensor:
    flat = _kuwahara(d.picture, 1)
    gray = luminance(flat)
    level = gray * 5
    tone = (level.floor() + smoothstep(0.35, 0.65, level - level.floor())) / 5 * 0.85 + 0.09
    color = (flat / gray.clamp(min=0.03) * tone - tone) * 1.4 + tone
    return color.clamp(0, 1) * (1 - 0.75 * d.line)


_FILTERS: dict[str, Callable[[Drawing], Tensor]] = {
    "gray": _gray, "pencil": _pencil, "charcoal": _charcoal, "oil": _oil, "watercolor": _watercolor, "pixel": _pixel,
    "cartoon": _cartoon,
}  # fmt: skip
DRAWN_STYLES = tuple(_FILTERS)


def draw(style: str, drawing: Drawing) -> Float[Tensor, "1 3 s s"]:
    """The rendering redrawn in a style of `DRAWN_STYLES`, in [0, 1]."""
    return _FILTERS[style](drawing).clamp(0, 1)
