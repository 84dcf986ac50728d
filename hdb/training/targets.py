"""Targets of the hypernetwork, shard by shard: many people fitted together, resumable at any step."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from tqdm.auto import tqdm

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.faces.datamodule import read_samples
from hdb.faces.sources import FaceSource
from hdb.files import write_json
from hdb.hypernet.encoder import FaceEncoder
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.training.checkpoints import AtomicCheckpointIO, find_checkpoint, last_checkpoint_callback, remove_checkpoints
from hdb.training.predictability import Predictability, predictability
from hdb.training.preoptimize import Preoptimization, PreoptimizationOptions, load_thetas, save_thetas, shard_path
from hdb.training.ranks import all_gather, is_rank_zero, rank_shard, write_json_on_rank_zero
from hdb.training.stopping import StopBetweenSteps


class ShardFitting:
    """Fits the people of one shard together, from where an interrupted run stopped.

    Args:
        views_per_identity: draws of a picture that each person is fitted to; which is a function of the source's seed.
        num_workers: processes that read the pictures.
        checkpoint_every: steps.
        trainer: arguments of the Trainer: accelerator, devices, precision.
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        people: FaceSource,
        *,
        options: PreoptimizationOptions,
        views_per_identity: int,
        num_workers: int = 0,
        checkpoint_every: int = 50,
        trainer: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.personalized, self.people, self.options, self.seed = personalized, people, options, seed
        self.views_per_identity, self.num_workers = views_per_identity, num_workers
        self.checkpoint_every, self.trainer = checkpoint_every, dict(trainer or {})

    def fit(self, folder: Path, *, identities_per_shard: int, log: Callable[..., None]) -> None:
        """Writes thetas-*.safetensors, as far as they are not there, and metrics.json. Processes share the shards.

        Args:
            log: takes the last loss of each shard, {name: loss} and its number as `step`.
        """
        num, metrics = len(self.people), folder / "metrics.json"  # there of a run that is asked for more afterwards
        losses = json.loads(metrics.read_text())["train/diffusion_loss"] if metrics.is_file() else {}
        starts = range(0, num, identities_per_shard)
        for number in tqdm(rank_shard(range(len(starts))), desc="shards", disable=not is_rank_zero()):
            if not shard_path(folder, number).is_file():
                start = starts[number]
                loss = self.fit_shard(folder, number, range(start, min(start + identities_per_shard, num)))
                losses[f"shard-{number:05d}"] = loss
                log({"preoptimize/diffusion_loss": loss}, step=number)
        losses = {name: loss for of_process in all_gather(losses) for name, loss in of_process.items()}
        write_json_on_rank_zero(metrics, {"identities": num, "train/diffusion_loss": dict(sorted(losses.items()))})
        size = self.personalized.layout.size
        print(f"{folder}: thetas of {num} people in {len(starts)} shards, {size} numbers each")

    def fit_shard(self, folder: Path, number: int, members: range) -> float:
        """Writes the shard of these people, by their numbers in the source; returns the last loss."""
        last = folder / f"shard-{number:05d}.ckpt"
        quiet = {"logger": False, "enable_model_summary": False, "plugins": [AtomicCheckpointIO()]}
        quiet["callbacks"] = [last_checkpoint_callback(last, every=self.checkpoint_every), StopBetweenSteps()]
        trainer = Trainer(max_steps=self.options.num_steps, **quiet, **self.trainer)
        stage = self.stage(members)
        trainer.fit(stage, ckpt_path=find_checkpoint(last), weights_only=True)
        identities = torch.tensor([self.people[index].identity for index in members])
        save_thetas(folder, number, stage.fitted, identities=identities)
        remove_checkpoints(last)  # the shard holds its result
        return float(stage.loss)  # of the step before, where it was stopped after the last

    def stage(self, members: range) -> Preoptimization:
        """What the Trainer fits: their pictures, encoded."""
        draws, encode = self.views_per_identity, self.personalized.diffusion.encode_images
        keys = [(draw, index) for index in members for draw in range(draws)]
        samples = read_samples(self.people, keys, num_workers=self.num_workers)
        views = [samples[start : start + draws] for start in range(0, len(samples), draws)]
        return Preoptimization(
            self.personalized,
            latents=torch.stack([encode(torch.stack([view.target for view in of])).float() for of in views]),
            prompts=[[view.prompt for view in of_person] for of_person in views],
            options=self.options,
            seed=self.seed,
        )


@torch.no_grad()
def predictable(
    folder: Path, people: FaceSource, layout: Layout, encoder: FaceEncoder, *, name: str, device: torch.device
) -> Predictability:
    """How much of the thetas in `folder` the encoder's embedding of one photo of each person predicts.

    Says it, and writes predictable.json.
    """
    encoder = encoder.eval().to(device)
    thetas, identities = load_thetas(folder, layout)
    rows = {identity: row for row, identity in enumerate(identities.tolist())}
    embeddings = {}  # by identity: where somebody has no usable photo another person stands in, who is there already
    for sample in people:
        if sample.identity in rows:
            embeddings[sample.identity] = encoder(sample.reference[None].to(device)).embedding.cpu()
    of_rows = Residuals(thetas[[rows[identity] for identity in embeddings]], layout)
    known = predictability(torch.cat(list(embeddings.values())), of_rows)
    write_json(folder / "predictable.json", {**known._asdict(), "encoder": name, "encoder_digest": encoder.digest})
    print(
        f"{folder}: an embedding predicts {known.r2:.1%} of theta and {known.r2_residuals:.1%} of residuals "
        f"(R², {known.num_scored} people, fitted on {known.num_fit} others)"
    )
    return known
