"""Mesh: triangles with a material each, and the shapes that accessories are made of."""

import math
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize


class Material(IntEnum):
    """What a triangle is made of. 0 to 6 are the groups of head_basis.npz."""

    SKIN = 0
    LEFT_EYE = 1
    RIGHT_EYE = 2
    UPPER_TEETH = 3
    LOWER_TEETH = 4
    TONGUE = 5
    LASHES = 6
    HAIR = 8
    BEARD = 9
    FRAME = 10
    LENS = 11
    FABRIC = 12
    TRIM = 13
    METAL = 14


class Channel(IntEnum):
    """Columns of `Mesh.channels`."""

    COVER = 0  # hair, beard: how far inside the grown region
    HEIGHT = 1  # hair, beard: shell height in [0, 1]
    CURL = 2
    LIPS = 3
    MOUTH = 4  # inside of the mouth
    BEARD = 5
    LIDS = 6
    SCALP = 7  # skin: how far inside the hairline


@dataclass
class Mesh:
    """Triangles with what shading needs at their corners.

    `triangles` are numbers of three vertices, `channels` has a row of `Channel` for each vertex. Paint is a function of
    `canonical`, the place on the average head (or coordinates of an accessory), so that it follows every shape and
    pose.
    """

    positions: Float[Tensor, "v 3"]
    canonical: Float[Tensor, "v 3"]
    normals: Float[Tensor, "v 3"]
    occlusion: Float[Tensor, " v"]
    channels: Float[Tensor, "v 8"]
    triangles: Int[Tensor, "t 3"]
    materials: Int[Tensor, " t"]

    @classmethod
    def part(
        cls,
        positions: Tensor,
        triangles: Tensor,
        normals: Tensor,
        material: Material,
        *,
        canonical: Tensor | None = None,
        occlusion: Tensor | None = None,
        channels: Tensor | None = None,
    ) -> "Mesh":
        """A part of one material; canonical coordinates are by default the positions."""
        count = len(positions)
        return cls(
            positions=positions,
            canonical=positions if canonical is None else canonical,
            normals=normals,
            occlusion=positions.new_ones(count) if occlusion is None else occlusion,
            channels=positions.new_zeros(count, len(Channel)) if channels is None else channels,
            triangles=triangles,
            materials=torch.full((len(triangles),), int(material), device=positions.device),
        )

    @classmethod
    def join(cls, parts: list["Mesh"]) -> "Mesh":
        """One mesh of several, in order; the vertices that triangles name are renumbered."""
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        offset = 0
        columns["triangles"] = []
        for part in parts:
            columns["triangles"].append(part.triangles + offset)
            offset += len(part.positions)
        return cls(**{name: torch.cat(column) for name, column in columns.items()})


def grid_triangles(rows: int, columns: int, *, device: torch.device | str = "cpu") -> Int[Tensor, "t 3"]:
    """Triangles of a (rows, columns) grid of vertices numbered row by row."""
    corner = (
        torch.arange(rows - 1, device=device)[:, None] * columns + torch.arange(columns - 1, device=device)
    ).reshape(-1)
    lower = torch.stack([corner, corner + 1, corner + columns], 1)
    upper = torch.stack([corner + 1, corner + columns + 1, corner + columns], 1)
    return torch.cat([lower, upper])


def vertex_normals(positions: Float[Tensor, "v 3"], triangles: Int[Tensor, "t 3"]) -> Float[Tensor, "v 3"]:
    """Area-weighted unit normals."""
    a, b, c = (positions.index_select(0, triangles[:, corner]) for corner in range(3))
    faces = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(positions)
    for corner in range(3):
        normals.index_add_(0, triangles[:, corner], faces)
    return normalize(normals, dim=1)


def ball(center: Float[Tensor, " 3"], radius: float, material: Material, *, channels: Tensor | None = None) -> Mesh:
    """Sphere of 20 x 12 patches; canonical coordinates are (azimuth, polar angle / pi, 0)."""
    device = center.device
    azimuth = torch.linspace(-math.pi, math.pi, 21, device=device)[:, None].expand(21, 13)
    polar = torch.linspace(0, math.pi, 13, device=device)[None].expand(21, 13)
    ring = torch.sin(polar)
    direction = torch.stack([ring * torch.sin(azimuth), torch.cos(polar), ring * torch.cos(azimuth)], -1).reshape(-1, 3)
    canonical = torch.stack([azimuth, polar / math.pi, torch.zeros_like(polar)], -1).reshape(-1, 3)
    triangles = grid_triangles(21, 13, device=device)
    repeated = None if channels is None else channels.expand(len(direction), -1)
    return Mesh.part(
        center + direction * radius, triangles, direction, material, canonical=canonical, channels=repeated
    )


def tube(
    path: Float[Tensor, "n 3"], radius: float, material: Material, *, closed: bool = False, sides: int = 6
) -> Mesh:
    """Round tube along a path."""
    count = len(path)
    device = path.device
    tangent = torch.roll(path, -1, 0) - torch.roll(path, 1, 0)
    if not closed:
        tangent[0] = path[1] - path[0]
        tangent[-1] = path[-1] - path[-2]
    tangent = normalize(tangent, dim=1)
    # No path runs in this direction; a tangent parallel to it would leave the cross-section undefined.
    reference = torch.tensor([0.13, 0.97, 0.21], device=device).expand_as(tangent)
    across = normalize(torch.linalg.cross(tangent, reference), dim=1)
    along = torch.linalg.cross(across, tangent)
    angle = torch.arange(sides, device=device) * (2 * math.pi / sides)
    normals = across[:, None] * torch.cos(angle)[:, None] + along[:, None] * torch.sin(angle)[:, None]
    positions = path[:, None] + normals * radius
    i = torch.arange(count if closed else count - 1, device=device)[:, None]
    j = torch.arange(sides, device=device)[None]

    def vertex(row: Tensor, column: Tensor) -> Tensor:
        return (row % count) * sides + column % sides

    lower = torch.stack([vertex(i, j), vertex(i + 1, j), vertex(i, j + 1)], -1).reshape(-1, 3)
    upper = torch.stack([vertex(i + 1, j), vertex(i + 1, j + 1), vertex(i, j + 1)], -1).reshape(-1, 3)
    return Mesh.part(positions.reshape(-1, 3), torch.cat([lower, upper]), normals.reshape(-1, 3), material)


def band(lower: Float[Tensor, "n 3"], upper: Float[Tensor, "n 3"], normals: Tensor, material: Material) -> Mesh:
    """Strip of quads between two polylines; `normals`, (n, 3) or (3,), are those of both edges."""
    count = len(lower)
    positions = torch.stack([lower, upper], 1).reshape(-1, 3)
    doubled = normals.expand(count, 3)[:, None].expand(count, 2, 3).reshape(-1, 3)
    return Mesh.part(positions, grid_triangles(count, 2, device=lower.device), doubled.contiguous(), material)
