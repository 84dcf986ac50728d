"""Stage: the base class of the LightningModules here, with private random generators and sampled timesteps."""

from collections.abc import Sequence

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.transfer import to_device
from hdb.training.options import TIMESTEP_EXPONENTS


def check_timesteps(distribution: str) -> None:
    """Raises ValueError if there is no distribution of timesteps of this name."""
    if distribution not in TIMESTEP_EXPONENTS:
        raise ValueError(f"timesteps is {distribution!r}, expected {' or '.join(TIMESTEP_EXPONENTS)}")


def sample_timesteps(
    num: int, distribution: str, *, num_train_timesteps: int, generator: torch.Generator, stratified: bool = False
) -> Int[Tensor, " num"]:
    """Samples the timesteps at which a diffusion loss is evaluated, on the CPU.

        t = u^(1 / exponent)        u uniform in [0, 1)

    Identity makes up 1-2 % of the denoising loss below t = 0.4 and 4-5 % above t = 0.6, measured on the small base of
    faceworld. `high_noise` therefore samples three quarters of its timesteps above 0.63. The paper leaves the
    distribution open; the default is uniform.

    Args:
        stratified: Put one timestep into each of `num` equal shares of the distribution.

    >>> sample_timesteps(4, "uniform", num_train_timesteps=1000, generator=private_generator(0), stratified=True) // 250
    tensor([0, 1, 2, 3])
    """
    u = torch.rand(num, generator=generator)
    if stratified:
        u = (u + torch.arange(num)) / num
    t = u ** (1 / TIMESTEP_EXPONENTS[distribution])
    return (t * num_train_timesteps).long().clamp_max(num_train_timesteps - 1)


def private_generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by the numbers of `key` alone. A resumed run draws the same numbers from it."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


class Stage(L.LightningModule):
    """A LightningModule that trains personal weights on a frozen base.

    The base is not a submodule. It is in no checkpoint, optimizer or parameter count, and Lightning does not switch it
    to train mode. This class moves it to the device, where it stays after training.

    All randomness of a step comes from private generators keyed by the seed and the step. A killed and resumed run
    draws what an uninterrupted one would have drawn, and the global generators are not touched.

    Args:
        timesteps: Name of the distribution of timesteps, see `sample_timesteps`.

    Raises:
        ValueError: An unknown distribution of timesteps.
    """

    def __init__(self, personalized: PersonalizedDiffusion, *, timesteps: str, seed: int) -> None:
        super().__init__()
        check_timesteps(timesteps)
        self.personalized = personalized
        self.timesteps = timesteps
        self.seed = seed
        self._prompt_tensors: dict[tuple[str, ...], dict[str, Tensor]] = {}

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
        """The generator of this step. All processes have the same; the micro-batches of one optimizer step differ."""
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        return private_generator(self.seed, self.global_step, micro_batch, 0)

    def prompt_tensors(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What `read_prompts` returns for these prompts, on the device. It is read once and kept."""
        key = tuple(prompts)
        if key not in self._prompt_tensors:
            self._prompt_tensors[key] = self.read_prompts(prompts)
        return self._prompt_tensors[key]

    def read_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What a step reads of prompts: their tokens."""
        return self.diffusion.tokenize_prompts(prompts)

    def draw_noise(
        self, num: int, generator: torch.Generator, *, stratified: bool = False
    ) -> tuple[Float[Tensor, "num c h w"], Int[Tensor, " num"]]:
        """Noise and timesteps on the device."""
        noise, timesteps = self.draw_noise_on_cpu(num, generator, stratified=stratified)
        return to_device(noise, self.device), to_device(timesteps, self.device)

    def draw_noise_on_cpu(
        self, num: int, generator: torch.Generator, *, stratified: bool = False
    ) -> tuple[Float[Tensor, "num c h w"], Int[Tensor, " num"]]:
        """Noise and timesteps on the CPU, whose generator gives the same numbers on every machine."""
        noise = torch.randn(num, *self.diffusion.latent_shape, generator=generator)
        timesteps = sample_timesteps(
            num,
            self.timesteps,
            num_train_timesteps=self.diffusion.num_train_timesteps,
            generator=generator,
            stratified=stratified,
        )
        return noise, timesteps
