"""Photo files for tests: a face, encoded in any format, with metadata that may be damaged."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

Transpose = Image.Transpose
# Words of `prepare` for a folder of single pictures, all of them to train on.
FLAT = ["source=flat", "root=photos", "output=shards", "resolution=32", "num_workers=0", "identities_per_shard=2"]
FLAT += ["num_val_identities=0", "num_test_identities=0"]


def woman(brightness: int = 100) -> Image.Image:
    """Eileen Collins: a face of 110 px with room around it. NASA, public domain; the file is part of scikit-image."""
    face = Image.fromarray(data.astronaut()).crop((70, 0, 380, 310))
    return face if brightness == 100 else face.point(lambda value: value * brightness // 100)


def scene() -> Image.Image:
    """Not square, no side like another, and soft enough for any codec."""
    return woman().resize((48, 40), Image.Resampling.BOX)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures in levels of 255."""
    return float(np.abs(np.asarray(one, int) - np.asarray(other.convert("RGB"), int)).mean())


def ifd(*entries: bytes, order: str = "<") -> bytes:
    """A TIFF structure of one directory."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + struct.pack(f"{order}I", 0)


def tag(number: int, kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    """An entry of a directory."""
    return struct.pack(f"{order}HHI", number, kind, count) + value.ljust(4, b"\0")


def orientation_tag(value: int) -> bytes:
    return tag(0x0112, 3, 1, struct.pack("<H", value))


def jpeg_with(*segments: tuple[int, bytes], image: Image.Image | None = None) -> bytes:
    """A JPEG with further segments (marker, content) at its front."""
    front = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content for marker, content in segments
    )
    plain = encoded(image or scene(), "JPEG", quality=95)
    return plain[:2] + front + plain[2:]


def png_chunk(kind: bytes, content: bytes, *, damaged: bool = False) -> bytes:
    checksum = zlib.crc32(kind + content) ^ damaged
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(*chunks: bytes, image: Image.Image | None = None) -> bytes:
    """A PNG with further chunks behind its header."""
    plain = encoded(image or scene(), "PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def with_exif(exif: bytes, kind: str, image: Image.Image) -> bytes:
    """A JPEG, PNG or WebP with these bytes as its EXIF, whatever they are."""
    if kind == "JPEG":
        return jpeg_with((0xE1, b"Exif\0\0" + exif), image=image)
    if kind == "PNG":
        return png_with(png_chunk(b"eXIf", exif), image=image)
    file = encoded(image, "WEBP", lossless=True, exif=b"Exif\0\0" + bytes(max(1, len(exif))))
    start = file.index(b"EXIF") + 8
    return file[:start] + exif + file[start + len(exif) :]
