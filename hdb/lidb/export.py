"""Export: a theta as an ordinary LoRA that diffusers, ComfyUI and A1111 load, the bases folded into it."""

from pathlib import Path

import torch
from torch import Tensor

from hdb.files import content_hash, write_safetensors
from hdb.lidb.file import Subject
from hdb.lidb.modelspec import kohya_fields, modelspec, provenance
from hdb.lidb.residuals import Residuals

# And who reads them.
FORMATS = {
    "kohya": "ComfyUI, A1111, kohya's scripts and diffusers read it",
    "diffusers": "diffusers alone reads it: ComfyUI would apply a part of the layers and A1111 none, without a word",
}


@torch.no_grad()
def to_lora_state_dict(person: Residuals, format: str = "kohya", *, scale: float = 1.0) -> dict[str, Tensor]:
    """The LoRA that adds what `LiDB.bind(person, scale=scale)` adds, under the keys of published files.

        lora_down = down · down_aux (r, in)        lora_up = scale · up_aux · up (out, r)

    | format | UNet | text encoder |
    |---|---|---|
    | diffusers | `unet.<path>.lora.down.weight` | `text_encoder.<path>.lora_linear_layer.down.weight` |
    | kohya | `lora_unet_<path>.lora_down.weight` | `lora_te_<path>.lora_down.weight`, both with `.alpha` |

    Kohya's format is the one that ComfyUI, A1111, sd-scripts and diffusers all read. alpha is the rank there, and so
    the loader scales by alpha / rank = 1.

    Args:
        person: Of n = 1.
        format: `kohya` or `diffusers`.
        scale: Strength, folded into lora_up.

    Raises:
        ValueError: The format is unknown, or there are several people.

    Source: diffusers, `loaders/lora_conversion_utils.py` and `utils/state_dict_utils.py`
    """
    if len(person) != 1:
        raise ValueError(f"a LoRA is of one person, given a theta of {len(person)}")
    if format not in FORMATS:
        raise ValueError(f"unknown LoRA format {format!r}, expected {' or '.join(FORMATS)}")
    state = {}
    # Not diffusers' convert_state_dict_to_kohya: it names the text encoder lora_te1, as of Stable Diffusion XL.
    # In float32 on the CPU, whatever theta is in: half precision once, by the caller, and not twice.
    for slot_name, (down, up) in person.layout.fold(person.theta.detach().cpu()).items():
        lora_down, lora_up = down[0], scale * up[0]
        component, _, path = slot_name.partition(".")
        if format == "diffusers":
            infix = "lora" if component == "unet" else "lora_linear_layer"
            state[f"{slot_name}.{infix}.down.weight"] = lora_down
            state[f"{slot_name}.{infix}.up.weight"] = lora_up
        else:
            name = ("lora_unet_" if component == "unet" else "lora_te_") + path.replace(".", "_")
            state[f"{name}.lora_down.weight"] = lora_down
            state[f"{name}.lora_up.weight"] = lora_up
            state[f"{name}.alpha"] = torch.tensor(float(person.layout.rank))
    return state


def export_lora(
    subject: Subject, path: str | Path, format: str = "kohya", *, title: str | None = None, thumbnail: str = ""
) -> Path:
    """Writes a subject, at its own scale and in its own precision, as a LoRA file that says what it is.

    Args:
        title: as interfaces show it; None is the name of the file.
        thumbnail: a small picture as a data URL.

    Raises:
        ValueError: The format is unknown.
        OSError: It could not be written.
    """
    state = to_lora_state_dict(subject, format, scale=subject.scale)
    tensors = {name: tensor.to(subject.theta.dtype).contiguous() for name, tensor in state.items()}
    name = Path(path).stem
    about = {"title": title or name, "content_hash": content_hash(tensors), "thumbnail": thumbnail}
    fields = {"format": "pt", **provenance(subject), **modelspec(subject, lora=True, **about)}
    return write_safetensors(path, tensors, fields | (kohya_fields(subject, name=name) if format == "kohya" else {}))
