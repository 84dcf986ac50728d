"""HyperNetPretraining: teaches the hypernetwork to predict theta from one photo."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from hdb.diffusion.denoise import DenoisingOutput
from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.transfer import to_device
from hdb.faces.caches import Cached
from hdb.faces.sources import FaceBatch
from hdb.hypernet.encoder import FaceFeatures
from hdb.hypernet.hypernet import HyperNet
from hdb.lidb.residuals import Residuals
from hdb.losses import check_distance, identity_loss, weight_space_loss
from hdb.metrics.people_mean import PeopleMean
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.pretraining_options import PretrainingOptions
from hdb.training.ranks import rank_shard, world_size
from hdb.training.stage import Stage, TimestepSampler, private_generator


class HyperNetPretraining(Stage):
    """Trains a HyperNet on the last iteration's theta.

        loss = alpha · diffusion_loss + beta · weight_space_loss + gamma · identity_loss

    The diffusion loss asks that the base, bound by the predicted theta, denoises a picture of the same person; the
    weight-space loss that the residuals, or the factors, are those of the pre-optimized theta; the identity loss that
    the clean picture which follows from the denoiser's answer embeds as the target does, to the hypernetwork's own
    frozen encoder.

    Validation takes unseen identities with noise and timesteps that never change. `val/own_minus_other` is the paired
    difference of the denoising loss under one's own and under somebody else's prediction, with its 95 % half-width:
    below zero the network tells people apart; `val/own_better` is the share of people it is below zero for.
    `val/diffusion_loss` alone also falls by learning what faces are like.

    Paper: both losses, the prompt "a [V] face" for everyone, the reference itself as the target. The batch decides
    about prompt and target here, so another view of the person may be one.

    Args:
        targets: pre-optimized thetas and the identities they belong to; beta above 0 needs them.

    Raises:
        ValueError: beta without targets or with learned bases, targets of another layout, an unknown distance, layouts
            of network and base that differ; gamma where the encoder is trained or without alpha.

    Source: HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
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
        super().__init__(personalized, timesteps=TimestepSampler.from_name(options.timesteps), seed=seed)
        layout = personalized.layout
        layout.check_digest(hypernet.layout.digest, name="the hypernetwork")
        check_distance(options.distance)
        options.check(
            learn_bases=hypernet.bases is not None,
            freeze_encoder=hypernet.freeze_encoder,
            has_targets=targets is not None,
        )
        hypernet.identifier = personalized.diffusion.identifier  # as its prompts are read from now on
        self.hypernet, self.options = hypernet, options
        self.target_thetas, identities = targets or (torch.empty(0, layout.size), torch.empty(0))
        layout.check_theta(self.target_thetas)
        self.target_rows = {identity: row for row, identity in enumerate(identities.tolist())}
        self.own_minus_other = PeopleMean()
        self.validated_at: int | None = None  # the step

    def training_step(self, batch: FaceBatch, batch_idx: int) -> Tensor:
        theta = self.predicted(batch)
        loss, alpha, beta = torch.zeros((), device=self.device), self.options.alpha, self.options.beta
        if alpha:
            noise, timesteps = self.draw_noise_share(len(theta), generator := self.step_generator(batch_idx))
            prompts, latents = self.training_prompts(batch.prompts, generator), self.target_latents(batch)
            draws = {"noise": to_device(noise, self.device), "timesteps": to_device(timesteps, self.device)}
            people = Residuals(theta, self.hypernet.layout)
            denoised = self.personalized.denoise(people, latents, prompts, **draws)
            loss = loss + alpha * denoised.losses.mean()
            self.log("train/diffusion_loss", denoised.losses.detach().mean())
            if self.options.gamma and len(identity := self.identity_losses(denoised, batch, timesteps)):
                loss = loss + self.options.gamma * identity.mean()
                self.log("train/identity_loss", identity.detach().mean())
        if beta:
            if missing := [identity for identity in batch.identities.tolist() if identity not in self.target_rows]:
                raise ValueError(f"no pre-optimized theta for identity {missing[0]}; there are {len(self.target_rows)}")
            weights = self.weight_space_losses(theta, batch.identities).mean()
            loss = loss + beta * weights
            self.log("train/weight_space_loss", weights.detach())
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def draw_noise_share(
        self, num: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "num c h w"], Int[Tensor, " num"]]:
        """This process's share, on the CPU, of the noise and timesteps that one process would draw for all samples.

        A loss then does not depend on the number of processes.
        """
        world_size = self.trainer.world_size
        noise, timesteps = self.draw_noise_on_cpu(num * world_size, generator)
        return noise[self.global_rank :: world_size], timesteps[self.global_rank :: world_size]

    def transfer_batch_to_device(self, batch: FaceBatch, device: torch.device, dataloader_idx: int) -> FaceBatch:
        """Moves the pictures, and what is known of them; who they show is asked on the CPU."""
        cached = batch.cached and Cached(*(to_device(tensor, device) for tensor in batch.cached))
        pictures = {"reference": to_device(batch.reference, device), "target": to_device(batch.target, device)}
        return batch._replace(cached=cached, **pictures)

    def prompts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts of a batch, with the instance prompt asked for."""
        return [self.options.instance_prompt if prompt == INSTANCE_PROMPT else prompt for prompt in prompts]

    def training_prompts(self, prompts: Sequence[str], generator: torch.Generator) -> list[str]:
        """The same, some of them dropped: of all processes those that one process would drop."""
        prompts, share = self.prompts(prompts), self.options.condition_dropout
        if not share:
            return prompts
        kept = rank_shard(torch.rand(len(prompts) * world_size(), generator=generator) >= share)
        return [prompt if keep else "" for prompt, keep in zip(prompts, kept.tolist(), strict=True)]

    def predicted(self, batch: FaceBatch) -> Float[Tensor, "n q"]:
        """The hypernetwork's theta for each reference, or for what its frozen encoder saw there when it was asked."""
        if batch.cached is None:
            return self.hypernet(batch.reference)
        features = FaceFeatures(batch.cached.embedding, batch.cached.tokens)
        return self.hypernet.refine(self.hypernet.standardize_features(features))

    def target_latents(self, batch: FaceBatch) -> Float[Tensor, "n c h8 w8"]:
        return self.latents(batch.target) if batch.cached is None else batch.cached.latents

    def latents(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h8 w8"]:
        return self.diffusion.encode_images(images).float()

    def identity_losses(
        self, denoised: DenoisingOutput, batch: FaceBatch, timesteps: Int[Tensor, " n"]
    ) -> Float[Tensor, " k"]:
        """The identity loss of those k samples that it looks at.

        Args:
            timesteps: on the CPU, like the batch's `photos`: what to look at is known without waiting for a GPU.
        """
        looked_at = timesteps < self.options.identity_until * self.diffusion.num_train_timesteps
        if batch.photos is not None and not self.options.identity_styled:
            looked_at = looked_at & batch.photos
        rows = torch.nonzero(looked_at).squeeze(1)[: self.options.identity_samples]
        if not len(rows):
            return denoised.losses[:0]
        rows, timesteps = to_device(rows, self.device), to_device(timesteps[rows], self.device)
        noisy, noise_pred = denoised.noisy_latents[rows], denoised.noise_pred[rows].float()
        images = self.diffusion.decode_latents(self.diffusion.predict_clean(noisy, noise_pred, timesteps))
        with torch.no_grad():
            known = batch.cached and batch.cached.target_embedding[rows]
            wanted = self.hypernet.encoder(batch.target[rows]).embedding if known is None else known
        return identity_loss(self.hypernet.encoder(images).embedding, wanted, reduction="none")

    def weight_space_losses(self, theta: Float[Tensor, "n p"], identities: Int[Tensor, " n"]) -> Float[Tensor, " k"]:
        """The weight-space loss of those k of the n identities that have a target."""
        known = [(i, self.target_rows[name]) for i, name in enumerate(identities.tolist()) if name in self.target_rows]
        batch_rows, target_rows = (list(rows) for rows in zip(*known, strict=True)) if known else ([], [])
        targets = to_device(self.target_thetas[target_rows], theta.device)
        unpack = self.hypernet.layout.unpack
        predicted = unpack(theta if len(batch_rows) == len(theta) else theta[batch_rows])
        return weight_space_loss(predicted, unpack(targets), distance=self.options.distance, reduction="none")

    def validation_step(self, batch: FaceBatch, batch_idx: int) -> None:
        theta, latents, num = self.hypernet(batch.reference), self.latents(batch.target), len(batch.reference)
        num_draws = self.options.num_val_draws
        number = batch_idx * self.trainer.world_size + self.global_rank  # of this batch among those of all processes
        generator = private_generator(self.seed, number, 0)  # no step in the key: the same every time
        noise, timesteps = self.draw_noise(num_draws * num, generator, stratified=True)
        others, prompts = someone_else(batch.identities.tolist()), self.prompts(batch.prompts)
        both = Residuals(torch.cat([theta, theta[others]]), self.hypernet.layout)
        own, other = torch.zeros(2, num, device=self.device)
        for draw_noise, draw_timesteps in zip(noise.split(num), timesteps.split(num), strict=True):
            losses = self.personalized.denoising_losses(
                both,
                torch.cat([latents, latents]),
                [*prompts, *prompts],
                noise=torch.cat([draw_noise, draw_noise]),
                timesteps=torch.cat([draw_timesteps, draw_timesteps]),
            )
            own += losses[:num] / num_draws
            other += losses[num:] / num_draws
        self.log("val/diffusion_loss", own.mean(), batch_size=num, sync_dist=True, prog_bar=True)
        if len(weights := self.weight_space_losses(theta, batch.identities)):
            self.log("val/weight_space_loss", weights.mean(), batch_size=len(weights), sync_dist=True)
        paired = [i for i in range(num) if others[i] != i]
        self.own_minus_other.update((own - other)[paired], batch.identities[paired].to(self.device))

    def on_validation_epoch_end(self) -> None:
        mean, half_width, share = self.own_minus_other.compute()
        self.own_minus_other.reset()
        self.validated_at = self.global_step
        self.log("val/own_minus_other", mean, prog_bar=True)
        self.log("val/own_minus_other_ci95", half_width)
        self.log("val/own_better", share)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # Not `estimated_stepping_batches`: that sets up the loaders before a checkpoint tells them where they were.
        steps = self.trainer.max_steps
        if steps < 1:
            raise ValueError(f"the cosine schedule needs an end: give the Trainer max_steps, not {steps}")
        net, options = self.hypernet, self.options
        bases_lr = options.linear_lr if options.bases_lr is None else options.bases_lr
        linear = [net.decoder.weights_out, *(net.linear_path.parameters() if net.linear_path is not None else ())]
        bases = [] if net.bases is None else list(net.bases.parameters())
        apart = {id(parameter) for parameter in (net.mean, *linear, *bases)}
        rest = [parameter for parameter in net.parameters() if parameter.requires_grad and id(parameter) not in apart]
        groups = [
            {"params": [net.mean], "lr": options.linear_lr, "weight_decay": 0.0},
            {"params": linear, "lr": options.linear_lr},
            {"params": rest, "lr": options.lr},
        ]
        if bases:  # orthonormal at the start, and no better for being smaller: no decay
            groups.append({"params": bases, "lr": bases_lr, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups, betas=(0.9, options.adam_beta2), weight_decay=options.weight_decay)
        scheduler = get_cosine_schedule_with_warmup(optimizer, options.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps a frozen encoder out of the file, and puts in what `HyperNet.from_checkpoint` needs."""
        checkpoint["hypernet"] = self.hypernet.config
        checkpoint["state_dict"] = {
            f"hypernet.{name}": value for name, value in self.hypernet.trainable_state_dict().items()
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.hypernet.decoder_layout.check_digest(checkpoint["hypernet"]["layout_digest"], name="the checkpoint")
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}


def someone_else(identities: list[int]) -> list[int]:
    """For each row the next row of another person, or the row itself where there is none.

    >>> someone_else([5, 5, 6]), someone_else([5, 5])
    ([2, 2, 0], [0, 1])
    """
    num = len(identities)
    return [
        next((j % num for j in range(i + 1, i + num) if identities[j % num] != identities[i]), i) for i in range(num)
    ]
