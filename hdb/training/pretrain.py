"""HyperNetPretraining: teaches the hypernetwork to predict theta from one photo."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from hdb.diffusion.denoise import DenoisingOutput, denoise
from hdb.diffusion.graphs import Tensors, module_tensors
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.transfer import to_device
from hdb.faces.caches import CachedTensors
from hdb.faces.sources import FaceBatch
from hdb.hypernet.encoder import FaceFeatures
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.residuals import Residuals
from hdb.losses import check_distance, identity_loss, weight_space_loss
from hdb.metrics.people_mean import PeopleMean
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.graphed_step import GraphedStep
from hdb.training.options import PretrainingOptions
from hdb.training.ranks import rank_shard, world_size
from hdb.training.stage import Stage, private_generator


@dataclass(frozen=True)
class DenoisingLoss:
    """The weighted diffusion and identity losses of thetas as a function of tensors alone, which a CUDA graph can hold.

    Args:
        alpha: Weight of the diffusion loss.
        gamma: Weight of the identity loss.
    """

    personalized: PersonalizedDiffusion
    hypernet: HyperNet
    alpha: float
    gamma: float

    def __call__(self, theta: Float[Tensor, "n p"], inputs: Tensors) -> tuple[Tensor, ...]:
        """The loss to minimize; the diffusion loss; if rows are given for it, the identity loss."""
        diffusion = self.personalized.diffusion
        self.personalized.bind(Residuals(theta, self.hypernet.layout))
        denoised = denoise(
            diffusion,
            inputs["latents"],
            diffusion.encode_tokens(inputs),
            noise=inputs["noise"],
            timesteps=inputs["timesteps"],
            photo_sides=inputs.get("photo_sides"),
        )
        diffusion_loss = denoised.losses.mean()
        loss = self.alpha * diffusion_loss
        if "identity_rows" not in inputs:
            return loss, diffusion_loss.detach()
        losses = self.identity_losses(denoised, inputs)
        weights = inputs.get("identity_weights")
        mean = losses.mean() if weights is None else (weights * losses).sum() / weights.sum().clamp_min(1)
        return loss + self.gamma * mean, diffusion_loss.detach(), mean.detach()

    def identity_losses(self, denoised: DenoisingOutput, inputs: Tensors) -> Float[Tensor, " k"]:
        """The identity loss of k samples: of the clean pictures that their predicted noise implies."""
        diffusion = self.personalized.diffusion
        rows = inputs["identity_rows"]
        clean_latents = diffusion.predict_clean(
            denoised.noisy_latents[rows], denoised.noise_pred[rows].float(), inputs["timesteps"][rows]
        )
        embedding = self.hypernet.encoder(diffusion.decode_latents(clean_latents)).embedding
        return identity_loss(embedding, inputs["target_embedding"], reduction="none")


class HyperNetPretraining(Stage):
    """Trains a hypernetwork.

        loss = alpha · diffusion_loss + beta · weight_space_loss + gamma · identity_loss + output_decay · ‖θ - mean‖²

    The diffusion loss is that of a picture of the person, denoised by the base under the predicted theta. The
    weight-space loss is the distance to the pre-optimized theta. The identity loss compares the clean picture that
    follows from the predicted noise with the target picture, by the hypernetwork's own frozen encoder.

    Validation uses unseen identities, with noise and timesteps that never change. `val/own_minus_other` is the paired
    difference of the diffusion loss under a person's own theta and under somebody else's. It has its 95 % half-width
    beside it, and below zero the network tells people apart. `val/own_better` is the share of people with a difference
    below zero. `val/diffusion_loss` alone also falls when the network learns what faces in general look like.

    Paper: the first two losses, the prompt "a [V] face" for everyone, and the reference itself as the target picture.
    Here: the batch brings prompt and target, which may be another view of the person.

    Example:

        data = FaceData.from_folder("photos", resolution=base.resolution, batch_size=8, num_val=100)
        layout = build_layout(base, LiDBOptions())
        hypernet = build_hypernet(HyperNetOptions(), encoder, layout, base_digest=base.digest)
        standardize_embeddings(hypernet, (sample.reference for sample in data.train), device=base.device)
        personalized = PersonalizedDiffusion(base, hypernet.layout)
        stage = HyperNetPretraining(personalized, hypernet, options=PretrainingOptions(beta=0.0))
        Trainer(max_steps=10_000, gradient_clip_val=1.0).fit(stage, datamodule=data)
        hypernet.save("hypernet", include_encoder=False)

    `fit_hypernet` does the same with resumable checkpoints, averaged weights and a loss curve.

    Args:
        targets: Pre-optimized thetas and the identity of each; required if beta is above 0.

    Raises:
        ValueError: Beta without targets or with learned bases, targets of another layout, an unknown distance, a
            hypernetwork and a base with different layouts, or gamma with a trained encoder or without alpha.

    Source: Ruiz et al., HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        hypernet: HyperNet,
        *,
        targets: tuple[Float[Tensor, "m p"], Int[Tensor, " m"]] | None = None,
        options: PretrainingOptions | None = None,
        seed: int = 0,
    ) -> None:
        options = options or PretrainingOptions()
        super().__init__(personalized, timesteps=options.timesteps, seed=seed)
        layout = personalized.layout
        layout.check_digest(hypernet.layout.digest, name="the hypernetwork")
        check_distance(options.distance)
        options.check(
            learn_bases=hypernet.bases is not None,
            freeze_encoder=hypernet.freeze_encoder,
            has_targets=targets is not None,
        )
        hypernet.identifier = personalized.diffusion.identifier  # later prompts must be read as in training
        self.hypernet = hypernet
        self.options = options
        self.target_thetas, identities = targets or (torch.empty(0, layout.size), torch.empty(0))
        layout.check_theta(self.target_thetas)
        self.target_rows = {identity: row for row, identity in enumerate(identities.tolist())}
        self.own_minus_other = PeopleMean()
        self.validated_at: int | None = None  # step of the last validation

    def training_step(self, batch: FaceBatch, batch_idx: int) -> Tensor:
        options = self.options
        theta = self.predict_theta(batch)
        loss = torch.zeros((), device=self.device)
        if options.alpha:
            generator = self.step_generator(batch_idx)
            noise, timesteps = self.draw_noise_share(len(theta), generator)
            inputs = {
                "latents": self.encode_targets(batch),
                "noise": to_device(noise, self.device),
                "timesteps": to_device(timesteps, self.device),
                **self.tokens(self.training_prompts(batch.prompts, generator)),
            }
            if batch.target_sides is not None:
                inputs["photo_sides"] = batch.target_sides
            rows = self.identity_rows(batch, timesteps) if options.gamma else []
            if options.gamma and self.graphed_step.is_graphed:
                inputs |= self.identity_tensors(batch, rows, num=min(options.identity_samples, len(theta)))
            elif len(rows):
                inputs |= self.identity_tensors(batch, rows)
            denoising_loss, *logged = self.graphed_step(theta, inputs)
            loss = loss + denoising_loss
            self.log("train/diffusion_loss", logged[0])
            if len(rows):
                self.log("train/identity_loss", logged[1])
        if options.beta:
            self.check_targets(batch.identities)
            theta_loss = self.weight_space_losses(theta, batch.identities).mean()
            loss = loss + options.beta * theta_loss
            self.log("train/weight_space_loss", theta_loss.detach())
        if options.output_decay:
            change = theta - self.hypernet.mean_theta  # the mean itself is not decayed
            change_norm = change.square().sum(1).mean()
            loss = loss + options.output_decay * change_norm
            self.log("train/output_change", change_norm.detach())
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def transfer_batch_to_device(self, batch: FaceBatch, device: torch.device, dataloader_idx: int) -> FaceBatch:
        """Moves the pictures and what is cached of them. Identities stay on the CPU, where they are looked up."""
        cached = batch.cached and CachedTensors(*(to_device(tensor, device) for tensor in batch.cached))
        return batch._replace(
            reference=to_device(batch.reference, device),
            target=to_device(batch.target, device),
            cached=cached,
            target_sides=None if batch.target_sides is None else to_device(batch.target_sides, device),
        )

    def draw_noise_share(
        self, num: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "num c h w"], Int[Tensor, " num"]]:
        """This process's share, on the CPU, of the noise and timesteps that one process would draw for all samples.

        A loss then does not depend on the number of processes.
        """
        world_size = self.trainer.world_size
        noise, timesteps = self.draw_noise_on_cpu(num * world_size, generator)
        return noise[self.global_rank :: world_size], timesteps[self.global_rank :: world_size]

    def prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of a batch, with `options.instance_prompt` in place of "a [V] face"."""
        return [self.options.instance_prompt if prompt == INSTANCE_PROMPT else prompt for prompt in prompts]

    def training_prompts(self, prompts: Sequence[str], generator: torch.Generator) -> list[str]:
        """The same with some prompts dropped. Several processes drop those that one process would drop."""
        prompts = self.prompts(prompts)
        dropout = self.options.condition_dropout
        if not dropout:
            return prompts
        is_kept = rank_shard(torch.rand(len(prompts) * world_size(), generator=generator) >= dropout)
        return [prompt if keep else "" for prompt, keep in zip(prompts, is_kept.tolist(), strict=True)]

    def predict_theta(self, batch: FaceBatch) -> Float[Tensor, "n q"]:
        """The hypernetwork's theta for each reference, or for the cached features of its frozen encoder."""
        if batch.cached is None:
            return self.hypernet(batch.reference)
        features = FaceFeatures(batch.cached.embedding, batch.cached.tokens)
        return self.hypernet.refine(self.hypernet.standardize_features(features))

    def encode_targets(self, batch: FaceBatch) -> Float[Tensor, "n c h8 w8"]:
        """Latents of the target pictures, encoded or cached."""
        if batch.cached is not None:
            return batch.cached.latents
        return self.diffusion.encode_images(batch.target).float()

    @cached_property
    def step_loss(self) -> DenoisingLoss:
        return DenoisingLoss(self.personalized, self.hypernet, self.options.alpha, self.options.gamma)

    @cached_property
    def graphed_step(self) -> GraphedStep:
        return GraphedStep(
            self.step_loss,
            diffusion=self.diffusion,
            name=type(self).__name__,
            reads=lambda: module_tensors(self.diffusion, self.hypernet.encoder),
            world_size=self.trainer.world_size,
        )

    def on_fit_end(self) -> None:
        super().on_fit_end()
        self.graphed_step.forget()  # the base keeps captures, and another training has another hypernetwork

    def tokens(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The tokens of prompts, each of which is tokenized once: batches of the same prompts are rare."""
        each = [self.prompt_tensors([prompt]) for prompt in prompts]
        return {name: torch.cat([tokens[name] for tokens in each]) for name in each[0]}

    def identity_rows(self, batch: FaceBatch, timesteps: Int[Tensor, " n"]) -> Int[Tensor, " k"]:
        """The samples that the identity loss is computed for, on the CPU.

        Args:
            timesteps: On the CPU, like `batch.photos`, so that choosing the samples does not wait for a GPU.
        """
        is_chosen = timesteps < self.options.identity_until * self.diffusion.num_train_timesteps
        if batch.photos is not None and not self.options.identity_styled:
            is_chosen = is_chosen & batch.photos
        return torch.nonzero(is_chosen).squeeze(1)[: self.options.identity_samples]

    def identity_tensors(
        self, batch: FaceBatch, rows: Int[Tensor, " k"], *, num: int | None = None
    ) -> dict[str, Tensor]:
        """What `DenoisingLoss.identity_losses` reads of the chosen samples.

        Args:
            num: Fill up to so many rows, as a CUDA graph needs equal shapes. Those that were not chosen weigh nothing.
        """
        tensors = {}
        if num is not None:
            weights = (torch.arange(num) < len(rows)).float()
            rows = torch.cat([rows, rows.new_zeros(num - len(rows))])
            tensors["identity_weights"] = to_device(weights, self.device)
        rows = to_device(rows, self.device)
        with torch.no_grad():
            if batch.cached is None:
                target_embedding = self.hypernet.encoder(batch.target[rows]).embedding
            else:
                target_embedding = batch.cached.target_embedding[rows]
        return {**tensors, "identity_rows": rows, "target_embedding": target_embedding}

    def check_targets(self, identities: Int[Tensor, " n"]) -> None:
        """Raises ValueError if an identity has no pre-optimized theta."""
        missing = [identity for identity in identities.tolist() if identity not in self.target_rows]
        if missing:
            raise ValueError(f"no pre-optimized theta for identity {missing[0]}; there are {len(self.target_rows)}")

    def weight_space_losses(self, theta: Float[Tensor, "n p"], identities: Int[Tensor, " n"]) -> Float[Tensor, " k"]:
        """The weight-space loss of the k of n identities that have a target."""
        batch_rows = [row for row, identity in enumerate(identities.tolist()) if identity in self.target_rows]
        target_rows = [self.target_rows[identity] for identity in identities[batch_rows].tolist()]
        targets = to_device(self.target_thetas[target_rows], theta.device)
        if len(batch_rows) < len(theta):
            theta = theta[batch_rows]
        unpack = self.hypernet.layout.unpack
        return weight_space_loss(unpack(theta), unpack(targets), distance=self.options.distance, reduction="none")

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        num = len(batch.reference)
        num_draws = self.options.num_val_draws
        theta = self.hypernet(batch.reference)
        latents = self.diffusion.encode_images(batch.target).float()
        prompts = self.prompts(batch.prompts)
        others = someone_else(batch.identities.tolist())
        own_and_other = Residuals(torch.cat([theta, theta[others]]), self.hypernet.layout)
        sides = None if batch.target_sides is None else batch.target_sides.repeat(2)
        batch_number = batch_idx * self.trainer.world_size + self.global_rank
        generator = private_generator(self.seed, batch_number, 0)  # without the step: the same at every validation
        noise, timesteps = self.draw_noise(num_draws * num, generator, stratified=True)
        own_losses = torch.zeros(num, device=self.device)
        other_losses = torch.zeros(num, device=self.device)
        for draw_noise, draw_timesteps in zip(noise.split(num), timesteps.split(num), strict=True):
            losses = self.personalized.denoising_losses(
                own_and_other,
                torch.cat([latents, latents]),
                [*prompts, *prompts],
                noise=torch.cat([draw_noise, draw_noise]),
                timesteps=torch.cat([draw_timesteps, draw_timesteps]),
                photo_sides=sides,
            )
            own_losses += losses[:num] / num_draws
            other_losses += losses[num:] / num_draws
        self.log("val/diffusion_loss", own_losses.mean(), batch_size=num, sync_dist=True, prog_bar=True)
        weight_space_losses = self.weight_space_losses(theta, batch.identities)
        if len(weight_space_losses):
            mean = weight_space_losses.mean()
            self.log("val/weight_space_loss", mean, batch_size=len(weight_space_losses), sync_dist=True)
        paired = [row for row in range(num) if others[row] != row]
        differences = (own_losses - other_losses)[paired]
        self.own_minus_other.update(differences, batch.identities[paired].to(self.device))

    def on_validation_epoch_end(self) -> None:
        mean, half_width, share_better = self.own_minus_other.compute()
        self.own_minus_other.reset()
        self.validated_at = self.global_step
        self.log("val/own_minus_other", mean, prog_bar=True)
        self.log("val/own_minus_other_ci95", half_width)
        self.log("val/own_better", share_better)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # Not `estimated_stepping_batches`, which sets up the loaders before a checkpoint has restored their position.
        max_steps = self.trainer.max_steps
        if max_steps < 1:
            raise ValueError(f"the cosine schedule needs an end: give the Trainer max_steps, not {max_steps}")
        hypernet = self.hypernet
        options = self.options
        linear = [hypernet.decoder.weights_out]
        if hypernet.linear_path is not None:
            linear += hypernet.linear_path.parameters()
        bases = [] if hypernet.bases is None else list(hypernet.bases.parameters())
        grouped = {id(parameter) for parameter in (hypernet.mean, *linear, *bases)}
        rest = [
            parameter for parameter in hypernet.parameters() if parameter.requires_grad and id(parameter) not in grouped
        ]
        groups = [
            {"params": [hypernet.mean], "lr": options.linear_lr, "weight_decay": 0.0},
            {"params": linear, "lr": options.linear_lr},
            {"params": rest, "lr": options.lr},
        ]
        if bases:  # no decay: they start orthonormal and gain nothing by becoming smaller
            bases_lr = options.linear_lr if options.bases_lr is None else options.bases_lr
            groups.append({"params": bases, "lr": bases_lr, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, betas=(0.9, options.adam_beta2), weight_decay=options.weight_decay)
        scheduler = get_cosine_schedule_with_warmup(optimizer, options.warmup_steps, max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves a frozen encoder out and adds the config that `HyperNet.from_checkpoint` needs."""
        state_dict = self.hypernet.trainable_state_dict()
        checkpoint["hypernet"] = self.hypernet.config
        checkpoint["state_dict"] = {f"hypernet.{name}": value for name, value in state_dict.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.hypernet.decoder_layout.check_digest(checkpoint["hypernet"]["layout_digest"], name="the checkpoint")
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}


def someone_else(identities: list[int]) -> list[int]:
    """For each row the next row of another identity, or the row itself if there is none.

    >>> someone_else([5, 5, 6]), someone_else([5, 5])
    ([2, 2, 0], [0, 1])
    """
    num = len(identities)
    others = []
    for row, identity in enumerate(identities):
        following = [(row + step) % num for step in range(1, num)]
        others.append(next((other for other in following if identities[other] != identity), row))
    return others
