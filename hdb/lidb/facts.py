"""What a subject's file says of itself, from its bytes alone: no network's library is loaded for it."""

import hashlib
import json
import zlib
from binascii import a2b_base64
from pathlib import Path

from hdb.files import read_safetensors_header
from hdb.prompts import INSTANCE_PROMPT


def describe_subject(path: Path) -> dict[str, object]:
    """The facts in the header of a subject's file, in rows of a name and a fact.

    Raises:
        ValueError: it is no such file, or damaged or altered.
    """
    tensors, about = read_safetensors_header(path)
    if not is_whole(path, about):
        from hdb.lidb.file import Subject  # only here: it knows what can be wrong, and loads torch

        Subject.load(path)
    layout = json.loads(zlib.decompress(a2b_base64(about["layout"])))
    dtype = {"F16": "float16", "F32": "float32"}[tensors["theta"]["dtype"]]
    return {
        "base": f"{about['base']} ({about['base_digest']})",
        "layout digest": about["layout_digest"],
        "slots": len(layout["slots"]),
        "rank": about["rank"],
        "basis": "free" if layout.get("free") else "lidb",
        "theta": f"{tensors['theta']['shape'][1]} x {dtype}",
        "bytes": path.stat().st_size,
        "created": about["created"],
        "hdb version": about["hdb_version"],
        "scale": about["scale"],
        "source": about["source"] or "-",
        "consent": about["consent"] or "-",
        "prompt": about.get("instance_prompt", INSTANCE_PROMPT),
    }


def is_whole(path: Path, about: dict[str, str]) -> bool:
    """Whether a file has the checksum that it was written with."""
    content = path.read_bytes()
    numbers = content[8 + int.from_bytes(content[:8], "little") :]
    fields = {name: value for name, value in about.items() if name != "checksum"}
    written = hashlib.sha256(json.dumps(fields, sort_keys=True).encode() + numbers).hexdigest()
    return about.get("checksum") == written
