"""Callbacks of training: the loss curve, and unseen people drawn and scored at each validation."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
import wandb
from jaxtyping import Float, Int
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from tqdm.auto import tqdm

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import tiled_batches
from hdb.diffusion.sheet import picture_grid, save_image, to_pil
from hdb.faces.datamodule import first_references
from hdb.faces.sources import FaceSource
from hdb.lidb.residuals import Residuals
from hdb.metrics.judges import Embeddings, Judges, Scores
from hdb.prompts import remove_identifier
from hdb.training.device import synchronized_time
from hdb.training.options import PreviewOptions


class LossCurve(L.Callback):
    """Keeps the training loss as a few hundred points, each the mean over as many steps.

        loss of every step -> mean over ceil(max_steps / num_points) steps -> points [[last step, loss], ...]

    The curve is stored in the checkpoint. A file of its own would have points of steps that a resumed run repeats.

    Args:
        num_points: Largest number of points in a run of the Trainer's `max_steps`.
    """

    def __init__(self, *, num_points: int = 300) -> None:
        self.num_points = num_points
        self.finished: list[list[int | float]] = []
        self.step = 0
        self.total: float | Tensor = 0.0  # sum of the losses of the unfinished point
        self.count = 0

    @property
    def points(self) -> list[list[int | float]]:
        """[step, loss] of all steps so far; the last point may average fewer steps than the others."""
        if not self.count:
            return list(self.finished)
        return [*self.finished, [self.step, float(self.total) / self.count]]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step_finished = trainer.global_step > self.step
        steps_per_point = -(-trainer.max_steps // self.num_points)
        self.step = trainer.global_step
        self.count += 1
        # Lightning divides the loss by the batches of a step. The sum stays on the device: float() would wait for it.
        self.total = self.total + outputs["loss"].detach() * trainer.accumulate_grad_batches
        if step_finished and self.step % steps_per_point == 0:
            self.finished = self.points
            self.total = 0.0
            self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"finished": self.finished, "step": self.step, "total": float(self.total), "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.finished = state_dict["finished"]
        self.step = state_dict["step"]
        self.total = state_dict["total"]
        self.count = state_dict["count"]


class StepRate(L.Callback):
    """Measures the steps of a run, without its first ones, which allocate memory and capture graphs.

    Args:
        num_skipped: Number of steps that are not counted. A run that is no longer has no rate.
    """

    def __init__(self, *, num_skipped: int = 10) -> None:
        self.num_skipped = num_skipped
        self.count = 0
        self.started: float | None = None
        self.steps_per_second: float | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.count += 1
        if self.count == self.num_skipped:
            self.started = synchronized_time(pl_module.device)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.count > self.num_skipped:
            seconds = synchronized_time(pl_module.device) - self.started
            self.steps_per_second = (self.count - self.num_skipped) / seconds


class StepProgressBar(L.Callback):
    """Shows a bar over the steps of a run. Lightning's own bar counts epochs, of which there is no last one here."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar = tqdm(
            total=trainer.max_steps, initial=trainer.global_step, desc="steps", disable=trainer.global_rank > 0
        )

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.close()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class PreviewPeople(L.Callback):
    """Predicts, draws and scores unseen people at each validation.

        references (n, 3, h, w) -> hypernet -> theta (n, p) -> a picture per prompt -> val/face_rec, val/dino,
        val/clip_i, val/clip_t; a grid; at W&B a table with a row per person: reference, pictures, scores

    Seeds do not change, so the pictures of two validations differ by what was learned in between. The scores compare
    with the reference and the prompt. They come from few inference steps and are not those of an evaluation. Each
    process draws its share of the people. The scores are over all of them; grid and table show those of rank 0.

    Args:
        people: Unseen people, of whom the first `num_preview_identities` are drawn.
        path: The grid, a PNG that is replaced at each validation.

    Raises:
        ValueError: Fewer people than processes, when training starts.
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
        self.personalized = personalized
        self.scores = Scores(judges)
        self.references = first_references(people, options.num_identities)
        self.reference_embeddings: Embeddings | None = None
        self.prompts = list(options.prompts)
        self.sampling = options.sampling
        self.path = Path(path)
        self.seed = seed

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if len(self.references) < trainer.world_size:
            raise ValueError(
                f"{len(self.references)} people to preview for {trainer.world_size} processes: "
                f"expected at least one each, preview.num_identities={trainer.world_size}"
            )

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        people = torch.arange(trainer.global_rank, len(self.references), trainer.world_size)
        references = self.references[people]
        with torch.no_grad():
            theta = pl_module.hypernet(references.to(pl_module.device))
        pictures = self.draw(Residuals(theta, pl_module.hypernet.layout), people)
        if self.reference_embeddings is None:
            self.reference_embeddings = self.scores.judges.embed_images(references)
        self.scores.reset()
        for prompt, prompt_pictures in zip(self.prompts, pictures, strict=True):
            plain_prompts = [remove_identifier(prompt)] * len(people)
            self.scores.update(prompt_pictures, self.reference_embeddings, plain_prompts, people)
        for name, score in self.scores.compute().items():
            pl_module.log(f"val/{name}", score, prog_bar=name == "face_rec")
        if trainer.is_global_zero:
            self.show(trainer, references, pictures)

    def draw(self, residuals: Residuals, people: Int[Tensor, " k"]) -> Float[Tensor, "q k 3 h w"]:
        """Draws each of k people under each of q prompts.

        Args:
            people: Their numbers among all previewed people. Seeds depend on them and not on who is drawn together.
        """
        pictures: dict[tuple[int, int], Tensor] = {}
        batches = tiled_batches(len(self.prompts), 1, len(people), max_batch_size=self.sampling.batch_size)
        for batch in batches:
            rows = sorted({row for _, _, row in batch})
            batch_pictures = self.personalized.pictures(
                Residuals(residuals.theta[rows], residuals.layout),
                [self.prompts[prompt] for prompt, _, _ in batch],
                seeds=[self.seed + prompt * len(self.references) + int(people[row]) for prompt, _, row in batch],
                sampling=self.sampling,
            )
            for (prompt, _, row), picture in zip(batch, batch_pictures, strict=True):
                pictures[prompt, row] = picture
        prompts = range(len(self.prompts))
        return torch.stack([torch.stack([pictures[prompt, row] for row in range(len(people))]) for prompt in prompts])

    def show(
        self, trainer: L.Trainer, references: Float[Tensor, "k 3 _ _"], pictures: Float[Tensor, "q k 3 h w"]
    ) -> None:
        """Writes the grid. With W&B also logs the grid and the table."""
        columns = ["reference", *self.prompts]
        rows = [[reference, *pictures[:, person]] for person, reference in enumerate(references)]
        grid = picture_grid(rows, columns=columns)
        save_image(grid, self.path)
        if isinstance(trainer.logger, WandbLogger):
            trainer.logger.log_image("val/pictures", [grid])
            scores = self.scores.per_person()
            table = [
                [*map(thumbnail, row), *(float(values[person]) for values in scores.values())]
                for person, row in enumerate(rows)
            ]
            trainer.logger.log_table("val/people", columns=[*columns, *scores], data=table)


def thumbnail(picture: Float[Tensor, "3 h w"]) -> wandb.Image:
    """A picture for a W&B table, at 128 px: full ones would take gigabytes over a long run."""
    return wandb.Image(to_pil(picture, size=128))
