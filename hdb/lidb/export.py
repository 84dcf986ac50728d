"""Exports a subject as an ordinary LoRA that diffusers, ComfyUI and A1111 load."""

from pathlib import Path

import torch
from torch import Tensor

from hdb.files import content_hash, write_safetensors
from hdb.lidb.file import Subject
from hdb.lidb.modelspec import family_of_layout, kohya_fields, modelspec_fields, provenance_fields
from hdb.lidb.names import diffusers_keys, kohya_layer_names
from hdb.lidb.residuals import Residuals

# LoRA formats and the programs that read them.
LORA_FORMATS = {
    "kohya": "ComfyUI, A1111, kohya's scripts and diffusers read it",
    "diffusers": "diffusers alone reads it: ComfyUI would apply a part of the layers and A1111 none, without a word",
}


@torch.no_grad()
def to_lora_state_dict(residuals: Residuals, format: str = "kohya", *, scale: float = 1.0) -> dict[str, Tensor]:
    """The state dict of a LoRA that adds the same residuals as `LiDB.bind(residuals, scale=scale)`.

        lora_down = down · down_aux (r, in)        lora_up = scale · up_aux · up (out, r)

    | format | UNet | text encoder |
    |---|---|---|
    | diffusers | `unet.<path>.lora.down.weight` | `text_encoder.<path>.lora_linear_layer.down.weight` |
    | kohya | `lora_unet_<path>.lora_down.weight` | `lora_te_<path>.lora_down.weight` |
    | kohya, Stable Diffusion XL | the same, with blocks of the original layout | `lora_te1_<path>`, `lora_te2_<path>` |

    kohya's format is read by ComfyUI, A1111, sd-scripts and diffusers. It has an `.alpha` per layer, here equal to the
    rank, so that the loader's factor alpha / rank is 1.

    Args:
        residuals: Of n = 1.
        format: `kohya` or `diffusers`.
        scale: Strength, folded into lora_up.

    Raises:
        ValueError: The format is unknown, or there are several people.

    Source: diffusers, `loaders/lora_conversion_utils.py` and `utils/state_dict_utils.py`
    """
    if len(residuals) != 1:
        raise ValueError(f"a LoRA is of one person, given a theta of {len(residuals)}")
    if format not in LORA_FORMATS:
        raise ValueError(f"unknown LoRA format {format!r}, expected {' or '.join(LORA_FORMATS)}")
    state_dict = {}
    # Not diffusers' convert_state_dict_to_kohya, which calls the text encoder lora_te1, as Stable Diffusion XL does.
    # Folded in float32 on the CPU, whatever the precision of theta, so that half precision rounds only once.
    layout = residuals.layout
    layer_names = kohya_layer_names([slot.name for slot in layout.slots], family_of_layout(layout))
    for slot_name, (down, up) in layout.fold(residuals.theta.detach().cpu()).items():
        lora_down = down[0]
        lora_up = scale * up[0]
        if format == "diffusers":
            down_key, up_key = diffusers_keys(slot_name)
            state_dict[down_key] = lora_down
            state_dict[up_key] = lora_up
        else:
            layer_name = layer_names[slot_name]
            state_dict[f"{layer_name}.lora_down.weight"] = lora_down
            state_dict[f"{layer_name}.lora_up.weight"] = lora_up
            state_dict[f"{layer_name}.alpha"] = torch.tensor(float(layout.rank))
    return state_dict


def export_lora(
    subject: Subject, path: str | Path, format: str = "kohya", *, title: str | None = None, thumbnail: str = ""
) -> Path:
    """Writes a subject as a LoRA file with metadata, with its scale folded in and in its own precision.

    Args:
        format: `kohya` or `diffusers`, see `to_lora_state_dict`.
        title: Shown by user interfaces. None is the name of the file.
        thumbnail: A small picture as a data URL.

    Raises:
        ValueError: The format is unknown.
        OSError: It could not be written.
    """
    state_dict = to_lora_state_dict(subject, format, scale=subject.scale)
    tensors = {name: tensor.to(subject.theta.dtype).contiguous() for name, tensor in state_dict.items()}
    name = Path(path).stem
    metadata = {"format": "pt"}
    metadata.update(provenance_fields(subject))
    metadata.update(
        modelspec_fields(
            subject, title=title or name, content_hash=content_hash(tensors), lora=True, thumbnail=thumbnail
        )
    )
    if format == "kohya":
        metadata.update(kohya_fields(subject, name=name))
        if family_of_layout(subject.layout).original_blocks:
            metadata["modelspec.implementation"] = "sgm"  # whose names the blocks have
    return write_safetensors(path, tensors, metadata)
