"""Beard: shells over the part of the face where it grows, thinned to hairs by noise."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hdb.faceworld.head import Head
from hdb.faceworld.identity import Identity
from hdb.faceworld.mesh import Channel, Material, Mesh
from hdb.faceworld.noise import noise_2d, noise_3d

_LENGTH = {"full beard": 1.5, "short beard": 0.7, "goatee": 0.7, "moustache": 0.7}
# How much of the hair's color the skin below takes.
SHADE = {"none": 0.05, "stubble": 0.34, "moustache": 0.8, "goatee": 0.8, "short beard": 0.8, "full beard": 0.85}


def beard_mesh(identity: Identity, head: Head, positions: Tensor, normals: Tensor, *, shells: int) -> Mesh | None:
    """Shells over a head with an expression; None for a beard that is only painted on the skin.

    Args:
        positions: of the head's vertices, (v, 3).
        normals: at the vertices, (v, 3).
    """
    if identity.beard not in _LENGTH:
        return None
    mask = head.beards[identity.beard]
    grown = (head.materials == Material.SKIN) & (mask[head.triangles].amax(1) > 0.08)
    used, triangles = torch.unique(head.triangles[grown], return_inverse=True)
    cover = mask[used]
    height = torch.arange(1, shells + 1, device=positions.device)[:, None] / shells
    droop = torch.tensor([0.0, -0.5, 0.15], device=positions.device)
    length = identity.beard_length * _LENGTH[identity.beard]
    offset = (normals[used] + droop) * (cover[:, None] * length)
    channels = torch.zeros(shells, len(used), len(Channel), device=positions.device)
    channels[..., Channel.COVER] = cover
    channels[..., Channel.HEIGHT] = height
    layers = torch.arange(shells, device=positions.device)[:, None, None] * len(used)
    return Mesh.part(
        (positions[used] + offset * height[..., None]).reshape(-1, 3),
        (triangles.view(-1, 3) + layers).reshape(-1, 3),
        normals[used].repeat(shells, 1),
        Material.BEARD,
        canonical=head.average[used].repeat(shells, 1),
        occlusion=(head.occlusion[used] * 0.5 + 0.5).repeat(shells),
        channels=channels.reshape(-1, len(Channel)),
    )


def beard_exists(canonical: Float[Tensor, "n 3"], cover: Tensor, height: Tensor) -> Bool[Tensor, " n"]:
    """Which fragments are hairs: fewer near the edge of the beard and toward the tips."""
    noise = noise_2d(canonical[:, 0] * 56 + canonical[:, 2] * 40, canonical[:, 1] * 24)
    return cover * 1.25 > noise * 0.6 + height * 0.35 + 0.06


def beard_albedo(canonical: Tensor, height: Tensor, color: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Color of the hairs, darker at the roots."""
    noise = noise_3d(canonical * canonical.new_tensor([60.0, 22.0, 40.0]))
    return color * ((0.55 + 0.7 * noise) * (0.7 + 0.3 * height))[:, None] * 0.85
