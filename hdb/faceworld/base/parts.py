"""The parts of faceworld's base: how each is built, trained, resumed and recorded."""

import json
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from transformers import CLIPTextModel, CLIPTokenizer

from hdb.faceworld.base import models
from hdb.faceworld.base.autoencoder import AutoencoderTraining
from hdb.faceworld.base.classifier import HEADS, ClassifierTraining
from hdb.faceworld.base.denoiser import DenoiserTraining
from hdb.faceworld.base.identity import IdentityTraining
from hdb.faceworld.base.options import PARTS, BaseTrainingOptions
from hdb.faceworld.base.report import safetensors_digest
from hdb.faceworld.base.selfsupervised import SelfSupervisedTraining
from hdb.faceworld.base.text import TextTraining
from hdb.faceworld.base.training import PartTraining
from hdb.faceworld.base.views import Views
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.splits import SPLITS
from hdb.files import write_json
from hdb.hypernet.encoder import FaceEncoder
from hdb.metrics.embedders import TimmEmbedder
from hdb.metrics.networks import AttributeClassifier
from hdb.training.callbacks import LossCurve, StepProgressBar, StepRate
from hdb.training.checkpoints import AtomicCheckpointIO, find_checkpoint
from hdb.training.curves import write_curve
from hdb.training.device import select_device, synchronized_time
from hdb.training.stopping import StopBetweenSteps

NETWORKS = PARTS | {"denoiser": "base/unet"}  # folders that hold the weights of one part alone
CENTERED = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def training_people(options: BaseTrainingOptions) -> FaceWorldDataset:
    """The first people of the training split; renders those that are not on disk yet."""
    dataset = FaceWorldDataset(
        options.root,
        indices=SPLITS["train"][: options.num_identities],
        views_per_identity=options.views_per_identity,
        resolution=options.resolution,
    )
    dataset.prepare(num_workers=options.num_workers)
    return dataset


