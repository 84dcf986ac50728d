"""HyperDreamBooth: one photo of a face becomes a small file that teaches a text-to-image model that person.

    reference -> encoder -> decoder -> theta -> Layout -> LiDB layers in UNet + text encoder -> images -> metrics
    (n,3,h,w)    face       weight     (n,p)    slots     (personalized Stable Diffusion)       (n,3,h,w)  face_rec,
    one photo    features   tokens                                                                         dino, clip

What is listed in `__all__` is public; everything else may change without notice.

    HyperDreamBoothPipeline     photo -> Subject -> pictures
    Subject                     one person's weights: save, load, export as a LoRA
    HyperNetPretraining         LightningModule: trains the hypernetwork
    SubjectFinetuning           LightningModule: rank-relaxed fast finetuning of one or many subjects
    Preoptimization             LightningModule: fits the targets of the weight-space loss
    FaceData                    LightningDataModule: references and targets of many identities

The rooms, in the order of the figure: `hdb.faces` (where references come from), `hdb.hypernet` (reference -> theta),
`hdb.lidb` (what theta means), `hdb.diffusion` (the frozen base), `hdb.metrics`, `hdb.losses`, `hdb.training` (one
LightningModule per stage), `hdb.methods` (HyperDreamBooth and what it is compared with), `hdb.evaluation`.
`hdb.faceworld` is a synthetic world with a small base of its own. The commands are in `experiments/`.

Source: Ruiz et al., HyperDreamBooth, https://arxiv.org/abs/2307.06949
"""

from importlib import import_module

__version__ = "0.1.0"

# Imported on first use: `import hdb` must not wait for Lightning and diffusers.
_PUBLIC = {
    "HyperDreamBoothPipeline": "hdb.pipeline",
    "Subject": "hdb.lidb.file",
    "HyperNetPretraining": "hdb.training.pretrain",
    "SubjectFinetuning": "hdb.training.personalize",
    "Preoptimization": "hdb.training.preoptimize",
    "FaceData": "hdb.faces.datamodule",
    "BaseOptions": "hdb.diffusion.options",
    "LiDBOptions": "hdb.lidb.options",
    "HyperNetOptions": "hdb.hypernet.options",
    "PretrainingOptions": "hdb.training.options",
    "FinetuningOptions": "hdb.training.options",
    "SamplingOptions": "hdb.diffusion.options",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hdb' has no attribute {name!r}, expected one of {', '.join(__all__)}")
