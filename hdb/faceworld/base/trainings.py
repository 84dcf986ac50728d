"""The trainings of faceworld's base one after the other: how each part is built, fitted, resumed and recorded."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger

from hdb.faceworld.base import models
from hdb.faceworld.base.autoencoder import AutoencoderTraining
from hdb.faceworld.base.classifier import HEADS, ClassifierTraining
from hdb.faceworld.base.denoiser import DenoiserTraining
from hdb.faceworld.base.identity import IdentityTraining
from hdb.faceworld.base.part import OPTIMIZERS, Part
from hdb.faceworld.base.report import weights_digest
from hdb.faceworld.base.selfsupervised import SelfSupervisedTraining
from hdb.faceworld.base.text import TextTraining, text_encoder_of
from hdb.faceworld.base.views import Views
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.world import SPLITS
from hdb.files import write_json
from hdb.hypernet.encoder import FaceEncoder
from hdb.limits import choice_field, number_field, seed_field
from hdb.metrics.embedders import TimmEmbedder
from hdb.metrics.networks import AttributeClassifier
from hdb.training.callbacks import LossCurve
from hdb.training.checkpoints import AtomicCheckpointIO, find_checkpoint
from hdb.training.curves import write_curve
from hdb.training.device import accelerator_field, precision_field, select_device, synchronized_time
from hdb.training.stopping import StopBetweenSteps

# In the order of training: the denoiser needs the two before it. Part -> its folder among the weights.
PARTS = {
    "autoencoder": "base/vae",
    "text": "clip",
    "denoiser": "base",
    "encoder": "encoder",
    "recognizer": "recognizer",
    "dino": "dino",
    "classifier": "classifier",
}
NETWORKS = PARTS | {"denoiser": "base/unet"}  # where alone its own weights are
CENTERED = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@dataclass
class PartOptions:
    """How one network of faceworld's base is trained; `share` is its part of `minutes` where those are given.

    `optimizer` is adamw or muon, which bears a rate ten times that of the other.
    """

    steps: int = number_field(1000, ge=1)
    batch_size: int = number_field(32, ge=1)
    lr: float = number_field(1e-3, gt=0)
    share: float = number_field(0.1, gt=0, le=1)
    optimizer: str = choice_field("adamw", OPTIMIZERS)


@dataclass
class WorldBaseOptions:
    """What all trainings of the base share, and how each is trained. `minutes` bounds all of it, null takes steps."""

    root: str = "data/faceworld"
    resolution: int = number_field(128, ge=16)
    num_identities: int | None = number_field(None, ge=1)
    views_per_identity: int = number_field(12, ge=1)
    num_workers: int = number_field(2, ge=0)
    output: str = "outputs/base"
    weights: str = "outputs/base/weights"
    minutes: float | None = number_field(None, gt=0)
    autoencoder: PartOptions = field(default_factory=lambda: PartOptions(4000, 32, 2e-3, 0.18))
    text: PartOptions = field(default_factory=lambda: PartOptions(2000, 128, 1e-3, 0.06))
    denoiser: PartOptions = field(default_factory=lambda: PartOptions(40000, 64, 6e-4, 0.44))
    encoder: PartOptions = field(default_factory=lambda: PartOptions(4000, 64, 1e-3, 0.10))
    recognizer: PartOptions = field(default_factory=lambda: PartOptions(4000, 64, 1e-3, 0.10))
    dino: PartOptions = field(default_factory=lambda: PartOptions(2000, 64, 5e-4, 0.08))
    classifier: PartOptions = field(default_factory=lambda: PartOptions(2000, 64, 1e-3, 0.04))
    accelerator: str = accelerator_field()
    precision: str = precision_field()
    seed: int = seed_field()

    def part(self, name: str) -> PartOptions:
        """How one part is trained."""
        return {
            "autoencoder": self.autoencoder,
            "text": self.text,
            "denoiser": self.denoiser,
            "encoder": self.encoder,
            "recognizer": self.recognizer,
            "dino": self.dino,
            "classifier": self.classifier,
        }[name]


def training_people(options: WorldBaseOptions) -> FaceWorldDataset:
    """The first people of the training split, rendered as far as they are not on disk."""
    dataset = FaceWorldDataset(
        options.root,
        indices=SPLITS["train"][: options.num_identities],
        views_per_identity=options.views_per_identity,
        resolution=options.resolution,
    )
    dataset.prepare(num_workers=options.num_workers)
    return dataset


def waiting(parts: Sequence[str], options: WorldBaseOptions) -> list[str]:
    """Those of these parts that are not trained yet, in the order of training.

    Raises:
        ValueError: an unknown part, or see `done`.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"unknown parts {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    return [name for name in PARTS if name in parts and not done(options, name)]


