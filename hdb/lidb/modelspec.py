"""Metadata of exported files: ModelSpec for user interfaces in general, ss_* for kohya's scripts and A1111.

Source: Stability AI, Model Metadata Standard 1.0.1, https://github.com/Stability-AI/ModelSpec. The ss_* keys are those
of kohya's sd-scripts.
"""

import json

from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.lidb.names import FamilyLayers, find_family
from hdb.prompts import escape_brackets


def family_of_layout(layout: Layout) -> FamilyLayers:
    """The family of the base of a layout, by its components and the width of the text that its denoiser reads."""
    text_widths = [slot.in_features for slot in layout.slots if slot.name.endswith("attn2.to_k")]
    return find_family(layout.components, text_width=next(iter(text_widths), None))


def modelspec_fields(
    subject: Subject, *, title: str, content_hash: str, lora: bool, thumbnail: str = ""
) -> dict[str, str]:
    """The modelspec.* keys of an exported file. Keys whose value is unknown are left out.

    Args:
        title: Shown by user interfaces.
        content_hash: From `hdb.files.content_hash`.
        lora: True for a LoRA, False for a whole model in the original layout with the person merged.
        thumbnail: A small picture as a data URL.
    """
    metadata = subject.metadata
    prompt = metadata["instance_prompt"]
    resolution = metadata["resolution"]
    architectures = family_of_layout(subject.layout).architectures
    architecture = architectures.get(metadata["prediction_type"], architectures["epsilon"])
    usage_hint = f"Write {prompt}, at strength 1"
    if escape_brackets(prompt) != prompt:
        usage_hint += f"; in A1111, where brackets are markup, {escape_brackets(prompt)}"
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture + ("/lora" if lora else ""),
        # The naming scheme of the tensors. kohya's names of a LoRA are those of diffusers with underscores.
        "implementation": "diffusers" if lora else "sgm",
        "title": title,
        "resolution": f"{resolution}x{resolution}" if resolution else "",
        "description": f"One person, learned from one photo for the base {metadata['base']}. A strength of "
        f"{metadata['scale']} is folded into the weights: use them at 1.",
        "date": metadata["created"],
        "hash_sha256": content_hash,
        "trigger_phrase": prompt,
        "usage_hint": usage_hint,
        "prediction_type": {"v_prediction": "v", "epsilon": "epsilon"}.get(metadata["prediction_type"], ""),
        "thumbnail": thumbnail,
    }
    return {f"modelspec.{name}": value for name, value in fields.items() if value}


def kohya_fields(subject: Subject, *, name: str) -> dict[str, str]:
    """The ss_* keys of a LoRA in kohya's format.

    Args:
        name: Of the file, without its suffix. A1111 refers to the LoRA by it.
    """
    metadata = subject.metadata
    rank = subject.layout.rank
    family = family_of_layout(subject.layout)
    base_version = family.base_version
    if metadata["prediction_type"] == "v_prediction":
        base_version += "_v"
    # Captions by training folder, whose name is repeats_name in kohya's scripts.
    tag_frequency = {f"1_{name}": {metadata["instance_prompt"]: 1}}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_base_model_version": base_version,
        "ss_v2": str(family.is_v2),
        "ss_sd_model_name": metadata["base"],
        "ss_output_name": name,
        "ss_num_train_images": "1",
        "ss_tag_frequency": json.dumps(tag_frequency),
    }


def a1111_metadata(subject: Subject) -> dict[str, str | float]:
    """The JSON file that A1111 reads beside a LoRA: the words it inserts into the prompt, and for which models."""
    metadata = subject.metadata
    return {
        "description": f"One person, learned from one photo for the base {metadata['base']}.",
        "sd version": family_of_layout(subject.layout).a1111_version,
        "activation text": escape_brackets(metadata["instance_prompt"]),
        "preferred weight": 1.0,
        "hdb_version": metadata["hdb_version"],
    }


def provenance_fields(subject: Subject) -> dict[str, str]:
    """The subject's metadata, for the header of an exported file.

    `scale` is left out, as it is folded into exported weights, and `reference_digest`, as it would tell others whether
    a photo that they have is the one.
    """
    return {name: value for name, value in subject.metadata.items() if name not in ("scale", "reference_digest")}
