"""Describes a subject's file, or what was exported from one, without torch: `hdb inspect` answers quickly."""

import hashlib
import json
import zlib
from binascii import a2b_base64
from pathlib import Path
from typing import Any

from hdb.files import read_safetensors_header
from hdb.prompts import INSTANCE_PROMPT

# What the names of an exported file's tensors end in.
EXPORTS = {
    ".lora_down.weight": "an exported LoRA, kohya's format",
    ".lora.down.weight": "an exported LoRA, diffusers' format",
    ".lora_linear_layer.down.weight": "an exported LoRA, diffusers' format",
}


def describe_subject(path: Path) -> dict[str, object]:
    """What the header of a subject's file, or of an export of one, says, as rows of a table.

    Raises:
        ValueError: It is not such a file, or damaged or altered.
    """
    tensors, metadata = read_safetensors_header(path)
    if "theta" not in tensors and "hdb_version" in metadata:
        return _describe_export(path, tensors, metadata)
    if not _has_valid_checksum(path, metadata):
        from hdb.lidb.file import Subject  # loads torch, which takes seconds

        Subject.load(path)  # raises the error that says what is wrong
    layout = json.loads(zlib.decompress(a2b_base64(metadata["layout"])))
    dtype = {"F16": "float16", "F32": "float32"}[tensors["theta"]["dtype"]]
    return {
        "base": f"{metadata['base']} ({metadata['base_digest']})",
        "layout digest": metadata["layout_digest"],
        "slots": len(layout["slots"]),
        "rank": metadata["rank"],
        "basis": "free" if layout.get("free") else "lidb",
        "theta": f"{tensors['theta']['shape'][1]} x {dtype}",
        "bytes": path.stat().st_size,
        "created": metadata["created"],
        "hdb version": metadata["hdb_version"],
        "scale": metadata["scale"],
        "source": metadata["source"] or "-",
        "consent": metadata["consent"] or "-",
        "prompt": metadata.get("instance_prompt", INSTANCE_PROMPT),
    }


def _describe_export(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> dict[str, object]:
    kinds = [kind for ending, kind in EXPORTS.items() if any(name.endswith(ending) for name in tensors)]
    shapes = [tensors[name]["shape"] for name in tensors if name.endswith(tuple(EXPORTS))]
    sizes = {"layers": len(shapes), "rank": max(shape[0] for shape in shapes)} if shapes else {"tensors": len(tensors)}
    return {
        "kind": kinds[0] if kinds else "an exported checkpoint, the person merged into it",
        "base": f"{metadata['base']} ({metadata['base_digest']})",
        **sizes,
        "bytes": path.stat().st_size,
        "created": metadata["created"],
        "hdb version": metadata["hdb_version"],
        "scale": "folded in: use it at strength 1",
        "source": metadata["source"] or "-",
        "consent": metadata["consent"] or "-",
        "prompt": metadata.get("instance_prompt", INSTANCE_PROMPT),
    }


def _has_valid_checksum(path: Path, metadata: dict[str, str]) -> bool:
    content = path.read_bytes()
    header_length = int.from_bytes(content[:8], "little")
    theta_bytes = content[8 + header_length :]
    fields = {name: value for name, value in metadata.items() if name != "checksum"}
    checksum = hashlib.sha256(json.dumps(fields, sort_keys=True).encode() + theta_bytes).hexdigest()
    return metadata.get("checksum") == checksum
