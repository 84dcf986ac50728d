"""Scene: the meshes of a batch of pictures, posed in front of the camera."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from hdb.faces.framing import Framing
from hdb.faceworld.head import EYE_DEPTH, EYE_HEIGHT
from hdb.faceworld.identity import Identity
from hdb.faceworld.mesh import Mesh
from hdb.faceworld.noise import smoothstep
from hdb.faceworld.view import View

Pair = tuple[Identity, View]

_PIVOT = (0.0, 6.45, 0.45)  # where the neck turns
_EYES = (0.0, EYE_HEIGHT, EYE_DEPTH)  # the point between the eyes
_DISTANCE = 8.4  # of the camera from there
CAMERA = (_EYES[0], _EYES[1], _EYES[2] + _DISTANCE)


def _rotation(view: View) -> Float[Tensor, "3 3"]:
    yaw, pitch, roll = (math.radians(angle) for angle in (view.yaw, view.pitch, view.roll))
    turn = torch.tensor([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    nod = torch.tensor([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
    tilt = torch.tensor([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1.0]])
    return tilt @ turn @ nod


class Scene:
    """The meshes of a batch of pictures, posed, projected and joined to one.

    Attributes:
        mesh: all triangles.
        screen: pixel x, pixel y (down) and depth of each vertex.
        vertex_image: picture number of each vertex.
        triangle_image: picture number of each triangle.
    """

    def __init__(self, meshes: list[Mesh], pairs: list[Pair], *, size: int, framing: Framing) -> None:
        device = meshes[0].positions.device
        pivot = torch.tensor(_PIVOT, device=device)
        eyes = torch.tensor(_EYES, device=device)
        drop = float(framing.center[1])  # from the eyes to the middle of the picture
        posed, screens, vertex_images, triangle_images = [], [], [], []
        for number, (mesh, (_, view)) in enumerate(zip(meshes, pairs, strict=True)):
            rotation = _rotation(view).to(device).T
            # The neck follows the head gradually, the shoulders do not.
            follows = smoothstep(5.75, 6.6, mesh.positions[:, 1:2])
            local = mesh.positions - pivot
            position = torch.lerp(local, local @ rotation, follows)
            normal = normalize(torch.lerp(mesh.normals, mesh.normals @ rotation, follows), dim=1)
            # The point between the eyes has the same place in every pose, as in an aligned crop.
            shift = torch.tensor([view.shift[0], view.shift[1] - drop, 0.0], device=device)
            centered = position - (eyes - pivot) @ rotation - shift
            depth = _DISTANCE - centered[:, 2]
            scale = _DISTANCE / depth * (size / framing.side * view.zoom)
            x = size / 2 + centered[:, 0] * scale
            y = size / 2 - centered[:, 1] * scale
            screens.append(torch.stack([x, y, depth], 1))
            posed.append(replace(mesh, positions=position + pivot, normals=normal))
            vertex_images.append(torch.full((len(position),), number, device=device))
            triangle_images.append(torch.full((len(mesh.triangles),), number, device=device))
        self.mesh = Mesh.join(posed)
        self.screen = torch.cat(screens)
        self.vertex_image = torch.cat(vertex_images)
        self.triangle_image = torch.cat(triangle_images)

    def gather(self, values: Tensor, corners: Tensor, weights: Tensor) -> Tensor:
        """Interpolates vertex values inside triangles: corners (p, 3), weights (p, 3) -> (p, ...)."""
        total = 0
        for corner in range(3):
            weight = weights[:, corner] if values.dim() == 1 else weights[:, corner : corner + 1]
            total = total + values.index_select(0, corners[:, corner]) * weight
        return total
