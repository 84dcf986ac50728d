"""PersonalizedDiffusion: the frozen base with LiDB layers, bound to people: computes losses and samples pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.condition import TextCondition
from hdb.diffusion.denoise import DenoisingOutput, denoise
from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.sampling import draw
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.adapter import LiDB
from hdb.lidb.layout import Layout
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals


def build_layout(diffusion: StableDiffusion, options: LiDBOptions) -> Layout:
    """The layout of personal weights for this base."""
    return Layout.from_models(diffusion.components, **asdict(options))


class PersonalizedDiffusion:
    """A base with LiDB layers, which serves n people in one batch.

        residuals (n, p) -> bind -> encode prompts, predict noise -> losses (m,) or pictures (m, 3, h, w)

    This is not an nn.Module, so that a LightningModule that holds it does not register, train or save the base.

    Args:
        diffusion: The base. Its layers are replaced in place, until `detach`.
        layout: Names the layers to replace.

    Raises:
        ValueError: The base has other layers, or has LiDB layers already.
    """

    def __init__(self, diffusion: StableDiffusion, layout: Layout) -> None:
        self.diffusion = diffusion
        self.lidb = LiDB(diffusion.components, layout=layout)
        # Residuals of the innermost `bound`, as they were given and on the base's device.
        self._bound: tuple[Residuals | None, Residuals | None] = (None, None)

    @property
    def layout(self) -> Layout:
        return self.lidb.layout

    @property
    def device(self) -> torch.device:
        return self.diffusion.device

    def to(self, device: torch.device) -> "PersonalizedDiffusion":
        """Moves the base with its LiDB layers."""
        self.diffusion.to(device)
        return self

    def bind(self, residuals: Residuals | None, *, scale: float = 1.0) -> None:
        """Sets the residuals of n identities until the next `bind`, as `LiDB.bind`."""
        self.lidb.bind(residuals, scale=scale)

    @contextmanager
    def bound(self, residuals: Residuals | None, *, scale: float = 1.0) -> Iterator[None]:
        """Moves residuals to the base's device, binds them within a `with` block and the previous ones after it.

        A block of the same residuals within the block costs nothing, because they are folded already.
        """
        outer = self._bound
        if residuals is not None and residuals is outer[0] and self.lidb.is_bound(outer[1], scale=scale):
            yield
            return
        moved = residuals
        if residuals is not None:
            # The check for NaN is made here, since on a GPU it would wait for the device.
            residuals.layout.check_theta(residuals.theta, finite=residuals.theta.device.type == "cpu")
            moved = residuals.to(self.device)
        try:
            with self.lidb.bound(moved, scale=scale):
                self._bound = (residuals, moved)
                yield
        finally:
            self._bound = outer

    def detach(self) -> StableDiffusion:
        """Returns the base with its original layers. This object cannot be used afterwards."""
        self.lidb.detach()
        self.diffusion.graphs.clear()  # they hold work of layers that are gone
        return self.diffusion

    def denoising_losses(
        self,
        residuals: Residuals,
        latents: Float[Tensor, "m c h w"],
        prompts: Sequence[str] | TextCondition,
        *,
        noise: Float[Tensor, "m c h w"],
        timesteps: Int[Tensor, " m"],
        weight: Float[Tensor, "h w"] | None = None,
        photo_sides: Int[Tensor, " m"] | None = None,
    ) -> Float[Tensor, " m"]:
        """The diffusion loss of each sample under its identity's residuals. See `denoise`."""
        output = self.denoise(
            residuals, latents, prompts, noise=noise, timesteps=timesteps, weight=weight, photo_sides=photo_sides
        )
        return output.losses

    def denoise(
        self,
        residuals: Residuals,
        latents: Float[Tensor, "m c h w"],
        prompts: Sequence[str] | TextCondition,
        *,
        noise: Float[Tensor, "m c h w"],
        timesteps: Int[Tensor, " m"],
        weight: Float[Tensor, "h w"] | None = None,
        photo_sides: Int[Tensor, " m"] | None = None,
    ) -> DenoisingOutput:
        """Adds noise to latents and predicts it under the residuals, which stay bound.

        Args:
            residuals: Of n identities; sample i belongs to identity i mod n.
            prompts: n of them, encoded once and tiled, or m. Or their condition from `encode_prompts` under the same
                residuals, which change the text encoders, too.
            weight: Weight of each latent position in the loss.
            photo_sides: As in `hdb.diffusion.denoise.denoise`.
        """
        self.bind(residuals)
        if isinstance(prompts, TextCondition):
            condition = prompts
        else:
            condition = self.diffusion.encode_prompts(prompts)
        return denoise(
            self.diffusion,
            latents,
            condition,
            noise=noise,
            timesteps=timesteps,
            weight=weight,
            photo_sides=photo_sides,
        )

    def encode_prompts(self, residuals: Residuals, prompts: Sequence[str]) -> TextCondition:
        """Encodes k prompts under the residuals of n identities; prompt i belongs to identity i mod n."""
        self.bind(residuals)
        return self.diffusion.encode_prompts(prompts)

    @torch.no_grad()
    def pictures(
        self,
        residuals: Residuals | None,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: SamplingOptions,
        scale: float = 1.0,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        """Samples one picture per prompt. The previous residuals are bound again afterwards.

        Args:
            residuals: Of n identities; prompt i shows identity i mod n. None samples from the base.
            seeds: Of the initial noise, one per prompt.
            scale: Strength of the residuals.
            callback_on_step_end: Called with the number of each finished sampling step, from 1.

        Raises:
            ValueError: The number of prompts is not a multiple of the number of identities.
        """
        with self.bound(residuals, scale=scale):
            return draw(
                self.diffusion,
                prompts,
                num_people=1 if residuals is None else len(residuals),
                seeds=seeds,
                sampling=sampling,
                unbound=None if residuals is None else self.lidb.unbound,
                callback_on_step_end=callback_on_step_end,
            )
