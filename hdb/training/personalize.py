"""SubjectFinetuning: from a first theta and one photo to the final theta, in 40 steps."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.lidb.residuals import Residuals
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.finetuning_options import FinetuningOptions
from hdb.training.fitting import ThetaFitting
from hdb.training.prior import Prior


class SubjectFinetuning(ThetaFitting):
    """Rank-relaxed fast finetuning of one or many subjects, each on their one reference.

        start (n, p) of rank 1 -> relax -> theta (n, q) of rank r -> 40 steps of AdamW on the diffusion loss

    The start decides which method this is: the hypernetwork's prediction (HyperDreamBooth), `Residuals.initial` (No
    Hyper), or `hypernet.mean_theta`. Many subjects in one run end where each would have ended alone.

    Paper: 40 iterations, diffusion loss on the reference, a residual of higher rank on top of the prediction. Open
    there: rank (public code: 4), rate, batch, timesteps, and whether the residual keeps to the LiDB bases. Here: rank 4
    inside the bases, which keeps the file small, and a cosine to zero from 5e-3; 1e-2 brings the identity further, and
    the photo's backdrop too. Without the bases (`free`) there are thirteen times the numbers, and 1e-3 is enough. What
    the text encoder learns here costs the prompt: it can be left as predicted, and then bears twice the rate.

    Args:
        reference: latents of the n references, or of v views of each.
        start: n rows, or one row for all.
        prompt: the instance prompt, or one per subject.
        prior: with class pictures, where the options ask for prior preservation.
        gradient_clip: largest norm of one subject's gradient.

    Raises:
        ValueError: a start for another base, not finite or of another number of people; a rank below the start's; an
            unknown basis, or lidb where the start has left the bases; a weight of class pictures, but none given.

    Source: HyperDreamBooth, section 4.3, https://arxiv.org/abs/2307.06949
    """

    def __init__(
        self,
        personalized: PersonalizedDiffusion,
        *,
        reference: Float[Tensor, "n c h w"] | Float[Tensor, "n v c h w"],
        start: Residuals,
        prompt: str | Sequence[str] = INSTANCE_PROMPT,
        options: FinetuningOptions | None = None,
        prior: Prior | None = None,
        gradient_clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        options = options or FinetuningOptions()
        options.check(start.layout)
        if options.prior_preservation and prior is None:
            raise ValueError(f"prior_preservation is {options.prior_preservation}, but no class pictures were given")
        views = reference if reference.ndim == 5 else reference[:, None]
        if not isinstance(prompt, str):
            prompt = [[subject_prompt] * views.shape[1] for subject_prompt in prompt]
        super().__init__(
            personalized,
            latents=views,
            prompts=prompt,
            start=start.relax(options.rank, free=options.basis == "free"),
            options=options,
            prior=prior,
            gradient_clip=gradient_clip,
            seed=seed,
        )
