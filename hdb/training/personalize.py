"""SubjectFinetuning: rank-relaxed fast finetuning, from a predicted theta and one photo to the final theta."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.fitting import ThetaFitting
from hdb.training.options import DEFAULT_LR, FinetuningOptions, check_mask
from hdb.training.prior import Prior
from hdb.training.stage import check_timesteps


class SubjectFinetuning(ThetaFitting):
    """Rank-relaxed fast finetuning of one or many subjects, each on their own reference.

        prediction (n, p) of rank 1
        -> relax: the same residuals in factors of rank r, theta (n, q)
        -> 40 steps of AdamW on the diffusion loss of the reference, under "a [V] face"

    What it starts from makes the method: the hypernetwork's prediction (HyperDreamBooth), the start shared by everyone
    (`Residuals.initial`, No Hyper), or `HyperNet.mean_theta`. Many subjects in one run end where each would have ended
    alone.

    Paper: the prediction is added to the base weights, and a residual of higher rank is trained on top. Here: the
    prediction becomes the first of r ranks, because weights folded into the base could serve only one subject. Both
    start at the same model.

    Paper: 40 iterations; rank, rate, batch and timesteps are open. Here: rank 4, as in the public code, and a cosine
    from 5e-3 to 0. A rate of 1e-2 reaches more of the identity, and more of the photo's background.

    Paper: whether the residual stays within the LiDB bases is open. Here: it does, which keeps the file small.
    `basis="free"` leaves them for an ordinary LoRA with thirteen times the numbers, for which a rate of 1e-3 is enough.

    Args:
        reference: Latents of the n references, or of v views of each.
        start: n rows, or one row for all.
        prompt: The instance prompt, or one per subject.
        prior: Class pictures, if the options ask for prior preservation.
        photo_sides: Sides of the references in their photos, as in `RowFitting`.

    Raises:
        ValueError: A start of another base, of another number of people or that is not finite; options that do not suit
            it, see `check_finetuning`; prior preservation without class pictures.

    Source: Ruiz et al., HyperDreamBooth, section 4.3, https://arxiv.org/abs/2307.06949
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
        photo_sides: Int[Tensor, "n v"] | None = None,
        seed: int = 0,
    ) -> None:
        options = options or FinetuningOptions()
        check_finetuning(options, start.layout)
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
            photo_sides=photo_sides,
            seed=seed,
        )


def check_finetuning(options: FinetuningOptions, layout: Layout) -> None:
    """Checks that a prediction can be finetuned with these options.

    Args:
        layout: Of the prediction.

    Raises:
        ValueError: An unknown basis, mask or name of timesteps, lidb where the prediction has left the bases, or a rank
            below the prediction's.
    """
    if options.basis not in DEFAULT_LR:
        raise ValueError(f"finetuning.basis is {options.basis!r}, expected {' or '.join(DEFAULT_LR)}")
    if options.basis == "lidb" and layout.free:
        raise ValueError(
            "finetuning.basis is lidb, but the hypernetwork learned bases of its own and predicts a free LoRA; "
            "expected finetuning.basis=free, and finetuning.lr=null no_hyper_lr=null or rates for it, about a tenth"
        )
    check_mask(options.mask)
    check_timesteps(options.timesteps)
    Residuals.initial(layout).relax(options.rank, free=options.basis == "free")
