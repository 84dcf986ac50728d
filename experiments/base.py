"""Trains what is frozen later: faceworld's small Stable Diffusion, the face encoder and the judges; `make base`."""

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import wandb
from diffusers import AutoencoderKL
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar

from experiments.cli import run
from experiments.cost import now
from experiments.curves import write_curve
from experiments.networks import device_of
from experiments.report import weights_digest
from experiments.runs import write_json
from experiments.tracking import wandb_logger
from hdb.callbacks import LossCurve
from hdb.config import BasePart, TrainBase, load
from hdb.faceworld.base import models
from hdb.faceworld.base.autoencoder import AutoencoderTraining
from hdb.faceworld.base.classifier import HEADS, ClassifierTraining
from hdb.faceworld.base.denoiser import DenoiserTraining
from hdb.faceworld.base.identity import IdentityTraining
from hdb.faceworld.base.part import Part
from hdb.faceworld.base.selfsupervised import SelfSupervisedTraining
from hdb.faceworld.base.text import TextTraining, text_encoder_of
from hdb.faceworld.base.views import Views
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.world import SPLITS
from hdb.hypernet.encoder import FaceEncoder
from hdb.metrics.embedders import TimmEmbedder
from hdb.metrics.networks import AttributeClassifier

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


def main(argv: list[str]) -> None:
    config = load(TrainBase, argv)
    if unknown := set(config.parts) - set(PARTS):
        raise ValueError(f"unknown parts {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    waiting = [name for name in PARTS if name in config.parts and not done(config, name)]
    if not waiting:
        print(f"nothing left to train: {', '.join(config.parts)} lie in {config.weights}")
        return
    dataset = FaceWorldDataset(
        config.root,
        indices=SPLITS["train"][: config.num_identities],
        views_per_identity=config.views_per_identity,
        resolution=config.resolution,
    )
    dataset.prepare(num_workers=config.num_workers)
    views = Views.load(dataset, seed=config.seed)
    for name in waiting:
        fit(name, views, config, identities=dataset.indices)


def done(config: TrainBase, name: str) -> bool:
    """Whether a part is trained.

    Raises:
        ValueError: what lies there was begun at another resolution.
    """
    folder = Path(config.output) / name
    for record in (folder / "steps.json", folder / "done.json"):
        if record.is_file() and (begun := json.loads(record.read_text()).get("resolution")) != config.resolution:
            raise ValueError(f"{folder} is of {begun} px, not {config.resolution}: expected another output and weights")
    return (folder / "done.json").is_file()


def part_of(name: str, views: Views, config: TrainBase, *, num_steps: int) -> Part:
    """The training of one part, built by plain calls."""
    weights, r = Path(config.weights), config.resolution
    settings: BasePart = getattr(config, name)
    common = {
        "num_steps": num_steps,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "optimizer": settings.optimizer,
        "seed": config.seed + list(PARTS).index(name),  # recognizer and face encoder share no weight and no draw
    }
    torch.manual_seed(common["seed"])  # networks of diffusers and timm draw their first weights from there
    if name == "autoencoder":
        return AutoencoderTraining(views, resolution=r, **common)
    if name == "text":
        return TextTraining(views, resolution=r, **common)
    if name == "denoiser":
        return DenoiserTraining(
            views,
            unet=models.denoiser(r),
            autoencoder=AutoencoderKL.from_pretrained(weights / PARTS["autoencoder"]),
            text_encoder=text_encoder_of(weights / PARTS["text"]),
            tokenizer=models.tokenizer(),
            **common,
        )
    if name == "encoder":
        encoder = FaceEncoder(models.face_encoder(r), resolution=r, seed=common["seed"])
        return IdentityTraining(
            views.of_kind("plain"),  # a reference is a plain photo
            encoder,
            embed=lambda images: encoder(images).embedding,
            write=encoder.save,
            embedding_size=encoder.embedding_size,
            **common,
        )
    if name == "recognizer":
        model, arguments = models.recognizer(r)
        judge = TimmEmbedder(model, arguments, seed=common["seed"], resolution=r, **CENTERED)
        return IdentityTraining(
            views, judge, embed=judge.outputs, write=judge.save, embedding_size=arguments["num_classes"], **common
        )
    if name == "dino":
        model, arguments = models.dino(r)
        network = TimmEmbedder(model, arguments, seed=common["seed"], resolution=r, **CENTERED)
        return SelfSupervisedTraining(views, network, **common)
    model, arguments = models.classifier(r)
    network = AttributeClassifier(model, arguments, heads=HEADS, seed=common["seed"], resolution=r, **CENTERED)
    return ClassifierTraining(views, network, **common)


def fit(name: str, views: Views, config: TrainBase, *, identities: Sequence[int]) -> None:
    """Trains one part to its end, or goes on where it was stopped; writes its weights, its curve and what it saw."""
    folder = Path(config.output) / name
    settings: BasePart = getattr(config, name)
    budget = folder / "steps.json"  # a run that is gone on with keeps the length it was started with
    if not budget.is_file():
        steps = settings.steps
        if config.minutes is not None:
            steps = steps_within(60 * config.minutes * settings.share, name, views, config)
        write_json(budget, {"steps": steps, "resolution": config.resolution})
    steps = json.loads(budget.read_text())["steps"]
    part = part_of(name, views, config, num_steps=steps)
    size = models.num_parameters(part.trained()) / 1e6
    print(f"{name}: {size:.1f} M parameters, {steps} steps of {settings.batch_size} pictures")
    started, last, curve = time.perf_counter(), folder / "last.ckpt", LossCurve()
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,
        logger=wandb_logger(config, stage=f"base-{name}", output=folder),
        callbacks=[
            ModelCheckpoint(
                dirpath=folder, filename="last", train_time_interval=timedelta(minutes=2), enable_version_counter=False
            ),
            TQDMProgressBar(refresh_rate=20),
            curve,
        ],
        gradient_clip_val=1.0,
        log_every_n_steps=20,
        enable_model_summary=False,
    )
    trainer.fit(part, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    wandb.finish()
    part.cpu().save(Path(config.weights) / PARTS[name])
    seconds = round(time.perf_counter() - started)
    write_curve(folder, curve.points)
    record = {"steps": steps, "seconds": seconds, "resolution": config.resolution}
    record["weights"] = weights_digest(Path(config.weights) / NETWORKS[name])
    write_json(folder / "done.json", record | {"seen": seen(part.views, identities)})


def seen(views: Views, identities: Sequence[int]) -> dict[str, object]:
    """What a part was shown, read from the labels of its own pictures: proof that nothing held out is among them."""
    shown = views.styles_and_contexts
    return {
        "identities": [min(identities), max(identities)],  # first and last
        "pictures": len(views),
        "styles": sorted({style for style, _ in shown}),
        "pairs": len(shown),  # of style and context
    }


def steps_within(seconds: float, name: str, views: Views, config: TrainBase) -> int:
    """How many steps of a part fit into a time: from that of three, after two to warm up."""
    device = device_of(config.accelerator)
    part = part_of(name, views, config, num_steps=10).to(device)
    part.on_fit_start()
    times = [now(device)]
    for step in range(5):
        part.loss(part.pick(step), torch.Generator().manual_seed(step))["loss"].backward()
        times.append(now(device))
    return max(10, int(seconds / ((times[5] - times[2]) / 3)))


if __name__ == "__main__":
    run(main)
