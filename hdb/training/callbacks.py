"""What happens beside training: the loss as a curve; unseen people drawn and scored at each validation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from jaxtyping import Float, Int
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import SamplingOptions, tiled_batches
from hdb.diffusion.sheet import picture_grid, save_image, to_pil
from hdb.faces.datamodule import first_references
from hdb.faces.sources import FaceSource
from hdb.lidb.residuals import Residuals
from hdb.limits import number_field, texts_field
from hdb.metrics.judges import Embeddings, Judges, Scores
from hdb.prompts import INSTANCE_PROMPT, remove_identifier

PREVIEWED = tuple(
    start.format(INSTANCE_PROMPT)
    for start in ("a photo of {}", "a photo of {} on a beach", "an oil painting of {}", "a bronze statue of {}")
)


class LossCurve(L.Callback):
    """Keeps the training loss as a few hundred points: each the mean over as many steps, at the last of them.

        loss of every step -> mean over ceil(max_steps / num_points) steps -> points [[step, loss], ...]

    The curve travels in the checkpoint. A file of its own would know of steps that a resumed run takes again, and their
    points would be there twice.

    Args:
        num_points: at most, of a run of the Trainer's max_steps.
    """

    def __init__(self, *, num_points: int = 300) -> None:
        self.num_points, self.finished, self.step = num_points, [], 0
        self.total, self.count = 0.0, 0  # of the point begun

    @property
    def points(self) -> list[list[int | float]]:
        """[step, loss] of all steps so far; the last point may be of fewer steps than the others."""
        return [*self.finished, *([[self.step, float(self.total) / self.count]] if self.count else [])]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped, self.step, self.count = trainer.global_step > self.step, trainer.global_step, self.count + 1
        # Of several batches to a step Lightning gives their share of its loss. It stays on the device: float() would
        # wait for it every step.
        self.total = self.total + outputs["loss"].detach() * trainer.accumulate_grad_batches
        if stepped and self.step % -(-trainer.max_steps // self.num_points) == 0:
            self.finished, self.total, self.count = self.points, 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"finished": self.finished, "step": self.step, "total": float(self.total), "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.finished, self.step = state_dict["finished"], state_dict["step"]
        self.total, self.count = state_dict["total"], state_dict["count"]


@dataclass
class PreviewOptions:
    """Whom to draw at each validation, and how: of `num_preview_identities` people a picture for each prompt."""

    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions(num_inference_steps=10))
    num_preview_identities: int = number_field(16, ge=1)
    preview_prompts: list[str] = texts_field(lambda: list(PREVIEWED))


class PreviewPeople(L.Callback):
    """At each validation: predicts theta of unseen people, draws them, scores them, shows them.

        references (n, 3, h, w) -> hypernet -> theta (n, p) -> a picture per prompt -> val/face_rec, val/dino,
        val/clip_i, val/clip_t; a grid; a table at W&B: the reference, the pictures and their scores, a row each person

    Seeds never change, so pictures of two validations differ by what was learned. Scores are against the reference and
    the prompt, of few inference steps and so not those of an evaluation. Every process draws its share of the people;
    the scores are of all of them, grid and table of the first process's.

    Args:
        people: unseen ones, of whom the first n are drawn, at least one for each process.
        path: of the grid, a PNG; replaced each time.
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        judges: Judges,
        people: FaceSource,
        *,
        options: PreviewOptions,
        path: str | Path,
        seed: int = 0,
    ) -> None:
        self.personalized, self.scores, self.seed = personalized, Scores(judges), seed
        self.references = first_references(people, options.num_preview_identities)
        self.prompts, self.sampling, self.path = list(options.preview_prompts), options.sampling, Path(path)
        self.known: Embeddings | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if len(self.references) < trainer.world_size:
            given = f"{len(self.references)} people to preview for {trainer.world_size} processes"
            raise ValueError(f"{given}: expected at least one each, num_preview_identities={trainer.world_size}")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        mine = torch.arange(trainer.global_rank, len(self.references), trainer.world_size)
        references = self.references[mine]
        with torch.no_grad():
            theta = pl_module.hypernet(references.to(pl_module.device))
        self.scores.reset()
        pictures = self.draw(Residuals(theta, pl_module.hypernet.layout), mine)
        for drawn, prompt in zip(pictures, self.prompts, strict=True):
            self.known = self.known or self.scores.judges.embed_images(references)
            self.scores.update(drawn, self.known, [remove_identifier(prompt)] * len(mine), mine)
        for name, score in self.scores.compute().items():
            pl_module.log(f"val/{name}", score, prog_bar=name == "face_rec")
        if trainer.is_global_zero:
            self.show(trainer, references, pictures)

    def draw(self, people: Residuals, numbers: Int[Tensor, " k"]) -> Float[Tensor, "q k 3 h w"]:
        """A picture of each of k people for each of q prompts.

        Args:
            numbers: of the people among all: their seeds do not depend on who is drawn together.
        """
        drawn: dict[tuple[int, int], Tensor] = {}
        for batch in tiled_batches(len(self.prompts), 1, len(people), max_batch_size=self.sampling.batch_size):
            persons = sorted({person for _, _, person in batch})
            seeds = [self.seed + p * len(self.references) + int(numbers[person]) for p, _, person in batch]
            some, prompts = Residuals(people.theta[persons], people.layout), [self.prompts[p] for p, _, _ in batch]
            pictures = self.personalized.pictures(some, prompts, seeds=seeds, sampling=self.sampling)
            drawn |= {(p, person): picture for (p, _, person), picture in zip(batch, pictures, strict=True)}
        rows = [torch.stack([drawn[p, person] for person in range(len(people))]) for p in range(len(self.prompts))]
        return torch.stack(rows)

    def show(
        self, trainer: L.Trainer, references: Float[Tensor, "k 3 _ _"], pictures: Float[Tensor, "q k 3 h w"]
    ) -> None:
        """Writes the grid, and logs grid and table."""
        columns = ["reference", *self.prompts]
        rows = [[reference, *of] for reference, of in zip(references, pictures.transpose(0, 1), strict=True)]
        grid = picture_grid(rows, columns=columns)
        save_image(grid, self.path)
        if isinstance(trainer.logger, WandbLogger):
            trainer.logger.log_image("val/pictures", [grid])
            scores = self.scores.per_person()
            numbers = zip(*(of.tolist() for of in scores.values()), strict=True)
            table = [[*map(thumbnail, row), *of] for row, of in zip(rows, numbers, strict=True)]
            trainer.logger.log_table("val/people", columns=[*columns, *scores], data=table)


def thumbnail(picture: Float[Tensor, "3 h w"]) -> wandb.Image:
    """A picture of a table, as small as in the grid: whole ones would be gigabytes over a long run."""
    return wandb.Image(to_pil(picture, size=128))
