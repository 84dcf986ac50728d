"""Picture files of every kind become upright 8 bit sRGB, or one sentence."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
import torch
from hostile import png
from photo_files import difference, woman
from PIL import Image, ImageCms, ImageOps
from profiles import (
    ADOBE_RGB,
    D65,
    DISPLAY_P3,
    PROPHOTO,
    SRGB,
    cmyk_profile,
    gray_profile,
    rgb_profile,
    to_srgb,
)

from hdb.faces import picture as reader
from hdb.faces.picture import FaceError, StoredPicture, center_square, open_picture, to_tensor

GRAY = Image.new("RGB", (16, 16), "gray")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data: bytes) -> np.ndarray:
    """The pixels of a file, read without a remark."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(open_picture(StoredPicture("it", data)), dtype=float)


# ---- modes and depths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "CMYK", "YCbCr", "I;16", "I", "1"])
def test_every_mode_is_read_as_8_bit_rgb(photo, tmp_path, mode):
    gray = mode in ("L", "LA", "I;16", "I", "1")
    expected = np.asarray(photo.convert("L").convert("RGB") if gray else photo).astype(int)
    if mode == "1":
        expected = np.asarray(photo.convert("1").convert("RGB")).astype(int)
    if mode in ("I;16", "I"):
        values = np.asarray(photo.convert("L")).astype(np.uint16) * 257
        given = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    else:
        given = photo.quantize(256) if mode == "P" else photo.convert(mode)
    # As Pillow 12 writes a YCbCr TIFF it cannot read it; a JPEG is YCbCr, too.
    suffix = {"YCbCr": "jpg", "CMYK": "tif", "I": "tif"}.get(mode, "png")
    path = tmp_path / f"picture.{suffix}"
    given.save(path)
    image = open_picture(path)
    assert image.mode == "RGB" and np.abs(np.asarray(image).astype(int) - expected).mean() < (6 if mode == "P" else 2)


