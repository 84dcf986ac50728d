"""The best theta of many training identities: python -m experiments.preoptimize configs/faceworld/preoptimize.yaml

Under `output`: thetas-*.safetensors, metrics.json, splits.json; with encoder=... predictable.json: how much of these
thetas one photo tells. A finished folder that lacks this number gets it
without being fitted again.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tqdm.auto import tqdm

from experiments.cli import run
from experiments.config import Preoptimize, load
from experiments.networks import device_of, face_encoder, stable_diffusion
from experiments.people import SPLITS_FILE, People
from experiments.runs import claim
from experiments.tracking import wandb_run
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faces.sources import FaceSource
from hdb.files import write_json
from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout
from hdb.training.denoising import Timesteps
from hdb.training.predictability import LEAST_PEOPLE, predictability
from hdb.training.preoptimize import Preoptimization, load_thetas, save_thetas, shard_path


def main(argv: list[str]) -> None:
    config = load(Preoptimize, argv)
    if config.identities_per_shard < 1:
        raise ValueError(f"identities_per_shard is {config.identities_per_shard}, expected at least 1")
    everybody = People(config.faces)
    diffusion = stable_diffusion(config.base, memory=config.memory).to(device_of(config.accelerator))
    layout = Layout.of(unet=diffusion.unet, text_encoder=diffusion.text_encoder, **asdict(config.lidb))
    lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=layout)
    people = everybody.faces("train")
    if config.encoder and len(people) < LEAST_PEOPLE:
        raise ValueError(f"encoder asks how predictable {len(people)} people are, expected at least {LEAST_PEOPLE}")
    folder, size = Path(config.output), config.identities_per_shard
    # The thetas do not depend on the encoder: a finished folder that lacks this number is gone on with.
    result = "predictable.json" if config.encoder else "metrics.json"
    claim(folder, replace(config, encoder=None), result=result, inputs={"base_digest": diffusion.digest})
    write_json(folder / SPLITS_FILE, asdict(replace(everybody.splits, train=people.names)))
    shards = [range(start, min(start + size, len(people))) for start in range(0, len(people), size)]
    metrics = folder / "metrics.json"  # of a run that went on, or is asked for its number afterwards
    losses = json.loads(metrics.read_text())["train/diffusion_loss"] if metrics.is_file() else {}
    with wandb_run(config, stage="preoptimize", output=folder) as logger:
        for number, members in enumerate(tqdm(shards, desc="shards")):
            if shard_path(folder, number).is_file():
                continue
            trainer, stage = fit(config, diffusion, lidb, people, members, folder / f"shard-{number:05d}.ckpt")
            identities = torch.tensor([people[index].identity for index in members])
            save_thetas(folder, number, thetas=stage.thetas, identities=identities, layout=layout)
            (folder / f"shard-{number:05d}.ckpt").unlink(missing_ok=True)  # the shard holds its result
            losses[f"shard-{number:05d}"] = float(trainer.callback_metrics["train/diffusion_loss"])
            logger.log_metrics({"preoptimize/diffusion_loss": losses[f"shard-{number:05d}"]}, step=number)
        write_json(metrics, {"identities": len(people), "train/diffusion_loss": losses})
        if config.encoder:
            known = predictable(config, people, layout)
            write_json(folder / "predictable.json", known)
            logger.log_metrics({f"preoptimize/{name}": known[name] for name in ("r2", "r2_residuals")})
    print(f"{folder}: thetas of {len(people)} people in {len(shards)} shards, {layout.size} numbers each")


@torch.no_grad()
def predictable(config: Preoptimize, people: FaceSource, layout: Layout) -> dict[str, float | str]:
    """How much of the thetas in `output` the encoder's embedding of one photo of each person predicts."""
    device = device_of(config.accelerator)
    encoder = face_encoder(config.encoder).eval().to(device)
    thetas, identities = load_thetas(config.output, layout)
    rows = {identity: row for row, identity in enumerate(identities.tolist())}
    embeddings = {}  # by identity: where somebody has no usable photo another person stands in, who is there already
    for sample in people:
        if sample.identity in rows:
            embeddings[sample.identity] = encoder(sample.reference[None].to(device)).embedding.cpu()
    of_rows = thetas[[rows[identity] for identity in embeddings]]
    known = predictability(torch.cat(list(embeddings.values())), of_rows, layout)
    print(
        f"{config.output}: an embedding predicts {known.r2:.1%} of theta and {known.r2_residuals:.1%} of residuals "
        f"(R², {known.num_scored} people, fitted on {known.num_fit} others)"
    )
    return {**known._asdict(), "encoder": config.encoder, "encoder_digest": encoder.digest}


def fit(
    config: Preoptimize, diffusion: StableDiffusion, lidb: LiDB, people: FaceSource, members: range, last: Path
) -> tuple[Trainer, Preoptimization]:
    """Fits the people of one shard together, from where an interrupted run stopped."""
    trainer = Trainer(
        accelerator=config.accelerator,
        precision=config.precision,
        devices=1,
        logger=False,
        max_steps=config.num_steps,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(
                dirpath=last.parent,
                filename=last.stem,
                every_n_train_steps=config.checkpoint_every,
                save_on_exception=True,
                enable_version_counter=False,
            )
        ],
    )
    # Each draw takes a picture of the person; which one is a function of the source's seed.
    views = [[people[draw, index] for draw in range(config.faces.views_per_identity)] for index in members]
    stage = Preoptimization(
        diffusion,
        lidb,
        latents=torch.stack([diffusion.encode_images(torch.stack([v.target for v in of])).float() for of in views]),
        prompts=[[view.prompt for view in of_person] for of_person in views],
        num_steps=config.num_steps,
        lr=config.lr,
        views_per_step=config.views_per_step,
        mean_pull=config.mean_pull,
        timesteps=Timesteps.named(config.timesteps),
        seed=config.seed,
    )
    trainer.fit(stage, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    return trainer, stage


if __name__ == "__main__":
    run(main)
