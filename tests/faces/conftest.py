"""Photos and folders that several tests of faces share."""

from pathlib import Path

import pytest
from gray import save_gray
from PIL import Image
from skimage import data

from hdb.diffusion.sheet import to_pil
from hdb.faces.crop import FaceCropper
from hdb.faceworld.world import FaceWorld


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """Eileen Collins, 512 px, a face of 110 px. NASA, public domain; the file is part of scikit-image."""
    return Image.fromarray(data.astronaut())


@pytest.fixture(scope="session")
def portraits() -> list[Image.Image]:
    """Plain views of three people, 128 px."""
    world = FaceWorld(resolution=128)
    pairs = [
        (world.identity(i), world.view(i, 0).replace(yaw=yaw, roll=0.0)) for i, yaw in enumerate((-5.0, 8.0, 35.0))
    ]
    return [to_pil(picture) for picture in world.render(pairs)]


@pytest.fixture(scope="session")
def turned() -> Image.Image:
    """A person with a yaw of 50 degrees."""
    world = FaceWorld(resolution=128)
    return to_pil(world.render([(world.identity(0), world.view(0, 0).replace(yaw=50.0, roll=0.0))])[0])


@pytest.fixture(scope="session")
def photo(portraits) -> Image.Image:
    """A face somewhere in a larger picture."""
    photo = Image.new("RGB", (400, 300), (90, 110, 130))
    photo.paste(portraits[0].resize((192, 192), Image.Resampling.BICUBIC), (120, 60))
    return photo


@pytest.fixture(scope="session")
def cropper() -> FaceCropper:
    return FaceCropper()


@pytest.fixture
def folders(tmp_path) -> Path:
    """anna has three pictures, bert one, carl none."""
    for number in range(3):
        save_gray(tmp_path / "people" / "anna" / f"{number}.png", 10 + number)
    save_gray(tmp_path / "people" / "bert" / "0.jpg", 20)
    (tmp_path / "people" / "carl").mkdir()
    (tmp_path / "people" / "anna" / "notes.txt").write_text("not a picture")
    return tmp_path / "people"
