"""Damaged metadata never keeps a whole picture from being read, and turned as it says."""

import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from photo_files import (
    Transpose,
    difference,
    encoded,
    ifd,
    jpeg_with,
    orientation_tag,
    png_chunk,
    png_with,
    scene,
    tag,
    with_exif,
)
from PIL import Image, features

from hdb.faces.picture import StoredPicture, open_picture

SIX = orientation_tag(6)
EXIFS = {
    "the orientation alone": ifd(SIX),
    "big endian": ifd(tag(0x0112, 3, 1, struct.pack(">H", 6), ">"), order=">"),
    "as LONG": ifd(tag(0x0112, 4, 1, struct.pack("<I", 6))),
    "beside a value far outside": ifd(SIX, tag(0x010F, 2, 40, struct.pack("<I", 1 << 30))),
    "behind a value far outside": ifd(tag(0x010F, 2, 40, struct.pack("<I", 1 << 30)), SIX),
    "beside a count that overflows": ifd(SIX, tag(0x010F, 2, 0xFFFFFFFF, b"")),
    "behind a count that overflows": ifd(tag(0x010F, 2, 0xFFFFFFFF, b""), SIX),
    "beside an unknown type": ifd(SIX, tag(0x010F, 99, 3, b"xyz")),
    "beside GPS that lies nowhere": ifd(SIX, tag(0x8825, 4, 1, struct.pack("<I", 0xFFFFFFF0))),
    "beside an EXIF directory within itself": ifd(SIX, tag(0x8769, 4, 1, struct.pack("<I", 8))),
    "beside a resolution of 1/0": ifd(SIX, tag(0x011A, 5, 1, struct.pack("<I", 60)), tag(0x0128, 3, 1, b"\2\0")),
    "beside a text of numbers": ifd(SIX, tag(0x8769, 2, 4, b"no\0\0"), tag(0x8825, 7, 4, b"\xff" * 4)),
    "beside a camera's own note, cut off": ifd(SIX, tag(0x927C, 7, 60000, struct.pack("<I", 20))),
    "of which only the count is too high": ifd(SIX).replace(b"\1\0\x12", b"\xff\xff\x12"),
    "behind an odd magic number": ifd(SIX).replace(b"II\x2a", b"II\x55"),
}
# EXIF without an orientation that can be used -> the remark on it.
WITHOUT = {
    "no orientation": (ifd(tag(0x010F, 2, 4, b"abc")), None),
    "orientation as text": (ifd(tag(0x0112, 2, 4, b"6")), "orientation is '6"),
    "orientation 0": (ifd(tag(0x0112, 3, 1, b"")), "orientation is 0, expected 1 to 8"),
    "orientation 9": (ifd(orientation_tag(9)), "orientation is 9, expected 1 to 8"),
    "orientation of five values": (ifd(tag(0x0112, 3, 5, struct.pack("<I", 0xFFFF))), None),
    "empty": (b"", None),
    "cut in the header": (b"II\x2a\0\x08", "EXIF data is damaged"),
    "cut in the directory": (ifd(SIX)[:14], "EXIF data is damaged"),
    "a directory that lies nowhere": (b"II\x2a\0" + struct.pack("<I", 0xFFFFFFF0), "EXIF data is damaged"),
    "no TIFF at all": (b"\xde\xad\xbe\xef" * 20, "EXIF data is damaged"),
    "zeros": (bytes(64), "EXIF data is damaged"),
}
KINDS = ("JPEG", "PNG", "WEBP")


def read(data: bytes) -> tuple[Image.Image, list[str]]:
    """The picture in a file and the remarks on it."""
    remarks: list[str] = []
    return open_picture(StoredPicture("it", data), remarks=remarks), remarks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", EXIFS)
def test_the_orientation_is_read_whatever_stands_beside_it(case, kind):
    image, remarks = read(with_exif(EXIFS[case], kind, scene().transpose(Transpose.ROTATE_90)))
    assert image.size == scene().size and difference(image, scene()) < 4 and not remarks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", WITHOUT)
