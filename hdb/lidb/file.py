"""The subject's file: one person's theta and where it comes from, as safetensors with metadata."""

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

_LARGEST_LAYOUT = 1 << 20  # bytes of JSON; that of Stable Diffusion 1.5 has 15,799
_DTYPES = {torch.float16: "F16", torch.float32: "F32"}  # as safetensors names them
_SPOKEN = ("instance_prompt", "identifier", "prediction_type", "resolution")  # that the first files lack
_PROVENANCE = ("base", "base_digest", "scale", "created", "hdb_version", "consent", "source", *_SPOKEN)
_DERIVED = ("format_version", "layout", "layout_digest", "a", "b", "rank", "seed", "checksum")


@dataclass(eq=False)
class Subject(Residuals):
    """One person's residuals with their provenance.

    Args:
        theta: (1, p) in float16 or float32, finite.
        layout: What theta means.
        metadata: Free provenance as strings; what is left out is filled in. `base` and `base_digest`: the model it was
            made for; `scale`: the strength meant for use, default 1; `created`: ISO time, default now; `hdb_version`;
            `consent` and `source`: free text; `instance_prompt`: under which the photo was learned, as the text encoder
            read it; `identifier`: what it read for [V]; `prediction_type` and `resolution` in px of the base.

    Raises:
        ValueError: theta does not fit, is not finite, or the metadata has an unknown field.

    >>> from hdb.lidb.layout import Slot
    >>> layout = Layout((Slot("unet.to_q", 8, 8, a=4, b=2),))
    >>> Subject(layout.initial_theta(), layout, {"source": "me.png"}).scale
    1.0
    """

    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.theta.dtype not in _DTYPES:
            raise ValueError(f"theta has dtype {self.theta.dtype}, expected torch.float16 or torch.float32")
        self.layout.check_theta(self.theta, finite=True)
        if len(self.theta) != 1:
            raise ValueError(f"a subject is one person, given a theta of {len(self.theta)}")
        if unknown := sorted(set(self.metadata) - set(_PROVENANCE)):
            raise ValueError(f"unknown metadata {', '.join(unknown)}; expected some of {', '.join(_PROVENANCE)}")
        defaults = dict.fromkeys(_PROVENANCE, "") | {
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
        """The strength with which these weights are meant to be bound."""
        return float(self.metadata["scale"])

    def save(self, path: str | Path) -> Path:
        """Writes the file, whole or not at all; an older file of this name survives a failure.

        Raises:
            OSError: It could not be written, for instance because the disk is full.
        """
        theta = self.theta.detach().cpu().contiguous()
        fields = self.metadata | _derived_fields(self.layout)
        return write_safetensors(path, {"theta": theta}, fields | {"checksum": _checksum(theta, fields)})

    @classmethod
    def load(
        cls, path: str | Path, *, expected_layout: Layout | None = None, expected_base: str | None = None
    ) -> "Subject":
        """Reads a file that `save` wrote and checks every field of it.

        Args:
            path: The file. Only its header is read before it is known to be safetensors; nothing is ever unpickled.
            expected_layout: Layout of the model it is for, if that is known.
            expected_base: `base_digest` of that model.

        Raises:
            ValueError: It is no such file, is damaged or altered, or belongs to another model.
        """
        path = Path(path)
        tensors, fields = read_safetensors_header(path)
        _check_header(path, tensors, fields)
        layout = _read_layout(path, fields)
        dtype, shape = tensors["theta"]["dtype"], tensors["theta"]["shape"]
        if dtype not in _DTYPES.values() or shape != [1, layout.size]:
            raise ValueError(f"{path}: theta is {dtype} of shape {shape}, expected F16 or F32 of [1, {layout.size}]")
        if expected_layout is not None:
            expected_layout.check_digest(layout.digest, name=str(path))
        try:
            with safe_open(path, framework="pt") as file:
                theta = file.get_tensor("theta")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}; expected a safetensors file") from error
        try:
            subject = cls(theta, layout, {name: fields[name] for name in _PROVENANCE if name in fields})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        stored = fields.pop("checksum")
        if (computed := _checksum(theta, fields)) != stored:
            raise ValueError(f"{path} was altered: its content has checksum {computed}, expected {stored}")
        if expected_base is not None:
            subject.check_base(expected_base, name=str(path))
        return subject

    def check_base(self, digest: str, *, name: str) -> None:
        """Raises ValueError if these weights, called `name` in the error, were not made for the base of this digest."""
        base_digest = self.metadata["base_digest"]
        if base_digest != digest:
            raise ValueError(f"{name} belongs to base {base_digest} ({self.metadata['base']}), expected {digest}")


