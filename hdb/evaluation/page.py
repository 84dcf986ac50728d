"""The report of an evaluation as one page of HTML that needs no other file."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from hdb.evaluation.pictures import Pictures
from hdb.evaluation.tables import Table, all_tables, method_title
from hdb.faces.picture import open_picture

PEOPLE_SHOWN = 4  # with a picture of every method
TILE, QUALITY = 128, 85  # px; of JPEG
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 110em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 } .wide { overflow-x: auto }
td, th { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: left; font-weight: normal }
thead th { border-bottom: 2px solid #888; font-weight: bold } img { max-width: 100% }
.album td, .album th { padding: 1px 3px; font-size: 12px; border: 0 } .album img { width: 96px } .note { color: #666 }
"""


def page(results: Mapping[str, Any], pictures: Pictures, *, plot: bytes, grid: Image.Image) -> str:
    """Tables, the plot, the grid, pictures by every method of some people, protocol and versions.

    Args:
        plot: a PNG.
    """
    people = range(min(PEOPLE_SHOWN, len(pictures.people.names)))
    sections = [
        ("Tables", "".join(map(table, all_tables(results)))),
        ("Likeness against prompt", f'<img alt="face_rec against clip_t" src="{data(plot, "png")}">'),
        ("Ours beside the true answer, where there is one", f'<img alt="grid" src="{jpeg(grid)}">'),
        ("Every method", "".join(album(pictures, list(results["methods"]), person, results) for person in people)),
        ("Protocol", facts(results["protocol"])),
        ("Versions", facts(results.get("versions", {}))),
    ]
    body = "".join(f"<h2>{escape(title)}</h2>{content}" for title, content in sections)
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>Evaluation</h1>{body}</body></html>\n'


def table(of: Table) -> str:
    """One table under its title."""
    head = "".join(f"<th>{escape(column)}</th>" for column in of.columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in of.rows)
    content = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h3>{escape(of.title)}</h3><div class="wide">{content}</div><p class="note">{escape(of.note)}</p>'


def album(pictures: Pictures, methods: Sequence[str], person: int, results: Mapping[str, Any]) -> str:
    """The first picture of one person for every prompt, a row for each method."""
    name = pictures.people.names[person]
    reference = open_picture(pictures.folder / "images" / "reference" / f"{name}.png")
    head = "".join(f"<th>{escape(prompt)}</th>" for prompt in pictures.prompts)
    rows = []
    for method in methods:
        drawn = (pictures.open(method, person, prompt) for prompt in range(len(pictures.prompts)))
        cells = "".join(f'<td><img alt="" src="{jpeg(image, size=TILE)}"></td>' for image in drawn)
        rows.append(f"<tr><th>{escape(method_title(method, results['protocol']))}</th>{cells}</tr>")
    shown = f'<img alt="reference of {escape(name)}" src="{jpeg(reference, size=TILE)}">'
    return f'<div class="wide"><table class="album"><tr><th>{shown}</th>{head}</tr>{"".join(rows)}</table></div>'


def facts(known: Mapping[str, Any]) -> str:
    """Names and values, a row each; of a mapping its own names."""
    rows = []
    for name, value in known.items():
        if isinstance(value, Mapping):
            shown = facts(value)
        else:
            shown = escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))
        rows.append(f"<tr><th>{escape(name)}</th><td>{shown}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def jpeg(image: Image.Image, *, size: int | None = None) -> str:
    """A picture within the page, no larger than `size`."""
    if size is not None and image.width > size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return data(as_jpeg(image, quality=QUALITY), "jpeg")


def as_jpeg(image: Image.Image, *, quality: int) -> bytes:
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=quality)
    return content.getvalue()


def data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
