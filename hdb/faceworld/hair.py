"""Hair: shells over the skull grid, cut at a hairline and thinned to strands by noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from hdb.faceworld.head import SkullGrid
from hdb.faceworld.identity import Identity
from hdb.faceworld.mesh import Channel, Material, Mesh, ball, grid_triangles
from hdb.faceworld.noise import noise_2d, smoothstep

_HANG = 2.3  # length of a full hanging strand, in units of the head
_HANGING_LENGTH = {"bob": 0.28, "long straight": 0.70, "long wavy": 0.62}


@dataclass
class Haircut:
    """Outline of a hair style on the skull grid."""

    reach: Tensor  # (57,): how far hair grows down each azimuth; 1 is the rim of the grid, 2 the longest strand
    volume: float
    swell: Tensor  # (57, 16): local factor of the volume
    flare: float = 0.0
    wave: float = 0.0
    curl: float = 0.0

    @classmethod
    def from_identity(cls, identity: Identity, skull: SkullGrid) -> "Haircut | None":
        """The haircut of a person; None for a bald head."""
        if identity.hair_style == "bald":
            return None
        azimuth = skull.azimuth
        from_front = azimuth.abs()
        side = smoothstep(0.9, 1.3, from_front) * smoothstep(2.4, 1.9, from_front)
        back = smoothstep(1.7, 2.4, from_front)
        front = smoothstep(1.05, 0.85, from_front)
        hairline = 0.665 + identity.hairline
        reach = hairline * front + (1 - front) * (0.80 - 0.12 * side) + 0.03 * torch.cos(azimuth * 3) * front
        cut = cls(reach, identity.hair_volume, torch.ones(skull.columns, skull.rows, device=azimuth.device))
        style = identity.hair_style
        toward_part = azimuth if identity.hair_part > 0 else -azimuth
        if style == "buzz cut":
            cut.volume = 0.022
        elif style == "short":
            cut.volume *= 0.7
        elif style == "side part":
            cut.reach = reach + front * 0.13 * smoothstep(-0.2, 0.5, toward_part)
            cut.swell = 1 + 0.5 * (torch.sin(toward_part).clamp(0, 1) * front)[:, None] * cut.swell
        elif style == "slicked back":
            cut.volume *= 0.7
            cut.reach = reach - 0.03 * front
        elif style == "fringe":
            cut.reach = reach + front * 0.27 + side * 0.1
        elif style in _HANGING_LENGTH:
            length = _HANGING_LENGTH[style] * (0.75 + 0.5 * identity.hair_length)
            bangs = front * (0.05 + 0.25 * (identity.hair_length > 0.5))
            cut.reach = torch.where(from_front > 0.85, 1 + length * smoothstep(0.85, 1.15, from_front), reach + bangs)
            cut.volume = max(cut.volume, 0.10)
            cut.flare = 0.12 if style == "bob" else 0.25
            cut.wave = 0.05 if style == "long wavy" else 0.008
        elif style == "curly":
            cut.volume = 0.20
            cut.curl = 1.0
            cut.reach = reach + 0.06 * front + 0.12 * (1 - front) + 0.12 * back
        elif style == "afro":
            cut.volume = 0.38
            cut.curl = 1.0
            cut.reach = reach + 0.05
        elif style == "mohawk":
            cut.volume = 0.36
        elif style == "bun":
            cut.volume *= 0.6
            cut.reach = reach - 0.02 * front
        elif style == "receding":
            cut.volume *= 0.4
            bare = torch.where(from_front < 1.2, torch.full_like(reach, 0.28), reach)
            cut.reach = torch.minimum(reach - front * 0.28, bare)
        return cut


def _strands(cut: Haircut, skull: SkullGrid, base: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of the strands, (57, 31, 3), and the direction in which each grows away from the head."""
    rows = torch.linspace(0, 1, skull.hanging + 1, device=base.device)[1:]
    level = torch.tensor([1.0, 0.0, 1.0], device=base.device)
    outward = normalize(skull.directions[:, -1] * level, dim=1)
    spread = cut.flare * 0.6 * rows + cut.wave * torch.sin(rows * 14 + skull.azimuth[:, None] * 5)
    drop = (-_HANG * rows).expand(skull.columns, -1)
    fall = torch.stack([outward[:, :1] * spread, drop, outward[:, 2:] * spread], -1)
    hanging = base[:, -1:] + fall
    direction = outward[:, None].expand(-1, skull.hanging, -1)
    return torch.cat([base, hanging], 1), torch.cat([skull.directions, direction], 1)


def _shell_normals(shells: Float[Tensor, "k 57 31 3"], outward: Float[Tensor, "57 31 3"]) -> Tensor:
    around = torch.roll(shells[:, :-1], -1, 1) - torch.roll(shells[:, :-1], 1, 1)
    around = torch.cat([around, around[:, :1]], 1)
    down = torch.zeros_like(shells)
    down[:, :, 1:-1] = shells[:, :, 2:] - shells[:, :, :-2]
    down[:, :, 0] = shells[:, :, 1] - shells[:, :, 0]
    down[:, :, -1] = shells[:, :, -1] - shells[:, :, -2]
    normal = normalize(torch.linalg.cross(down, around), dim=-1)
    normal = normal * (normal * outward).sum(-1, keepdim=True).sign()
    return normalize(normal + 0.35 * outward, dim=-1)


