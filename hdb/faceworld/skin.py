"""Skin: color as a function of the place on the average head, so that it follows every shape and pose."""

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.faceworld.appearance import Appearance
from hdb.faceworld.mesh import Channel
from hdb.faceworld.noise import bump, noise_2d, noise_3d, smoothstep

_TONES = (
    (0.83, 0.60, 0.49), (0.74, 0.49, 0.36), (0.58, 0.345, 0.225), (0.36, 0.195, 0.12), (0.165, 0.085, 0.055),
)  # fmt: skip


def _tint(color: Tensor, red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    return color * torch.stack([red, green, blue], 1)


def _blend(color: Tensor, other: Tensor, amount: Tensor) -> Tensor:
    return torch.lerp(color, other.expand_as(color), amount[:, None])


def _tone(melanin: Tensor, redness: Tensor) -> Float[Tensor, "n 3"]:
    tones = torch.tensor(_TONES, device=melanin.device)
    place = (melanin * 4).clamp(0, 3.999)
    lower = place.long()
    color = torch.lerp(tones[lower], tones[lower + 1], (place - lower)[:, None])
    return _tint(color, 1 + 0.05 * redness, 1 - 0.06 * redness, 1 - 0.07 * redness)


def _brow(appearance: Appearance, image: Tensor, x: Tensor, y: Tensor, z: Tensor, seed: Tensor) -> Tensor:
    """Coverage of the eyebrow: a parabola with a tapering tail."""
    height, thickness, arch, tilt, gap, length, density = appearance.brow[image].unbind(1)
    t = (x - gap) / length
    center = 7.525 + height + arch * (1 - ((t - 0.62) / 0.62) ** 2) + tilt * (t - 0.5) * 0.35
    center = center - 0.03 * smoothstep(0.7, 1.0, t)
    width = thickness * (1 - 0.65 * smoothstep(0.45, 1.05, t)) * smoothstep(-0.02, 0.12, t)
    distance = (y - center).abs() / width.clamp(min=1e-3)
    hairs = noise_2d(x * 60 - y * 30, y * 22 + x * 10, seed)
    cover = smoothstep(1.35, 0.45, distance) * smoothstep(0, 0.06, t) * smoothstep(1.04, 0.92, t) * (z > 0.9)
    return (cover * density * (0.6 + 0.5 * hairs)).clamp(0, 0.95)


def _marks(
    color: Tensor, appearance: Appearance, image: Tensor, x: Tensor, y: Tensor, z: Tensor, points: Tensor
) -> Tensor:
    """Freckles and moles."""
    side, seed = x.abs(), appearance.skin_seed[image]
    freckled = torch.nonzero(appearance.freckles[image] > 0).squeeze(1)
    if len(freckled):
        region = (
            bump(y - 7.05, 0.22)
            * bump(side - 0.2, 0.4)
            * smoothstep(1, 1.2, z)
            * appearance.freckles[image].clamp(max=1)
        )
        spots = smoothstep(0.74, 0.84, noise_3d(points[freckled] * 34, seed[freckled] * 3))
        color = color.index_add(0, freckled, -0.38 * color[freckled] * (spots * region[freckled])[:, None])
    for mole in appearance.moles.unbind(1):
        mx, my, radius = mole[image].unbind(1)
        distance = ((x - mx) ** 2 + (y - my) ** 2).sqrt() / radius
        color = color * (1 - 0.6 * smoothstep(1.4, 0.7, distance) * (z > 0.8))[:, None]
    return color


def _wrinkles(age: Tensor, x: Tensor, y: Tensor, z: Tensor, seed: Tensor, coarse: Tensor) -> Tensor:
    """Forehead lines and crow's feet, growing with the square of age."""
    side = x.abs()
    lines = bump(torch.sin(y * 48 + 2 * torch.sin(x * 4 + seed) + coarse * 3) - 1, 0.35)
    forehead = lines * smoothstep(7.68, 7.8, y) * smoothstep(8.1, 7.95, y) * smoothstep(0.55, 0.3, side) * (z > 1)
    fan = bump(torch.sin(torch.atan2(y - 7.28, side - 0.44) * 16) - 1, 0.3)
    feet = fan * bump(((side - 0.6) ** 2 + (y - 7.27) ** 2).sqrt(), 0.14)
    return (age * age * (forehead + feet)).clamp(0, 1)


def skin_albedo(
    appearance: Appearance, image: Tensor, points: Float[Tensor, "n 3"], channels: Float[Tensor, "n 8"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Color, specular strength and gloss of skin and of the painted shirt.

    Args:
        image: picture number of each point.
        points: on the average head.
        channels: see `Channel`.
    """
    x, y, z = points.unbind(1)
    side = x.abs()
    melanin, redness, age = appearance.melanin[image], appearance.redness[image], appearance.age[image]
    seed, lipstick = appearance.skin_seed[image], appearance.lipstick[image]
    color = _tone(melanin, redness)
    coarse, fine = noise_3d(points * 6, seed), noise_3d(points * 28, seed + 1)
    color = color * (1 + 0.07 * (coarse - 0.5) + 0.06 * (fine - 0.5))[:, None]

    cheeks = bump(side - 0.44, 0.2) * bump(y - 6.98, 0.17) * smoothstep(0.9, 1.2, z)
    nose = 0.8 * bump(side, 0.12) * bump(y - 6.98, 0.1) * smoothstep(1.5, 1.65, z)
    ears = 0.5 * smoothstep(0.74, 0.85, side) * bump(y - 7.1, 0.3)
    flush = (cheeks + nose + ears) * (0.35 + 0.65 * redness) * (1 - 0.6 * melanin)
    color = _tint(color, 1 + 0.05 * flush, 1 - 0.20 * flush, 1 - 0.19 * flush)
    bags = bump(side - 0.31, 0.17) * bump(y - 7.14, 0.055) * smoothstep(1.0, 1.2, z) * (0.08 + 0.20 * age)
    color = _marks(color * (1 - bags)[:, None], appearance, image, x, y, z, points)
    color = color * (1 - 0.22 * _wrinkles(age, x, y, z, seed, coarse))[:, None]

    lips, mouth = channels[:, Channel.LIPS], channels[:, Channel.MOUTH]
    natural = color * color.new_tensor([0.60, 0.375, 0.375]) + 0.25 * appearance.lip_color[image]
    painted = 0.55 * appearance.lip_color[image] * color.new_tensor([1.05, 0.40, 0.45])
    color = _blend(color, natural * (1 - 0.5 * lipstick)[:, None] + painted * lipstick[:, None], lips)
    color = torch.where((mouth > 0.5)[:, None], color.new_tensor([0.20, 0.05, 0.045]), color)

    color = _blend(color, appearance.brow_color[image], _brow(appearance, image, side, y, z, seed))
    lids = channels[:, Channel.LIDS]
    color = color * (1 - lids * (0.2 + 0.55 * (y > 7.285)))[:, None]
    stubble = appearance.beard_shade[image] * channels[:, Channel.BEARD] * (0.7 + 0.4 * fine)
    color = _blend(color, appearance.hair_color[image] * 0.7, stubble)
    # The scalp has the color of the hair up to a soft hairline, so that shells do not end on bare skin.
    strands = noise_2d(x * 40 + y * 8, y * 10 - z * 14, seed)
    scalp = smoothstep(-0.03, 0.07, channels[:, Channel.SCALP] + 0.06 * (strands - 0.5))
    color = _blend(
        color, appearance.hair_color[image] * 0.8, scalp * appearance.scalp_shade[image] * (0.75 + 0.25 * strands)
    )

    neckline = y + 0.10 * torch.cos(x * 2.2) * (z > 0) + 0.22 * smoothstep(0.45, 0.0, side) * (z > 0.4) - 0.1
    shirt = smoothstep(6.0, 5.94, neckline)
    color = _blend(color, appearance.shirt[image] * (0.85 + 0.3 * fine)[:, None], shirt)
    specular = (0.10 + 0.05 * bump(side, 0.2) + 0.22 * lips * (0.4 + lipstick)) * (1 - shirt) * (0.8 + 0.4 * fine)
    return color, specular * (1 - 0.8 * scalp) * (mouth <= 0.5), 22 + 30 * lips
