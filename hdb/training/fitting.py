"""Gradient descent on rows of parameters, one row per person, each fitted as if it were alone."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.denoise import denoise
from hdb.diffusion.graphs import Tensors
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faces.framing import face_weight
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.training.graphed_step import GraphedStep, prefixed, select_prefix
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


# (rows, tensors of a step) -> the condition under which the base denoises, with the rows applied to the base
Condition = Callable[[Tensor, Tensors], TextCondition]

_PRIOR = "prior."


@dataclass(frozen=True)
class FittingLoss:
    """The loss of a step of `RowFitting` as a function of tensors alone, which a CUDA graph can hold.

    It keeps no tensor of one person: equal ones compute the same of other rows and inputs.

    Args:
        condition: Applies rows to the base and encodes the prompts of a step.
        num_draws: Of noise and timestep for each person.
        prior_weight: Of the loss of class pictures, or None without them.
    """

    diffusion: StableDiffusion
    condition: Condition
    num_draws: int
    prior_weight: float | None = None

    def __call__(self, rows: Float[Tensor, "n p"], inputs: Tensors) -> tuple[Tensor, ...]:
        """The loss to minimize; its mean over people; the diffusion loss; with class pictures theirs, too."""
        losses = self.losses(rows, inputs)
        logged = [losses.detach().mean()]
        if self.prior_weight is not None:
            prior_losses = self.losses(rows, select_prefix(_PRIOR, inputs))
            logged.append(prior_losses.detach().mean())
            losses = losses + self.prior_weight * prior_losses
        # A sum over people: each row gets the gradient that it would get alone.
        return losses.sum() / self.num_draws, losses.detach().mean(), *logged

    def losses(self, rows: Float[Tensor, "n p"], inputs: Tensors) -> Float[Tensor, " m"]:
        """The diffusion loss of each sample: of person i mod n for sample i."""
        return denoise(
            self.diffusion,
            inputs["latents"],
            self.condition(rows, inputs),
            noise=inputs["noise"],
            timesteps=inputs["timesteps"],
            weight=inputs.get("weight"),
            photo_sides=inputs.get("photo_sides"),
        ).losses


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
        photo_sides: Sides of the pictures in their photos in px, before they were resized. None if not known.

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
        photo_sides: Int[Tensor, "n v"] | None = None,
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
        self.register_buffer("photo_sides", photo_sides, persistent=False)
        self.prompts = prompts
        self.options = options
        self.mean_pull = mean_pull
        self.prior = prior
        self.loss = torch.zeros(())  # mean over people, of the last step

    @property
    @abstractmethod
    def condition(self) -> Condition:
        """Applies the rows to the base and encodes prompts; prompt i belongs to person i mod n."""

    @cached_property
    def step_loss(self) -> FittingLoss:
        prior_weight = None if self.prior is None else self.prior.weight
        return FittingLoss(self.diffusion, self.condition, self.options.batch_size, prior_weight)

    @cached_property
    def graphed_step(self) -> GraphedStep:
        return GraphedStep(
            self.step_loss, diffusion=self.diffusion, name=type(self).__name__, world_size=self.trainer.world_size
        )

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
        inputs = self.sample_tensors(latents, prompts, noise=noise, timesteps=timesteps, weight=weight)
        return self.step_loss.losses(self.rows, inputs)

    def sample_tensors(
        self,
        latents: Float[Tensor, "m c h w"],
        prompts: Sequence[str],
        *,
        noise: Float[Tensor, "m c h w"],
        timesteps: Int[Tensor, " m"],
        weight: Float[Tensor, "h w"] | None = None,
    ) -> dict[str, Tensor]:
        """What `FittingLoss.losses` reads of samples."""
        tensors = {"latents": latents, "noise": noise, "timesteps": timesteps, **self.prompt_tensors(prompts)}
        return tensors if weight is None else {**tensors, "weight": weight}

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
        inputs = self.sample_tensors(
            torch.cat([self.latents[:, view] for view in views]),  # sample i belongs to person i mod n
            [prompt for draw_prompts in prompts for prompt in draw_prompts],
            noise=noise.repeat_interleave(num_people, 0),
            timesteps=timesteps.repeat_interleave(num_people, 0),
            weight=self.weight,
        )
        if self.photo_sides is not None:
            inputs["photo_sides"] = torch.cat([self.photo_sides[:, view] for view in views])
        if self.prior is not None:
            inputs |= prefixed(_PRIOR, self.prior_tensors(generator))
        loss, self.loss, *logged = self.graphed_step(self.rows, inputs)
        self.log("train/diffusion_loss", logged[0])  # a progress bar would wait for the device every step
        if self.prior is not None:
            self.log("train/prior_loss", logged[1])
        self.log("train/loss", self.loss)
        return loss

    def prior_tensors(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Class pictures, as many for each person as there are draws of their own."""
        num_people = len(self.latents)
        num_draws = self.options.batch_size
        latents = self.prior.sample(num_draws, generator).to(self.device)
        noise, timesteps = self.draw_noise(num_draws, generator, stratified=self.options.stratified)
        return self.sample_tensors(
            latents.repeat_interleave(num_people, 0),
            [self.prior.prompt] * num_people,
            noise=noise.repeat_interleave(num_people, 0),
            timesteps=timesteps.repeat_interleave(num_people, 0),
        )

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


@dataclass(frozen=True)
class ThetaCondition:
    """Binds thetas to the base and encodes prompts under them, or takes what was encoded before."""

    personalized: PersonalizedDiffusion
    layout: Layout

    def __call__(self, thetas: Float[Tensor, "n p"], inputs: Tensors) -> TextCondition:
        self.personalized.bind(Residuals(thetas, self.layout))
        if "embeds" in inputs:
            return TextCondition.from_tensors(inputs)
        return self.personalized.diffusion.encode_tokens(inputs)


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
        photo_sides: Int[Tensor, "n v"] | None = None,
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
            photo_sides=photo_sides,
            seed=seed,
        )
        self.layout = start.layout

    @property
    def fitted(self) -> Residuals:
        """A copy of the personal weights, on the CPU."""
        return Residuals(self.rows.detach().cpu().clone(), self.layout)

    @cached_property
    def condition(self) -> ThetaCondition:
        return ThetaCondition(self.personalized, self.layout)

    def read_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Tokens, or the condition itself where the text encoders are not trained."""
        tokens = super().read_prompts(prompts)
        if self.options.train_text_encoder:
            return tokens
        with torch.no_grad():
            return self.condition(self.rows, tokens).tensors

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layout_digest"] = self.layout.digest
        checkpoint["loss"] = float(self.loss)
        checkpoint["state_dict"] = {"thetas": checkpoint["state_dict"]["rows"]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.layout.check_digest(checkpoint["layout_digest"], name="the checkpoint")
        self.loss = torch.tensor(checkpoint.get("loss", 0.0))
        checkpoint["state_dict"] = {"rows": checkpoint["state_dict"]["thetas"]}
