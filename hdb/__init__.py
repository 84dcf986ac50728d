"""One photo of a face becomes a file of personal weights for a text-to-image diffusion model: HyperDreamBooth.

    reference -> encoder -> decoder -> theta -> Layout -> LiDB layers in UNet + text encoder -> images -> metrics
    (n,3,h,w)    face       weight     (n,p)    slots     (personalized Stable Diffusion)       (n,3,h,w)  face_rec,
    one photo    features   tokens                                                                         dino, clip

The rooms, in the order of that line: `hdb.faces` (where references come from) and `hdb.faceworld` (the embedded world
of people who do not exist), `hdb.hypernet` (reference -> theta), `hdb.lidb` (what theta means), `hdb.diffusion` (the
frozen base and its pictures), `hdb.metrics`, `hdb.losses`, `hdb.training` (one LightningModule per stage),
`hdb.methods` (every way from a photo to a person the base can draw), `hdb.evaluation` (which of them is better),
`hdb.faceworld.base` (what trained the weights that `hdb.faceworld` ships). `experiments/` builds objects from these
rooms by plain calls.

Source: Ruiz et al., HyperDreamBooth, https://arxiv.org/abs/2307.06949
"""

from importlib import import_module

__version__ = "0.1.0"

# Resolved on first use: `import hdb.faceworld` in a rendering process must not pay for Lightning and diffusers.
_NOUNS = {
    "StableDiffusion": "hdb.diffusion.stable_diffusion",
    "PersonalizedDiffusion": "hdb.diffusion.personalized",
    "Layout": "hdb.lidb.layout",
    "Slot": "hdb.lidb.slot",
    "Residuals": "hdb.lidb.residuals",
    "LiDB": "hdb.lidb.adapter",
    "LiDBLinear": "hdb.lidb.linear",
    "Subject": "hdb.lidb.file",
    "FaceEncoder": "hdb.hypernet.encoder",
    "WeightDecoder": "hdb.hypernet.decoder",
    "HyperNet": "hdb.hypernet.hypernet",
    "Preoptimization": "hdb.training.preoptimize",
    "HyperNetPretraining": "hdb.training.pretrain",
    "SubjectFinetuning": "hdb.training.personalize",
    "FaceBatch": "hdb.faces.sources",
    "FaceCropper": "hdb.faces.crop",
    "FaceData": "hdb.faces.datamodule",
    "FaceWorld": "hdb.faceworld.world",
}

__all__ = ["__version__", *_NOUNS]


def __getattr__(name: str) -> object:
    if name in _NOUNS:
        return getattr(import_module(_NOUNS[name]), name)
    raise AttributeError(f"module 'hdb' has no attribute {name!r}; it has {', '.join(__all__)}")
