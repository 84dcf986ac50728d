"""Picture files of every kind are read as upright 8 bit RGB, or refused in one sentence."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from hdb.faces.containers import DamagedError, without_metadata
from hdb.faces.names import in_sentence
from hdb.faces.orientation import ORIENTATION, orientation_in, tiff_orientation

# Brands in the `ftyp` box of an ISO media file that mean HEVC-coded pictures (ISO/IEC 23008-12, annex B).
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# Pillow's names of what is read. It knows more, some by running other programs, and would try them all.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM")
LARGEST_FILE = 1 << 30  # bytes; a file is read whole
# EXIF orientation -> what brings the picture upright
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Why a picture was not used: what sources count. "outside" is the frame around the face, "copy" a picture that is in
# another split, "crashed" whatever nobody thought of.
REASONS = ("unreadable", "no face", "too small", "turned", "outside", "copy", "crashed")


class FaceError(ValueError):
    """A picture that cannot be used; the message is one sentence: what was given, what was expected.

    `reason` is one of `REASONS`.
    """

    def __init__(self, message: str, *, reason: str = "unreadable"):
        super().__init__(message)
        self.reason = reason


class StoredPicture(NamedTuple):
    """A picture file held in memory; one from a shard is called `file` there."""

    name: str
    data: bytes
    file: str = ""


Picture = str | Path | StoredPicture | Image.Image


def open_picture(picture: Picture) -> Image.Image:
    """A picture file or PIL image as upright 8 bit RGB, whatever its mode.

    Of the metadata only the orientation is read, and applied; nothing else in it can keep a picture from being read.
    Transparency becomes white; of an animation the first frame is used, and of several pictures the first.

    Raises:
        FaceError: no such file, not a picture, truncated, HEIC, floating-point values, or too large to be decoded.
    """
    name = name_of(picture)
    if isinstance(picture, (str, Path)):
        refuse_missing(Path(picture), name)
    try:
        if isinstance(picture, Image.Image):
            return from_pil(picture)
        return decode(picture.data if isinstance(picture, StoredPicture) else Path(picture).read_bytes())
    except (FaceError, DamagedError) as error:
        raise FaceError(f"{name} {error}") from None
    except PermissionError:
        raise FaceError(f"{name} may not be read: permission denied") from None
    except UnidentifiedImageError:
        raise FaceError(f"{name} is not a picture; expected JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or JP2") from None
    except Image.DecompressionBombError as error:
        raise FaceError(f"{name} is too large ({error})") from None
    except Exception as error:  # decoders raise whatever comes: struct.error, SyntaxError, OverflowError, MemoryError
        said = " ".join(str(error).split()) or type(error).__name__
        raise FaceError(f"{name} is truncated or damaged ({said}); expected a whole picture") from None


def refuse_missing(path: Path, name: str) -> None:
    """Raises FaceError for what is no file that can be read into memory: nothing is waited for, no device read."""
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:  # a name that is too long, say
        raise FaceError(f"{name} cannot be opened: {error.strerror}") from None
    if size is None:
        given = "is no file" if path.exists() else "no such file"
        raise FaceError(f"{name}: {given}; expected a picture (JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JP2)")
    if size > LARGEST_FILE:
        raise FaceError(f"{name} is too large: {size >> 20} MB; expected at most {LARGEST_FILE >> 20}")


def decode(data: bytes) -> Image.Image:
    """A file's bytes as upright 8 bit RGB."""
    refuse_foreign(data)
    plain = without_metadata(data)
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd tags and large pictures: they are read or not
        image = Image.open(BytesIO(plain.data), formats=[name for name in FORMATS if name in Image.OPEN])
        orientation = plain.orientation or orientation_in(image.info.get("exif", b""))
        image.load()
    return turned(to_rgb(image), orientation)


def from_pil(image: Image.Image) -> Image.Image:
    """A PIL image as upright 8 bit RGB; it may be lazy, and its metadata damaged."""
    image.load()
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow reads every tag
        orientation = tiff_orientation(bytes(image.info.get("exif", b"")).removeprefix(b"Exif\0\0"))
    return turned(to_rgb(image), orientation)


def turned(image: Image.Image, orientation: object) -> Image.Image:
    """Upright, from how EXIF says that it is stored."""
    method = TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def refuse_foreign(data: bytes) -> None:
    """Raises FaceError for what a phone calls HEIC, whatever the file's suffix, and for AVIF with an older Pillow."""
    head = data[:64]
    if head[4:8] != b"ftyp":
        return
    # AVIF may call itself mif1 too
    if b"avif" in head or b"avis" in head:
        if not features.check("avif"):
            raise FaceError("is an AVIF picture, which needs Pillow 11.3 or newer; or save it as JPEG or PNG first")
    elif head[8:12] in HEIC_BRANDS:
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


def crashed(picture: Picture, error: Exception) -> str:
    """The sentence for a picture that brought a library down."""
    said = " ".join(str(error).split())
    return f"{name_of(picture)} cannot be used: {type(error).__name__}{f' ({said})' if said else ''}"


def name_of(picture: Picture) -> str:
    """How messages call a picture: the path it came from, or just "the picture"."""
    if isinstance(picture, StoredPicture):
        return in_sentence(picture.name)
    if isinstance(picture, (str, Path)):
        return in_sentence(str(picture))
    return in_sentence(str(getattr(picture, "filename", ""))) or "the picture"


def to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """8 bit RGB as float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def square(image: Image.Image, *, resolution: int) -> Float[Tensor, "3 r r"]:
    """The largest central square, resized: for pictures that are framed already."""
    return to_tensor(ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS))