def done(options: WorldBaseOptions, name: str) -> bool:
    """Whether a part is trained.

    Raises:
        ValueError: what lies there was begun at another resolution.
    """
    folder = Path(options.output) / name
    for record in (folder / "steps.json", folder / "done.json"):
        if record.is_file() and (begun := json.loads(record.read_text()).get("resolution")) != options.resolution:
            raise ValueError(
                f"{folder} is of {begun} px, not {options.resolution}: expected another output and weights"
            )
    return (folder / "done.json").is_file()


def refuse_foreign_weights(names: Sequence[str], options: WorldBaseOptions) -> None:
    """Raises ValueError if a part would replace weights that were not trained in this output."""
    for name in names:
        lies, begun = Path(options.weights) / NETWORKS[name], Path(options.output) / name
        if lies.is_dir() and any(lies.iterdir()) and not begun.is_dir():
            given = f"weights {lies} were not trained in {begun}"
            raise ValueError(f"{given}: expected another folder as weights, or overwrite=true")


def part_of(name: str, views: Views, options: WorldBaseOptions, *, num_steps: int) -> Part:
    """The training of one part."""
    settings, seed = options.part(name), options.seed + list(PARTS).index(name)  # no two share a weight or a draw
    common = {"num_steps": num_steps, "batch_size": settings.batch_size, "lr": settings.lr, "seed": seed}
    torch.manual_seed(seed)  # networks of diffusers and timm draw their first weights from there
    return _BUILDERS[name](views, options, common | {"optimizer": settings.optimizer})


def _denoiser(views: Views, options: WorldBaseOptions, common: dict[str, Any]) -> Part:
    weights = Path(options.weights)
    return DenoiserTraining(
        views,
        unet=models.denoiser(options.resolution),
        autoencoder=AutoencoderKL.from_pretrained(weights / PARTS["autoencoder"]),
        text_encoder=text_encoder_of(weights / PARTS["text"]),
        tokenizer=models.tokenizer(),
        **common,
    )


def _encoder(views: Views, options: WorldBaseOptions, common: dict[str, Any]) -> Part:
    resolution = options.resolution
    encoder = FaceEncoder(models.face_encoder(resolution), resolution=resolution, seed=common["seed"])
    return IdentityTraining(
        views.of_kind("plain"),  # a reference is a plain photo
        encoder,
        embed=lambda images: encoder(images).embedding,
        write=encoder.save,
        embedding_size=encoder.embedding_size,
        **common,
    )


def _recognizer(views: Views, options: WorldBaseOptions, common: dict[str, Any]) -> Part:
    model, arguments = models.recognizer(options.resolution)
    judge = TimmEmbedder(model, arguments, seed=common["seed"], resolution=options.resolution, **CENTERED)
    size = arguments["num_classes"]
    return IdentityTraining(views, judge, embed=judge.outputs, write=judge.save, embedding_size=size, **common)


def _dino(views: Views, options: WorldBaseOptions, common: dict[str, Any]) -> Part:
    model, arguments = models.dino(options.resolution)
    network = TimmEmbedder(model, arguments, seed=common["seed"], resolution=options.resolution, **CENTERED)
    return SelfSupervisedTraining(views.of_kind("plain"), network, **common)  # as the published one: photographs


