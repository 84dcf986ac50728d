"""Eyes: white, iris and pupil, painted on the eyeballs in the direction of the gaze."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from hdb.faceworld.appearance import Appearance
from hdb.faceworld.head import EYE_HEIGHT
from hdb.faceworld.noise import noise_3d, smoothstep


def eye_albedo(
    appearance: Appearance, image: Tensor, points: Float[Tensor, "n 3"], *, center: Float[Tensor, " 3"], side: float
) -> Float[Tensor, "n 3"]:
    """Color of points on one eyeball.

    Args:
        image: picture number of each point.
        points: on the average head.
        center: of the eyeball on the average head.
        side: +1 for the left eye, -1 for the right.
    """
    outward = normalize(points - center, dim=1)
    gaze = appearance.gaze[image]
    aim = torch.stack([gaze[:, 0] + 0.02 * side, gaze[:, 1] - 0.02, torch.ones_like(gaze[:, 0])], 1)
    aim = normalize(aim, dim=1)
    angle = torch.acos((outward * aim).sum(1).clamp(-1, 1))
    across = outward - aim
    turn = torch.atan2(across[:, 1], across[:, 0])
    radius = angle / appearance.iris_radius[image]
    fibers = noise_3d(torch.stack([turn * 6, angle * 8, torch.zeros_like(turn)], 1))
    white = angle.new_tensor([0.84, 0.81, 0.78]) * (1 - 0.25 * smoothstep(0.5, 1.2, angle))[:, None]
    shade = (0.5 + 0.7 * fibers) * (1 - 0.65 * smoothstep(0.75, 1.0, radius)) * (1 + 0.3 * smoothstep(0.9, 0.4, radius))
    iris = appearance.iris_color[image] * shade[:, None]
    color = torch.lerp(white, iris, smoothstep(1.06, 0.94, radius)[:, None])
    color = torch.lerp(color, torch.full_like(color, 0.01), smoothstep(0.44, 0.36, radius)[:, None])
    under_lid = smoothstep(0.02, 0.13, points[:, 1] - EYE_HEIGHT)
    return color * (1 - 0.55 * under_lid)[:, None]


def lash_exists(points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
    """Which points are lashes: separate hairs, above the eye only. The strips of the mesh are solid."""
    return (noise_3d(points * points.new_tensor([70.0, 9.0, 9.0])) > 0.72) & (points[:, 1] > EYE_HEIGHT)
