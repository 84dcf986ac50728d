"""The square around a face: the same for people that are rendered and for photos that are cropped."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

EYE_DISTANCES, MOUTH_DISTANCES = 4.0, 3.6  # side of the square in distances between the eyes, from eyes to mouth
DROP = 0.1  # from the eyes to the center of the square, as a share of the way to the mouth
# The ellipse of a face, in distances from eyes to mouth: its middle below the eyes, half its width, half its height.
FACE_MIDDLE, FACE_WIDTH, FACE_HEIGHT = 0.15, 1.15, 1.5
SOFTNESS = 0.15  # of the edge of the ellipse, as a share of its radius


class Framing(NamedTuple):
    """The square around a face, in the units and axes of its landmarks.

    With x from eye to eye and y from the eyes to the mouth:
        center = eyes + 0.1 y,   side = max(4 |x|, 3.6 |y|),   axis = x + y turned by -90 degrees, of length 1.

    >>> framing = Framing.around(np.array([24.0, 30]), np.array([40.0, 30]), np.array([32.0, 46]))
    >>> framing.center.tolist(), float(framing.side), framing.axis.tolist()
    ([32.0, 31.6], 64.0, [1.0, 0.0])

    Source: Karras et al., "Progressive Growing of GANs", appendix C (the crop of CelebA-HQ), arXiv 1710.10196.
    """

    center: Float[np.ndarray, "2"]
    side: float
    axis: Float[np.ndarray, "2"]  # from the left to the right of the square

    @classmethod
    def around(
        cls, left: Float[np.ndarray, "2"], right: Float[np.ndarray, "2"], mouth: Float[np.ndarray, "2"]
    ) -> "Framing":
        """Frames a face.

        Args:
            left: the eye on the left of the picture, as (x, y) with y downward.
            right: the eye on the right of the picture.
            mouth: the middle of the mouth.
        """
        eyes = (left + right) / 2
        across, down = right - left, mouth - eyes
        side = max(EYE_DISTANCES * np.linalg.norm(across), MOUTH_DISTANCES * np.linalg.norm(down))
        axis = across + np.array([down[1], -down[0]])
        return cls(eyes + DROP * down, side, axis / max(np.linalg.norm(axis), 1e-6))


def face_weight(size: int) -> Float[np.ndarray, "size size"]:
    """Weights of the pixels of a framed square: near 1 within a soft ellipse around the face, near 0 outside of it.

        1 / (1 + exp((r - 1) / softness))          r = 1 on the ellipse

    It is the same for every picture in this frame: nothing is detected.

    >>> weight = face_weight(64)
    >>> bool(weight[32, 32] > 0.99), bool(weight[0, 0] < 0.01)
    (True, True)
    """
    eyes_to_mouth = 1 / MOUTH_DISTANCES  # as a share of the side
    middle = 0.5 + (FACE_MIDDLE - DROP) * eyes_to_mouth
    pixels = (np.arange(size, dtype=np.float32) + 0.5) / size
    across = (pixels - 0.5) / (FACE_WIDTH * eyes_to_mouth)
    down = (pixels - middle) / (FACE_HEIGHT * eyes_to_mouth)
    radius = np.hypot(across[None], down[:, None])
    return (1 / (1 + np.exp((radius - 1) / SOFTNESS))).astype(np.float32)
