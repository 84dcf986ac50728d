"""Subject files: exact round trip, and one sentence for every kind of damage."""

import base64
import json
import os
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hdb.files import read_safetensors_header, write_safetensors
from hdb.lidb.file import Subject, parse_dtype
from hdb.lidb.layout import Layout, Slot

LAYOUT = Layout((Slot("unet.to_q", 8, 6, a=4, b=2), Slot("unet.to_k", 8, 6, a=4, b=2)), rank=2, seed=3)
PROVENANCE = {
    "base": "faceworld",
    "base_digest": "ba5e",
    "scale": "0.8",
    "created": "2024-05-17T09:30:00+00:00",
    "hdb_version": "0.1.0",
    "consent": "given in writing; für alle Zwecke",
    "source": "me.png",
    "instance_prompt": "a sks face",
    "identifier": "sks",
    "prediction_type": "epsilon",
    "resolution": "512",
}
OPTIONAL = ("instance_prompt", "identifier", "prediction_type", "resolution")  # the oldest files lack them


def subject(dtype: torch.dtype = torch.float32, layout: Layout = LAYOUT) -> Subject:
    theta = layout.initial_theta() + torch.randn(1, layout.size, generator=torch.Generator().manual_seed(0))
    return Subject(theta.to(dtype), layout, dict(PROVENANCE))


def compress(content: str) -> str:
    """Compresses JSON as the file stores its layout."""
    return base64.b64encode(zlib.compress(content.encode())).decode()


@pytest.fixture
def saved(tmp_path) -> Path:
    return subject().save(tmp_path / "me.safetensors")


def rewrite(path: Path, *, metadata: dict[str, str | None] | None = None, **tensors: torch.Tensor) -> None:
    """Writes the file again with some metadata and tensors changed. None removes a field."""
    _, fields = read_safetensors_header(path)
    fields |= metadata or {}
    save_file(load_file(path) | tensors, path, {name: value for name, value in fields.items() if value is not None})


@pytest.mark.parametrize("layout", [LAYOUT, LAYOUT.as_lora], ids=["lidb", "free"])
@pytest.mark.parametrize("name", ["float16", "float32"])
def test_round_trip_is_exact(tmp_path, name, layout):
    original = subject(parse_dtype(name), layout)
    loaded = Subject.load(original.save(tmp_path / "new" / "me.safetensors"))
    assert str(loaded.theta.dtype) == f"torch.{name}"
    assert torch.equal(loaded.theta, original.theta)
    assert loaded.layout == layout
    assert loaded.metadata == PROVENANCE | {"reference_digest": ""}
    assert loaded.scale == 0.8


def test_metadata_describes_the_layout_and_is_small(saved):
    tensors, fields = read_safetensors_header(saved)
    assert tensors["theta"]["shape"] == [1, LAYOUT.size]
    assert {name: fields[name] for name in ("format_version", "layout_digest", "a", "b", "rank", "seed")} == {
        "format_version": "2",
        "layout_digest": LAYOUT.digest,
        "a": "4",
        "b": "2",
        "rank": "2",
        "seed": "3",
    }
    content = json.loads(zlib.decompress(base64.b64decode(fields["layout"])))
    assert Layout.from_dict(content) == LAYOUT
    assert saved.stat().st_size < LAYOUT.size * 4 + 2048


def test_metadata_adds_less_than_three_percent_to_half_precision_weights_of_stable_diffusion_15(tmp_path, sd15_layout):
    sizes = {}
    for name in ("float16", "float32"):
        path = Subject(sd15_layout.initial_theta().to(parse_dtype(name)), sd15_layout, PROVENANCE).save(tmp_path / name)
        sizes[name] = path.stat().st_size
        assert Subject.load(path).layout == sd15_layout
    assert 57_600 < sizes["float16"] < 59_300
    assert 115_200 < sizes["float32"] < 116_900


def test_an_unsupported_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype of a subject's file is 'bfloat16', expected float16 or float32"):
        parse_dtype("bfloat16")


