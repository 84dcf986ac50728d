"""A whole base with one person inside: a folder for diffusers, or one file for ComfyUI and A1111."""

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
    """Adds one person's residuals, at their own strength, to a base for good, and writes it whole or not at all.

    Args:
        format: `merged`, a pipeline's folder, or `checkpoint`, one file in the original layout.
        name: What the subject is called in an error.
        title: of the file, as interfaces show it.
        thumbnail: of the file, a small picture as a data URL.

    Returns:
        What was written, in a sentence.

    Raises:
        ValueError: The base is another one than the subject's, has other layers, or fits into no single file.
        OSError: The folder is there already, or it could not be written.
    """
    diffusion.check_compatible(subject.metadata["base_digest"], name=name, base_name=subject.metadata["base"])
    personalized = PersonalizedDiffusion(diffusion, subject.layout)
    personalized.lidb.merge(subject.to(torch.float32), scale=subject.scale)
    personalized.detach()
    if format == "merged":
        diffusion.save(output, about=subject.metadata)
    else:
        write_checkpoint(output, diffusion, subject=subject, title=title, thumbnail=thumbnail)
    size = sum(path.stat().st_size for path in (output, *output.rglob("*")) if path.is_file())
    told = f"{output}: {size} bytes, {diffusion.name} with the subject merged into it, as {format}"
    if format == "checkpoint" and diffusion.prediction_type == "v_prediction":
        told += "; it answers in velocities: tell ComfyUI by ModelSamplingDiscrete, A1111 by a .yaml of its name"
    return told
