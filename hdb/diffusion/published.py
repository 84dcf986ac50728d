"""A pipeline folder in the names that are published: what every version of the libraries opens alike."""

import json
from pathlib import Path

from safetensors import safe_open
from transformers import CLIPTokenizerFast

from hdb.files import write_json, write_safetensors, write_text

PREFIX = "text_model."  # of a text encoder's tensors; transformers 5 leaves it out of what it writes


def publish(folder: Path) -> None:
    """Rewrites text encoder and tokenizer of a folder that `save_pretrained` wrote.

    transformers 5 alone reads what transformers 5 writes. Tensors get the names of published files, the tokenizer both
    its forms, and the precision in config.json is that of the other parts when they are opened without a word: the
    UNet then comes in float32, and a text encoder in half precision beside it could not be drawn from.
    """
    publish_text_encoder(folder / "text_encoder")
    publish_tokenizer(folder / "tokenizer")


def publish_text_encoder(folder: Path) -> None:
    """Puts `text_model.` before the name of each tensor, and float32 into config.json; the numbers stay."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    with safe_open(weights, framework="pt") as file:
        tensors = {PREFIX + name.removeprefix(PREFIX): file.get_tensor(name) for name in file.keys()}
    write_safetensors(weights, tensors, {"format": "pt"})
    write_json(config, json.loads(config.read_text()) | {"dtype": "float32"})


def publish_tokenizer(folder: Path) -> None:
    """Writes vocab.json and merges.txt from tokenizer.json, or that from them."""
    whole = folder / "tokenizer.json"
    if not whole.is_file():
        CLIPTokenizerFast.from_pretrained(folder).backend_tokenizer.save(str(whole))
    model = json.loads(whole.read_text())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    write_text(folder / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
