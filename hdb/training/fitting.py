"""Gradient descent on rows of numbers, a row for each person, each as if it were alone: theta, or a learned word."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.faces.framing import face_weight
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.training.finetuning_options import FinetuningOptions
from hdb.training.prior import Prior
from hdb.training.stage import Stage, TimestepSampler


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


class RowFitting(Stage):
    """Fits n rows to the pictures of n people in one batch: what all stages that leave the base alone have in common.

    Every row has its own loss, gradient clipping and (Adam works elementwise) optimizer state, and all rows see the
    same views, noise and timesteps: a row does not depend on who else is in the run, and what the draws did to it they
    did to everyone. Two fits of one base then differ by the person, not by chance.

    Args:
        latents: v pictures of each of n people, encoded once.
        prompts: one for all pictures, or those of each person and picture.
        start: one row for all or n.
        options: steps, rate, draws per step, timesteps, mask; what is about relaxation is not looked at here.
        mean_pull: decoupled decay, like AdamW's, towards the mean row. Above 0 the rows do depend on each other.
        gradient_clip: largest norm of one row's gradient.
        prior: what the base knows of anybody, to be preserved.

    Raises:
        ValueError: a start for another number of people; prompts that do not match the latents.
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        latents: Float[Tensor, "n v c h w"],
        prompts: str | Sequence[Sequence[str]],
        start: Float[Tensor, "_ p"],
        options: FinetuningOptions,
        mean_pull: float = 0.0,
        gradient_clip: float = 1.0,
        prior: Prior | None = None,
        seed: int,
    ) -> None:
        super().__init__(personalized, timesteps=TimestepSampler.from_name(options.timesteps), seed=seed)
        num_people, num_views = latents.shape[:2]
        prompts = [[prompts] * num_views] * num_people if isinstance(prompts, str) else prompts
        if [len(views) for views in prompts] != [num_views] * num_people:
            raise ValueError(f"prompts must be {num_people} x {num_views} like the latents, not {len(prompts)} x ...")
        if len(start) not in (1, num_people):
            raise ValueError(f"start must have 1 row or one per person, not {len(start)} for {num_people} people")
        self.rows = nn.Parameter(start.detach().float().cpu().expand(num_people, -1).clone())
        self.register_buffer("latents", latents.detach(), persistent=False)
        weight = torch.from_numpy(face_weight(latents.shape[-1])) if options.mask else None
        self.register_buffer("weight", weight, persistent=False)
        self.prompts, self.options, self.prior = prompts, options, prior
        self.mean_pull, self.gradient_clip = mean_pull, gradient_clip
        self.loss = torch.zeros(())  # of the last step

    @abstractmethod
    def losses(
        self,
        latents: Float[Tensor, "m c h w"],
        prompts: Sequence[str],
        *,
        noise: Float[Tensor, "m c h w"],
        timesteps: Int[Tensor, " m"],
        weight: Float[Tensor, "h w"] | None = None,
    ) -> Float[Tensor, " m"]:
        """The denoising loss of each sample under its own person's row; sample i belongs to person i mod n."""

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
        losses = self.losses(
            torch.cat([self.latents[:, view] for view in views]),  # tiled, as LiDB layers take it
            [prompt for of_draw in prompts for prompt in of_draw],
            noise=noise.repeat_interleave(num_people, 0),
            timesteps=timesteps.repeat_interleave(num_people, 0),
            weight=self.weight,
        )
        self.log("train/diffusion_loss", losses.detach().mean())  # not in the bar, which would wait for it every step
        if self.prior is not None:
            losses = losses + self.prior.weight * self.prior_losses(generator)
        self.loss = losses.detach().mean()
        self.log("train/loss", self.loss)
        return losses.sum() / num_draws  # summed over people: a row's gradient is that of being alone

    def prior_losses(self, generator: torch.Generator) -> Float[Tensor, " m"]:
        """The loss of as many class pictures for everyone as there were draws of their own."""
        num_people, num_draws = len(self.latents), self.options.batch_size
        latents = self.prior.draw(num_draws, generator).to(self.device)
        noise, timesteps = self.draw(num_draws, generator, stratified=self.options.stratified)
        losses = self.losses(
            latents.repeat_interleave(num_people, 0),
            [self.prior.prompt] * num_people,
            noise=noise.repeat_interleave(num_people, 0),
            timesteps=timesteps.repeat_interleave(num_people, 0),
        )
        self.log("train/prior_loss", losses.detach().mean())
        return losses

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        norm = self.rows.grad.norm(dim=1, keepdim=True)
        self.rows.grad.mul_((self.gradient_clip / norm.clamp_min(1e-12)).clamp_max(1.0))

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        lr = optimizer.param_groups[0]["lr"]
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.mean_pull:  # not in a hook after the batch: checkpoints are written before those
            with torch.no_grad():
                mean = self.rows.mean(0, keepdim=True).expand_as(self.rows)
                self.rows.lerp_(mean, lr * self.mean_pull)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW([self.rows], lr=self.options.learning_rate, weight_decay=0.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.options.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ThetaFitting(RowFitting):
    """Fits n thetas: what `preoptimize` and `personalize` have in common.

    Raises:
        ValueError: a start for another base or not finite, or see `RowFitting`.
    """

    def __init__(self, personalized: PersonalizedDiffusion, *, start: Residuals, **fitting: Any) -> None:
        personalized.lidb.check_layout(start.layout)
        start.layout.check_theta(start.theta, finite=True)
        super().__init__(personalized, start=start.theta, **fitting)
        self.layout: Layout = start.layout
        self.prompt_embeds: dict[tuple[str, ...], Tensor] = {}  # of prompts that no step reads differently

    @property
    def fitted(self) -> Residuals:
        """A copy of the personal weights, on the CPU."""
        return Residuals(self.rows.detach().cpu().clone(), self.layout)

    def losses(
        self, latents: Float[Tensor, "m c h w"], prompts: Sequence[str], **draws: Tensor | None
    ) -> Float[Tensor, " m"]:
        people = Residuals(self.rows, self.layout)
        if not self.options.train_text_encoder:
            if (known := tuple(prompts)) not in self.prompt_embeds:
                with torch.no_grad():
                    self.prompt_embeds[known] = self.personalized.encode_prompts(people, prompts)
            prompts = self.prompt_embeds[known]
        return self.personalized.denoising_losses(people, latents, prompts, **draws)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layout_digest"], checkpoint["loss"] = self.layout.digest, float(self.loss)
        checkpoint["state_dict"] = {"thetas": checkpoint["state_dict"]["rows"]}  # what these rows are

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.layout.check_digest(checkpoint["layout_digest"], name="the checkpoint")
        self.loss = torch.tensor(checkpoint.get("loss", 0.0))
        checkpoint["state_dict"] = {"rows": checkpoint["state_dict"]["thetas"]}
