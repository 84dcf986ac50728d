"""Pictures as PNG files, labelled grids of them, and thumbnails."""

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
THUMBNAIL_SIZE = 256  # px, the side that ModelSpec recommends


def picture_grid(
    rows: Sequence[Sequence[Float[Tensor, "3 _ _"] | str]], *, columns: Sequence[str] = (), tile: int = 128
) -> Image.Image:
    """A grid of pictures with a label above each column.

    Args:
        rows: Pictures in [0, 1] of any size, or a text in place of one. Rows may differ in length.
        columns: The labels.
        tile: Side of a picture in the grid, in pixels.
    """
    labels = [_wrap_text(label, tile) for label in columns]
    top = LABEL_HEIGHT * max((label.count("\n") + 1 for label in labels), default=0)
    width = tile * max(map(len, rows))
    height = top + tile * len(rows)
    grid = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(grid)
    for column, label in enumerate(labels):
        canvas.multiline_text((column * tile + 3, 1), label, fill="black", spacing=3)
    for row, cells in enumerate(rows):
        y = top + row * tile
        for column, cell in enumerate(cells):
            x = column * tile
            if isinstance(cell, str):
                canvas.multiline_text((x + 3, y + 3), _wrap_text(cell, tile), fill="black", spacing=3)
            else:
                grid.paste(to_pil(cell, size=tile), (x, y))
    return grid


def to_pil(picture: Float[Tensor, "3 h w"], *, size: int | None = None) -> Image.Image:
    """Converts a picture in [0, 1] to an 8-bit RGB image, resized to a square of `size` px if given."""
    if size is not None and picture.shape[-2:] != (size, size):
        picture = F.interpolate(picture[None].float(), (size, size), mode="bicubic", antialias=True)[0]
    pixels = picture.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def save_image(image: Image.Image, path: str | Path, *, description: str | None = None) -> None:
    """Writes a PNG atomically and creates missing folders.

    Args:
        description: Of what it shows, in its metadata.
    """
    content = io.BytesIO()
    metadata = PngInfo()
    metadata.add_text("Software", SOFTWARE)
    if description is not None:
        metadata.add_text("Description", description)
    image.save(content, format="PNG", pnginfo=metadata)
    write_files({Path(path): content.getvalue()})


def preview_path(weights: str | Path) -> Path:
    """The path where ComfyUI, A1111 and others look for a picture of a weights file."""
    return Path(weights).with_suffix(".preview.png")


def thumbnail_data_url(image: Image.Image) -> str:
    """The central square of a picture as a small JPEG in a data URL, as metadata of weights files holds it."""
    content = io.BytesIO()
    square = ImageOps.fit(image.convert("RGB"), (THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    square.save(content, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _wrap_text(text: str, width: int) -> str:
    """Breaks a text into lines of at most `width` px in Pillow's built-in font."""
    font = ImageFont.load_default()
    lines = [""]
    for word in text.split():
        extended = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(extended) > width - 6:
            lines.append(word)
        else:
            lines[-1] = extended
    return "\n".join(lines)