def _classifier(views: Views, options: WorldBaseOptions, common: dict[str, Any]) -> Part:
    model, arguments = models.classifier(options.resolution)
    framing = {"resolution": options.resolution, **CENTERED}
    network = AttributeClassifier(model, arguments, heads=HEADS, seed=common["seed"], **framing)
    return ClassifierTraining(views, network, **common)


_BUILDERS: dict[str, Callable[[Views, WorldBaseOptions, dict[str, Any]], Part]] = {
    "autoencoder": lambda views, options, common: AutoencoderTraining(views, resolution=options.resolution, **common),
    "text": lambda views, options, common: TextTraining(views, resolution=options.resolution, **common),
    "denoiser": _denoiser,
    "encoder": _encoder,
    "recognizer": _recognizer,
    "dino": _dino,
    "classifier": _classifier,
}


def fit(
    name: str,
    views: Views,
    options: WorldBaseOptions,
    *,
    identities: Sequence[int],
    logger_of: Callable[[str, Path], Logger],
) -> None:
    """Trains one part to its end, from where it was stopped if it was; writes its weights, its curve and what it saw.

    Args:
        logger_of: the logger of a stage that writes into a folder.
    """
    folder = Path(options.output) / name
    steps = planned_steps(folder, name, views, options)
    part = part_of(name, views, options, num_steps=steps)
    size = models.num_parameters(part.trained()) / 1e6
    print(f"{name}: {size:.1f} M parameters, {steps} steps of {part.batch_size} pictures")
    started, last, curve = time.perf_counter(), folder / "last.ckpt", LossCurve()
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,
        logger=logger_of(f"base-{name}", folder),
        callbacks=[
            ModelCheckpoint(
                dirpath=folder,
                filename="last",
                train_time_interval=timedelta(minutes=2),
                save_on_exception=True,
                enable_version_counter=False,
            ),
            TQDMProgressBar(refresh_rate=20),
            curve,
            StopBetweenSteps(),
        ],
        plugins=[AtomicCheckpointIO()],
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        enable_model_summary=False,
    )
    trainer.fit(part, ckpt_path=find_checkpoint(last), weights_only=True)
    part.cpu().save(Path(options.weights) / PARTS[name])
    seconds = round(time.perf_counter() - started)
    write_curve(folder, curve.points)
    record = {"steps": steps, "seconds": seconds, "resolution": options.resolution}
    record["weights"] = weights_digest(Path(options.weights) / NETWORKS[name])
    write_json(folder / "done.json", record | {"seen": seen(part.views, identities)})


def planned_steps(folder: Path, name: str, views: Views, options: WorldBaseOptions) -> int:
    """How many steps a part is trained for; a resumed run keeps the number it was started with."""
    record, settings = folder / "steps.json", options.part(name)
    if not record.is_file():
        steps = settings.steps
        if options.minutes is not None:
            steps = steps_within(60 * options.minutes * settings.share, name, views, options)
        write_json(record, {"steps": steps, "resolution": options.resolution})
    return json.loads(record.read_text())["steps"]


def seen(views: Views, identities: Sequence[int]) -> dict[str, object]:
    """What a part was shown, read from the labels of its own pictures: proof that nothing held out is among them."""
    shown = views.styles_and_contexts
    return {
        "identities": [min(identities), max(identities)],  # first and last
        "pictures": len(views),
        "styles": sorted({style for style, _ in shown}),
        "pairs": len(shown),  # of style and context
    }


def steps_within(seconds: float, name: str, views: Views, options: WorldBaseOptions) -> int:
    """How many steps of a part fit into a time: from that of three, after two to warm up."""
    device = select_device(options.accelerator)
    part = part_of(name, views, options, num_steps=10).to(device)
    part.on_fit_start()
    times = [synchronized_time(device)]
    for step in range(5):
        part.loss(part.pick(step), torch.Generator().manual_seed(step))["loss"].backward()
        times.append(synchronized_time(device))
    return max(10, int(seconds / ((times[5] - times[2]) / 3)))
