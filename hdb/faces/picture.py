"""The one reader of pictures: any file becomes upright 8 bit RGB in sRGB, or is refused in one sentence.

Pillow decodes, turns and converts colors. What it cannot do is done here:
    - JPEGs above its bound on pixels, which it refuses unseen,
    - uncompressed 16 bit TIFFs with a plane for each color, which it reads as noise,
    - gray of 12 or 16 bits, which it cuts off at 255, and as a negative if white is 0,
and in `hdb.faces.damaged`: whole pictures beside damaged metadata.
"""

import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin, features
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from hdb.faces.damaged import find_orientation, without_metadata
from hdb.faces.formats import CAMERA_RAW, is_avif, unsupported_format
from hdb.faces.names import printable
from hdb.faces.photo_files import FaceError, refuse_missing

# Pillow's names of the formats that are read. It knows more, and runs other programs for some.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "AVIF", "JPEG2000", "PPM")
EXPECTED = "expected JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or JP2"
LARGEST = 178_956_970  # pixels; Pillow's own bound
LARGEST_JPEG = 1 << 28  # pixels of a JPEG: phones make 200 megapixels
HALVED_ABOVE = 1 << 26  # pixels; larger pictures are read at half their width and height

# Missing in Pillow's table, which has the little-endian kin: 16 bit gray with white as 0.
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))


class StoredPicture(NamedTuple):
    """A picture file held in memory; one from a shard is called `file` there.

    `side` is that of a crop in pixels of its photo, before it was resized, where the shard says it.
    """

    name: str
    data: bytes
    file: str = ""
    side: int | None = None


Picture = str | Path | StoredPicture | Image.Image


def open_picture(picture: Picture, *, remarks: list[str] | None = None) -> Image.Image:
    """Reads a picture file or PIL image, whatever its mode, as upright 8 bit RGB in sRGB.

    Transparency becomes white. Of an animation the first frame is used, and of several pictures the first. Pictures of
    more than 67 megapixels come at half their width and height.

    Warns where a damaged orientation or color profile is ignored, and where damaged metadata is left out.

    Args:
        remarks: gets the warnings, which are shown as Python shows them if this is None. Python's filters belong to
            all threads, so a server collects warnings here.

    Raises:
        FaceError: no such file, not a picture, truncated, of a format that is not supported, floating-point values, or
            more than 178 megapixels (268 in a JPEG).
    """
    name = picture_name(picture)
    if isinstance(picture, (str, Path)):
        refuse_missing(Path(picture), name)
    problems: list[str] = []
    try:
        with _without_warnings_of_pillow():
            if isinstance(picture, (str, Path)):
                image = decode(Path(picture).read_bytes(), problems)
            elif isinstance(picture, StoredPicture):
                image = decode(picture.data, problems)
            else:
                image = to_upright_rgb(picture, problems)
    except FaceError as error:
        raise FaceError(f"{name} {error}") from None
    except PermissionError:
        raise FaceError(f"{name} may not be read: permission denied") from None
    except Exception as error:  # decoders raise whatever comes: struct.error, SyntaxError, OverflowError, MemoryError
        raise FaceError(f"{name} is truncated or damaged ({one_line(error)}); expected a whole picture") from None
    for problem in problems:
        warn_or_collect(f"{name}: {problem}", remarks)
    return image


def warn_or_collect(message: str, remarks: list[str] | None) -> None:
    """Adds a message to the remarks, or warns of it if they are None."""
    if remarks is None:
        warnings.warn(message, stacklevel=3)
    else:
        remarks.append(message)


def decode(data: bytes, remarks: list[str]) -> Image.Image:
    """A file's bytes as upright RGB; what a user should know is added to `remarks`."""
    kind = unsupported_format(data)
    if kind:
        raise FaceError(f"is {kind}, which is not supported; save it as JPEG or PNG first")
    if is_avif(data) and not features.check("avif"):
        raise FaceError("is an AVIF picture, which needs Pillow 11.3 or newer; or save it as JPEG or PNG first")
    kind = pillow_format(data)
    try:
        image = open_lazily(data, kind)
        if kind == "PNG":
            open_lazily(data, kind).verify()  # Pillow does not compare the checksums of pixels otherwise
        load(image)
    except FaceError:
        raise
    except Exception as error:
        try:
            image = open_lazily(without_metadata(data), kind)
            load(image)
        except Exception:
            problem = f"is a {kind} picture that is truncated or damaged, or of a kind that is not read"
            expected = "expected a whole picture, or save it as JPEG or PNG first"
            raise FaceError(f"{problem} ({one_line(error)}); {expected}") from None
        remarks.append("its metadata is damaged and was left out")
    return to_upright_rgb(image, remarks)


