"""The hypernetwork's targets: thetas fitted shard by shard, and how well a face predicts them."""

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
from hdb.training.callbacks import StepProgressBar
from hdb.training.checkpoints import AtomicCheckpointIO, find_checkpoint, last_checkpoint_callback, remove_checkpoints
from hdb.training.options import PreoptimizationOptions
from hdb.training.predictability import Predictability, compute_predictability
from hdb.training.preoptimize import Preoptimization, load_thetas, save_thetas, shard_path
from hdb.training.ranks import all_gather, is_rank_zero, rank_shard, write_json_on_rank_zero
from hdb.training.stopping import StopBetweenSteps


class ShardedPreoptimization:
    """Pre-optimizes many people, one shard at a time, and continues where an interrupted run stopped.

    Args:
        views_per_identity: Number of pictures that each person is fitted to. The source's seed chooses them.
        num_workers: Processes that read the pictures.
        checkpoint_every: Steps between checkpoints.
        trainer: Arguments of the Trainer: accelerator, devices, precision.
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
        self.personalized = personalized
        self.people = people
        self.options = options
        self.views_per_identity = views_per_identity
        self.num_workers = num_workers
        self.checkpoint_every = checkpoint_every
        self.trainer = dict(trainer or {})
        self.seed = seed

    def fit(self, folder: Path, *, identities_per_shard: int, log: Callable[..., None]) -> None:
        """Writes the thetas-*.safetensors that are missing and metrics.json. Processes share the shards.

        Args:
            log: Called with {name: last loss} of each shard and its number as `step`.
        """
        num_people = len(self.people)
        starts = range(0, num_people, identities_per_shard)
        metrics_file = folder / "metrics.json"
        losses = {}
        if metrics_file.is_file():  # a finished run, resumed for its predictability
            losses = json.loads(metrics_file.read_text())["train/diffusion_loss"]
        for number in tqdm(rank_shard(range(len(starts))), desc="shards", disable=not is_rank_zero()):
            if shard_path(folder, number).is_file():
                continue
            start = starts[number]
            loss = self.fit_shard(folder, number, range(start, min(start + identities_per_shard, num_people)))
            losses[f"shard-{number:05d}"] = loss
            log({"preoptimize/diffusion_loss": loss}, step=number)
        for process_losses in all_gather(losses):
            losses |= process_losses
        metrics = {"identities": num_people, "train/diffusion_loss": dict(sorted(losses.items()))}
        write_json_on_rank_zero(metrics_file, metrics)
        size = self.personalized.layout.size
        print(f"{folder}: thetas of {num_people} people in {len(starts)} shards, {size} numbers each")

    def fit_shard(self, folder: Path, number: int, members: range) -> float:
        """Fits and writes one shard. Returns the last loss.

        Args:
            members: The people of the shard, by their index in the source.
        """
        last = folder / f"shard-{number:05d}.ckpt"
        trainer = Trainer(
            max_steps=self.options.num_steps,
            logger=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            plugins=[AtomicCheckpointIO()],
            callbacks=[
                last_checkpoint_callback(last, every=self.checkpoint_every),
                StopBetweenSteps(),
                StepProgressBar(),
            ],
            **self.trainer,
        )
        stage = self.stage(members)
        trainer.fit(stage, ckpt_path=find_checkpoint(last), weights_only=True)
        identities = torch.tensor([self.people[index].identity for index in members])
        save_thetas(folder, number, stage.fitted, identities=identities)
        remove_checkpoints(last)
        return float(stage.loss)  # one step older if the run was stopped after the last step

    def stage(self, members: range) -> Preoptimization:
        """The LightningModule of one shard, with the pictures of its people encoded."""
        num_views = self.views_per_identity
        keys = [(draw, index) for index in members for draw in range(num_views)]
        samples = read_samples(self.people, keys, num_workers=self.num_workers)
        latents, prompts, sides = [], [], []
        for start in range(0, len(samples), num_views):
            views = samples[start : start + num_views]
            pictures = torch.stack([view.target for view in views])
            latents.append(self.personalized.diffusion.encode_images(pictures).float())
            prompts.append([view.prompt for view in views])
            sides.append([view.target_side for view in views])
        is_known = all(side is not None for person_sides in sides for side in person_sides)
        return Preoptimization(
            self.personalized,
            latents=torch.stack(latents),
            prompts=prompts,
            options=self.options,
            photo_sides=torch.tensor(sides) if is_known else None,
            seed=self.seed,
        )


@torch.no_grad()
def measure_predictability(
    folder: Path, people: FaceSource, layout: Layout, encoder: FaceEncoder, *, name: str, device: torch.device
) -> Predictability:
    """How well an embedding of one photo predicts the thetas in a folder. Prints it and writes predictable.json.

    Args:
        name: The encoder's name or folder, for predictable.json.
    """
    encoder = encoder.eval().to(device)
    thetas, identities = load_thetas(folder, layout)
    rows = {identity: row for row, identity in enumerate(identities.tolist())}
    embeddings = {}  # by identity: a source replaces a person without usable photos by one it also yields elsewhere
    for sample in people:
        if sample.identity in rows:
            embeddings[sample.identity] = encoder(sample.reference[None].to(device)).embedding.cpu()
    targets = Residuals(thetas[[rows[identity] for identity in embeddings]], layout)
    result = compute_predictability(torch.cat(list(embeddings.values())), targets)
    record = {**result._asdict(), "encoder": name, "encoder_digest": encoder.digest}
    write_json(folder / "predictable.json", record)
    print(
        f"{folder}: an embedding predicts {result.r2:.1%} of theta and {result.r2_residuals:.1%} of residuals "
        f"(R², {result.num_scored} people, fitted on {result.num_fit} others)"
    )
    return result
