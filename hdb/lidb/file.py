"""Subject: one person's theta with its provenance, saved as a safetensors file with metadata."""

import binascii
import hashlib
import json
import math
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hdb import __version__
from hdb.files import read_safetensors_header, write_safetensors
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.prompts import IDENTIFIER, INSTANCE_PROMPT

FORMAT_VERSION = "2"

_MAX_LAYOUT_BYTES = 1 << 20  # of JSON; the layout of Stable Diffusion 1.5 has 15,799
_SAFETENSORS_DTYPES = {torch.float16: "F16", torch.float32: "F32"}
# Absent in older files.
_OPTIONAL_FIELDS = ("instance_prompt", "identifier", "prediction_type", "resolution", "reference_digest")
_PROVENANCE_FIELDS = (
    "base",
    "base_digest",
    "scale",
    "created",
    "hdb_version",
    "consent",
    "source",
    *_OPTIONAL_FIELDS,
)
_DERIVED_FIELDS = ("format_version", "layout", "layout_digest", "a", "b", "rank", "seed", "checksum")


@dataclass(eq=False)
class Subject(Residuals):
    """One person's residuals with their provenance.

    Args:
        theta: (1, p) in float16 or float32, finite.
        layout: The meaning of theta.
        metadata: Provenance as strings, of which any may be left out. `base` and `base_digest`: the model it was made
            for; `scale`: the intended strength, default 1; `created`: ISO time, default now; `hdb_version`; `consent`
            and `source`: free text; `instance_prompt`: the prompt of finetuning, as the text encoder read it;
            `identifier`: what it read for [V]; `prediction_type` and `resolution` (px) of the base.

    Raises:
        ValueError: theta does not fit the layout or is not finite, or the metadata has an unknown field.

    >>> from hdb.lidb.layout import Slot
    >>> layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2),))
    >>> Subject(layout.initial_theta(), layout, {"source": "me.png"}).scale
    1.0
    """

    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.theta.dtype not in _SAFETENSORS_DTYPES:
            raise ValueError(f"theta has dtype {self.theta.dtype}, expected torch.float16 or torch.float32")
        self.layout.check_theta(self.theta, finite=True)
        if len(self.theta) != 1:
            raise ValueError(f"a subject is one person, given a theta of {len(self.theta)}")
        unknown = sorted(set(self.metadata) - set(_PROVENANCE_FIELDS))
        if unknown:
            raise ValueError(f"unknown metadata {', '.join(unknown)}; expected some of {', '.join(_PROVENANCE_FIELDS)}")
        defaults = dict.fromkeys(_PROVENANCE_FIELDS, "") | {
            "scale": "1.0",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "hdb_version": __version__,
            "instance_prompt": INSTANCE_PROMPT,
            "identifier": IDENTIFIER,
        }
        self.metadata = {name: str(self.metadata.get(name, default)) for name, default in defaults.items()}
        _check_provenance(self.metadata)

    @property
    def scale(self) -> float:
        """The strength at which these residuals are meant to be bound."""
        return float(self.metadata["scale"])

    def save(self, path: str | Path) -> Path:
        """Writes the file atomically: an older file of this name survives a failure.

        Raises:
            OSError: It could not be written, for instance because the disk is full.
        """
        theta = self.theta.detach().cpu().contiguous()
        fields = self.metadata | _derived_fields(self.layout)
        return write_safetensors(path, {"theta": theta}, fields | {"checksum": _checksum(theta, fields)})

    def export(self, path: str | Path, *, format: str = "kohya", title: str | None = None, thumbnail: str = "") -> Path:
        """Writes an ordinary LoRA file for other programs; see `hdb.lidb.export.export_lora`.

        Args:
            path: The safetensors file to write.
            format: `kohya`, which ComfyUI, A1111, sd-scripts and diffusers read, or `diffusers`.
            title: As interfaces show it; None is the name of the file.
            thumbnail: A small picture as a data URL.

        Raises:
            ValueError: The format is unknown.
            OSError: It could not be written.
        """
        from hdb.lidb.export import export_lora  # which imports this module

        return export_lora(self, path, format, title=title, thumbnail=thumbnail)

    @classmethod
    def load(cls, path: str | Path) -> "Subject":
        """Reads a file that `save` wrote and checks all of it. Nothing is unpickled.

        Whether it belongs to a base is checked by `StableDiffusion.check_compatible`.

        Raises:
            ValueError: It is not such a file, or is damaged or altered.
        """
        path = Path(path)
        tensors, fields = read_safetensors_header(path)
        _check_header(path, tensors, fields)
        layout = _read_layout(path, fields)
        dtype = tensors["theta"]["dtype"]
        shape = tensors["theta"]["shape"]
        if dtype not in _SAFETENSORS_DTYPES.values() or shape != [1, layout.size]:
            raise ValueError(f"{path}: theta is {dtype} of shape {shape}, expected F16 or F32 of [1, {layout.size}]")
        try:
            with safe_open(path, framework="pt") as file:
                theta = file.get_tensor("theta")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}; expected a safetensors file") from error
        try:
            subject = cls(theta, layout, {name: fields[name] for name in _PROVENANCE_FIELDS if name in fields})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        stored_checksum = fields.pop("checksum")
        checksum = _checksum(theta, fields)
        if checksum != stored_checksum:
            raise ValueError(f"{path} was altered: its content has checksum {checksum}, expected {stored_checksum}")
        return subject


