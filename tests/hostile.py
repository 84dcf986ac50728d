"""Files that are made to crash a command, to hang it, to fill the memory or to run code; each a few lines."""

import binascii
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hdb.lidb.file import Subject

Maker = Callable[[Path], object]


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch hacked",)


def raw(content: bytes) -> Maker:
    return lambda path: path.write_bytes(content)


def headed(header: object, tensors: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def theta(**changes: object) -> bytes:
    """A safetensors file with one tensor, described wrongly."""
    entry = {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]} | changes
    return headed({"theta": entry, "__metadata__": {"format_version": "3"}}, bytes(16))


def altered(change: Callable[[dict[str, str], torch.Tensor], object]) -> Maker:
    """A subject's file with some of its metadata or numbers changed, and with all offsets right."""

    def make(path: Path) -> None:
        good = path.with_name("good.safetensors")
        length = struct.unpack("<Q", good.read_bytes()[:8])[0]
        fields = json.loads(good.read_bytes()[8 : 8 + length])["__metadata__"]
        tensor = load_file(good)["theta"]
        change(fields, tensor)
        save_file({"theta": tensor}, path, metadata=fields)

    return make


def layout(**changes: object) -> Callable[[dict[str, str], torch.Tensor], None]:
    """Changes entries of the layout in a subject's file."""

    def change(fields: dict[str, str], tensor: torch.Tensor) -> None:
        content = json.loads(zlib.decompress(binascii.a2b_base64(fields["layout"])))
        content |= changes
        fields["layout"] = packed(json.dumps(content).encode())

    return change


def packed(content: bytes) -> str:
    return binascii.b2a_base64(zlib.compress(content, 9), newline=False).decode()


def bomb() -> str:
    """A layout of a few hundred kilobytes that decompresses to 256 MB."""
    packer = zlib.compressobj(9)
    content = b"".join(packer.compress(bytes(2**20)) for _ in range(256))
    return binascii.b2a_base64(content + packer.flush(), newline=False).decode()


def in_folder(name: str, content: bytes | Callable[[bytes], bytes]) -> Maker:
    """A copy of the folder `good-hypernet` in which one file is another."""

    def make(path: Path) -> None:
        path.mkdir()
        for file in path.with_name("good-hypernet").iterdir():
            (path / file.name).write_bytes(file.read_bytes())
        before = (path / name).read_bytes()
        (path / name).write_bytes(content(before) if callable(content) else content)

    return make


def changed(**changes: object) -> Callable[[bytes], bytes]:
    """JSON with some entries changed, or left out where they are None."""

    def change(content: bytes) -> bytes:
        after = json.loads(content) | changes
        return json.dumps({name: value for name, value in after.items() if value is not None}).encode()

    return change


def within(name: str, make: Maker) -> Maker:
    """A new folder with one file."""
    return lambda path: (path.mkdir(), make(path / name))


def tensors(**named: torch.Tensor) -> Maker:
    return lambda path: save_file(named, path)


def tar(*files: tuple[str, bytes], cut: int = 0) -> Maker:
    """A tar of these files, without its last bytes."""

    def make(path: Path) -> None:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for name, data in files:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        path.write_bytes(content.getvalue()[: len(content.getvalue()) - cut])

    return make


def png(width: int, height: int) -> bytes:
    """The head of a PNG of that size, without pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def zipped(name: str, content: bytes) -> Maker:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)

    return make


def extra(path: Path) -> None:
    """A subject's file with a tensor beside theta."""
    altered(lambda fields, tensor: None)(path)
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    fields = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    save_file({"theta": torch.zeros(1, 4), "virus": torch.zeros(9)}, path, metadata=fields)


