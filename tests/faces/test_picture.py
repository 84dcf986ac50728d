"""Picture files become 8 bit RGB, or one sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from hdb.faces.picture import FaceError, StoredPicture, open_picture, square, to_tensor


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
    read = open_picture(path)
    assert read.mode == "RGB" and np.abs(np.asarray(read).astype(int) - expected).mean() < (6 if mode == "P" else 2)


def sixteen_bit_png(pixels: np.ndarray) -> bytes:
    """Three channels of 16 bit each, which Pillow reads but does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    summed = [(kind + data, len(data), zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", size) + content + struct.pack(">I", check) for content, size, check in summed
    )


def test_16_bit_colors_keep_their_upper_8_bits():
    pixels = np.random.default_rng(0).integers(0, 2**16, (5, 4, 3))
    read = open_picture(StoredPicture("deep.png", sixteen_bit_png(pixels)))
    assert np.array_equal(np.asarray(read), pixels >> 8)


def test_every_orientation_of_exif_is_applied(photo, tmp_path):
    # Orientation -> how an upright picture has to be stored to need it: the inverse of what a viewer does.
    stored = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    stored |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    for orientation, transpose in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo.transpose(Image.Transpose[transpose]).save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(np.asarray(open_picture(tmp_path / "turned.png")), np.asarray(photo))


def test_a_picture_in_memory_is_read_like_a_file(photo, tmp_path):
    photo.save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    assert open_picture(StoredPicture("x", data)).tobytes() == open_picture(tmp_path / "whole.jpg").tobytes()
    for name, part in (("cut", data[:2000]), ("phone", b"\0\0\0\x18ftypheic\0\0\0\0"), ("text", b"no picture")):
        with pytest.raises(FaceError, match=f"{name} in a shard is"):
            open_picture(StoredPicture(f"{name} in a shard", part))


def test_damaged_bytes_are_never_more_than_a_sentence(photo):
    rng = np.random.default_rng(0)
    for kind, mode in (("JPEG", "RGB"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("TIFF", "CMYK"), ("BMP", "RGB")):
        file = io.BytesIO()
        photo.resize((40, 30)).convert(mode).save(file, kind)
        for _ in range(60):
            data = np.frombuffer(file.getvalue(), np.uint8).copy()
            data[rng.integers(0, min(len(data), 300), 3)] = rng.integers(0, 256, 3)
            try:
                assert open_picture(StoredPicture("damaged", data.tobytes())).mode == "RGB"
            except FaceError as error:
                assert str(error).startswith("damaged ") and "\n" not in str(error)


def test_transparency_becomes_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(open_picture(clear)).min() == 255


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
    refused("no photo.jpg", None, "no such file")
    refused("phone.HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC")
    refused("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "depth.tif")
    refused("depth.tif", None, "floating-point")


def test_square_takes_the_center():
    stripes = Image.fromarray(np.repeat(np.arange(0, 240, 20, dtype=np.uint8)[None, :, None], 4, 0).repeat(3, 2))
    assert torch.equal(square(stripes, resolution=4), to_tensor(stripes)[:, :, 4:8])
