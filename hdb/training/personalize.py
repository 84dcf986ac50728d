"""SubjectFinetuning: from a first theta and one photo to the final theta, in 40 steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.personalized import PersonalizedDiffusion
from hdb.lidb.layout import Layout
from hdb.lidb.residuals import Residuals
from hdb.limits import choice_field, number_field
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.denoising import Timesteps, timesteps
from hdb.training.fitting import FittingOptions, ThetaFitting
from hdb.training.prior import Prior

# By `free`. Measured at 64 px: 3e-2 within the bases and 4e-3 without them ruin other views of the person.
DEFAULT_LR = {False: 5e-3, True: 1e-3}


@dataclass
class FinetuningOptions:
    """Rank-relaxed fast finetuning. Paper: 40 iterations; rank 4 is the public code's.

    `num_steps` is how many steps it takes. `rank` is that of the residual after relaxation. `timesteps` names which
    noise levels are learned from.

    `basis` lidb keeps the residual within the frozen bases, and the file small; free leaves them for an ordinary LoRA
    of this rank. `lr` null takes 5e-3 of lidb, 1e-3 of free. `batch_size` counts draws of noise and timestep per
    subject and step, `stratified` spreads the timesteps of a step evenly. `train_text_encoder` false leaves the text
    encoder's layers as the start has them, as LoRA trainers do by default: ours, it keeps more of the prompt.

    Two ways to keep finetuning from copying more of the photo than the person, both off by default and ours:
    `prior_preservation` is DreamBooth's, the weight of a loss on `num_class_pictures` pictures that the base itself
    draws for the class prompt; `mask` face weighs the loss to the face in the photo's frame.
    """

    basis: str = choice_field("lidb", ("lidb", "free"))
    rank: int = number_field(4, ge=1)
    num_steps: int = number_field(40, ge=1)
    lr: float | None = number_field(None, gt=0)
    batch_size: int = number_field(4, ge=1)
    timesteps: str = timesteps()
    stratified: bool = True
    train_text_encoder: bool = True
    prior_preservation: float = number_field(0.0, ge=0)
    num_class_pictures: int = number_field(32, ge=1)
    mask: str | None = choice_field(None, ("face",), message="{name} is {value!r}, expected {expected} or null")

    def check(self, layout: Layout) -> None:
        """Raises ValueError if a prediction of this layout cannot be finetuned so."""
        Residuals.initial(layout).relax(self.rank, free=self.leaves_bases(layout))
        self.fitting(lr=0.0)

    def leaves_bases(self, layout: Layout) -> bool:
        """Whether finetuning leaves the LiDB bases.

        Args:
            layout: of the prediction.

        Raises:
            ValueError: an unknown basis, or lidb where the prediction has left the bases.
        """
        if self.basis not in ("lidb", "free"):
            raise ValueError(f"finetuning.basis is {self.basis!r}, expected lidb or free")
        if self.basis == "lidb" and layout.free:
            raise ValueError(
                "finetuning.basis is lidb, but the hypernetwork learned bases of its own and predicts a free LoRA; "
                "expected finetuning.basis=free, and finetuning.lr=null no_hyper_lr=null or rates for it, about a tenth"
            )
        return self.basis == "free"

    def fitting(self, *, lr: float, gradient_clip: float = 1.0) -> FittingOptions:
        """The same at this rate, as a fit of rows takes it."""
        return FittingOptions(
            num_steps=self.num_steps,
            lr=lr,
            batch_size=self.batch_size,
            timesteps=Timesteps.named(self.timesteps),
            stratified=self.stratified,
            gradient_clip=gradient_clip,
            mask=self.mask,
            train_text_encoder=self.train_text_encoder,
        )


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
        tuning = options or FinetuningOptions()
        free = tuning.leaves_bases(start.layout)
        if tuning.prior_preservation and prior is None:
            raise ValueError(f"prior_preservation is {tuning.prior_preservation}, but no class pictures were given")
        views = reference if reference.ndim == 5 else reference[:, None]
        super().__init__(
            personalized,
            latents=views,
            prompts=prompt if isinstance(prompt, str) else [[of_subject] * views.shape[1] for of_subject in prompt],
            start=start.relax(tuning.rank, free=free),
            options=tuning.fitting(
                lr=DEFAULT_LR[free] if tuning.lr is None else tuning.lr, gradient_clip=gradient_clip
            ),
            prior=prior,
            seed=seed,
        )
