"""Writes a whole base with one person merged: a folder for diffusers, or one file for ComfyUI and A1111."""

from pathlib import Path

import torch

from hdb.diffusion.original import write_checkpoint
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.file import Subject


def write_merged(
    diffusion: StableDiffusion,
    subject: Subject,
    output: Path,
    format: str,
    *,
    name: str,
    title: str,
    thumbnail: str = "",
) -> str:
    """Merges one person's residuals at their own scale into the base, for good, and writes it atomically.

    It is written in the precision of the base's files, or in that of the base where it was loaded in half precision.

    Args:
        format: `merged` for a pipeline folder, `checkpoint` for a single file in the original layout.
        name: What the subject is called in errors.
        title: Of a single file, shown by user interfaces.
        thumbnail: Of a single file, a small picture as a data URL.

    Returns:
        A sentence that says what was written.

    Raises:
        ValueError: The subject belongs to another base, the base has other layers, or a single file cannot hold it.
        OSError: The folder exists already, or it could not be written.
    """
    diffusion.check_compatible(subject.metadata["base_digest"], name=name, base_name=subject.metadata["base"])
    personalized = PersonalizedDiffusion(diffusion, subject.layout)
    personalized.lidb.merge(subject.to(torch.float32), scale=subject.scale)
    personalized.detach()
    diffusion.cast_as_stored()  # after merging in float32: it is rounded once
    if format == "merged":
        diffusion.save(output, metadata=subject.metadata)
    else:
        write_checkpoint(output, diffusion, subject=subject, title=title, thumbnail=thumbnail)
    files = [path for path in (output, *output.rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    message = f"{output}: {size} bytes, {diffusion.name} with the subject merged into it, as {format}"
    if format == "checkpoint" and diffusion.prediction_type == "v_prediction":
        message += "; it predicts velocities: tell ComfyUI by ModelSamplingDiscrete, A1111 by a .yaml of its name"
    return message
