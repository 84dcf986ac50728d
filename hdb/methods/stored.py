"""Files of people that are no theta: a header that says of which kind, for which base, and where they come from."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hdb import __version__
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.files import read_safetensors_header, write_safetensors

FORMAT_VERSION = "1"
THETA = "theta"  # of a subject's file, which is older than this field and lacks it


def kind_of(path: Path) -> str:
    """What a person's file holds, as its header says.

    Raises:
        ValueError: there is no such file, or it is no whole safetensors file.
    """
    return read_safetensors_header(path)[1].get("kind", THETA)


def write_person(
    path: Path, tensors: Mapping[str, Any], *, kind: str, base: StableDiffusion, about: Mapping[str, str]
) -> None:
    """Writes one person's file, whole or not at all.

    Args:
        about: provenance: `source`, `consent`.
    """
    header = {"kind": kind, "format_version": FORMAT_VERSION, "base": base.name, "base_digest": base.digest}
    header |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "hdb_version": __version__}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_safetensors(path, tensors, header | dict(about))


def check_person(path: Path, *, kind: str, base: StableDiffusion, shapes: Mapping[str, Sequence[int]]) -> None:
    """Looks at the header of a person's file, and at no tensor.

    Raises:
        ValueError: it is missing, damaged, of another kind or version, for another base, or holds other tensors.
    """
    tensors, header = read_safetensors_header(path)
    if (found := header.get("kind", THETA)) != kind:
        raise ValueError(f"{path} holds a {found}, expected a {kind}")
    if (version := header.get("format_version")) != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, expected {FORMAT_VERSION}")
    base.check_compatible(header.get("base_digest", ""), name=str(path), base_name=header.get("base", ""))
    if odd := sorted(set(tensors) ^ set(shapes)):
        problem = "has an unknown" if odd[0] in tensors else "lacks the"
        raise ValueError(f"{path} {problem} tensor {odd[0]}, one of {len(odd)}: expected those of the base")
    for name, shape in shapes.items():
        if (given := tensors[name]["shape"]) != list(shape):
            raise ValueError(f"{path}: {name} has shape {given}, expected {list(shape)}")