LAUGHS = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9 if n else ['lol'] * 9)}]" for n in range(12))
EVIL = pickle.dumps({"hypernet": Evil(), "state_dict": {}})
SUBJECT, CONFIG, HYPERNET = "inspect subject={}", "inspect {}", "evaluate hypernet={}"
THETAS = "pretrain beta=1 thetas={}"
SHARDS = "pretrain faces.source=shards faces.crop=false faces.target=same faces.root={}"
SPLITS = "preoptimize faces.source=flat faces.root=photos faces.splits={}"
Row = tuple[str, str, Maker, str]

# Name of the file, the command that reads it, the function that makes it, and a pattern of the refusal.
FILES: list[Row] = [
    ("empty.safetensors", SUBJECT, raw(b""), "is no safetensors file"),
    ("byte.safetensors", SUBJECT, raw(b"\x01"), "is no safetensors file"),
    ("huge-header.safetensors", SUBJECT, raw(struct.pack("<Q", 2**63) + b"{}"), "is cut off"),
    ("short.safetensors", SUBJECT, raw(struct.pack("<Q", 99) + b"{}"), "is cut off"),
    ("no-json.safetensors", SUBJECT, raw(headed(b"{nonsense")), "has a damaged header"),
    ("deep.safetensors", SUBJECT, raw(headed(b'{"a":' + b"[" * 200_000)), "has a damaged header"),
    ("list-entry.safetensors", SUBJECT, raw(headed({"theta": [1]})), "has format version None"),
    ("minus.safetensors", SUBJECT, raw(theta(data_offsets=[-16, 0])), "is too long|damaged|lacks|version"),
    ("offsets.safetensors", SUBJECT, raw(theta(data_offsets=[0, 2**60])), "is cut off"),
    ("text-offsets.safetensors", SUBJECT, raw(theta(data_offsets="ab")), "has a damaged header"),
    ("dtype.safetensors", SUBJECT, raw(theta(dtype="F13")), "format version|expected F16 or F32"),
    ("shape.safetensors", SUBJECT, raw(theta(shape=[2**40, 2**40])), "format version|expected F16 or F32"),
    ("numbers.safetensors", SUBJECT, raw(headed({"__metadata__": {"a": 1}})), "damaged header: metadata"),
    ("none.safetensors", SUBJECT, raw(headed({"__metadata__": None})), "has a damaged header"),
    ("bomb.safetensors", SUBJECT, altered(lambda fields, t: fields.update(layout=bomb())), "has a damaged layout"),
    ("wide.safetensors", SUBJECT, altered(layout(seed=7)), "its layout says"),
    ("no-slots.safetensors", SUBJECT, altered(layout(slots=[])), "has a damaged layout|its layout says"),
    ("odd-slots.safetensors", SUBJECT, altered(layout(slots=[{"name": 1}])), "has a damaged layout"),
    ("layout-list.safetensors", SUBJECT, altered(lambda f, t: f.update(layout=packed(b"[1]"))), "has a damaged layout"),
    ("nan.safetensors", SUBJECT, altered(lambda fields, t: t.fill_(float("nan"))), "not finite"),
    ("changed.safetensors", SUBJECT, altered(lambda fields, t: t.add_(1)), "was altered"),
    ("later.safetensors", SUBJECT, altered(lambda f, t: f.update(format_version="99")), "has format version 99"),
    ("scale.safetensors", SUBJECT, altered(lambda f, t: f.update(scale="1e999")), "scale is '1e999'"),
    ("created.safetensors", SUBJECT, altered(lambda f, t: f.update(created="now")), "created is 'now'"),
    ("extra.safetensors", SUBJECT, extra, "expected theta alone"),
    ("pickle.safetensors", SUBJECT, raw(EVIL), "is a pickled checkpoint and was not read"),
    ("zip.safetensors", SUBJECT, zipped("data.pkl", EVIL), "is a pickled checkpoint and was not read"),
    ("folder.safetensors", SUBJECT, lambda path: path.mkdir(), "no file"),
    ("pipe.safetensors", SUBJECT, os.mkfifo, "no file"),
    ("itself.safetensors", SUBJECT, lambda path: path.symlink_to(path.name), "no file|symbolic links"),
    ("laughs.yaml", CONFIG, raw(LAUGHS.encode()), "unknown config key|not readable"),
    ("code.yaml", CONFIG, raw(b"subject: !!python/object/apply:os.system [touch hacked]"), "laughs|not|readable"),
    ("list.yaml", CONFIG, raw(b"- subject"), "must hold keys and values"),
    ("circle.yaml", CONFIG, raw(b"lidb: &a {b: *a}"), "not readable as YAML|lidb"),
    ("deep.yaml", CONFIG, raw(b"lidb: " + b"[" * 50_000), "not readable as YAML"),
    ("garbage.yaml", CONFIG, raw(bytes(range(256))), "not readable as YAML|no text"),
    ("key-list.yaml", CONFIG, raw(b"? [a, b]\n: 1\n"), "not readable as YAML|unknown config key"),
    ("cut", THETAS, within("thetas-00000.safetensors", raw(theta()[:-4])), "no readable shard"),
    ("foreign", THETAS, within("thetas-00000.safetensors", tensors(thetas=torch.zeros(1, 4))), "belongs to layout"),
    ("code", THETAS, within("thetas-00000.safetensors", raw(EVIL)), "no readable shard"),
    ("garbage-shards", SHARDS, within("train-00000.tar", raw(bytes(range(256)) * 40)), "no (train|val)|usable|skipped"),
    ("cut-shards", SHARDS, within("train-00000.tar", tar(("a.png", png(9, 9)), cut=9000)), "no (train|val)|usable"),
    ("big-shards", SHARDS, within("train-00000.tar", tar(("a.png", png(2**30, 2**30)))), "usable|no (train|val)"),
    ("odd-shards", SHARDS, within("train-00000.tar", tar(("../../a.json", b"[1]"))), "usable|no (train|val)"),
    ("config-garbage", HYPERNET, in_folder("config.json", b"\xff\xfe{"), "holds no readable"),
    ("config-list", HYPERNET, in_folder("config.json", b"[]"), "holds no readable|expected"),
    ("config-empty", HYPERNET, in_folder("config.json", b"{}"), "layout"),
    ("config-short", HYPERNET, in_folder("config.json", changed(decoder=None, layout=None)), "not whole"),
    ("config-wide", HYPERNET, in_folder("config.json", changed(iterations=-1)), "iterations"),
    ("weights-cut", HYPERNET, in_folder("model.safetensors", lambda content: content[:-9]), "holds no readable"),
    ("weights-code", HYPERNET, in_folder("model.safetensors", EVIL), "holds no readable"),
    ("code.ckpt", HYPERNET, raw(EVIL), "is no checkpoint of a hypernetwork"),
    ("zip.ckpt", HYPERNET, zipped("archive/data.pkl", EVIL), "is no checkpoint of a hypernetwork"),
    ("empty.ckpt", HYPERNET, raw(b""), "is no checkpoint of a hypernetwork"),
    ("list.ckpt", HYPERNET, lambda path: torch.save([1], path), "is no checkpoint of a hypernetwork"),
    ("other.ckpt", HYPERNET, lambda path: torch.save({"hypernet": 3, "state_dict": 4}, path), "no checkpoint|expected"),
    ("splits-garbage.json", SPLITS, raw(b"{"), "is not readable as JSON"),
    ("splits-deep.json", SPLITS, raw(b"[" * 200_000), "is not readable as JSON"),
    ("splits-odd.json", SPLITS, raw(b'{"train": "ada", "val": 3, "test": null}'), "has no list 'train'"),
    ("splits-twice.json", SPLITS, raw(b'{"train": ["a", "a"], "val": [], "test": []}'), "listed twice"),
]  # fmt: skip


def good_subject(folder: Path, diffusion: Any, layout: Any) -> None:
    """Writes the intact file from which `altered` makes others."""
    Subject(layout.initial_theta(), layout, {"base_digest": diffusion.digest}).save(folder / "good.safetensors")