def test_metadata_without_a_readable_orientation_changes_nothing_but_is_remarked_if_damaged(case, kind):
    exif, remark = WITHOUT[case]
    image, remarks = read(with_exif(exif, kind, scene()))
    assert difference(image, scene()) < 4
    if remark is None or (case, kind) == ("empty", "WEBP"):  # WebP has no empty chunk: a zero byte
        assert not remarks or case == "empty"
    else:
        assert len(remarks) == 1 and remarks[0].startswith("it: ") and remark in remarks[0]


def damaged_length() -> bytes:
    """A JPEG whose EXIF, which holds a thumbnail, says that it is half as long."""
    thumbnail = encoded(scene().resize((12, 10)), "JPEG")
    whole = jpeg_with((0xE1, b"Exif\0\0" + WITHOUT["no orientation"][0] + thumbnail))
    return whole[:4] + struct.pack(">H", len(thumbnail) // 2) + whole[6:]


def length_beyond_the_end() -> bytes:
    whole = jpeg_with((0xE1, b"Exif\0\0" + ifd(tag(0x010F, 2, 4, b"abc"))))
    return whole[:4] + b"\xff\xff" + whole[6:]


def tiff_with(**options: object) -> bytes:
    """A TIFF with an entry of its first directory spoilt."""
    plain = bytearray(encoded(scene(), "TIFF", description="somebody", software="something", **options))
    start = plain.index(struct.pack("<HH", 0x010E, 2))
    plain[start + 2 : start + 12] = struct.pack("<HII", 99, 0xFFFFFFFF, 0xFFFFFFFF)
    return bytes(plain)


def of_several(kind: str, **options: object) -> bytes:
    return encoded(scene(), kind, save_all=True, append_images=[Image.new("RGB", (48, 40))], **options)


INTACT: dict[str, Callable[[], bytes]] = {
    "JPEG, a comment and notes of any kind": lambda: jpeg_with(
        (0xFE, b"\xff\xd9\0"), (0xE2, b"MPF\0junk"), (0xED, b"Photoshop 3.0\0\x008BIM\xff"), (0xE2, b"ICC_PROFILE\0")
    ),
    "JPEG, JFIF cut off": lambda: jpeg_with((0xE0, b"JFIF"), (0xEE, b"Adobe")),
    "JPEG, an EXIF that says it is shorter": damaged_length,
    "JPEG, an EXIF that says it is longer than the file": length_beyond_the_end,
    "JPEG, XMP that is none": lambda: jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='\xff")),
    "JPEG, progressive": lambda: encoded(scene(), "JPEG", quality=95, progressive=True),
    "JPEG of several pictures": lambda: of_several("MPO", quality=95),
    "JPEG and something behind it": lambda: encoded(scene(), "JPEG", quality=95) + b"\xff\xd8\xff" + bytes(100),
    "PNG, a text with a wrong checksum": lambda: png_with(png_chunk(b"tEXt", b"a\0b", damaged=True)),
    "PNG, EXIF with a wrong checksum": lambda: png_with(png_chunk(b"eXIf", b"junk", damaged=True)),
    "PNG, a text of a damaged length": lambda: png_with(b"\0\1\0\0" + png_chunk(b"tEXt", b"a\0b")[4:]),
    "PNG, a text that fills the memory": lambda: png_with(png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 24)))),
    "PNG, a profile that is none": lambda: png_with(png_chunk(b"iCCP", b"x\0\0junk"), png_chunk(b"pHYs", b"")),
    "PNG that moves": lambda: of_several("PNG"),
    "WebP that moves": lambda: of_several("WEBP", lossless=True),
    "TIFF, a malformed tag": tiff_with,
    "TIFF, compressed, a malformed tag": lambda: tiff_with(compression="tiff_lzw"),
    "TIFF, Deflate, a malformed tag": lambda: tiff_with(compression="tiff_deflate"),
    "TIFF of several pages": lambda: of_several("TIFF", big_tiff=True),
    "JPEG 2000": lambda: encoded(scene(), "JPEG2000"),
    "BMP": lambda: encoded(scene(), "BMP"),
    "PPM": lambda: encoded(scene(), "PPM"),
}


