"""What happens beside training: the loss as a curve, pictures of unseen people and their scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.sampling import SamplingOptions
from hdb.diffusion.sheet import picture_grid, save_image
from hdb.lidb.residuals import Residuals
from hdb.metrics.judges import Judges, Scores, Seen
from hdb.prompts import without_identifier


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
        self.step, self.count = trainer.global_step, self.count + 1
        self.total = self.total + outputs["loss"].detach()  # stays on the device: float() would wait for it every step
        if self.step % -(-trainer.max_steps // self.num_points) == 0:
            self.finished, self.total, self.count = self.points, 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        return {"finished": self.finished, "step": self.step, "total": float(self.total), "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.finished, self.step = state_dict["finished"], state_dict["step"]
        self.total, self.count = state_dict["total"], state_dict["count"]


class PreviewPeople(L.Callback):
    """After each validation: predicts theta of a few unseen people, draws them, scores them, shows them.

        references (n, 3, h, w) -> hypernet -> theta (n, p) -> a picture per prompt -> val/face_rec and so on, a grid

    Seeds never change, so pictures of two validations differ by what was learned. Scores are against the reference and
    the prompt.

    Args:
        path: of the grid, a PNG; replaced each time.
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        judges: Judges,
        references: Float[Tensor, "n 3 h w"],
        *,
        prompts: Sequence[str],
        path: str | Path,
        sampling: SamplingOptions,
        seed: int = 0,
    ) -> None:
        self.personalized, self.scores, self.sampling, self.seed = personalized, Scores(judges), sampling, seed
        self.references, self.prompts, self.path = references, list(prompts), Path(path)
        self.known: Seen | None = None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with torch.no_grad():
            theta = pl_module.hypernet(self.references.to(pl_module.device))
        people, num, columns = Residuals(theta, pl_module.hypernet.layout), len(self.references), []
        self.known = self.known or self.scores.judges.embed_images(self.references)
        self.scores.reset()
        for number, prompt in enumerate(self.prompts):
            seeds = [self.seed + number * num + person for person in range(num)]
            drawn = self.personalized.pictures(people, [prompt] * num, seeds=seeds, sampling=self.sampling)
            self.scores.update(drawn, self.known, [without_identifier(prompt)] * num)
            columns.append(drawn)
        for name, score in self.scores.compute().items():
            pl_module.log(f"val/{name}", score, prog_bar=name == "face_rec")
        if not trainer.is_global_zero:
            return
        rows = zip(self.references, *columns, strict=True)
        grid = picture_grid([list(row) for row in rows], columns=["reference", *self.prompts])
        save_image(grid, self.path)
        if isinstance(trainer.logger, WandbLogger):
            trainer.logger.log_image("val/pictures", [grid])
