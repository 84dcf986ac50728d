"""Pictures as 8 bit files, and the sheet that shows many of them."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from hdb.files import SOFTWARE, write_files

LABEL_HEIGHT = 14  # px, one line of Pillow's built-in font
THUMBNAIL = 256  # px, the side that ModelSpec recommends


def picture_grid(
    rows: Sequence[Sequence[Float[Tensor, "3 _ _"] | str]], *, columns: Sequence[str] = (), tile: int = 128
) -> Image.Image:
    """A sheet of pictures, one row per person, with the name of each column above it.

    Args:
        rows: pictures in [0, 1] of any size, or words in the place of one; rows may differ in length.
        tile: side of a picture on the sheet, in pixels.
    """
    names = [_wrapped(name, tile) for name in columns]
    top = LABEL_HEIGHT * max((name.count("\n") + 1 for name in names), default=0)
    sheet = Image.new("RGB", (tile * max(map(len, rows)), top + tile * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        draw.multiline_text((column * tile + 3, 1), name, fill="black", spacing=3)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            if isinstance(cell, str):
                draw.multiline_text((x * tile + 3, top + y * tile + 3), _wrapped(cell, tile), fill="black", spacing=3)
            else:
                sheet.paste(to_pil(cell, size=tile), (x * tile, top + y * tile))
    return sheet


def to_pil(picture: Float[Tensor, "3 h w"], *, size: int | None = None) -> Image.Image:
    """A picture in [0, 1] as 8 bit RGB, resized to a square of `size` px if given."""
    if size is not None and picture.shape[-2:] != (size, size):
        picture = F.interpolate(picture[None].float(), (size, size), mode="bicubic", antialias=True)[0]
    pixels = picture.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def save_image(image: Image.Image, path: str | Path) -> None:
    """Writes a whole PNG or none; missing folders are made."""
    content, about = io.BytesIO(), PngInfo()
    about.add_text("Software", SOFTWARE)
    image.save(content, format="PNG", pnginfo=about)
    write_files({Path(path): content.getvalue()})


def preview_path(weights: str | Path) -> Path:
    """Where ComfyUI, A1111 and others look for the picture that they show for a file of weights."""
    return Path(weights).with_suffix(".preview.png")


def thumbnail_data_url(image: Image.Image) -> str:
    """The middle square of a picture as a small JPEG in a data URL, as files of weights carry it."""
    content = io.BytesIO()
    ImageOps.fit(image.convert("RGB"), (THUMBNAIL, THUMBNAIL)).save(content, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _wrapped(text: str, width: int) -> str:
    font, lines = ImageFont.load_default(), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 6:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