def untrained_parts(parts: Sequence[str], options: BaseTrainingOptions) -> list[str]:
    """Those of some parts that are not trained yet, in the order of training.

    Raises:
        ValueError: an unknown part, or one whose training was begun at another resolution.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"unknown parts {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    return [name for name in PARTS if name in parts and not is_trained(options, name)]


def is_trained(options: BaseTrainingOptions, name: str) -> bool:
    """Whether the training of a part is finished.

    Raises:
        ValueError: it was begun at another resolution.
    """
    folder = Path(options.output) / name
    for record in (folder / "steps.json", folder / "done.json"):
        if record.is_file():
            resolution = json.loads(record.read_text()).get("resolution")
            if resolution != options.resolution:
                raise ValueError(
                    f"{folder} is of {resolution} px, not {options.resolution}: expected another output and weights"
                )
    return (folder / "done.json").is_file()


def refuse_foreign_weights(names: Sequence[str], options: BaseTrainingOptions) -> None:
    """Raises ValueError if a part would replace weights that were not trained in this output."""
    for name in names:
        weights = Path(options.weights) / NETWORKS[name]
        training = Path(options.output) / name
        if weights.is_dir() and any(weights.iterdir()) and not training.is_dir():
            raise ValueError(
                f"weights {weights} were not trained in {training}: "
                "expected another folder as weights, or overwrite=true"
            )


def build_training(name: str, views: Views, options: BaseTrainingOptions, *, num_steps: int) -> PartTraining:
    """The training of one part."""
    part = options.part(name)
    seed = options.seed + list(PARTS).index(name)  # parts share no random number
    common = {
        "num_steps": num_steps,
        "batch_size": part.batch_size,
        "lr": part.lr,
        "optimizer": part.optimizer,
        "seed": seed,
    }
    torch.manual_seed(seed)  # diffusers and timm draw initial weights from the global generator
    return _BUILDERS[name](views, options, common)


def _denoiser(views: Views, options: BaseTrainingOptions, common: dict[str, Any]) -> PartTraining:
    weights = Path(options.weights)
    return DenoiserTraining(
        views,
        unet=models.denoiser(options.resolution),
        autoencoder=AutoencoderKL.from_pretrained(weights / PARTS["autoencoder"]),
        text_encoder=CLIPTextModel.from_pretrained(weights / PARTS["text"], dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(weights / PARTS["text"]),
        **common,
    )


def _encoder(views: Views, options: BaseTrainingOptions, common: dict[str, Any]) -> PartTraining:
    resolution = options.resolution
    encoder = FaceEncoder(models.face_encoder(resolution), resolution=resolution, seed=common["seed"])
    return IdentityTraining(
        views.select_kind("plain"),  # references are plain photos
        encoder,
        embed=lambda images: encoder(images).embedding,
        write=encoder.save,
        embedding_size=encoder.embedding_size,
        **common,
    )


def _recognizer(views: Views, options: BaseTrainingOptions, common: dict[str, Any]) -> PartTraining:
    model, arguments = models.recognizer(options.resolution)
    judge = TimmEmbedder(model, arguments, seed=common["seed"], resolution=options.resolution, **CENTERED)
    return IdentityTraining(
        views,
        judge,
        embed=judge.outputs,
        write=judge.save,
        embedding_size=arguments["num_classes"],
        **common,
    )


def _dino(views: Views, options: BaseTrainingOptions, common: dict[str, Any]) -> PartTraining:
    model, arguments = models.dino(options.resolution)
    network = TimmEmbedder(model, arguments, seed=common["seed"], resolution=options.resolution, **CENTERED)
    return SelfSupervisedTraining(views.select_kind("plain"), network, **common)


def _classifier(views: Views, options: BaseTrainingOptions, common: dict[str, Any]) -> PartTraining:
    model, arguments = models.classifier(options.resolution)
    network = AttributeClassifier(
        model, arguments, heads=HEADS, seed=common["seed"], resolution=options.resolution, **CENTERED
    )
    return ClassifierTraining(views, network, **common)


_BUILDERS: dict[str, Callable[[Views, BaseTrainingOptions, dict[str, Any]], PartTraining]] = {
    "autoencoder": lambda views, options, common: AutoencoderTraining(views, resolution=options.resolution, **common),
    "text": lambda views, options, common: TextTraining(views, resolution=options.resolution, **common),
    "denoiser": _denoiser,
    "encoder": _encoder,
    "recognizer": _recognizer,
    "dino": _dino,
    "classifier": _classifier,
}


def train_part(
    name: str,
    views: Views,
    options: BaseTrainingOptions,
    *,
    identities: Sequence[int],
    logger_of: Callable[[str, Path], Logger],
) -> None:
    """Trains one part to its end, resuming if it was interrupted; writes its weights, its loss curve and done.json.

    Args:
        identities: numbers of the people in `views`.
        logger_of: stage, folder -> logger.
    """
    folder = Path(options.output) / name
    steps = planned_steps(folder, name, views, options)
    training = build_training(name, views, options, num_steps=steps)
    size = models.num_parameters(training.trained_module) / 1e6
    print(f"{name}: {size:.1f} M parameters, {steps} steps of {training.batch_size} pictures")
    started = time.perf_counter()
    curve = LossCurve()
    rate = StepRate()
    select_device(options.accelerator)  # allows TF32
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
            StepProgressBar(),
            curve,
            rate,
            StopBetweenSteps(),
        ],
        plugins=[AtomicCheckpointIO()],
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(training, ckpt_path=find_checkpoint(folder / "last.ckpt"), weights_only=True)
    training.cpu().save(Path(options.weights) / PARTS[name])
    write_curve(folder, curve.points)
    record = {
        "steps": steps,
        "seconds": round(time.perf_counter() - started),
        "resolution": options.resolution,
        "weights": safetensors_digest(Path(options.weights) / NETWORKS[name]),
        "seen": data_record(training.views, identities),
    }
    if rate.steps_per_second is not None:
        record["pictures_per_second"] = round(rate.steps_per_second * training.batch_size, 1)
        print(f"{name}: {record['pictures_per_second']:.0f} pictures a second")
    write_json(folder / "done.json", record)


def planned_steps(folder: Path, name: str, views: Views, options: BaseTrainingOptions) -> int:
    """How many steps a part is trained for; a resumed training keeps its number."""
    record = folder / "steps.json"
    if not record.is_file():
        part = options.part(name)
        steps = part.steps
        if options.minutes is not None:
            steps = steps_within(60 * options.minutes * part.share, name, views, options)
        write_json(record, {"steps": steps, "resolution": options.resolution})
    return json.loads(record.read_text())["steps"]


def data_record(views: Views, identities: Sequence[int]) -> dict[str, object]:
    """Which pictures a part was trained on, by their labels: evidence that nothing held out is among them."""
    pairs = views.styles_and_contexts
    return {
        "identities": [min(identities), max(identities)],
        "pictures": len(views),
        "styles": sorted({style for style, _ in pairs}),
        "pairs": len(pairs),
    }


def steps_within(seconds: float, name: str, views: Views, options: BaseTrainingOptions) -> int:
    """How many steps of a part take so many seconds, by the time of three steps after two of warm-up."""
    device = select_device(options.accelerator)
    training = build_training(name, views, options, num_steps=10).to(device)
    training.on_fit_start()
    times = [synchronized_time(device)]
    for step in range(5):
        losses = training.loss(training.batch_indices(step), torch.Generator().manual_seed(step))
        losses["loss"].backward()
        times.append(synchronized_time(device))
    return max(10, int(seconds / ((times[5] - times[2]) / 3)))
