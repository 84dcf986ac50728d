"""What all stages share: which noise levels and which noise the frozen base is asked about."""

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.transfer import to_device
from hdb.limits import choice_field


@dataclass(frozen=True)
class TimestepSampler:
    """Where on the way from picture (0) to noise (1) a loss looks.

        t = low + (high - low) · u^(1 / exponent)        u uniform in [0, 1), so the density grows as t^(exponent - 1)

    Identity is 1-2 % of the denoising loss below .4 and 4-5 % above .6 (measured on a small base of faceworld), hence
    `high_noise`, which draws three quarters of its timesteps above .63. Open in the paper; the default is uniform.

    >>> TimestepSampler.from_name("high_noise").exponent
    3.0

    Raises:
        ValueError: not 0 <= low < high <= 1, or an exponent of 0 or less.
    """

    low: float = 0.0
    high: float = 1.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"timesteps need 0 <= low < high <= 1, not low = {self.low} and high = {self.high}")
        if self.exponent <= 0:
            raise ValueError(f"timesteps need an exponent above 0, not {self.exponent}")

    @classmethod
    def from_name(cls, name: str) -> "TimestepSampler":
        """`uniform` or `high_noise`."""
        known = {"uniform": cls(), "high_noise": cls(exponent=3.0)}
        if name not in known:
            raise ValueError(f"timesteps is {name!r}, expected {' or '.join(known)}")
        return known[name]

    def draw(
        self, num: int, *, num_train_timesteps: int, generator: torch.Generator, stratified: bool = False
    ) -> Int[Tensor, " num"]:
        """TimestepSampler of the scheduler, drawn on the CPU; `stratified` puts one into each of `num` equal shares."""
        u = torch.rand(num, generator=generator)
        if stratified:
            u = (u + torch.arange(num)) / num
        t = self.low + (self.high - self.low) * u ** (1 / self.exponent)
        return (t * num_train_timesteps).long().clamp_max(num_train_timesteps - 1)


def timesteps_field(default: str = "uniform") -> Any:
    """A setting that names timesteps."""
    return choice_field(default, ("uniform", "high_noise"))


def private_generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on the numbers of `key` alone, so that what it draws survives a restart."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


class Stage(L.LightningModule):
    """A LightningModule that trains personal weights against a base which is not its own.

    The base is no submodule: so it is in no checkpoint, no optimizer and no parameter count, Lightning never switches
    it to train mode, and it is to_device to the device here. It stays there afterwards.

    All chance of a step comes from private generators, keyed by the seed and the number of the step: a run that was
    killed and resumed draws what it would have drawn, and the global generators are left alone.
    """

    def __init__(self, personalized: PersonalizedDiffusion, *, timesteps: TimestepSampler, seed: int) -> None:
        super().__init__()
        self.personalized, self.timesteps, self.seed = personalized, timesteps, seed

    @property
    def diffusion(self) -> StableDiffusion:
        return self.personalized.diffusion

    def on_fit_start(self) -> None:
        self.personalized.to(self.device)

    def on_validation_start(self) -> None:
        self.personalized.to(self.device)

    def on_fit_end(self) -> None:
        self.personalized.bind(None)

    def step_generator(self, batch_idx: int) -> torch.Generator:
        """The generator of this step, the same in all processes; micro-batches of one optimizer step differ."""
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        return private_generator(self.seed, self.global_step, micro_batch, 0)

    def draw(
        self, num: int, generator: torch.Generator, *, stratified: bool = False
    ) -> tuple[Float[Tensor, "num c h w"], Int[Tensor, " num"]]:
        """Noise and timesteps on the device."""
        noise, timesteps = self.drawn(num, generator, stratified=stratified)
        return to_device(noise, self.device), to_device(timesteps, self.device)

    def drawn(
        self, num: int, generator: torch.Generator, *, stratified: bool = False
    ) -> tuple[Float[Tensor, "num c h w"], Int[Tensor, " num"]]:
        """Noise and timesteps on the CPU, where they are drawn so that they are the same on every device."""
        noise = torch.randn(num, *self.diffusion.latent_shape, generator=generator)
        timesteps = self.timesteps.sample(
            num, num_train_timesteps=self.diffusion.num_train_timesteps, generator=generator, stratified=stratified
        )
        return noise, timesteps

    def drawn_share(
        self, num: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "num c h w"], Int[Tensor, " num"]]:
        """This process's share of what one process would draw for all: a loss does not depend on how many there are."""
        world_size = self.trainer.world_size
        noise, timesteps = self.drawn(num * world_size, generator)
        return noise[self.global_rank :: world_size], timesteps[self.global_rank :: world_size]
