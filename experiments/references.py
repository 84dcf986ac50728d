"""The photos of one person, as a config asks for them: cut out and aligned, or checked and kept as they are framed."""

import torch
from torch import Tensor

from experiments.config import Personalize
from hdb.faces.crop import FaceCropper


def read_references(config: Personalize, *, resolution: int) -> Tensor:
    """All of them as (1, v, 3, resolution, resolution), the first one first.

    Raises:
        FaceError: one of them shows no face that can be used.
    """
    cropper = FaceCropper(min_size=config.min_face)
    read = cropper.crop if config.crop else cropper.check
    photos = [config.reference, *config.more_references]
    return torch.stack([read(photo, resolution=resolution, face=config.face) for photo in photos])[None]
