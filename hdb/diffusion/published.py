"""Rewrites a pipeline folder in the published names, which every version of diffusers and transformers reads."""

import json
from pathlib import Path

from safetensors import safe_open
from transformers import CLIPTokenizerFast

from hdb.files import write_json, write_safetensors, write_text

PREFIX = "text_model."  # of the text encoder's tensor names; transformers 5 does not write it
PROJECTION = "text_projection."


def publish(folder: Path) -> None:
    """Rewrites text encoders and tokenizers of a folder that `save_pretrained` wrote.

    Older versions of transformers cannot read what transformers 5 writes. Tensors get their published names, and the
    tokenizer is written in both of its forms. The text encoder's config.json says float32, as the other parts are
    loaded by default: a text encoder in half precision beside a float32 UNet could not be used.
    """
    for text_encoder in folder.glob("text_encoder*"):
        publish_text_encoder(text_encoder)
    for tokenizer in folder.glob("tokenizer*"):
        publish_tokenizer(tokenizer)


def publish_text_encoder(folder: Path) -> None:
    """Prefixes tensor names with `text_model.` and sets float32 in config.json. The values stay the same."""
    weights_path = folder / "model.safetensors"
    config_path = folder / "config.json"
    with safe_open(weights_path, framework="pt") as file:
        tensors = {_published_name(name): file.get_tensor(name) for name in file.keys()}
    write_safetensors(weights_path, tensors, {"format": "pt"})
    write_json(config_path, json.loads(config_path.read_text()) | {"dtype": "float32"})


def _published_name(name: str) -> str:
    """The projection of a text encoder that has one lies beside its text model."""
    if name.startswith(PROJECTION):
        return name
    return PREFIX + name.removeprefix(PREFIX)


def publish_tokenizer(folder: Path) -> None:
    """Writes vocab.json and merges.txt from tokenizer.json, which is itself written first if it is missing."""
    tokenizer_path = folder / "tokenizer.json"
    if not tokenizer_path.is_file():
        CLIPTokenizerFast.from_pretrained(folder).backend_tokenizer.save(str(tokenizer_path))
    model = json.loads(tokenizer_path.read_text())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    write_text(folder / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