@pytest.mark.parametrize("case", INTACT)
def test_intact_pixels_are_read_whatever_surrounds_them(case):
    image, _ = read(INTACT[case]())
    assert difference(image, scene()) < 4


LEFT_OUT = {
    "JPEG": lambda image: jpeg_with((0xE1, b"Exif\0\0" + ifd(SIX)), (0xE2, b"ICC_PROFILE\0"), image=image),
    "PNG": lambda image: png_with(png_chunk(b"tEXt", b"a\0b", damaged=True), png_chunk(b"eXIf", ifd(SIX)), image=image),
    "PNG, damaged itself": lambda image: png_with(png_chunk(b"eXIf", ifd(SIX), damaged=True), image=image),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_the_orientation_is_kept_where_other_metadata_is_left_out_and_that_is_remarked(case):
    image, remarks = read(LEFT_OUT[case](scene().transpose(Transpose.ROTATE_90)))
    assert image.size == scene().size and difference(image, scene()) < 4
    assert remarks == ["it: its metadata is damaged and was left out"]


def test_colors_of_adobes_jpegs_are_kept_where_other_metadata_is_left_out():
    inks = scene().convert("CMYK")
    whole = encoded(inks, "JPEG", quality=95)
    image, remarks = read(whole[:2] + b"\xff\xe2\0\x0eICC_PROFILE\0" + whole[2:])
    assert remarks and difference(image, inks.convert("RGB")) < 4


@pytest.mark.skipif(not features.check("avif"), reason="Pillow before 11.3 reads no AVIF")
def test_avif_is_turned_by_its_own_boxes_and_read_beside_any_exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "somebody"
    whole = encoded(scene().transpose(Transpose.ROTATE_90), "AVIF", quality=95, exif=exif.tobytes())
    start = whole.index(b"somebody")
    for data in (whole, whole[: start - 40] + b"\xff" * 48 + whole[start + 8 :]):
        assert difference(read(data)[0], scene()) < 6


@pytest.mark.parametrize("orientation", [None, 6])
def test_jpegs_with_random_damage_in_their_exif_are_all_used_and_turned_as_viewers_turn_them(orientation):
    # A viewer reads the entry of the orientation where the directory begins, whatever the other entries say.
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x011A], exif[0x0132] = "Maker", "Model", 72.0, "2024:05:01 12:00:00"
    if orientation is not None:
        exif[0x0112] = orientation
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x9003: "2024:05:01 12:00:00", 0x927C: bytes(range(200))})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    stored = scene() if orientation is None else scene().transpose(Transpose.ROTATE_90)
    whole = encoded(stored, "JPEG", quality=95, exif=exif.tobytes())
    start, stop = whole.index(b"Exif\0\0"), whole.index(b"\xff\xdb")
    entry = whole.find(struct.pack(">HHI", 0x0112, 3, 1)), whole.find(struct.pack("<HHI", 0x0112, 3, 1))
    entry_start = max(entry)
    decisive = {*range(start, start + 16), *range(entry_start, entry_start + 12)}
    num_whole = 0
    for _ in range(300):  # 3,000 of 3,000 with other seeds
        places = rng.integers(start, stop, rng.integers(1, 30))
        spoilt = np.frombuffer(whole, np.uint8).copy()
        spoilt[places] = rng.integers(0, 256, len(places))
        image, _ = read(spoilt.tobytes())
        if orientation is None:
            assert difference(image, scene()) < 4
        elif not decisive & set(places.tolist()):
            num_whole += 1
            assert image.size == scene().size and difference(image, scene()) < 4
    assert orientation is None or num_whole > 80


def test_wrong_lengths_before_the_picture_are_passed_over():
    rng = np.random.default_rng(0)
    whole = jpeg_with((0xE1, b"Exif\0\0" + ifd(tag(0x010F, 2, 4, b"abc"))))
    for _ in range(100):
        length = struct.pack(">H", rng.integers(0, 2**16))
        assert difference(read(whole[:4] + length + whole[6:])[0], scene()) < 4


def test_pillow_s_warnings_stay_within_the_reader():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = open_picture(StoredPicture("it", tiff_with()))
    assert difference(image, scene()) < 6
