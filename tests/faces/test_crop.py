"""Photos become crops, or one sentence."""

import re
import warnings

import numpy as np
import pytest
import torch
from photo_files import Transpose, woman
from PIL import Image

from experiments import personalize
from hdb.diffusion.sheet import to_pil
from hdb.faces.crop import Face, FaceCropper, align
from hdb.faces.picture import FaceError, center_square, to_tensor


def test_the_astronaut_is_cut_out_at_the_base_s_resolution_with_level_eyes_in_place(cropper, astronaut):
    crop = cropper.crop(astronaut, resolution=512)
    assert crop.shape == (3, 512, 512)
    left, right, _, mouth_left, mouth_right = cropper.find_face(to_pil(crop))[1].landmarks / 512
    assert abs(np.degrees(np.arctan2(*(right - left)[::-1]))) < 3
    # The frame of CelebA-HQ: the eyes' distance is at most a quarter of the side, their middle above the center.
    assert 0.2 < right[0] - left[0] < 0.26
    assert (left + right)[0] / 2 == pytest.approx(0.5, abs=0.03)
    assert (left + right)[1] / 2 < 0.5 < (mouth_left + mouth_right)[1] / 2


def test_a_photo_stored_sideways_is_cropped_as_if_upright(cropper, astronaut, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    astronaut.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png", exif=exif)
    expected = cropper.crop(astronaut, resolution=64)
    assert torch.equal(cropper.crop(tmp_path / "sideways.png", resolution=64), expected)
    with pytest.warns(UserWarning, match="the picture lies on its side: it is turned by 90 degrees clockwise"):
        turned = cropper.crop(astronaut.transpose(Image.Transpose.ROTATE_90), resolution=64)
    assert torch.equal(turned, expected)


@pytest.mark.parametrize("resolution", [64, 128])
def test_faceworld_views_pass_at_every_resolution(portraits, resolution):
    cropper = FaceCropper(min_size=16)
    for portrait in portraits:
        small = portrait.resize((resolution, resolution), Image.Resampling.BOX)
        assert torch.equal(
            cropper.read(small, resolution=resolution, crop=False), to_tensor(small)
        )  # the framing is kept


def test_crop_of_a_tilted_photo_is_upright(cropper, photo):
    upright = cropper.crop(photo, resolution=96)
    tilted = cropper.crop(photo.rotate(20, Image.Resampling.BICUBIC, expand=True), resolution=96)
    left, right = cropper.find_face(to_pil(tilted))[1].landmarks[:2]
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
    sizes = [FaceCropper(min_size=16).find_face(to_pil(crop))[1].size for crop in (near, far)]
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


def test_turn_is_estimated_and_limited(portraits, astronaut):
    assert FaceCropper().find_face(astronaut)[1].yaw == pytest.approx(0, abs=5)
    assert FaceCropper().find_face(portraits[2])[1].yaw == pytest.approx(35, abs=12)
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


CROPS = {
    "upright, as it is": (lambda face: face, []),
    "on its side, to the left": (lambda face: face.transpose(Transpose.ROTATE_90), ["on its side.* by 90 degrees"]),
    "on its side, to the right": (lambda face: face.transpose(Transpose.ROTATE_270), ["on its side.* by 270 degrees"]),
    "upside down": (lambda face: face.transpose(Transpose.ROTATE_180), ["upside down.* by 180 degrees"]),
    "mirrored": (lambda face: face.transpose(Transpose.FLIP_LEFT_RIGHT), []),
    "gray, on its side": (lambda face: face.convert("L").transpose(Transpose.ROTATE_90), ["by 90 degrees"]),
    "tilted by 20 degrees": (lambda face: face.rotate(20, Image.Resampling.BICUBIC), []),
    "two of them, the same way on their side": (
        lambda face: Image.fromarray(np.hstack([np.asarray(face)] * 2)).transpose(Transpose.ROTATE_90),
        ["shows 2 faces", "by 90 degrees"],
    ),
    "some hair cut off": (lambda face: face.crop((40, 40, 270, 310)), [r"1\d% of the frame .* edge is repeated"]),
    "at the left border": (lambda face: face.crop((95, 0, 310, 310)), [r"\d\d% of the frame .* edge is repeated"]),
}
REFUSED_CROPS = {
    "forehead to chin": (lambda face: face.crop((95, 70, 215, 195)), r"\d\d% of the frame .* outside the photo"),
    "forehead to chin, on its side": (
        lambda face: face.crop((95, 70, 215, 195)).transpose(Transpose.ROTATE_90),
        r"\d\d% of the frame .* outside the photo; expected at most 40%",
    ),
    "half of the head missing": (lambda face: face.crop((100, 80, 310, 170)), r"outside the photo|no face|turned"),
    "no face": (lambda face: Image.new("RGB", face.size, "gray"), "no face found"),
    "a wall on its side": (lambda face: Image.effect_noise((400, 200), 80), "no face found"),
}


@pytest.mark.parametrize("case", CROPS)
def test_a_crop_that_is_taken_is_upright_and_what_is_odd_is_said(cropper, case):
    make, remarks = CROPS[case]
    messages: list[str] = []
    crop = cropper.crop(make(woman()), resolution=64, remarks=messages)
    assert len(messages) == len(remarks)
    for remark in remarks:
        assert any(re.search(remark, message) for message in messages)
    upright = cropper.crop(woman(), resolution=64).mean(0)
    inner = (slice(20, 56), slice(16, 48))
    either = [upright, upright.flip(1)]
    assert min((crop.mean(0)[inner] - face[inner]).abs().mean() for face in either) < 0.09


@pytest.mark.parametrize("case", REFUSED_CROPS)
def test_a_crop_that_would_be_wrong_is_refused_with_numbers(cropper, case):
    make, match = REFUSED_CROPS[case]
    with pytest.raises(FaceError, match=match):
        cropper.crop(make(woman()), resolution=64)


READ = {
    "a crop": (lambda crop: crop, True),
    "a crop with a margin": (lambda crop: crop.crop((-4, -4, 132, 132)), True),
    "a crop on its side": (lambda crop: crop.transpose(Transpose.ROTATE_90), True),
    "a photo": (lambda crop: woman(), False),
    "a photo that is square by chance": (lambda crop: woman().crop((80, 50, 280, 250)), False),
    "a crop in a wide frame": (lambda crop: crop.crop((-64, 0, 192, 128)), False),
}


@pytest.mark.parametrize("case", READ)
@pytest.mark.filterwarnings("ignore")
def test_a_photo_is_cropped_unless_it_is_framed_as_a_crop_would_be(cropper, case):
    make, keeps_framing = READ[case]
    picture = make(to_pil(cropper.crop(woman(), resolution=128)))
    kept, cropped = (cropper.read(picture, resolution=64, crop=crop) for crop in (False, True))
    assert torch.equal(cropper.read(picture, resolution=64), kept if keeps_framing else cropped)
    assert not torch.equal(kept, cropped)


def faceless(width: int, height: int) -> Image.Image:
    """Black to white, in which nobody finds a face."""
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (255, 256)])
def test_a_small_square_picture_without_a_face_keeps_its_framing_and_that_is_said(cropper, size):
    picture = faceless(*size)
    for crop in (None, False):
        remarks: list[str] = []
        kept = cropper.read(picture, resolution=64, crop=crop, remarks=remarks)
        assert torch.equal(kept, center_square(picture, resolution=64))
        assert re.search(r"no face found in the picture .*, whose framing is kept", *remarks)
    with pytest.warns(UserWarning, match="framing is kept"):
        cropper.read(picture, resolution=64)
    with pytest.raises(FaceError, match="no face found"):
        cropper.read(picture, resolution=64, crop=True)


