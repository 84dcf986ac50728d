"""A rendered person and a cropped photo sit alike in their squares."""

import numpy as np
import pytest
import torch

from hdb.diffusion.sheet import to_pil
from hdb.faces.crop import FaceCropper
from hdb.faces.framing import Framing
from hdb.faceworld import FaceWorld
from hdb.faceworld.view import sample_nuisances

EYES = 0.5 - 0.0269  # height of the point between the eyes: a tenth of the way to the mouth above the center
PUPILS = 0.147  # how far the surface of an eye lies before its center, in head units: it moves when the head turns
POSES = [(0.0, 0.0), (25.0, 5.0), (-25.0, -5.0), (10.0, -10.0)]  # yaw and pitch, nearly as far as views go


@pytest.fixture(scope="module")
def world() -> FaceWorld:
    return FaceWorld(resolution=64)


def test_the_average_face_fills_the_frame_of_celeba_hq(world):
    framing = world._head.framing
    assert framing.side == pytest.approx(2.462, abs=0.01)  # four times the distance of the eyes, in head units
    assert framing.center[1] / framing.side == pytest.approx(0.0269, abs=0.001)


@pytest.mark.parametrize(("yaw", "pitch"), POSES)
def test_eyes_of_a_render_and_of_its_crop_are_where_the_world_puts_them(world, yaw, pitch):
    """Within 1.5 px of 64. The world keeps the centers of the eyes in place, a detector sees their surface."""
    cropper, view = FaceCropper(min_size=16), sample_nuisances(np.random.default_rng(3))
    view = view.replace(shift=(0.0, 0.0), zoom=1.0, roll=0.0, yaw=yaw, pitch=pitch)
    drift = 64 / world._head.framing.side * PUPILS * np.sin(np.radians([yaw, pitch]))
    for portrait in world.render([(world.identity(2000 + k), view) for k in range(3)]):
        crop = cropper.crop(to_pil(portrait), resolution=64)
        assert np.abs(middle_of_eyes(cropper, portrait) - [32, 64 * EYES] - drift).max() < 1.5
        assert np.abs(middle_of_eyes(cropper, crop) - [32, 64 * EYES]).max() < 1.5


def middle_of_eyes(cropper: FaceCropper, picture: torch.Tensor) -> np.ndarray:
    left, right = cropper.find_face(to_pil(picture))[1].landmarks[:2]
    return (left + right) / 2


def test_a_tilted_face_is_framed_along_its_own_axis():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    upright = Framing.around(np.array([-8.0, 0]), np.array([8.0, 0]), np.array([0.0, 20]))
    tilted = Framing.around(turn @ [-8.0, 0], turn @ [8.0, 0], turn @ [0.0, 20])
    assert tilted.side == pytest.approx(upright.side) == pytest.approx(72)
    assert tilted.axis == pytest.approx(turn @ upright.axis)
    assert tilted.center == pytest.approx(turn @ upright.center)
