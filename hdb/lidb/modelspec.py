"""What an exported file says of itself: ModelSpec for interfaces of every kind, ss_* for kohya's scripts and A1111.

Source: Stability AI, Model Metadata Standard 1.0.1, https://github.com/Stability-AI/ModelSpec; the ss_* keys and their
values are those of kohya's sd-scripts.
"""

import json

from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.prompts import escape_brackets

V2_WIDTH = 1024  # of the text embeddings that cross-attention reads in Stable Diffusion 2.x; 768 in 1.x


def is_v2(layout: Layout) -> bool:
    """Whether the UNet of a layout reads text embeddings as wide as those of Stable Diffusion 2.x."""
    return any(slot.name.endswith("attn2.to_k") and slot.in_features == V2_WIDTH for slot in layout.slots)


def modelspec(subject: Subject, *, title: str, content_hash: str, lora: bool, thumbnail: str = "") -> dict[str, str]:
    """ModelSpec's keys, without those whose value nobody knows.

    Args:
        content_hash: see `hdb.files.content_hash`.
        lora: a LoRA of a base; else a whole model with the person inside, in the original layout.
        thumbnail: a small picture as a data URL.
    """
    about, is_v = subject.metadata, subject.metadata["prediction_type"] == "v_prediction"
    family = ("stable-diffusion-v2-768-v" if is_v else "stable-diffusion-v2-512") if is_v2(subject.layout) else ""
    prompt = about["instance_prompt"]
    hint = f"Write {prompt}, at strength 1"
    if escape_brackets(prompt) != prompt:
        hint += f"; in A1111, where brackets are markup, {escape_brackets(prompt)}"
    side = about["resolution"]
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": (family or "stable-diffusion-v1") + ("/lora" if lora else ""),
        # Whose names the tensors have; of a LoRA's these are diffusers', written with _.
        "implementation": "diffusers" if lora else "sgm",
        "title": title,
        "resolution": f"{side}x{side}" if side else "",
        "description": f"One person, learned from one photo for the base {about['base']}. A strength of "
        f"{about['scale']} is folded into the weights: use them at 1.",
        "date": about["created"],
        "hash_sha256": content_hash,
        "trigger_phrase": prompt,
        "usage_hint": hint,
        "prediction_type": {"v_prediction": "v", "epsilon": "epsilon"}.get(about["prediction_type"], ""),
        "thumbnail": thumbnail,
    }
    return {f"modelspec.{name}": value for name, value in fields.items() if value}


def kohya_fields(subject: Subject, *, name: str) -> dict[str, str]:
    """The ss_* keys of a LoRA in kohya's format.

    Args:
        name: of the file, without its suffix: A1111 calls the LoRA by it.
    """
    about, rank, v2 = subject.metadata, subject.layout.rank, is_v2(subject.layout)
    version = f"sd_{'v2' if v2 else 'v1'}" + ("_v" if about["prediction_type"] == "v_prediction" else "")
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_base_model_version": version,
        "ss_v2": str(v2),
        "ss_sd_model_name": about["base"],
        "ss_output_name": name,
        "ss_num_train_images": "1",
        "ss_tag_frequency": json.dumps({f"1_{name}": {about["instance_prompt"]: 1}}),  # by folder: repeats_name
    }


def a1111_metadata(subject: Subject) -> dict[str, str | float]:
    """What A1111 reads of a LoRA in the JSON file beside it: what it writes into the prompt, and for which models."""
    about = subject.metadata
    return {
        "description": f"One person, learned from one photo for the base {about['base']}.",
        "sd version": "SD2" if is_v2(subject.layout) else "SD1",
        "activation text": escape_brackets(about["instance_prompt"]),
        "preferred weight": 1.0,
        "hdb_version": about["hdb_version"],
    }


def provenance(subject: Subject) -> dict[str, str]:
    """Where a person comes from; not their strength, which is folded in and to be applied by nobody."""
    return {name: value for name, value in subject.metadata.items() if name != "scale"}
