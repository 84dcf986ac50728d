"""Trains the hypernetwork: python -m experiments.pretrain configs/faceworld/pretrain.yaml [key=value ...]

Under `output`: last.ckpt, from which an interrupted run goes on; hypernet/, the network alone, to be passed on;
metrics.json, curve.json (the loss), preview.png, splits.json.
"""

import time
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint

from experiments.cli import run
from experiments.curves import write_curve
from experiments.networks import device_of, face_encoder, recognizer, stable_diffusion
from experiments.people import SPLITS_FILE, People
from experiments.runs import claim, write_json
from experiments.tracking import wandb_run
from hdb.callbacks import LossCurve, PreviewPeople
from hdb.config import Pretrain, load
from hdb.faces.datamodule import FaceData
from hdb.hypernet.decoder import WeightDecoder
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout
from hdb.training.denoising import Timesteps
from hdb.training.preoptimize import load_thetas
from hdb.training.pretrain import HyperNetPretraining

NUM_STANDARDIZED = 256  # references that the scale of the embeddings is measured on


def main(argv: list[str]) -> None:
    config = load(Pretrain, argv)
    folder, net, started = Path(config.output), config.hypernet, time.perf_counter()
    people = People(config.faces)  # before gigabytes are read, as nobody may be there
    diffusion = stable_diffusion(config.base, memory=config.memory)
    layout = Layout.of(unet=diffusion.unet, text_encoder=diffusion.text_encoder, **asdict(config.lidb))
    # Where the bases are learned, the stage has a better word on beta than that there are no thetas.
    wanted = config.beta and config.thetas and not net.learn_bases
    targets = load_thetas(config.thetas, layout) if wanted else None
    encoder = face_encoder(net.encoder)
    judge = recognizer(config.judges.recognizer)
    train, val = people.training(), people.faces("val")

    decoder = WeightDecoder(
        layout, encoder, width=net.width, num_layers=net.num_layers, num_heads=net.num_heads, seed=net.seed
    )
    hypernet = HyperNet(
        encoder,
        decoder,
        layout,
        iterations=net.iterations,
        linear_path=net.linear_path,
        freeze_encoder=net.freeze_encoder,
        learn_bases=net.learn_bases,
        base_digest=diffusion.digest,
    )
    lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=hypernet.layout)
    with torch.no_grad():
        seen = torch.stack([sample.reference for sample in islice(train, NUM_STANDARDIZED)])
        encoder.to(device_of(config.accelerator))  # a ViT-H would take many minutes on a CPU
        hypernet.standardize(torch.cat([encoder(part.to(encoder.mean.device)).embedding for part in seen.split(32)]))
    preview = [val[index].reference for index in range(min(config.num_preview_identities, len(val)))]
    stage = HyperNetPretraining(
        diffusion,
        lidb,
        hypernet,
        alpha=config.alpha,
        beta=config.beta,
        gamma=config.gamma,
        identity_until=config.identity_until,
        identity_styled=config.identity_styled,
        targets=targets,
        distance=config.distance,
        lr=config.lr,
        linear_lr=config.linear_lr,
        bases_lr=config.bases_lr,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        timesteps=Timesteps.named(config.timesteps),
        num_val_draws=config.num_val_draws,
        seed=config.seed,
    )
    data = FaceData(
        train, val, batch_size=config.faces.batch_size, num_workers=config.faces.num_workers, seed=config.seed
    )
    curve = LossCurve()
    last, inputs = folder / "last.ckpt", {"base_digest": diffusion.digest, "encoder_digest": encoder.digest}
    resumed = claim(folder, config, result="metrics.json", inputs=inputs) and last.is_file()
    write_json(folder / SPLITS_FILE, asdict(people.splits))
    with wandb_run(config, stage="pretrain", output=folder) as logger:
        trainer = Trainer(
            accelerator=config.accelerator,
            precision=config.precision,
            devices=1,
            logger=logger,
            max_steps=config.max_steps,
            max_time=timedelta(minutes=config.max_minutes) if config.max_minutes else None,
            val_check_interval=config.val_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            log_every_n_steps=10,
            enable_model_summary=False,
            callbacks=[
                ModelCheckpoint(
                    dirpath=folder,
                    filename="last",
                    every_n_train_steps=config.checkpoint_every,
                    save_on_exception=True,
                    enable_version_counter=False,
                ),
                LearningRateMonitor(logging_interval="step"),
                curve,
                PreviewPeople(
                    diffusion,
                    lidb,
                    judge,
                    references=torch.stack(preview),
                    prompts=config.preview_prompts,
                    path=folder / "preview.png",
                    num_inference_steps=config.sampling.num_inference_steps,
                    guidance_scale=config.sampling.guidance_scale,
                    seed=config.seed,
                ),
            ],
        )
        trainer.fit(stage, data, ckpt_path=str(last) if resumed else None, weights_only=True)
        trainer.save_checkpoint(last)
        hypernet.save(folder / "hypernet", include_encoder=not net.freeze_encoder, dtype=torch.float16)
        (scores,) = trainer.validate(stage, data, verbose=False)
    scores |= {"step": trainer.global_step, "seconds": time.perf_counter() - started}
    about = {"base": diffusion.name, "base_digest": diffusion.digest, "skipped": train.skipped.counts}
    write_curve(folder, curve.points)
    write_json(folder / "metrics.json", scores | about)
    print(f"{last}: {trainer.global_step} steps, {', '.join(f'{key} {value:.4f}' for key, value in scores.items())}")


if __name__ == "__main__":
    run(main)
