"""Gradient descent on rows of parameters, one row per person, each fitted as if it were alone."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.denoise import denoise
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.faces.framing import face_weight
from hdb.lidb.residuals import Residuals
from hdb.training.options import FinetuningOptions
from hdb.training.prior import Prior
from hdb.training.stage import Stage


class Steps:
    """A resumable loader of the numbers 0 to num - 1, for stages whose steps need no batch of data."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.next = 0

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[int]:
        start = self.next
        self.next = 0
        for step in range(start, self.num):
            self.next = step + 1
            yield step
        self.next = 0

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class RowFitting(Stage):
    """Fits one row of parameters per person to that person's pictures, all in one batch. The base is frozen.

    Every row has its own loss and its own gradient clipping, and Adam works elementwise: a row ends where it would have
    ended alone. All rows see the same noise, timesteps and choice of views. Fits on one base therefore differ by the
    person and not by chance.

    Args:
        latents: Of v pictures of each of n people.
        prompts: One for all pictures, or one per person and picture.
        start: n rows, or one row for all.
        options: Steps, rate, draws per step, timesteps, mask, text encoder. The relaxation is up to the caller.
        mean_pull: Decoupled decay, like AdamW's, towards the mean row. Above 0 the rows depend on each other.
        prior: Class pictures for prior preservation.

    Raises:
        ValueError: Another number of rows in `start`, or prompts that do not match the latents.
    """

    gradient_clip = 1.0  # largest norm of the gradient of one row

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        latents: Float[Tensor, "n v c h w"],
        prompts: str | Sequence[Sequence[str]],
        start: Float[Tensor, "_ p"],
        options: FinetuningOptions,
        mean_pull: float = 0.0,
        prior: Prior | None = None,
        seed: int,
    ) -> None:
        super().__init__(personalized, timesteps=options.timesteps, seed=seed)
        num_people, num_views = latents.shape[:2]
        if isinstance(prompts, str):
            prompts = [[prompts] * num_views] * num_people
        if [len(person_prompts) for person_prompts in prompts] != [num_views] * num_people:
            raise ValueError(f"prompts must be {num_people} x {num_views} like the latents, not {len(prompts)} x ...")
        if len(start) not in (1, num_people):
            raise ValueError(f"start must have 1 row or one per person, not {len(start)} for {num_people} people")
        self.rows = nn.Parameter(start.detach().float().cpu().expand(num_people, -1).clone())
        self.register_buffer("latents", latents.detach(), persistent=False)
        weight = torch.from_numpy(face_weight(latents.shape[-1])) if options.mask else None
        self.register_buffer("weight", weight, persistent=False)
        self.prompts = prompts
        self.options = options
        self.mean_pull = mean_pull
        self.prior = prior
        self.loss = torch.zeros(())  # mean over people, of the last step

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> TextCondition:
        """Applies the rows to the base and encodes the prompts; prompt i belongs to person i mod n."""

    def losses(
        self,
        latents: Float[Tensor, "m c h w"],
        prompts: Sequence[str],
        *,
        noise: Float[Tensor, "m c h w"],
        timesteps: Int[Tensor, " m"],
        weight: Float[Tensor, "h w"] | None = None,
    ) -> Float[Tensor, " m"]:
        """The diffusion loss of each sample under its person's row; sample i belongs to person i mod n."""
        condition = self.encode_prompts(prompts)
        return denoise(self.diffusion, latents, condition, noise=noise, timesteps=timesteps, weight=weight).losses

    def train_dataloader(self) -> Steps:
        return Steps(self.options.num_steps)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        num_people, num_views = self.latents.shape[:2]
        num_draws = self.options.batch_size
        generator = self.step_generator(batch_idx)
        views = torch.randint(num_views, (num_draws,), generator=generator).tolist()
        noise, timesteps = self.draw_noise(num_draws, generator, stratified=self.options.stratified)
        prompts = [[person_prompts[view] for person_prompts in self.prompts] for view in views]
        if all(draw_prompts == prompts[0] for draw_prompts in prompts):
            prompts = prompts[:1]  # encoded once for all draws
        losses = self.losses(
            torch.cat([self.latents[:, view] for view in views]),  # sample i belongs to person i mod n
            [prompt for draw_prompts in prompts for prompt in draw_prompts],
            noise=noise.repeat_interleave(num_people, 0),
            timesteps=timesteps.repeat_interleave(num_people, 0),
            weight=self.weight,
        )
        self.log("train/diffusion_loss", losses.detach().mean())  # a progress bar would wait for the device every step
        if self.prior is not None:
            losses = losses + self.prior.weight * self.prior_losses(generator)
        self.loss = losses.detach().mean()
        self.log("train/loss", self.loss)
        return losses.sum() / num_draws  # a sum over people: each row gets the gradient that it would get alone

    def prior_losses(self, generator: torch.Generator) -> Float[Tensor, " m"]:
        """The diffusion loss of class pictures, as many for each person as there are draws of their own."""
        num_people = len(self.latents)
        num_draws = self.options.batch_size
        latents = self.prior.sample(num_draws, generator).to(self.device)
        noise, timesteps = self.draw_noise(num_draws, generator, stratified=self.options.stratified)
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
        if self.mean_pull:  # here and not in on_train_batch_end, before which checkpoints are written
            with torch.no_grad():
                mean = self.rows.mean(0, keepdim=True).expand_as(self.rows)
                self.rows.lerp_(mean, lr * self.mean_pull)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.AdamW([self.rows], lr=self.options.learning_rate, weight_decay=0.0)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.options.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class ThetaFitting(RowFitting):
    """Fits one theta per person: what `Preoptimization` and `SubjectFinetuning` share.

    Args:
        start: Of n people, or one for all. See `RowFitting` for the other arguments.

    Raises:
        ValueError: A start of another base or that is not finite; see also `RowFitting`.
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        latents: Float[Tensor, "n v c h w"],
        prompts: str | Sequence[Sequence[str]],
        start: Residuals,
        options: FinetuningOptions,
        mean_pull: float = 0.0,
        prior: Prior | None = None,
        seed: int,
    ) -> None:
        personalized.lidb.check_layout(start.layout)
        start.layout.check_theta(start.theta, finite=True)
        super().__init__(
            personalized,
            latents=latents,
            prompts=prompts,
            start=start.theta,
            options=options,
            mean_pull=mean_pull,
            prior=prior,
            seed=seed,
        )
        self.layout = start.layout
        self.conditions: dict[tuple[str, ...], TextCondition] = {}  # cached if the text encoders are not trained

    @property
    def fitted(self) -> Residuals:
        """A copy of the personal weights, on the CPU."""
        return Residuals(self.rows.detach().cpu().clone(), self.layout)

    def encode_prompts(self, prompts: Sequence[str]) -> TextCondition:
        people = Residuals(self.rows, self.layout)
        if self.options.train_text_encoder:
            return self.personalized.encode_prompts(people, prompts)
        key = tuple(prompts)
        if key not in self.conditions:
            with torch.no_grad():
                self.conditions[key] = self.personalized.encode_prompts(people, prompts)
        self.personalized.bind(people)
        return self.conditions[key]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layout_digest"] = self.layout.digest
        checkpoint["loss"] = float(self.loss)
        checkpoint["state_dict"] = {"thetas": checkpoint["state_dict"]["rows"]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.layout.check_digest(checkpoint["layout_digest"], name="the checkpoint")
        self.loss = torch.tensor(checkpoint.get("loss", 0.0))
        checkpoint["state_dict"] = {"rows": checkpoint["state_dict"]["thetas"]}
