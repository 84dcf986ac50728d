"""Photos become crops, or one sentence."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from hdb.faces.crop import Face, FaceCropper, FaceError, align, open_picture, square, to_tensor
from hdb.faceworld.world import FaceWorld


def to_image(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


@pytest.fixture(scope="module")
def portraits() -> list[Image.Image]:
    """Plain views of three people, 128 px."""
    world = FaceWorld(resolution=128)
    pairs = [
        (world.identity(i), world.view(i, 0).replace(yaw=yaw, roll=0.0)) for i, yaw in enumerate((-5.0, 8.0, 35.0))
    ]
    return [to_image(picture) for picture in world.render(pairs)]


@pytest.fixture(scope="module")
def photo(portraits) -> Image.Image:
    """A face somewhere in a larger picture."""
    photo = Image.new("RGB", (400, 300), (90, 110, 130))
    photo.paste(portraits[0].resize((192, 192), Image.Resampling.BICUBIC), (120, 60))
    return photo


@pytest.fixture(scope="module")
def cropper() -> FaceCropper:
    return FaceCropper()


@pytest.mark.parametrize("resolution", [64, 128])
def test_faceworld_views_pass_at_every_resolution(portraits, resolution):
    cropper = FaceCropper(min_size=16)
    for portrait in portraits:
        small = portrait.resize((resolution, resolution), Image.Resampling.BOX)
        assert torch.equal(cropper.check(small, resolution=resolution), to_tensor(small))  # the framing is kept


def test_crop_of_a_tilted_photo_is_upright(cropper, photo):
    upright = cropper.crop(photo, resolution=96)
    tilted = cropper.crop(photo.rotate(20, Image.Resampling.BICUBIC, expand=True), resolution=96)
    left, right = cropper.choose(to_image(tilted)).landmarks[:2]
    assert abs(np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0]))) < 6
    center = (slice(None), slice(24, 80), slice(16, 80))
    assert (upright - tilted)[center].abs().mean() < 0.08
    assert (upright - upright.flip(2))[center].abs().mean() > 0.1  # so that the line above can fail


def test_crop_does_not_depend_on_the_photo_s_size(cropper, photo):
    crop = cropper.crop(photo, resolution=64)
    large = cropper.crop(photo.resize((1600, 1200), Image.Resampling.BICUBIC), resolution=64)
    assert (crop - large).abs().mean() < 0.06


def level_face() -> Face:
    """Eyes 8 px apart, the mouth 10 px below: the side is max(4 * 8, 3.6 * 10) = 36, around (20, 21)."""
    landmarks = np.array([[16.0, 20.0], [24.0, 20.0], [20.0, 25.0], [17.0, 30.0], [23.0, 30.0]])
    return Face(box=np.array([10.0, 10.0, 30.0, 36.0]), landmarks=landmarks, probability=1.0)


def test_a_level_face_is_cut_out_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 44, 3), dtype=np.uint8)
    crop = align(Image.fromarray(pixels), level_face(), resolution=36)
    assert torch.equal(crop, to_tensor(Image.fromarray(pixels[3:39, 2:38])))


def test_beyond_the_border_the_edge_is_repeated():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 44, 3), dtype=np.uint8)
    crop = align(Image.fromarray(pixels), level_face(), resolution=72, margin=0.5)  # from (-16, -15) to (56, 57)
    inner = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    assert torch.allclose(crop[:, 15:65, 16:60], inner, atol=1e-6)
    assert torch.allclose(crop[:, :15, 16:60], inner[:, :1].expand(-1, 15, -1), atol=1e-6)
    assert torch.allclose(crop[:, 15:65, 60:], inner[:, :, -1:].expand(-1, -1, 12), atol=1e-6)


def test_margin_shows_more(photo):
    near, far = (FaceCropper(margin=margin).crop(photo, resolution=128) for margin in (0.0, 0.25))
    sizes = [FaceCropper(min_size=16).choose(to_image(crop)).size for crop in (near, far)]
    assert sizes[1] == pytest.approx(sizes[0] / 1.5, rel=0.15)


def test_largest_of_several_faces_is_used_and_said(cropper, portraits):
    group = Image.new("RGB", (420, 200), "gray")
    group.paste(portraits[0].resize((190, 190)), (5, 5))
    group.paste(portraits[1].resize((140, 140)), (240, 40))
    with pytest.warns(UserWarning, match="shows 2 faces .* the largest is used; face=2"):
        largest = cropper.crop(group, resolution=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (cropper.crop(group, resolution=64, face=face) for face in (1, 2))
    assert torch.equal(largest, first)
    alone = cropper.crop(portraits[1].resize((140, 140)), resolution=64)
    assert (second - alone).abs().mean() < 0.08 < (first - alone).abs().mean()
    with pytest.raises(FaceError, match="face=3 was asked for, but the picture shows 2"):
        cropper.crop(group, resolution=64, face=3)


def test_turn_is_estimated_and_limited(portraits, photo):
    assert FaceCropper().choose(portraits[2]).turn == pytest.approx(35, abs=12)
    with pytest.raises(FaceError, match="turned by about .* degrees; expected at most 15") as refusal:
        FaceCropper(max_turn=15.0).crop(portraits[2], resolution=64)
    assert refusal.value.reason == "turned"


def test_small_and_missing_faces_are_refused_with_numbers(cropper, photo):
    with pytest.raises(FaceError, match=r"is \d\d px large; expected at least 64 px"):
        cropper.crop(photo.resize((160, 120)), resolution=64)
    with pytest.raises(FaceError, match=r"no face found in the picture \(300x200 px\)"):
        cropper.crop(Image.effect_noise((300, 200), 90), resolution=64)
    with pytest.raises(FaceError, match="no face found"):
        cropper.crop(Image.new("RGB", (3000, 8), "gray"), resolution=64)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_is_read_as_8_bit_rgb(photo, tmp_path, mode):
    gray = mode in ("L", "LA", "I;16", "I")
    expected = np.asarray(photo.convert("L").convert("RGB") if gray else photo).astype(int)
    if mode in ("I;16", "I"):
        values = np.asarray(photo.convert("L")).astype(np.uint16) * 257
        given = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    else:
        given = photo.quantize(256) if mode == "P" else photo.convert(mode)
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "YCbCr", "I") else "picture.png")
    given.save(path)
    read = open_picture(path)
    assert read.mode == "RGB" and np.abs(np.asarray(read).astype(int) - expected).mean() < (6 if mode == "P" else 2)


def test_transparency_becomes_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(open_picture(clear)).min() == 255


def test_exif_orientation_is_applied(photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored pixels need a quarter turn clockwise
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(open_picture(tmp_path / "turned.png")), np.asarray(photo))


def test_unreadable_files_are_one_sentence(photo, tmp_path):
    def refused(name: str, content: bytes | None, match: str) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(FaceError, match=match) as refusal:
            open_picture(tmp_path / name)
        assert name in str(refusal.value) and "\n" not in str(refusal.value)

    photo.save(tmp_path / "whole.jpg")
    photo.save(tmp_path / "whole.png")
    refused("cut.jpg", (tmp_path / "whole.jpg").read_bytes()[:2000], "truncated")
    refused("cut.png", (tmp_path / "whole.png").read_bytes()[:2000], "truncated")
    refused("notes.txt", b"not a picture", "is not a picture")
    refused("empty.png", b"", "is not a picture")
    refused("absent.png", None, "no such file")
    refused("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "depth.tif")
    refused("depth.tif", None, "floating-point")


def test_square_takes_the_center():
    stripes = Image.fromarray(np.repeat(np.arange(0, 240, 20, dtype=np.uint8)[None, :, None], 4, 0).repeat(3, 2))
    assert torch.equal(square(stripes, resolution=4), to_tensor(stripes)[:, :, 4:8])