def _thickness(identity: Identity, cut: Haircut, skull: SkullGrid, roots: Tensor, *, pressed: bool) -> Tensor:
    """Distance of the outer surface from its roots, (57, 31)."""
    device = roots.device
    columns = skull.columns
    side = skull.azimuth.abs()
    on_skull = torch.cat([skull.row, torch.ones(skull.hanging, device=device)])[None]
    thick = cut.volume * torch.cat([cut.swell, torch.ones(columns, skull.hanging, device=device)], 1)
    if cut.reach.max() > 1:  # long hair passes over the ears
        ears = smoothstep(0.75, 1.25, side) * smoothstep(2.4, 1.9, side)
        thick = thick * (1 + 1.1 * ears[:, None] * smoothstep(0.45, 0.9, on_skull))
    if identity.hair_style == "mohawk":
        thick = 0.015 + 0.345 * smoothstep(0.27, 0.19, roots[..., 0].abs())
    if pressed:
        limit = torch.where(on_skull < 0.62, 0.04, 0.14)
        thick = torch.minimum(thick, limit.expand_as(thick))
    return thick


def hair_mesh(identity: Identity, cut: Haircut, skull: SkullGrid, base: Tensor, *, shells: int, pressed: bool) -> Mesh:
    """The hair of one person.

    Args:
        base: The skull grid on this head, (57, 16, 3).
        shells: Layers from the skin to the outer surface; more are fuller and slower.
        pressed: Whether a hat presses the hair to the head.
    """
    device = base.device
    columns = skull.columns
    length = skull.rows + skull.hanging
    roots, outward = _strands(cut, skull, base)
    along = torch.linspace(0, 2, length, device=device).expand(columns, length)
    inside = cut.reach[:, None] - along
    thick = _thickness(identity, cut, skull, roots, pressed=pressed)
    if cut.volume <= 0.05:
        shells = min(shells, 2)
    taper = 0.10 + 0.90 * smoothstep(0, 0.14, inside)  # thin at the hairline
    height = torch.arange(1, shells + 1, device=device) / shells
    rise = thick * taper * (0.25 + 0.75 * height[:, None, None]) + 0.012
    positions = roots + outward * rise[..., None]
    normals = _shell_normals(positions, outward)
    count = columns * length
    channels = torch.zeros(shells, count, len(Channel), device=device)
    channels[..., Channel.COVER] = inside.reshape(-1)
    channels[..., Channel.HEIGHT] = height[:, None]
    channels[..., Channel.CURL] = cut.curl
    shade = (0.45 + 0.55 * height[:, None]) * (0.75 + 0.25 * smoothstep(0, 0.3, along)).reshape(-1)
    canonical = torch.stack([skull.azimuth[:, None].expand_as(along), along, torch.zeros_like(along)], -1)
    canonical = canonical.reshape(1, count, 3).repeat(shells, 1, 1)
    canonical[..., 2] = height[:, None]
    grown = (inside[:-1, :-1] > -0.15) | (inside[1:, :-1] > -0.15)
    triangles = grid_triangles(columns, length, device=device)[grown.reshape(-1).repeat(2)]
    layers = torch.arange(shells, device=device)[:, None, None] * count
    hair = Mesh.part(
        positions.reshape(-1, 3),
        (triangles + layers).reshape(-1, 3),
        normals.reshape(-1, 3),
        Material.HAIR,
        canonical=canonical.reshape(-1, 3),
        occlusion=shade.reshape(-1),
        channels=channels.reshape(-1, len(Channel)),
    )
    if identity.hair_style != "bun":
        return hair
    knot = torch.zeros(len(Channel), device=device)
    knot[Channel.COVER] = 1.0
    knot[Channel.HEIGHT] = 0.2
    row = int(skull.rows * 0.45)
    return Mesh.join([hair, ball(roots[-1, row] + outward[-1, row] * 0.2, 0.3, Material.HAIR, channels=knot)])


def strand_noise(canonical: Tensor, curl: Tensor, seed: Tensor, *, across: float, along: float) -> Tensor:
    """Noise stretched along the strands, (n,), and round in curls; it narrows toward the crown, as the grid does."""
    curly = curl > 0.5
    narrowing = 0.25 + torch.sin(canonical[:, 1].clamp(0, 1) * 1.57)
    x = canonical[:, 0] * torch.where(curly, 9.0, across * narrowing)
    return noise_2d(x, canonical[:, 1] * torch.where(curly, 30.0, along), seed)


def hair_exists(canonical: Tensor, cover: Tensor, height: Tensor, curl: Tensor, seed: Tensor) -> Bool[Tensor, " n"]:
    """Which fragments of the shells are hair: those within a frayed edge, fewer toward the outer shells."""
    noise = strand_noise(canonical, curl, seed, across=22.0, along=3.0)
    fray = torch.where(curl > 0.5, 0.10, 0.075)
    holes = torch.where(curl > 0.5, 0.40, 0.36) * height - 0.06
    return (cover + fray * (noise - 0.55) > 0) & ((noise > holes) | (height < 0.25))


def hair_albedo(
    canonical: Tensor, curl: Tensor, seed: Tensor, color: Float[Tensor, "n 3"], *, detail: float
) -> Float[Tensor, "n 3"]:
    """Color of hair, with lighter and darker strands; their contrast grows with `detail` in [0, 1]."""
    contrast = 0.22 + 0.38 * detail
    fine = strand_noise(canonical, curl, seed, across=30.0, along=2.5)
    broad = noise_2d(canonical[:, 0] * 9, canonical[:, 1] * 2, seed + 7)
    return color * (0.85 + contrast * (fine - 0.5) + 0.3 * (broad - 0.5))[:, None]