def test_missing_metadata_gets_defaults():
    filled = Subject(LAYOUT.initial_theta(), LAYOUT, {"source": "me.png"})
    assert filled.scale == 1.0
    assert filled.metadata["created"].endswith("+00:00")
    assert filled.metadata["consent"] == ""


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", "1", "has format version 1, expected 2"),
        ("layout_digest", "beef", f"layout_digest is beef, but its layout says {LAYOUT.digest}"),
        ("a", "5", "a is 5, but its layout says 4"),
        ("b", "3", "b is 3, but its layout says 2"),
        ("rank", "1", "rank is 1, but its layout says 2"),
        ("seed", "4", "seed is 4, but its layout says 3"),
        ("layout", "{", "damaged layout"),
        ("layout", compress("{"), "damaged layout"),
        ("layout", compress("[" * 2_000_000), "damaged layout: it ends after 1048576 bytes .*expected at most 1048576"),
        ("layout", compress("{}")[:-8], "damaged layout"),
        ("layout", compress("{}"), "damaged layout: .*'slots'.*expected rank, seed and slots"),
        ("layout", compress(json.dumps(replace(LAYOUT, seed=4).to_dict())), "layout_digest is .*, but its layout says"),
        ("scale", "much", "scale is 'much', expected a finite number"),
        ("scale", "nan", "scale is 'nan', expected a finite number"),
        ("created", "yesterday", "created is 'yesterday', expected an ISO time"),
        ("scale", "0.9", "was altered: its content has checksum [0-9a-f]{64}, expected [0-9a-f]{64}"),
        ("base", "other", "was altered"),
        ("base_digest", "0ther", "was altered"),
        ("consent", "none", "was altered"),
        ("checksum", "0", "was altered: .* expected 0$"),
        ("favorite_color", "blue", "has unknown metadata favorite_color; expected base, base_digest"),
        *(
            (name, None, f"lacks metadata {name}; expected")
            for name in (*sorted(set(PROVENANCE) - set(OPTIONAL)), "layout", "layout_digest", "rank")
        ),
        *((name, None, "was altered") for name in OPTIONAL),
        ("format_version", None, "has format version None, expected 2"),
    ],
)
def test_altered_metadata_is_refused_with_both_values(saved, field, value, message):
    rewrite(saved, metadata={field: value})
    with pytest.raises(ValueError, match=message):
        Subject.load(saved)


def test_altered_theta_is_refused(saved):
    theta = load_file(saved)["theta"]
    theta[0, 5] += 1
    rewrite(saved, theta=theta)
    with pytest.raises(ValueError, match="was altered: its content has checksum"):
        Subject.load(saved)


def test_theta_that_is_not_finite_is_refused(saved):
    theta = load_file(saved)["theta"]
    theta[0, 5] = float("nan")
    rewrite(saved, theta=theta)
    with pytest.raises(ValueError, match="me.safetensors: theta has 1 values of 24 that are not finite, expected 0"):
        Subject.load(saved)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"theta": torch.zeros(1, 23)}, r"F32 of shape \[1, 23\], expected F16 or F32 of \[1, 24\]"),
        ({"theta": torch.zeros(24)}, r"F32 of shape \[24\], expected F16 or F32 of \[1, 24\]"),
        ({"theta": torch.zeros(2, 24)}, r"F32 of shape \[2, 24\], expected F16 or F32 of \[1, 24\]"),
        ({"theta": torch.zeros(1, 24, dtype=torch.bfloat16)}, "theta is BF16 of shape .*, expected F16 or F32"),
        ({"theta": torch.zeros(1, 24, dtype=torch.int64)}, "theta is I64 of shape .*, expected F16 or F32"),
        ({"extra": torch.zeros(3)}, "holds the tensors extra, theta; expected theta alone"),
    ],
)
def test_other_tensors_are_refused(saved, tensors, message):
    rewrite(saved, **tensors)
    with pytest.raises(ValueError, match=message):
        Subject.load(saved)


