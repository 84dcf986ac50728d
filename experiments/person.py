"""From a config to what makes a person: the photos, read as it asks for them, and the method."""

import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from experiments.config import Personalize
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.faces.crop import FaceCropper
from hdb.hypernet.hypernet import HyperNet
from hdb.methods.context import TrainingContext
from hdb.methods.hyperdreambooth import Finetuner, HyperDreamBooth


def read_references(config: Personalize, *, resolution: int) -> Tensor:
    """All photos as (1, v, 3, resolution, resolution), the first one first: cut out and aligned, or as they are framed.

    Raises:
        FaceError: one of them shows no face that can be used.
    """
    cropper = FaceCropper(min_size=config.min_face)
    read = cropper.crop if config.crop else cropper.check
    photos = [config.reference, *config.more_references]
    return torch.stack([read(photo, resolution=resolution, face=config.face) for photo in photos])[None]


def method_of(
    config: Personalize,
    hypernet: HyperNet,
    personalized: PersonalizedDiffusion,
    *,
    logger: WandbLogger,
    dtype: torch.dtype,
) -> HyperDreamBooth:
    """The method on this base, as the config tunes it.

    Args:
        dtype: of the person's file.
    """
    machine = {"accelerator": config.accelerator, "precision": config.precision, "log_every_n_steps": 1}
    how = {"prompt": config.instance_prompt, "trainer": machine | {"logger": logger}, "dtype": dtype}
    context = TrainingContext(personalized, sampling=config.sampling, seed=config.seed, **how)
    return HyperDreamBooth(hypernet, Finetuner(context, config.finetuning))