def parse_dtype(name: str) -> torch.dtype:
    """A precision that a subject's file can have: float16 or float32.

    Raises:
        ValueError: It is neither.
    """
    known = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}
    if name not in known:
        raise ValueError(f"dtype of a subject's file is {name!r}, expected {' or '.join(known)}")
    return known[name]


def _derived_fields(layout: Layout) -> dict[str, str]:
    return {
        "format_version": FORMAT_VERSION,
        "layout": _packed(layout),
        "layout_digest": layout.digest,
        "a": str(max(slot.a for slot in layout.slots)),
        "b": str(max(slot.b for slot in layout.slots)),
        "rank": str(layout.rank),
        "seed": str(layout.seed),
    }


def _packed(layout: Layout) -> str:
    # The names of 192 slots as plain JSON would add a quarter to the 57,600 bytes of their weights in half precision.
    return binascii.b2a_base64(zlib.compress(json.dumps(layout.to_dict()).encode(), 9), newline=False).decode()


def _unpacked(text: str) -> Layout:
    stream = zlib.decompressobj()
    content = stream.decompress(binascii.a2b_base64(text.encode(), strict_mode=True), _LARGEST_LAYOUT)
    if not stream.eof:
        raise ValueError(f"it ends after {len(content)} bytes and is not whole, expected at most {_LARGEST_LAYOUT}")
    layout = json.loads(content)
    if not isinstance(layout, dict):
        raise ValueError(f"it is {type(layout).__name__}, expected names and values")
    return Layout.from_dict(layout)


def _checksum(theta: Tensor, fields: dict[str, str]) -> str:
    content = json.dumps(fields, sort_keys=True).encode() + theta.numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def _check_header(path: Path, tensors: dict[str, Any], fields: dict[str, str]) -> None:
    # The version before all others: a later format may well have other fields and tensors.
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, expected {FORMAT_VERSION}: no subject, or a later one")
    if odd := sorted({*_PROVENANCE, *_DERIVED} ^ {*fields, *_SPOKEN}):
        problem = "has unknown" if odd[0] in fields else "lacks"
        raise ValueError(f"{path} {problem} metadata {odd[0]}; expected {', '.join((*_PROVENANCE, *_DERIVED))}")
    if set(tensors) != {"theta"}:
        raise ValueError(f"{path} holds the tensors {', '.join(sorted(tensors)) or 'none'}; expected theta alone")


def _check_provenance(fields: dict[str, str]) -> None:
    try:
        scale = float(fields["scale"])
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise ValueError(f"scale is {fields['scale']!r}, expected a finite number")
    try:
        datetime.fromisoformat(fields["created"])
    except ValueError as error:
        raise ValueError(f"created is {fields['created']!r}, expected an ISO time") from error


def _read_layout(path: Path, fields: dict[str, str]) -> Layout:
    try:
        layout = _unpacked(fields["layout"])
    except (ValueError, zlib.error) as error:  # binascii's, JSON's and Unicode's errors are ValueErrors
        raise ValueError(f"{path} has a damaged layout: {error}") from error
    for name, expected in _derived_fields(layout).items():
        if name != "layout" and fields[name] != expected:
            raise ValueError(f"{path}: {name} is {fields[name]}, but its layout says {expected}")
    return layout