def test_file_without_theta_is_refused(saved):
    _, fields = read_safetensors_header(saved)
    save_file({"thetas": torch.zeros(1, 24)}, saved, fields)
    with pytest.raises(ValueError, match="holds the tensors thetas; expected theta alone"):
        Subject.load(saved)


def test_a_truncated_file_is_refused_with_both_lengths(saved):
    content = saved.read_bytes()
    for length, message in (
        (len(content) - 1, f"is cut off: it has {len(content) - 1} bytes, expected {len(content)}"),
        (200, "is cut off: it has 200 bytes, expected [0-9]+ and more"),
        (5, "is no safetensors file"),
        (0, "is no safetensors file"),
    ):
        saved.write_bytes(content[:length])
        with pytest.raises(ValueError, match=message):
            Subject.load(saved)


def test_no_byte_of_the_file_can_change_unnoticed(saved):
    content = saved.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        saved.write_bytes(changed)
        with pytest.raises(ValueError, match="me.safetensors"):
            Subject.load(saved)


def test_file_with_something_appended_is_refused_with_both_lengths(saved):
    content = saved.read_bytes()
    saved.write_bytes(content + b"12")
    with pytest.raises(ValueError, match=f"is too long: it has {len(content) + 2} bytes, expected {len(content)}"):
        Subject.load(saved)


@pytest.mark.parametrize(
    "header",
    [
        b"{nonsense",
        b'{"theta": 5}',
        b'{"theta": {"dtype": "F32", "shape": [1]}}',
        b'{"__metadata__": {"scale": 1}}',
        b'{"__metadata__": []}',
    ],
)
def test_damaged_header_is_refused(tmp_path, header):
    path = tmp_path / "me.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="has a damaged header: .*; expected a safetensors file"):
        Subject.load(path)


class _Exploding:
    def __reduce__(self):
        return os.mkdir, (str(Path.cwd() / "exploded"),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_checkpoint_is_refused_without_being_loaded(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "me.safetensors"
    torch.save({"theta": torch.zeros(1, 24), "code": _Exploding()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="is a pickled checkpoint and was not read; expected a safetensors file"):
        Subject.load(path)
    assert not (tmp_path / "exploded").exists()


def test_missing_file_and_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path / "nobody.safetensors", tmp_path):
        with pytest.raises(ValueError, match=f"no file {path}; expected a safetensors file"):
            Subject.load(path)


def test_a_subject_with_invalid_contents_is_refused():
    theta = LAYOUT.initial_theta()
    with pytest.raises(ValueError, match="one person, given a theta of 2"):
        Subject(theta.repeat(2, 1), LAYOUT)
    with pytest.raises(ValueError, match="not finite"):
        Subject(theta / 0, LAYOUT)
    with pytest.raises(ValueError, match=r"\(1, 23\), expected \(n, 24\)"):
        Subject(theta[:, 1:], LAYOUT)
    with pytest.raises(ValueError, match="dtype torch.float64, expected torch.float16 or torch.float32"):
        Subject(theta.double(), LAYOUT)
    with pytest.raises(ValueError, match="unknown metadata name; expected some of base, base_digest"):
        Subject(theta, LAYOUT, {"name": "Ann"})
    with pytest.raises(ValueError, match="not finite"):
        Subject((1e6 * theta).half(), LAYOUT)


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(saved, monkeypatch):
    before = saved.read_bytes()

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"could not save \d+ bytes to .*me.safetensors: No space left on device"):
        Subject(LAYOUT.initial_theta(), LAYOUT).save(saved)
    assert [path.name for path in saved.parent.iterdir()] == ["me.safetensors"]
    assert saved.read_bytes() == before


def test_interrupted_saving_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        subject().save(tmp_path / "me.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_full_device_is_one_sentence():
    with pytest.raises(OSError, match=r"could not save \d+ bytes to /dev/full/me.safetensors: .*nothing was written"):
        write_safetensors("/dev/full/me.safetensors", {"theta": torch.zeros(3)}, {})
