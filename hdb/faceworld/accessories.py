"""Accessories: glasses, headwear, headphones and scarf, fitted to each head."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hdb.faceworld.head import Head, SkullGrid
from hdb.faceworld.mesh import Material, Mesh, ball, band, grid_triangles, tube
from hdb.faceworld.noise import smoothstep
from hdb.faceworld.view import View

HEADWEAR = ("hat", "cap", "beanie", "crown")
_OFFSET = {"cap": 0.13, "beanie": 0.17, "hat": 0.15}
_RIM_HEIGHT = {"cap": 7.98, "beanie": 7.86, "hat": 8.02}


def accessory_mesh(view: View, head: Head, positions: Tensor) -> list[Mesh]:
    """The parts of the view's accessory, fitted to a head.

    Args:
        positions: of the head's vertices with its expression, (v, 3).
    """
    name = view.accessory
    if name == "none":
        return []
    base = head.skull.place(positions)
    if name in ("glasses", "sunglasses"):
        return _glasses(view, head, positions, base)
    if name == "crown":
        return [_crown(head.skull, base)]
    if name == "headphones":
        return _headphones(head.skull, base)
    if name == "scarf":
        return _scarf(head, positions)
    return _cloth_hat(name, head.skull, base)


def _point(*xyz: float, like: Tensor) -> Tensor:
    return torch.tensor(xyz, device=like.device, dtype=torch.float32)


def _signed_power(x: Tensor, power: float) -> Tensor:
    return torch.sign(x) * x.abs() ** power


def _glasses(view: View, head: Head, positions: Tensor, base: Tensor) -> list[Mesh]:
    rng = np.random.default_rng(view.context_seed)
    squareness = (1.0, 0.6)[int(rng.integers(2))]
    height = float(rng.uniform(0.15, 0.20))
    width = 0.235
    average = head.average
    bridge = (average[:, 2] > 1.3) & (average[:, 1] > 7.15) & (average[:, 1] < 7.45) & (average[:, 0].abs() < 0.12)
    bridge &= head.vertex_material == Material.SKIN
    eyes = [positions[vertices].mean(0) for vertices in head.eye_vertices.values()]
    depth = max(float(positions[bridge][:, 2].max()), float(eyes[0][2]) + 0.2)
    angle = torch.arange(32, device=positions.device) * (2 * math.pi / 32)
    parts, inner = [], []
    for eye in eyes:
        side = 1 if eye[0] > 0 else -1
        rim = torch.stack(
            [
                eye[0] + side * 0.02 + width * _signed_power(torch.cos(angle), squareness),
                eye[1] - 0.03 + height * _signed_power(torch.sin(angle), squareness),
                depth - 0.10 * (torch.cos(angle) * side).clamp(min=0),
            ],
            1,
        )
        parts.append(tube(rim, 0.021, Material.FRAME, closed=True))
        if view.accessory == "sunglasses":
            fan = torch.arange(32, device=positions.device)
            triangles = torch.stack([torch.zeros_like(fan), 1 + fan, 1 + (fan + 1) % 32], 1)
            corners = torch.cat([rim.mean(0, keepdim=True), rim])
            facing = _point(0.0, 0.1, 1.0, like=corners).expand(33, 3).contiguous()
            parts.append(Mesh.part(corners, triangles, facing, Material.LENS))
        ear = base[int(56 * (0.5 + 0.25 * side)), 11]
        hinge = torch.stack([eye[0] + side * (0.02 + width), eye[1] + 0.03, ear.new_tensor(depth - 0.1)])
        bend = torch.stack([ear[0] + side * 0.07, eye[1] + 0.05, ear[2] + 0.45])
        tip = torch.stack([ear[0] + side * 0.06, eye[1], ear[2] - 0.1])
        parts.append(tube(torch.stack([hinge, bend, tip]), 0.017, Material.FRAME, sides=5))
        inner.append(_point(float(eye[0]) + side * (0.02 - width), float(eye[1]) + 0.02, depth, like=positions))
    middle = _point(0.0, float(eyes[0][1]) + 0.06, depth + 0.02, like=positions)
    parts.append(tube(torch.stack([inner[0], middle, inner[1]]), 0.018, Material.FRAME, sides=5))
    return parts


def _cloth_hat(name: str, skull: SkullGrid, base: Tensor) -> list[Mesh]:
    """Cap, beanie or brimmed hat: the skull grid moved outward, its lower rows lifted to the rim."""
    cloth = base + skull.directions * _OFFSET[name]
    if name == "hat":
        cloth = cloth + _point(0.0, 0.38, 0.0, like=base) * smoothstep(0.75, 0.2, skull.row)[None, :, None]
    if name == "cap":
        cloth = cloth + _point(0.0, 0.06, 0.0, like=base)
    lowered = 0.25 * (skull.azimuth.abs() > 1.2) * (name != "hat")
    rim_height = (_RIM_HEIGHT[name] - lowered)[:, None].expand(cloth.shape[:2])
    cloth = torch.stack([cloth[..., 0], torch.maximum(cloth[..., 1], rim_height), cloth[..., 2]], -1)
    flat = cloth.reshape(-1, 3)
    around = skull.azimuth[:, None].expand(cloth.shape[:2]).reshape(-1)
    down = skull.row.expand(cloth.shape[:2]).reshape(-1)
    triangles = grid_triangles(skull.columns, skull.rows, device=base.device)
    canonical = torch.stack([around, down, flat[:, 1]], 1)
    parts = [Mesh.part(flat, triangles, skull.directions.reshape(-1, 3), Material.FABRIC, canonical=canonical)]
    rim = cloth[:, 9]
    if name in ("hat", "cap"):
        level = _point(1.0, 0.0, 1.0, like=base)
        outward = normalize((rim - rim.mean(0)) * level, dim=1)
        width = (
            torch.full_like(skull.azimuth, 0.5) if name == "hat" else 0.62 * smoothstep(1.05, 0.3, skull.azimuth.abs())
        )
        start = torch.stack([rim[:, 0], torch.full_like(width, _RIM_HEIGHT[name] + 0.03), rim[:, 2]], 1)
        end = start + outward * width[:, None]
        fall = -0.08 + 0.14 * torch.sin(skull.azimuth).abs() if name == "hat" else -0.24 * width / 0.62
        end[:, 1] += fall
        parts.append(band(start, end, _point(0.0, 1.0, 0.25, like=base), Material.TRIM))
    if name == "beanie":
        parts.append(ball(cloth[:, 0].mean(0) + _point(0.0, 0.15, 0.0, like=base), 0.2, Material.TRIM))
        parts.append(tube(rim[:-1], 0.1, Material.TRIM, closed=True, sides=8))
    return parts


def _crown(skull: SkullGrid, base: Tensor) -> Mesh:
    ring = base[:, 8] + skull.directions[:, 8] * 0.12
    lower = torch.stack([ring[:, 0], torch.full_like(ring[:, 0], 8.04), ring[:, 2]], 1)
    upper = lower.clone()
    upper[:, 1] += 0.22 + 0.2 * torch.cos(skull.azimuth * 7).clamp(min=0)
    center = (lower + upper).mean(0) / 2
    normals = normalize((lower - center) * _point(1.0, 0.0, 1.0, like=base), dim=1)
    return band(lower, upper, normals, Material.METAL)


def _headphones(skull: SkullGrid, base: Tensor) -> list[Mesh]:
    left, right = (base[column] + skull.directions[column] * 0.16 for column in (14, 42))
    path = torch.cat([left[1:].flip(0), right])[2:-2]
    parts = [tube(path, 0.08, Material.FRAME, sides=8)]
    for arc in (left, right):
        cup = _point(float(arc[12, 0]) * 1.16, 7.12, 0.6, like=base)
        parts.append(ball(cup, 0.32, Material.TRIM))
    return parts


def _scarf(head: Head, positions: Tensor) -> list[Mesh]:
    average = head.average
    neck = (average[:, 1] < 6.1) & (average[:, 1] > 5.9) & (average[:, 0].abs() < 0.8)
    center = positions[neck & (head.vertex_material == Material.SKIN)].mean(0)
    angle = torch.arange(40, device=positions.device) * (2 * math.pi / 40)
    parts = []
    for loop in range(3):
        path = torch.stack(
            [
                center[0] + (0.72 + 0.05 * loop) * torch.sin(angle),
                6.16 - 0.17 * loop + 0.05 * torch.sin(angle * 3 + loop) - 0.07 * torch.cos(angle),
                center[2] + 0.05 + (0.74 + 0.05 * loop) * torch.cos(angle),
            ],
            1,
        )
        parts.append(tube(path, 0.19, Material.TRIM, closed=True, sides=8))
    return parts
