"""Files of people that hold no theta: a header with the kind of content, the base and the provenance."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from hdb import __version__
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.files import read_safetensors_header, write_safetensors

FORMAT_VERSION = "1"
THETA = "theta"  # the kind of a subject's file, whose header does not name it


def read_kind(path: Path) -> str:
    """The kind of content in a person's file, as its header says.

    Raises:
        ValueError: The file is missing or is no complete safetensors file.
    """
    return read_safetensors_header(path)[1].get("kind", THETA)


def write_person_file(
    path: Path, tensors: Mapping[str, Tensor], *, kind: str, base: StableDiffusion, about: Mapping[str, str]
) -> None:
    """Writes one person's file atomically.

    Args:
        about: Provenance: `source`, `consent`.
    """
    header = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "base": base.name,
        "base_digest": base.digest,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hdb_version": __version__,
        **about,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_safetensors(path, tensors, header)


def check_person_file(path: Path, *, kind: str, base: StableDiffusion, shapes: Mapping[str, Sequence[int]]) -> None:
    """Checks the header of a person's file without reading its tensors.

    Args:
        shapes: Of the expected tensors.

    Raises:
        ValueError: The file is missing, damaged, of another kind or version, for another base, or holds other tensors.
    """
    tensors, header = read_safetensors_header(path)
    found_kind = header.get("kind", THETA)
    if found_kind != kind:
        raise ValueError(f"{path} holds a {found_kind}, expected a {kind}")
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, expected {FORMAT_VERSION}")
    base.check_compatible(header.get("base_digest", ""), name=str(path), base_name=header.get("base", ""))
    different = sorted(set(tensors) ^ set(shapes))
    if different:
        problem = "has an unknown" if different[0] in tensors else "lacks the"
        raise ValueError(f"{path} {problem} tensor {different[0]}, one of {len(different)}: expected those of the base")
    for name, shape in shapes.items():
        found_shape = tensors[name]["shape"]
        if found_shape != list(shape):
            raise ValueError(f"{path}: {name} has shape {found_shape}, expected {list(shape)}")
