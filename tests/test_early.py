"""What is missing is said before torch is imported: in a fifth of a second instead of ten."""

import gc
import subprocess
import sys

from experiments.imports import import_quickly

# (command, words, what the sentence must name)
MISSING = [
    ("personalize", ["reference=nobody.jpg"], "nobody.jpg"),
    ("personalize", ["reference=photo.png", "base.path=./nothing"], "./nothing"),
    ("personalize", ["reference=photo.png", "hypernet=nothing"], "nothing/config.json"),
    ("personalize", ["reference=photo.png", "output=me.png"], "me.png"),
    ("generate", ["subject=nobody.safetensors"], "nobody.safetensors"),
    ("export", ["subject=nobody.safetensors", "output=lora.safetensors"], "nobody.safetensors"),
    ("inspect", ["subject=nobody.safetensors"], "nobody.safetensors"),
    ("demo", ["base.path=nothing"], "nothing"),
    ("evaluate", ["hypernet=nothing"], "nothing/config.json"),
    ("gate", ["hypernet=nothing.ckpt"], "nothing.ckpt"),
    ("gate", ["split=test", "foreign=nowhere"], "foreign is nowhere, expected a folder of photos"),
    ("gate", ["foreign=nowhere"], "foreign is nowhere with split=val, which compares no photos: expected split=test"),
    ("prepare", ["source=folders", "root=nowhere", "output=o"], "nowhere"),
    ("pretrain", ["faces.source=flat", "faces.root=nowhere"], "nowhere is no folder"),
    ("pretrain", ["faces.source=lfw", "faces.root=nowhere"], "LFW is missing or damaged in nowhere/lfw-py"),
    ("preoptimize", ["base.path=nothing"], "nothing"),
]
SCRIPT = """
import sys
from importlib import import_module
for command, words, _ in {missing}:
    try:
        import_module("experiments." + command).main(words)
    except ValueError as error:
        print(error, "|", "torch" in sys.modules)
"""


def test_what_is_missing_is_said_before_torch_is_imported(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"")
    script = SCRIPT.format(missing=MISSING)
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    assert len(lines) == len(MISSING), result.stdout
    for (command, _, name), line in zip(MISSING, lines, strict=True):
        assert name in line and line.endswith("| False"), f"{command}: {line}"


def test_garbage_is_collected_again_after_the_imports(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    collected = []
    monkeypatch.setitem(sys.modules, "hdb.pipeline", None)  # an import that fails
    try:
        import_quickly()
    except ImportError:
        collected.append(gc.isenabled())
    assert collected == [True]