@contextmanager
def _without_warnings_of_pillow() -> Iterator[None]:
    """Hides Pillow's warnings of odd tags, as a picture is read or refused.

    In the main thread alone: filters belong to all threads, and two that restore them could leave them changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def pillow_format(data: bytes) -> str:
    """Pillow's name of a file's format; raises FaceError if it is none of those that are read."""
    Image.init()
    head = data[:16].ljust(16, b"\0")
    for name in FORMATS:
        if name in Image.OPEN and Image.OPEN[name][1](head) is True:
            return name
    raise FaceError(f"is not a picture; {EXPECTED}")


def open_lazily(data: bytes, kind: str) -> Image.Image:
    """Reads the header of a picture file with Pillow.

    Not by Image.open: it refuses large pictures before a smaller size can be asked for, and hides why it refuses.
    """
    return Image.OPEN[kind][0](BytesIO(data), "")


def load(image: Image.Image) -> None:
    """Decodes the pixels, of large JPEGs at half their width and height; nothing is done for an image in memory."""
    width, height = image.size
    is_jpeg = isinstance(image, JpegImageFile)
    bound = LARGEST_JPEG if is_jpeg else LARGEST
    if width * height > bound:
        raise FaceError(f"is {width}x{height} px large; expected at most {bound // 10**6} megapixels")
    if is_jpeg and width * height > HALVED_ABOVE:
        image.draft(None, (width // 2, height // 2))
    if isinstance(image, TiffImageFile):
        prepare_tiff(image)
    image.load()


def prepare_tiff(image: TiffImageFile) -> None:
    """Raises FaceError for a raw picture, of which Pillow reads a preview; corrects the layout of 16 bit planes."""
    tags = image.tag_v2
    if 50706 in tags or tags.get(254) == 1:  # DNGVersion; NewSubfileType of a reduced picture
        raise FaceError(f"is {CAMERA_RAW}, of which only a small preview could be read; save it as JPEG or PNG first")
    is_planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    if is_planar and set(tags.get(TiffImagePlugin.BITSPERSAMPLE, ())) == {16}:
        # Pillow reads an uncompressed plane as "R", 8 bit. "R;16L" and "R;16B" are its names for 16 bit.
        depth = ";16L" if tags.prefix.startswith(TiffImagePlugin.II) else ";16B"
        image.tile = [
            tile._replace(args=(tile.args[0] + depth, *tile.args[1:])) if tile.codec_name == "raw" else tile
            for tile in image.tile
        ]


def to_upright_rgb(image: Image.Image, remarks: list[str]) -> Image.Image:
    """A PIL image as upright 8 bit RGB in sRGB, without metadata."""
    load(image)
    orientation = read_orientation(image, remarks)
    has_profile = "icc_profile" in image.info
    profile = image.info.get("icc_profile") or b""  # None where Pillow could not put it together
    image = to_8_bit(image)
    if image.width * image.height > HALVED_ABOVE:
        image = image.reduce(2)
    if image.mode == "LAB":
        image = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb_profile(), outputMode="RGB")
    elif has_profile:
        try:
            image = apply_profile(image, profile)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            remarks.append("its color profile is damaged, or is one for other colors, and is ignored")
    image = image.convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.info = {"exif": exif.tobytes()}  # nothing else: exif_transpose raises for damaged tags
    ImageOps.exif_transpose(image, in_place=True)
    image.info = {}  # read again, it is not turned or converted again
    return image


def read_orientation(image: Image.Image, remarks: list[str]) -> int:
    """The orientation in which a picture is stored, 1 to 8 as in EXIF; 1 is upright."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow reads every entry, and some damaged ones raise
        orientation = None
    exif = image.info.get("exif")
    if orientation is None and exif:
        try:
            orientation = find_orientation(exif)
        except ValueError:
            remarks.append("its EXIF data is damaged: it is used as it is stored, and not turned")
    if orientation is None:
        return 1
    if orientation not in range(1, 9):
        remarks.append(f"its orientation is {orientation!r}, expected 1 to 8: it is used as it is stored")
        return 1
    return orientation


