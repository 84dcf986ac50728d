"""The report of an evaluation as one page of HTML without further files."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from hdb.evaluation.pictures import Pictures
from hdb.evaluation.tables import Table, all_tables, method_title

MAX_PEOPLE = 4  # with a picture of every method
TILE = 128  # px
QUALITY = 85  # of JPEG
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 110em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 } .wide { overflow-x: auto }
td, th { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: left; font-weight: normal }
thead th { border-bottom: 2px solid #888; font-weight: bold } img { max-width: 100% }
.album td, .album th { padding: 1px 3px; font-size: 12px; border: 0 } .album img { width: 96px } .note { color: #666 }
"""


def page(results: Mapping[str, Any], pictures: Pictures, *, plot: bytes, grid: Image.Image) -> str:
    """HTML of the tables, the plot, the grid, every method's pictures of some people, protocol and versions.

    Args:
        plot: a PNG.
    """
    people = range(min(MAX_PEOPLE, len(pictures.people.names)))
    albums = [album_html(pictures, list(results["methods"]), person, results["protocol"]) for person in people]
    sections = [
        ("Tables", "".join(table_html(table) for table in all_tables(results))),
        ("Likeness against prompt", f'<img alt="face_rec against clip_t" src="{data_url(plot, "png")}">'),
        ("Ours beside the true answer, where there is one", f'<img alt="grid" src="{jpeg_url(grid)}">'),
        ("Every method", "".join(albums)),
        ("Protocol", facts_html(results["protocol"])),
        ("Versions", facts_html(results.get("versions", {}))),
    ]
    body = "".join(f"<h2>{escape(title)}</h2>{content}" for title, content in sections)
    head = f'<meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>Evaluation</h1>{body}</body></html>\n'


def table_html(table: Table) -> str:
    """A table below its title."""
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    content = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h3>{escape(table.title)}</h3><div class="wide">{content}</div><p class="note">{escape(table.note)}</p>'


def album_html(pictures: Pictures, methods: Sequence[str], person: int, protocol: Mapping[str, Any]) -> str:
    """The first picture of one person for every prompt, a row for each method."""
    name = pictures.people.names[person]
    head = "".join(f"<th>{escape(prompt)}</th>" for prompt in pictures.prompts)
    rows = []
    for method in methods:
        cells = ""
        for prompt in range(len(pictures.prompts)):
            image = pictures.open(method, person, prompt)
            cells += f'<td><img alt="" src="{jpeg_url(image, size=TILE)}"></td>'
        rows.append(f"<tr><th>{escape(method_title(method, protocol))}</th>{cells}</tr>")
    reference = jpeg_url(pictures.open_reference(person), size=TILE)
    photo = f'<img alt="reference of {escape(name)}" src="{reference}">'
    return f'<div class="wide"><table class="album"><tr><th>{photo}</th>{head}</tr>{"".join(rows)}</table></div>'


def facts_html(facts: Mapping[str, Any]) -> str:
    """Names and values, one a row; a value that is a mapping is a table of its own."""
    rows = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            cell = facts_html(value)
        else:
            cell = escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))
        rows.append(f"<tr><th>{escape(name)}</th><td>{cell}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def jpeg_url(image: Image.Image, *, size: int | None = None) -> str:
    """A picture within the page, no larger than `size`."""
    if size is not None and image.width > size:
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    return data_url(as_jpeg(image, quality=QUALITY), "jpeg")


def as_jpeg(image: Image.Image, *, quality: int) -> bytes:
    """The content of a JPEG file."""
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=quality)
    return content.getvalue()


def data_url(content: bytes, kind: str) -> str:
    """An image within the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