@pytest.mark.parametrize(
    ("picture", "resolution"),
    [
        (faceless(320, 320), 64),
        (faceless(200, 160), 64),
        (faceless(1024, 1024), 512),
        (Image.new("RGB", (128, 128), "gray"), 64),
        (Image.effect_noise((128, 128), 60).convert("RGB"), 64),
    ],
    ids=["large", "not square", "larger than the base", "a wall", "noise"],
)
def test_other_pictures_without_a_face_are_refused(cropper, picture, resolution):
    with pytest.raises(FaceError, match="no face found in the picture"):
        cropper.read(picture, resolution=resolution)


def test_a_picture_without_a_face_is_small_up_to_the_resolution_of_the_base(cropper):
    assert cropper.read(faceless(512, 512), resolution=512, remarks=[]).shape == (3, 512, 512)


@pytest.mark.parametrize("size", [(20_000, 400), (400, 20_000)])
def test_a_face_in_a_panorama_is_found_wherever_it_is(cropper, size):
    panorama = Image.new("RGB", size, "gray")
    corner = (9_000, 50) if size[0] > size[1] else (50, 9_000)
    panorama.paste(woman(), corner)
    crop = cropper.crop(panorama, resolution=64, remarks=[])
    assert (crop - cropper.crop(woman(), resolution=64)).abs().mean() < 0.05


def test_personalize_refuses_a_photo_in_one_sentence(call, astronaut, tiny_weights, tmp_path, capsys):
    astronaut.resize((256, 256)).save(tmp_path / "far.png")
    pair = Image.new("RGB", (1024, 512))
    pair.paste(astronaut, (0, 0))
    pair.paste(astronaut, (512, 0))
    pair.save(tmp_path / "pair.png")
    Image.new("RGB", (512, 512), "gray").save(tmp_path / "wall.png")
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    for words, sentence in (
        (["reference=far.png"], "the face in far.png is 56 px large; expected at least 64 px"),
        (["reference=pair.png", "face=3"], "face=3 was asked for, but pair.png shows 2; expected 1 to 2"),
        (["reference=wall.png"], "no face found in wall.png (512x512 px); expected an upright face"),
        (["reference=phone.jpg"], "phone.jpg is a HEIC picture, which is not supported; save it as JPEG or PNG first"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert call(personalize, f"hypernet={tiny_weights}/hypernet", "crop=true", "min_face=64", *words) == 2
        assert f"error: {sentence}" in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before


def test_personalize_refuses_a_turned_face(call, turned, tiny_weights, tmp_path, capsys):
    turned.save(tmp_path / "turned.png")
    words = [f"hypernet={tiny_weights}/hypernet", "crop=true", "min_face=16", "reference=turned.png"]
    assert call(personalize, *words) == 2
    message = capsys.readouterr().err
    assert "turned.png is turned by about 5" in message and "expected at most 45" in message