def to_8_bit(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as 8 bit L, RGB, CMYK or LAB; transparency becomes white."""
    if image.mode == "F":
        raise FaceError("has floating-point values of unknown range; expected 8 or 16 bit")
    if image.mode.startswith("I"):
        return deep_gray_to_8_bit(image)
    if image.has_transparency_data:
        is_gray = image.mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return over_white.convert("L" if is_gray else "RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")


def deep_gray_to_8_bit(image: Image.Image) -> Image.Image:
    """Gray of 12 or 16 bits (`I;16`; from older files and versions 32 bit `I` of the same range) as 8 bit gray."""
    tags = getattr(image, "tag_v2", {})
    highest = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
    values = np.asarray(image, dtype=np.float32) * (255 / highest)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is 0
        values = 255 - values
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts 8 bit colors from an ICC profile to sRGB.

    Raises:
        ImageCms.PyCMSError: the profile is damaged, or for other colors than those of the image.
    """
    if image.mode == "L" and profile[16:20] == b"RGB ":  # the profile's color space; programs write it beside gray
        image = image.convert("RGB")
    transform = srgb_transform(profile, image.mode)
    return image if transform is None else ImageCms.applyTransform(image, transform)


@lru_cache(maxsize=8)
def srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None if it changes no color by more than 1 of 255.

    Most profiles are those of sRGB itself, under many names. Building a transform takes longer than reading a picture.
    """
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    transform = ImageCms.buildTransform(source, srgb_profile(), mode, "RGB")
    if mode == "CMYK":  # has no sRGB values to compare with
        return transform
    levels = np.linspace(0, 255, 18, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 18, 3)
    colors = Image.fromarray(grid).convert(mode)
    converted = ImageCms.applyTransform(colors, transform)
    change = np.abs(np.asarray(converted, dtype=int) - np.asarray(colors.convert("RGB"), dtype=int))
    return transform if change.max() > 1 else None


@lru_cache(maxsize=1)
def srgb_profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def crash_message(picture: Picture, error: Exception) -> str:
    """The sentence for a picture at which a library raised an error of its own."""
    name = type(error).__name__
    reason = one_line(error)
    return f"{picture_name(picture)} cannot be used: {name if reason == name else f'{name} ({reason})'}"


def one_line(error: Exception) -> str:
    """The message of an error, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def picture_name(picture: Picture) -> str:
    """How messages call a picture: the path it came from, or just "the picture"."""
    if isinstance(picture, StoredPicture):
        return printable(picture.name)
    if isinstance(picture, (str, Path)):
        return printable(str(picture)) or "''"
    return printable(str(getattr(picture, "filename", ""))) or "the picture"


def to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """8 bit RGB as float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A square with a face, resized.

    Args:
        side: In pixels of the photo that it was cut from. Below the resolution it was enlarged.
    """

    pixels: Float[Tensor, "3 r r"]
    side: int


def center_square(image: Image.Image, *, resolution: int) -> Float[Tensor, "3 r r"]:
    """The largest central square, resized; for pictures that are face crops already."""
    return to_tensor(ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS))


def digest_photos(photos: Sequence[Picture | FaceCrop | Tensor], *, face: int | None = None) -> str:
    """16 hex digits that tell references apart: of their pixels, and of which face is chosen in them.

    Raises:
        FaceError: a photo cannot be read.
    """
    digest = hashlib.sha256(f"face {face or 1}".encode())
    for photo in photos:
        photo = photo.pixels if isinstance(photo, FaceCrop) else photo
        if isinstance(photo, Tensor):
            pixels = photo.detach().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        else:
            pixels = np.asarray(open_picture(photo))
        height, width = pixels.shape[:2]
        digest.update(f"{(width, height)}".encode())
        digest.update(pixels.tobytes())
    return digest.hexdigest()[:16]
