"""PersonalizedDiffusion: the frozen base with LiDB layers in it, bound to people: denoising losses, pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.denoise import DenoisingOutput, denoise
from hdb.diffusion.sampling import SamplingOptions, draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals


def build_layout(diffusion: StableDiffusion, options: LiDBOptions) -> Layout:
    """The layout that personal weights of this base have."""
    return Layout.from_models(unet=diffusion.unet, text_encoder=diffusion.text_encoder, **asdict(options))


class PersonalizedDiffusion:
    """A base and the LiDB layers within it, which give it n people at once.

        residuals (n, p) -> bind -> encode prompts, predict noise -> losses (m,) or pictures (m, 3, h, w)

    No module: whoever holds it registers, trains and stores nothing of the base.

    Args:
        diffusion: The base; its layers are replaced in place, until `detach`.
        layout: Names the layers, and says what a bare theta means.

    Raises:
        ValueError: The base has other layers, or has LiDB layers already.
    """

    def __init__(self, diffusion: StableDiffusion, layout: Layout) -> None:
        self.diffusion = diffusion
        self.lidb = LiDB(unet=diffusion.unet, text_encoder=diffusion.text_encoder, layout=layout)

    @property
    def layout(self) -> Layout:
        return self.lidb.layout

    @property
    def device(self) -> torch.device:
        return self.diffusion.device

    def to(self, device: torch.device) -> "PersonalizedDiffusion":
        """Moves the base, bases of the layers and all."""
        self.diffusion.to(device)
        return self

    def bind(self, people: Residuals | None, *, scale: float = 1.0) -> None:
        """As `LiDB.bind`: until the next `bind`."""
        self.lidb.bind(people, scale=scale)

    @contextmanager
    def bound(self, people: Residuals | None, *, scale: float = 1.0) -> Iterator[None]:
        """Binds people within a `with` block, then who was bound before."""
        if people is not None:
            people.layout.check_theta(people.theta, finite=people.theta.device.type == "cpu")
            people = people.to(self.device)
        with self.lidb.bound(people, scale=scale):
            yield

    def detach(self) -> StableDiffusion:
        """The base with its original layers back; this object is of no use afterwards."""
        self.lidb.detach()
        return self.diffusion

    def denoising_losses(
        self,
        people: Residuals,
        latents: Float[Tensor, "m c h w"],
        prompts: Sequence[str] | Float[Tensor, "k l d"],
        *,
        noise: Float[Tensor, "m c h w"],
        timesteps: Int[Tensor, " m"],
        weight: Float[Tensor, "h w"] | None = None,
    ) -> Float[Tensor, " m"]:
        """The diffusion loss of each sample under its own person's residuals; see `denoise`."""
        return self.denoise(people, latents, prompts, noise=noise, timesteps=timesteps, weight=weight).losses

    def denoise(
        self,
        people: Residuals,
        latents: Float[Tensor, "m c h w"],
        prompts: Sequence[str] | Float[Tensor, "k l d"],
        *,
        noise: Float[Tensor, "m c h w"],
        timesteps: Int[Tensor, " m"],
        weight: Float[Tensor, "h w"] | None = None,
    ) -> DenoisingOutput:
        """Denoises each sample under its own person's residuals, which stay bound.

        Args:
            people: n of them; sample i belongs to person i mod n (tiled).
            prompts: n of them, encoded once, or m. The text encoder is personalized too: embeddings, as
                `encode_prompts` gives them, are of these people alone.
            weight: of each place in the loss.
        """
        self.bind(people)
        embeds = prompts if isinstance(prompts, Tensor) else self.diffusion.encode_prompts(list(prompts))
        return denoise(self.diffusion, latents, embeds, noise=noise, timesteps=timesteps, weight=weight)

    def encode_prompts(self, people: Residuals, prompts: Sequence[str]) -> Float[Tensor, "k l d"]:
        """What the text encoder makes of k prompts under n people's residuals; prompt i is of person i mod n."""
        self.bind(people)
        return self.diffusion.encode_prompts(list(prompts))

    @torch.no_grad()
    def pictures(
        self,
        people: Residuals | None,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingOptions,
        scale: float = 1.0,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        """One picture per prompt; prompt i shows person i mod n. Who was bound before is bound again afterwards.

        Args:
            people: n of them; None draws from the base as it is.
            seeds: Of the starting noise, one per prompt.
            scale: Strength of the residuals.
            callback_on_step_end: Called with the number of each finished sampling step, from 1.

        Raises:
            ValueError: The number of prompts is no multiple of the number of people.
        """
        with self.bound(people, scale=scale):
            return draw(
                self.diffusion,
                prompts,
                num_people=1 if people is None else len(people),
                seeds=seeds,
                sampling=sampling,
                unbound=None if people is None else self.lidb.unbound,
                callback_on_step_end=callback_on_step_end,
            )
