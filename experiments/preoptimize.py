"""The best theta of many training identities: python -m experiments.preoptimize configs/faceworld/preoptimize.yaml"""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tqdm.auto import tqdm

from experiments.cli import run
from experiments.networks import device_of, stable_diffusion
from experiments.people import SPLITS_FILE, People
from experiments.runs import claim, write_json
from experiments.tracking import wandb_run
from hdb.config import Preoptimize, load
from hdb.diffusion import StableDiffusion
from hdb.faces.sources import FaceSource
from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout
from hdb.training.denoising import Timesteps
from hdb.training.preoptimize import Preoptimization, save_thetas, shard_path


def main(argv: list[str]) -> None:
    config = load(Preoptimize, argv)
    if config.identities_per_shard < 1:
        raise ValueError(f"identities_per_shard is {config.identities_per_shard}, expected at least 1")
    everybody = People(config.faces)
    diffusion = stable_diffusion(config.base, memory=config.memory).to(device_of(config.accelerator))
    layout = Layout.of(unet=diffusion.unet, text_encoder=diffusion.text_encoder, **asdict(config.lidb))
    lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=layout)
    people = everybody.faces("train")
    folder, size = Path(config.output), config.identities_per_shard
    claim(folder, config, result="metrics.json", inputs={"base_digest": diffusion.digest})
    write_json(folder / SPLITS_FILE, asdict(replace(everybody.splits, train=people.names)))
    shards = [range(start, min(start + size, len(people))) for start in range(0, len(people), size)]
    losses = {}
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
    write_json(folder / "metrics.json", {"identities": len(people), "train/diffusion_loss": losses})
    print(f"{folder}: thetas of {len(people)} people in {len(shards)} shards, {layout.size} numbers each")


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
