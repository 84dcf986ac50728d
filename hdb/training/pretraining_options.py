"""PretrainingOptions: the losses and rates of pretraining a hypernetwork."""

from dataclasses import dataclass

from hdb.limits import choice_field, number_field
from hdb.losses import DISTANCES
from hdb.prompts import IDENTIFIER, INSTANCE_PROMPT, has_identifier
from hdb.training.stage import timesteps_field


@dataclass
class PretrainingOptions:
    """The losses and rates of pretraining. Paper: the first two losses. Their weights, rates and timesteps are open.

    `alpha`, `beta` and `gamma` are the weights of the diffusion, weight-space and identity loss; a loss of weight 0 is
    not computed. `distance` of the weight-space loss is that of the residuals, or of the factors as in the paper.

    The identity loss is ours. It is computed for photographs, with `identity_styled` also for paintings and statues. It
    is left out at timesteps above the share `identity_until`, where the clean picture is a guess, and computed for at
    most `identity_samples` of a batch, because decoding them costs as much as the rest of a step.

    `lr` is the rate of the decoder's layers and of a trained encoder. `linear_lr` is that of the mean, the linear path
    and the decoder's outputs. Theta is linear in these, so they bear and need a larger rate than transformer layers.
    `bases_lr` is that of learned bases; null takes `linear_lr`, at which they hardly move (0.2 % in 60 steps), because
    their gradient is proportional to `up`, which starts at zero. `adam_beta2` at 0.99 lets training recover from a rate
    that is too high; at 0.999 it did not. `num_val_draws` counts noise levels per validation picture, spread evenly
    over `timesteps`.

    `instance_prompt` replaces "a [V] face" wherever that is the prompt of a picture. `condition_dropout` is the share
    of training prompts that are left empty, because classifier-free guidance evaluates the personalized base at the
    empty prompt, too.
    """

    alpha: float = number_field(1.0, ge=0)
    beta: float = number_field(1.0, ge=0)
    gamma: float = number_field(0.0, ge=0)
    identity_until: float = number_field(0.85, gt=0, le=1)
    identity_styled: bool = False
    identity_samples: int = number_field(16, ge=1)
    distance: str = choice_field("residuals", DISTANCES)
    lr: float = number_field(1e-4, gt=0)
    linear_lr: float = number_field(1e-3, gt=0)
    bases_lr: float | None = number_field(None, gt=0)
    warmup_steps: int = number_field(100, ge=0)
    weight_decay: float = number_field(0.01, ge=0)
    adam_beta2: float = number_field(0.999, ge=0, le=0.99999)
    timesteps: str = timesteps_field()
    instance_prompt: str = INSTANCE_PROMPT
    condition_dropout: float = number_field(0.0, ge=0, le=1)
    num_val_draws: int = number_field(4, ge=1)

    def check(self, *, learn_bases: bool, freeze_encoder: bool, has_targets: bool) -> None:
        """Checks the losses against the hypernetwork and the data.

        Raises:
            ValueError: An instance prompt without the identifier, no loss at all, beta without targets or with learned
                bases, or gamma with a trained encoder or without alpha.
        """
        if not has_identifier(self.instance_prompt):
            raise ValueError(f"instance_prompt is {self.instance_prompt!r}, expected one with {IDENTIFIER} in it")
        if not self.alpha and not self.beta:
            raise ValueError("alpha and beta are both 0: expected at least one loss to train on")
        if self.beta and learn_bases:
            raise ValueError(
                f"beta = {self.beta} weighs a loss against pre-optimized thetas, which are numbers within the frozen "
                "bases; with learned bases expected beta = 0"
            )
        if self.beta and not has_targets:
            raise ValueError(
                f"beta = {self.beta} weighs a loss against pre-optimized thetas, but no targets were given"
            )
        if self.gamma and not (freeze_encoder and self.alpha):
            raise ValueError(
                f"gamma = {self.gamma} weighs what the hypernetwork's encoder sees in denoised pictures: "
                f"expected a frozen encoder and alpha above 0, not {self.alpha}"
            )