def parse_dtype(name: str) -> torch.dtype:
    """The torch dtype of a subject's file by name, float16 or float32.

    Raises:
        ValueError: It is neither.
    """
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in _SAFETENSORS_DTYPES}
    if name not in dtypes:
        raise ValueError(f"dtype of a subject's file is {name!r}, expected {' or '.join(dtypes)}")
    return dtypes[name]


def _derived_fields(layout: Layout) -> dict[str, str]:
    return {
        "format_version": FORMAT_VERSION,
        "layout": _compress_layout(layout),
        "layout_digest": layout.digest,
        "a": str(max(slot.a for slot in layout.slots)),
        "b": str(max(slot.b for slot in layout.slots)),
        "rank": str(layout.rank),
        "seed": str(layout.seed),
    }


def _compress_layout(layout: Layout) -> str:
    # As plain JSON, the names of 192 slots would add a quarter to the 57,600 bytes of their weights in half precision.
    content = zlib.compress(json.dumps(layout.to_dict()).encode(), 9)
    return binascii.b2a_base64(content, newline=False).decode()


def _decompress_layout(text: str) -> Layout:
    stream = zlib.decompressobj()
    content = stream.decompress(binascii.a2b_base64(text.encode(), strict_mode=True), _MAX_LAYOUT_BYTES)
    if not stream.eof:
        raise ValueError(f"it ends after {len(content)} bytes and is not whole, expected at most {_MAX_LAYOUT_BYTES}")
    layout = json.loads(content)
    if not isinstance(layout, dict):
        raise ValueError(f"it is {type(layout).__name__}, expected names and values")
    return Layout.from_dict(layout)


def _checksum(theta: Tensor, fields: dict[str, str]) -> str:
    content = json.dumps(fields, sort_keys=True).encode() + theta.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def _check_header(path: Path, tensors: dict[str, Any], fields: dict[str, str]) -> None:
    # The version is checked first, because a later format may have other fields and tensors.
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, expected {FORMAT_VERSION}: no subject, or a later one")
    expected = (*_PROVENANCE_FIELDS, *_DERIVED_FIELDS)
    differing = sorted(set(expected) ^ {*fields, *_OPTIONAL_FIELDS})
    if differing:
        problem = "has unknown" if differing[0] in fields else "lacks"
        raise ValueError(f"{path} {problem} metadata {differing[0]}; expected {', '.join(expected)}")
    if set(tensors) != {"theta"}:
        raise ValueError(f"{path} holds the tensors {', '.join(sorted(tensors)) or 'none'}; expected theta alone")


def _check_provenance(metadata: dict[str, str]) -> None:
    try:
        scale = float(metadata["scale"])
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise ValueError(f"scale is {metadata['scale']!r}, expected a finite number")
    try:
        datetime.fromisoformat(metadata["created"])
    except ValueError as error:
        raise ValueError(f"created is {metadata['created']!r}, expected an ISO time") from error


def _read_layout(path: Path, fields: dict[str, str]) -> Layout:
    try:
        layout = _decompress_layout(fields["layout"])
    except (ValueError, zlib.error) as error:  # errors of binascii, JSON and Unicode are ValueErrors
        raise ValueError(f"{path} has a damaged layout: {error}") from error
    for name, expected in _derived_fields(layout).items():
        if name != "layout" and fields[name] != expected:
            raise ValueError(f"{path}: {name} is {fields[name]}, but its layout says {expected}")
    return layout
