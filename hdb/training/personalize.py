"""SubjectFinetuning: from a first theta and one photo to the final theta, in 40 steps."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.lidb.adapter import LiDB
from hdb.training.denoising import Timesteps
from hdb.training.fitting import ThetaFitting

# By `free`. Measured at 64 px: 3e-2 within the bases and 4e-3 without them ruin other views of the person.
DEFAULT_LR = {False: 5e-3, True: 1e-3}


class SubjectFinetuning(ThetaFitting):
    """Rank-relaxed fast finetuning of one or many subjects, each on their one reference.

        start (n, p) of rank 1 -> relax -> theta (n, q) of rank r -> 40 steps of AdamW on the diffusion loss

    The start decides which method this is: the hypernetwork's prediction (HyperDreamBooth), `layout.initial()` (No
    Hyper), or `hypernet.mean_theta`. Many subjects in one run end where each would have ended alone.

    Paper: 40 iterations, diffusion loss on the reference, a residual of higher rank on top of the prediction. Open
    there: rank (public code: 4), rate, batch, timesteps, and whether the residual keeps to the LiDB bases. Here: rank 4
    inside the bases, which keeps the file small, and a cosine to zero from 5e-3; 1e-2 brings the identity further, and
    the photo's backdrop too. Without the bases (`free`) there are thirteen times the numbers, and 1e-3 is enough.

    Args:
        reference: latents of the n references.
        start: n rows, or one row for all, of the adapter's layout.
        prompt: the instance prompt, or one per subject.
        free: leave the LiDB bases.
        lr: None takes `DEFAULT_LR`.
        batch_size: draws of noise and timestep per subject and step.
        stratified: spread the timesteps of a step evenly.

    Raises:
        ValueError: a start of another layout, not finite or of another number of people; a rank below the start's.

    Source: HyperDreamBooth, section 4.3, https://arxiv.org/abs/2307.06949
    """

    def __init__(
        self,
        diffusion: StableDiffusion,
        lidb: LiDB,
        *,
        reference: Float[Tensor, "n c h w"],
        start: Float[Tensor, "_ p"],
        rank: int = 4,
        free: bool = False,
        prompt: str | Sequence[str] = "a [V] face",
        num_steps: int = 40,
        lr: float | None = None,
        weight_decay: float = 0.0,
        batch_size: int = 4,
        gradient_clip: float = 1.0,
        timesteps: Timesteps | None = None,
        stratified: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            diffusion,
            lidb,
            latents=reference[:, None],
            prompts=prompt if isinstance(prompt, str) else [[of_subject] for of_subject in prompt],
            start=start,
            rank=rank,
            free=free,
            num_steps=num_steps,
            lr=DEFAULT_LR[free] if lr is None else lr,
            batch_size=batch_size,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            mean_pull=0.0,
            timesteps=timesteps or Timesteps(),
            stratified=stratified,
            seed=seed,
        )

    @property
    def theta(self) -> Float[Tensor, "n q"]:
        """A copy of the personal weights, in the order of `self.layout`, on the CPU."""
        return self.thetas.detach().cpu().clone()
