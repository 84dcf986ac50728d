"""Preoptimization: the best theta of many identities at once, and the files that keep them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.files import write_safetensors
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.fitting import ThetaFitting
from hdb.training.options import FinetuningOptions, PreoptimizationOptions


class Preoptimization(ThetaFitting):
    """Fits a theta to the views of each identity. The result, `fitted` (n, p), is the target of the hypernetwork.

    A target is useful as far as a face predicts it. Everyone therefore starts at the same theta and the rate falls to
    zero. Fits should not be short: 80 samples per identity left nothing predictable, so take 500 or more. `mean_pull`
    draws a theta to the mean where the pictures do not determine it.

    Paper: theta is pre-optimized for each training image; how is open.

    Args:
        latents: Of v views of each of n identities.
        prompts: One for all views, or one per identity and view.
        photo_sides: Sides of the views in their photos, as in `RowFitting`.

    Raises:
        ValueError: Prompts that do not match the latents.

    Source: Ruiz et al., HyperDreamBooth, section 4.2, https://arxiv.org/abs/2307.06949
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        latents: Float[Tensor, "n v c h w"],
        prompts: str | Sequence[Sequence[str]] = INSTANCE_PROMPT,
        options: PreoptimizationOptions | None = None,
        photo_sides: Int[Tensor, "n v"] | None = None,
        seed: int = 0,
    ) -> None:
        options = options or PreoptimizationOptions()
        super().__init__(
            personalized,
            latents=latents,
            prompts=prompts,
            start=Residuals.initial(personalized.layout),
            options=FinetuningOptions(
                num_steps=options.num_steps,
                lr=options.lr,
                batch_size=options.views_per_step,
                timesteps=options.timesteps,
            ),
            mean_pull=options.mean_pull,
            photo_sides=photo_sides,
            seed=seed,
        )


def shard_path(folder: str | Path, shard: int) -> Path:
    """The file of a shard: thetas-00000.safetensors, thetas-00001.safetensors, ..."""
    return Path(folder) / f"thetas-{shard:05d}.safetensors"


def save_thetas(folder: str | Path, shard: int, people: Residuals, *, identities: Int[Tensor, " n"]) -> Path:
    """Writes one shard of thetas.

    Raises:
        ValueError: Thetas that are not finite.
    """
    people.layout.check_theta(people.theta, finite=True)
    tensors = {"thetas": people.theta.detach().float().cpu().contiguous(), "identities": identities.cpu().long()}
    return write_safetensors(shard_path(folder, shard), tensors, {"layout_digest": people.layout.digest})


def load_thetas(folder: str | Path, layout: Layout) -> tuple[Float[Tensor, "n p"], Int[Tensor, " n"]]:
    """Reads all shards of a folder: thetas, and the identity of each row.

    Raises:
        ValueError: There is no shard, or one is damaged or of another layout.
    """
    paths = sorted(Path(folder).glob("thetas-*.safetensors"))
    if not paths:
        raise ValueError(f"no thetas-*.safetensors in {folder}: run preoptimize first")
    thetas, identities = [], []
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                layout.check_digest(metadata.get("layout_digest", "(none)"), name=str(path))
                thetas.append(file.get_tensor("thetas"))
                identities.append(file.get_tensor("identities"))
        except SafetensorError as error:
            raise ValueError(f"{path} is no readable shard of thetas: {error}") from None
        layout.check_theta(thetas[-1], finite=True)
    return torch.cat(thetas), torch.cat(identities)
