"""Picture files of every kind are read as upright 8 bit RGB, or refused in one sentence."""

import struct
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# Brands in the `ftyp` box of an ISO media file that mean HEVC-coded pictures (ISO/IEC 23008-12, annex B).
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

# Why a picture was refused: what sources count.
REASONS = ("unreadable", "no face", "too small", "turned")


class FaceError(ValueError):
    """A picture that cannot be used; the message is one sentence: what was given, what was expected.

    `reason` is one of `REASONS`.
    """

    def __init__(self, message: str, *, reason: str = "unreadable"):
        super().__init__(message)
        self.reason = reason


class StoredPicture(NamedTuple):
    """A picture file held in memory, from a shard say."""

    name: str
    data: bytes


Picture = str | Path | StoredPicture | Image.Image


def open_picture(picture: Picture) -> Image.Image:
    """A picture file or PIL image as upright 8 bit RGB, whatever its mode.

    EXIF orientation is applied; transparency becomes white; of an animation the first frame is used.

    Raises:
        FaceError: no such file, not a picture, truncated, HEIC, floating-point values, or too large to be decoded.
    """
    name = name_of(picture)
    if isinstance(picture, (str, Path)) and not Path(picture).is_file():
        raise FaceError(f"{name}: no such file; expected a picture (JPEG, PNG, WebP, TIFF, BMP)")
    try:
        if isinstance(picture, Image.Image):
            return to_rgb(ImageOps.exif_transpose(picture))
        with BytesIO(picture.data) if isinstance(picture, StoredPicture) else Path(picture).open("rb") as file:
            refuse_heic(file)
            return to_rgb(ImageOps.exif_transpose(Image.open(file)))
    except FaceError as error:
        raise FaceError(f"{name} {error}") from None
    except PermissionError:
        raise FaceError(f"{name} may not be read: permission denied") from None
    except UnidentifiedImageError:
        raise FaceError(f"{name} is not a picture; expected JPEG, PNG, WebP, TIFF or BMP") from None
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error) as error:  # each format has its own
        raise FaceError(f"{name} is truncated or damaged ({error}); expected a whole picture") from None
    except Image.DecompressionBombError as error:
        raise FaceError(f"{name} is too large ({error})") from None


def refuse_heic(file: BufferedIOBase) -> None:
    """Raises FaceError for what a phone calls HEIC, whatever the file's suffix; leaves the file at its start."""
    head = file.read(64)
    file.seek(0)
    # AVIF may call itself mif1 too, and is a picture that Pillow reads
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head:
        raise FaceError("is a HEIC picture, which is not supported; save it as JPEG or PNG first")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode as 8 bit RGB."""
    if image.mode == "F":
        raise FaceError("has floating-point values of unknown range; expected 8 or 16 bit")
    if image.mode.startswith("I"):  # 16 bit gray is `I;16` or, from older files and versions, 32 bit `I`
        gray = np.clip(np.asarray(image, dtype=np.int64) / 257, 0, 255).round()
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def name_of(picture: Picture) -> str:
    """How messages call a picture: the path it came from, or just "the picture"."""
    if isinstance(picture, StoredPicture):
        return picture.name
    return str(picture) if isinstance(picture, (str, Path)) else str(getattr(picture, "filename", "") or "the picture")


def to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """8 bit RGB as float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def square(image: Image.Image, *, resolution: int) -> Float[Tensor, "3 r r"]:
    """The largest central square, resized: for pictures that are framed already."""
    return to_tensor(ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS))
