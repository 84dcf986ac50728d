"""ThetaFitting: gradient descent on the rows of theta themselves, each as if it were alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.training.denoising import Stage, Timesteps


class Steps:
    """The numbers from 0 to num - 1, resumable; a step needs its number and no data that the module does not hold."""

    def __init__(self, num: int) -> None:
        self.num, self.next = num, 0

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[int]:
        start, self.next = self.next, 0
        for step in range(start, self.num):
            self.next = step + 1
            yield step
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


@dataclass(frozen=True)
class FittingOptions:
    """How rows of theta are fitted.

    Args:
        batch_size: draws of a picture, noise and timestep per person and step.
        stratified: put the timesteps of a step into equal shares.
        mean_pull: decoupled decay, like AdamW's, towards the mean row. Above 0 the rows do depend on each other.
        gradient_clip: largest norm of one row's gradient.
    """

    num_steps: int
    lr: float
    batch_size: int
    timesteps: Timesteps
    stratified: bool = True
    mean_pull: float = 0.0
    gradient_clip: float = 1.0


class ThetaFitting(Stage):
    """Fits n thetas to the pictures of n people in one batch: what `preoptimize` and `personalize` have in common.

    Every row has its own loss, gradient clipping and (Adam works elementwise) optimizer state, and all rows see the
    same views, noise and timesteps: a row does not depend on who else is in the run, and what the draws did to it they
    did to everyone. Two fits of one base then differ by the person, not by chance.

    Args:
        latents: v pictures of each of n people, encoded once.
        prompts: one for all pictures, or those of each person and picture.
        start: one row for all or n.

    Raises:
        ValueError: a start for another base or number of people, or not finite; prompts that do not match the latents.
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        latents: Float[Tensor, "n v c h w"],
        prompts: str | Sequence[Sequence[str]],
        start: Residuals,
        options: FittingOptions,
        seed: int,
    ) -> None:
        super().__init__(personalized, timesteps=options.timesteps, seed=seed)
        num_people, num_views = latents.shape[:2]
        prompts = [[prompts] * num_views] * num_people if isinstance(prompts, str) else prompts
        if [len(views) for views in prompts] != [num_views] * num_people:
            raise ValueError(f"prompts must be {num_people} x {num_views} like the latents, not {len(prompts)} x ...")
        personalized.lidb.check(start.layout)
        start.layout.check(start.theta, finite=True)
        if len(start) not in (1, num_people):
            raise ValueError(f"start must have 1 row or one per person, not {len(start)} for {num_people} people")
        self.layout: Layout = start.layout
        self.thetas = nn.Parameter(start.theta.detach().float().cpu().expand(num_people, -1).clone())
        self.register_buffer("latents", latents.detach(), persistent=False)
        self.prompts, self.options = prompts, options
        self.loss = torch.zeros(())  # of the last step

    @property
    def fitted(self) -> Residuals:
        """A copy of the personal weights, on the CPU."""
        return Residuals(self.thetas.detach().cpu().clone(), self.layout)

    def train_dataloader(self) -> Steps:
        return Steps(self.options.num_steps)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        generator, (num_people, num_views) = self.step_generator(batch_idx), self.latents.shape[:2]
        num_draws = self.options.batch_size
        views = torch.randint(num_views, (num_draws,), generator=generator).tolist()
        noise, timesteps = self.draw(num_draws, generator, stratified=self.options.stratified)
        prompts = [[of_person[view] for of_person in self.prompts] for view in views]
        if all(of_draw == prompts[0] for of_draw in prompts):
            prompts = prompts[:1]  # encoded once for all draws
        losses = self.personalized.denoising_losses(
            Residuals(self.thetas, self.layout),
            torch.cat([self.latents[:, view] for view in views]),  # tiled, as LiDB layers take it
            [prompt for of_draw in prompts for prompt in of_draw],
            noise=noise.repeat_interleave(num_people, 0),
            timesteps=timesteps.repeat_interleave(num_people, 0),
        )
        self.loss = losses.detach().mean()
        self.log("train/diffusion_loss", self.loss, prog_bar=True)
        self.log("train/loss", self.loss)
        return losses.sum() / num_draws  # summed over people: a row's gradient is that of being alone

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        norm = self.thetas.grad.norm(dim=1, keepdim=True)
        self.thetas.grad.mul_((self.options.gradient_clip / norm.clamp_min(1e-12)).clamp_max(1.0))

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        lr = optimizer.param_groups[0]["lr"]
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.options.mean_pull:  # not in a hook after the batch: checkpoints are written before those
            with torch.no_grad():
                mean = self.thetas.mean(0, keepdim=True).expand_as(self.thetas)
                self.thetas.lerp_(mean, lr * self.options.mean_pull)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW([self.thetas], lr=self.options.lr, weight_decay=0.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.options.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layout_digest"], checkpoint["loss"] = self.layout.digest, float(self.loss)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.layout.check_digest(checkpoint["layout_digest"], of="the checkpoint")
        self.loss = torch.tensor(checkpoint.get("loss", 0.0))