def deep_png(pixels: np.ndarray) -> bytes:
    """16 bits in each of two to four channels, which Pillow reads but does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    color_type = {2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    summed = [(kind + data, len(data), zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", size) + content + struct.pack(">I", check) for content, size, check in summed
    )


def scene(num_channels: int, bits: int = 16) -> np.ndarray:
    """A ramp of (24, 32, num_channels), no channel like another; a fourth channel is opaque alpha."""
    shades = np.linspace(0, 1, 24)[:, None, None] * np.linspace(0.2, 1, 32)[None, :, None] * np.array([1, 0.7, 0.4])
    shades = np.concatenate([shades, np.ones((24, 32, 1))], axis=2)[..., :num_channels]
    return (shades * (2**bits - 1)).round().astype(np.uint8 if bits == 8 else np.uint16)


def tiff(pixels: np.ndarray, *, photometric: str, planar: bool = False, **options: object) -> bytes:
    file = io.BytesIO()
    if planar:
        pixels = pixels.transpose(2, 0, 1)
    layout = {"planarconfig": "separate" if planar else "contig"} if pixels.ndim == 3 else {}
    tifffile.imwrite(file, pixels, photometric=photometric, metadata=None, **layout, **options)
    return file.getvalue()


ALPHA = {"extrasamples": ["unassalpha"]}
DEEP = {
    "PNG, gray": lambda: (encoded(Image.fromarray(scene(1)[..., 0]), "PNG"), 1),
    "PNG, gray and alpha": lambda: (deep_png(np.dstack([scene(1), scene(4)[..., 3:]])), 1),
    "PNG, colors": lambda: (deep_png(scene(3)), 3),
    "PNG, colors and alpha": lambda: (deep_png(scene(4)), 3),
    "TIFF, gray": lambda: (tiff(scene(1)[..., 0], photometric="minisblack"), 1),
    "TIFF, gray, big endian": lambda: (tiff(scene(1)[..., 0], photometric="minisblack", byteorder=">"), 1),
    "TIFF, colors": lambda: (tiff(scene(3), photometric="rgb"), 3),
    "TIFF, colors and alpha": lambda: (tiff(scene(4), photometric="rgb", **ALPHA), 3),
    "TIFF, planes": lambda: (tiff(scene(3), photometric="rgb", planar=True), 3),
    "TIFF, planes, big endian": lambda: (tiff(scene(3), photometric="rgb", planar=True, byteorder=">"), 3),
    "TIFF, planes and alpha": lambda: (tiff(scene(4), photometric="rgb", planar=True, **ALPHA), 3),
    "TIFF, planes, tiled": lambda: (tiff(scene(3), photometric="rgb", planar=True, tile=(16, 16)), 3),
    "TIFF, planes, compressed": lambda: (tiff(scene(3), photometric="rgb", planar=True, compression="zlib"), 3),
    "TIFF, planes of 8 bit": lambda: (tiff(scene(3, 8), photometric="rgb", planar=True), 3),
    "TIFF, white as 0": lambda: (tiff(65535 - scene(1)[..., 0], photometric="miniswhite"), 1),
    "TIFF, white as 0, big endian": lambda: (
        tiff(65535 - scene(1)[..., 0], photometric="miniswhite", byteorder=">"),
        1,
    ),
    "TIFF, white as 0, compressed": lambda: (
        tiff(65535 - scene(1)[..., 0], photometric="miniswhite", compression="zlib"),
        1,
    ),
    "TIFF, white as 0, 8 bit": lambda: (tiff(255 - scene(1, 8)[..., 0], photometric="miniswhite"), 1),
    "PGM": lambda: (b"P5 32 24 65535\n" + scene(1).astype(">u2").tobytes(), 1),
}  # fmt: skip


@pytest.mark.parametrize("case", DEEP)
def test_16_bits_planes_and_white_as_0_are_read_as_what_they_show(case):
    data, num_channels = DEEP[case]()
    expected = scene(3)[..., : min(num_channels, 3)] / 257
    assert np.abs(read(data) - expected).max() <= 1


def test_12_bit_gray_uses_the_whole_range():
    gray = (scene(1)[..., 0] >> 4).ravel()
    packed = np.stack([gray[::2] >> 4, ((gray[::2] & 15) << 4) | (gray[1::2] >> 8), gray[1::2] & 255], axis=1)
    data = bytearray(tiff(packed.astype(np.uint8).reshape(24, 48), photometric="minisblack"))
    for tag, value in ((256, 32), (258, 12)):  # its width and bits, told otherwise
        at = data.index(struct.pack("<H", tag), 8)
        data[at + 8 : at + 10] = struct.pack("<H", value)
    assert np.abs(read(bytes(data)) - scene(1) / 257).max() <= 1


def test_exif_orientation_is_applied_in_all_its_values(photo, tmp_path):
    # The number says how the picture was stored; the transposition is the one that undoes it.
    stored = {
        1: None,
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }
    for orientation, transpose in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        given = photo if transpose is None else photo.transpose(Image.Transpose[transpose])
        for name in ("turned.png", "turned.tif"):
            given.save(tmp_path / name, exif=exif)
            once = open_picture(tmp_path / name)
            assert np.array_equal(np.asarray(once), np.asarray(photo))
            assert open_picture(once).tobytes() == once.tobytes()  # and not turned a second time


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_becomes_white(mode):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode)
    assert np.asarray(open_picture(clear)).min() == 255


# ---- color profiles -------------------------------------------------------------------------------------------------


def colors() -> Image.Image:
    """Colors that are within sRGB whichever profile they are read with; smooth, so that a JPEG keeps them."""
    shades = np.linspace(90, 170, 32)
    planes = np.meshgrid(shades, shades[::-1])
    return Image.fromarray(np.stack([planes[0], planes[1], 0.5 * (planes[0] + 130)], axis=-1).round().astype(np.uint8))


FILES = {
    "PNG": {},
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB, PROPHOTO], ids=["Display P3", "Adobe RGB", "ProPhoto"])
def test_colors_are_converted_from_their_profile(primaries, kind):
    data = encoded(colors(), kind, icc_profile=rgb_profile(primaries), **FILES[kind])
    expected = to_srgb(np.asarray(colors()), primaries)
    assert np.abs(read(data) - expected).mean() < (1.5 if kind in ("JPEG", "AVIF") else 0.5)
    assert np.abs(expected - np.asarray(colors())).mean() > 2


GRAY_FILES = ("PNG", "JPEG", "TIFF")


@pytest.mark.parametrize("kind", GRAY_FILES)
def test_gray_is_converted_from_its_profile(kind):
    gray = colors().convert("L")
    data = encoded(gray, kind, icc_profile=gray_profile(1.8), **FILES[kind])
    expected = to_srgb(np.asarray(gray.convert("RGB")), (*SRGB[:2], 1.8))
    assert np.abs(read(data) - expected).max() < 3 and np.abs(expected - np.asarray(gray.convert("RGB"))).mean() > 5


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(("inks", "lightness"), [((0, 0, 0, 0), 100), ((0, 255, 0, 255), 50), ((255, 0, 0, 0), 75)])
def test_inks_are_converted_from_their_profile(kind, inks, lightness):
    image = Image.merge("CMYK", [Image.new("L", (16, 16), ink) for ink in inks])
    lab = Image.new("LAB", (16, 16), (round(lightness * 2.55), 128, 128))
    expected = {100: 255, 75: 184, 50: 119}[lightness]  # of the gray of that lightness, as CSS has it: lab(50 0 0)
    assert np.abs(read(encoded(image, kind, icc_profile=cmyk_profile(), **FILES[kind])) - expected).max() <= 1
    assert lab.mode == "LAB" and np.abs(np.asarray(open_picture(lab), dtype=int) - expected).max() <= 1


def with_alpha(mode: str) -> Image.Image:
    alpha = Image.new("L", (32, 32), 255)
    alpha.paste(0, (0, 0, 16, 32))
    image = colors().convert("RGBA")
    image.putalpha(alpha)
    return image if mode == "RGBA" else image.convert("LA")


def test_a_profile_is_used_beside_transparency_a_palette_and_16_bits():
    opaque = read(encoded(with_alpha("RGBA"), "PNG", icc_profile=rgb_profile(ADOBE_RGB)))
    expected = to_srgb(np.asarray(colors()), ADOBE_RGB)
    assert np.abs(opaque - expected)[:, 16:].max() < 2 and opaque[:, :16].min() == 255
    palette = colors().quantize(256)
    expected = to_srgb(np.asarray(palette.convert("RGB")), PROPHOTO)
    assert np.abs(read(encoded(palette, "PNG", icc_profile=rgb_profile(PROPHOTO))) - expected).max() < 2
    gray = Image.fromarray(np.asarray(colors().convert("L")).astype(np.uint16) * 257)
    expected = to_srgb(np.asarray(colors().convert("L").convert("RGB")), (*SRGB[:2], 1.8))
    assert np.abs(read(encoded(gray, "PNG", icc_profile=gray_profile(1.8))) - expected).max() < 2
    # programs keep the profile of a picture whose colors they take away
    expected = to_srgb(np.asarray(colors().convert("L").convert("RGB")), (SRGB[0], D65, 1.8))
    data = encoded(colors().convert("L"), "PNG", icc_profile=rgb_profile((*SRGB[:2], 1.8)))
    assert np.abs(read(data) - expected).max() < 2


def test_a_profile_of_srgb_itself_changes_nothing():
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),):
        assert np.array_equal(read(encoded(colors(), "PNG", icc_profile=profile)), np.asarray(colors()))


def test_a_picture_in_memory_is_converted_like_its_file_and_only_once():
    data = encoded(colors(), "PNG", icc_profile=rgb_profile(PROPHOTO))
    in_memory = Image.open(io.BytesIO(data))
    once = open_picture(in_memory)
    assert np.array_equal(np.asarray(once), read(data))
    assert open_picture(once).tobytes() == once.tobytes()
    assert in_memory.info["icc_profile"]  # the caller's picture is as it was


BROKEN_PROFILES = {
    "no bytes": b"",
    "none": b"junk",
    "cut in its header": rgb_profile(DISPLAY_P3)[:100],
    "cut in its tables": rgb_profile(DISPLAY_P3)[:300],
    "only a header": rgb_profile(DISPLAY_P3)[:128] + bytes(400),
    "of inks": cmyk_profile(),
    "of gray": gray_profile(2.2),
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("case", BROKEN_PROFILES)
def test_a_broken_profile_is_ignored_with_a_remark(case, kind):
    in_memory = Image.open(io.BytesIO(encoded(colors(), kind, **FILES[kind])))
    in_memory.info["icc_profile"] = BROKEN_PROFILES[case]
    with pytest.warns(UserWarning, match="the picture: its color profile is damaged, or .* ignored"):
        image = open_picture(in_memory)
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(colors())).mean() < 1
    if not BROKEN_PROFILES[case]:
        return
    with pytest.warns(UserWarning, match="^it: its color profile is damaged, or .* ignored"):
        image = open_picture(
            StoredPicture("it", encoded(colors(), kind, icc_profile=BROKEN_PROFILES[case], **FILES[kind]))
        )
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(colors())).mean() < 1


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_a_phones_200_megapixels_are_read_at_half_their_width_and_height():
    data = encoded(Image.new("L", (16320, 12240), 77), "JPEG")
    image = open_picture(StoredPicture("it", data))
    assert image.size == (8160, 6120) and image.getextrema() == ((77, 77),) * 3


HALVED: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda image: encoded(image, "JPEG", quality=100),
    "JPEG, progressive": lambda image: encoded(image, "JPEG", quality=100, progressive=True),
    "JPEG, stored turned": lambda image: encoded(
        image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100, exif=b"Exif\0\0" + orientation(6)
    ),
    "JPEG of several pictures": lambda image: encoded(
        image, "MPO", quality=100, save_all=True, append_images=[Image.new("RGB", (48, 40))]
    ),
    "PNG": lambda image: encoded(image, "PNG"),
    "PNG with a palette": lambda image: encoded(image.quantize(256), "PNG"),
    "WebP": lambda image: encoded(image, "WEBP", lossless=True),
    "TIFF": lambda image: encoded(image, "TIFF"),
}


def orientation(value: int) -> bytes:
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, value) + bytes(4)


@pytest.mark.parametrize("case", HALVED)
def test_a_large_picture_is_read_at_half_its_width_and_height(case, photo, monkeypatch):
    data = HALVED[case](photo)
    monkeypatch.setattr(reader, "HALVED_ABOVE", 400 * 300 - 1)
    expected = np.asarray(photo.reduce(2), dtype=int)
    assert np.abs(read(data) - expected).mean() < 4
    monkeypatch.setattr(reader, "HALVED_ABOVE", 400 * 300)
    assert read(data).shape == (300, 400, 3)


def claim_size(data: bytes, width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def claimed_bmp() -> bytes:
    return encoded(GRAY, "BMP").replace(struct.pack("<ii", 16, 16), struct.pack("<ii", 16, 1 << 24))


def claimed_gif() -> bytes:
    return encoded(GRAY, "GIF").replace(b"\x10\0\x10\0", struct.pack("<HH", 60000, 60000), 1)


TOO_LARGE = {
    "PNG": (lambda: png(30000, 30000), "is 30000x30000 px large; expected at most 178 megapixels"),
    "JPEG": (lambda: claim_size(encoded(GRAY, "JPEG"), 65500, 65500), "is 65500x65500 px .* at most 268 megapixels"),
    "GIF": (claimed_gif, "is 60000x60000 px large; expected at most 178 megapixels"),
    "BMP": (claimed_bmp, "is 16x16777216 px large; expected at most 178 megapixels"),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_a_larger_picture_than_can_be_read_is_refused_with_its_size_and_the_bound(case):
    make, match = TOO_LARGE[case]
    with pytest.raises(FaceError, match=match):
        open_picture(StoredPicture("it", make()))


# ---- what cannot be read --------------------------------------------------------------------------------------------


def test_a_picture_in_memory_is_read_like_a_file(photo, tmp_path):
    photo.save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    assert open_picture(StoredPicture("x", data)).tobytes() == open_picture(tmp_path / "whole.jpg").tobytes()


def test_damaged_bytes_are_never_more_than_a_sentence(photo):
    rng = np.random.default_rng(0)
    for kind, mode in (("JPEG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("TIFF", "CMYK"), ("BMP", "RGB")):
        whole = encoded(photo.resize((40, 30)).convert(mode), kind)
        for _ in range(60):
            data = np.frombuffer(whole, np.uint8).copy()
            data[rng.integers(0, min(len(data), 300), 3)] = rng.integers(0, 256, 3)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert open_picture(StoredPicture("damaged", data.tobytes())).mode == "RGB"
            except FaceError as error:
                assert str(error).startswith("damaged ") and "\n" not in str(error)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
NOT_READ: dict[str, tuple[Callable[[], bytes], str]] = {
    "notes.txt": (lambda: b"not a picture", "is not a picture; expected JPEG, PNG"),
    "renamed.jpg": (lambda: b"not a picture", "is not a picture"),
    "empty.png": (lambda: b"", "is not a picture"),
    "cut.jpg": (lambda: encoded(GRAY, "JPEG")[:500], "is a JPEG picture that is truncated or damaged"),
    "cut.png": (lambda: encoded(GRAY, "PNG")[:60], "is a PNG picture that is truncated or damaged"),
    "cut.gif": (lambda: b"GIF89a", "is a GIF picture that is truncated or damaged"),
    "phone.HEIC": (lambda: HEIC, "is a HEIC picture, which is not supported; save it as JPEG or PNG first"),
    "phone.jpg": (lambda: b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "is a HEIC picture"),
    "sequence.heics": (lambda: b"\0\0\0\x18ftyphevc\0\0\0\0", "is a HEIC picture"),
    "camera.cr3": (lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx ", "is a camera's raw picture"),
    "camera.cr2": (lambda: b"II*\0\x10\0\0\0CR\2\0" + bytes(20), "is a camera's raw picture"),
    "camera.raf": (lambda: b"FUJIFILMCCD-RAW 0201", "is a camera's raw picture"),
    "camera.dng": (lambda: encoded(GRAY, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "is a camera's raw .* preview"),
    "camera.nef": (lambda: encoded(GRAY, "TIFF", tiffinfo={254: 1}), "is a camera's raw picture, .* preview"),
    "clip.mp4": (lambda: b"\0\0\0\x18ftypmp42\0\0\0\0", "is a video"),
    "a.jxl": (lambda: b"\xff\x0a" + bytes(20), "is a JPEG XL picture"),
    "b.jxl": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL picture"),
    "a.psd": (lambda: b"8BPS\0\1" + bytes(20), "is a Photoshop document"),
    "a.xcf": (lambda: b"gimp xcf v011\0", "is a GIMP document"),
    "a.exr": (lambda: b"v/1\x01\x02\0\0\0", "is an OpenEXR picture"),
    "a.hdr": (lambda: b"#?RADIANCE\n", "is a Radiance HDR picture"),
    "a.ico": (lambda: encoded(GRAY, "ICO"), "is a Windows icon"),
    "a.svg": (lambda: b"<?xml version='1.0'?>\n<!-- a -->\n<svg/>", "is an SVG drawing"),
    "b.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
    "a.pdf": (lambda: b"%PDF-1.7\n", "is a PDF document"),
    "b.jpg": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is a PostScript document"),
    "login.jpg": (lambda: b"\n<!DOCTYPE html><html>", "is a web page"),
    "photos.jpg": (lambda: b"PK\3\4" + bytes(20), "is a ZIP archive"),
    "depth.tif": (lambda: encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "floating-point"),
    "odd.tif": (
        lambda: tiff(np.dstack([scene(1), scene(1)]), photometric="minisblack", **ALPHA),
        "is a TIFF picture .* of a kind that is not read .unknown pixel mode.; .* save it as JPEG or PNG",
    ),
    "inks.tif": (lambda: tiff(scene(4), photometric="separated", planar=True), "is a TIFF picture .* not read"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_cannot_be_read_is_named_by_its_format_in_one_sentence(name, tmp_path):
    make, match = NOT_READ[name]
    (tmp_path / name).write_bytes(make())
    for picture in (tmp_path / name, StoredPicture(f"{name} in a shard", make())):
        with pytest.raises(FaceError, match=f"{name}.* {match}") as refusal:
            open_picture(picture)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["absent.png", "no photo.jpg"])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(FaceError, match=f"{name}: no such file; expected a picture"):
        open_picture(tmp_path / name)


def test_square_takes_the_center():
    stripes = Image.fromarray(np.repeat(np.arange(0, 240, 20, dtype=np.uint8)[None, :, None], 4, 0).repeat(3, 2))
    assert torch.equal(center_square(stripes, resolution=4), to_tensor(stripes)[:, :, 4:8])


# ---- what phones, scanners and programs write ----------------------------------------------------------------------


def lab_tiff(image: Image.Image) -> bytes:
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return encoded(ImageCms.profileToProfile(image, *profiles, outputMode="LAB"), "TIFF")


# What phones, scanners and programs write of a picture, and how far it may be from that in levels of 255.
WRITTEN = {
    "a phone's JPEG with a gain map": (
        lambda image: encoded(
            image, "MPO", save_all=True, append_images=[image.convert("L").reduce(2)], quality=98, subsampling=0
        ),
        3,
    ),
    "an animated WebP": (
        lambda image: encoded(
            image, "WEBP", save_all=True, append_images=[ImageOps.invert(image)], duration=40, lossless=True
        ),
        0,
    ),
    "an animated PNG": (
        lambda image: encoded(image, "PNG", save_all=True, append_images=[ImageOps.invert(image)], duration=40),
        0,
    ),
    "an animated GIF": (
        lambda image: encoded(image, "GIF", save_all=True, append_images=[ImageOps.invert(image)], duration=40),
        5,
    ),
    "a TIFF of several pages": (
        lambda image: encoded(image, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]),
        0,
    ),
    "a Lab TIFF": (lab_tiff, 2),
    "a JPEG of inks without a profile": (lambda image: encoded(image.convert("CMYK"), "JPEG", quality=98), 6),
    "a fax": (lambda image: encoded(image.convert("1"), "TIFF", compression="group4"), 99),
    "a progressive JPEG": (
        lambda image: encoded(image, "JPEG", progressive=True, quality=98, subsampling=0),
        3,
    ),
    "a JPEG 2000 with alpha": (lambda image: encoded(image.convert("RGBA"), "JPEG2000"), 1),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_phones_scanners_and_programs_write_is_read_as_it_looks(case):
    make, tolerance = WRITTEN[case]
    remarks: list[str] = []
    image = open_picture(StoredPicture("it", make(woman())), remarks=remarks)
    assert image.size == woman().size and remarks == []
    assert difference(woman(), image) <= tolerance


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2, 2), (19, 19)])
def test_pictures_of_a_few_pixels_are_read(size):
    assert open_picture(StoredPicture("it", encoded(Image.new("RGB", size, "red"), "PNG"))).size == size
