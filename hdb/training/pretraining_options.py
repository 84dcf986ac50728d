"""PretrainingOptions: the losses and rates of pretraining a hypernetwork."""

from dataclasses import dataclass

from hdb.limits import choice_field, number_field
from hdb.losses import DISTANCES
from hdb.prompts import IDENTIFIER, INSTANCE_PROMPT, has_identifier
from hdb.training.stage import timesteps_field


@dataclass
class PretrainingOptions:
    """The losses and rates of pretraining. Paper: the first two losses; open there: their weights, rates, timesteps.

    `alpha`, `beta` and `gamma` weigh the diffusion, the weight-space and the identity loss; one with weight 0 is not
    computed. `distance` of the weight-space loss is that of residuals, or of factors like the paper's. The identity
    loss, which is ours, looks at photographs, with `identity_styled` also at paintings and statues, at timesteps below
    the share `identity_until`, above which the clean picture is a guess, and at no more than `identity_samples` of a
    batch: decoding them costs as much as the rest of a step. `lr` is that of the decoder's layers (and of the encoder
    where it is trained), `linear_lr` that of the mean, the direct path and the decoder's outputs: theta is linear in
    them, so they bear and need a larger rate than layers of a transformer. `bases_lr` is that of learned bases, null
    that of `linear_lr`; theta is linear in them too, but what they change is in proportion to `up`, which starts at
    zero: at that rate they hardly move (0.2 % in 60 steps). `adam_beta2` is how long AdamW remembers how large
    gradients were: at .99 training recovered from a rate that is too high, at .999 not. `num_val_draws` counts noise
    levels per validation picture, spread evenly over `timesteps`.

    `instance_prompt` takes the place of "a [V] face", where that is a picture's prompt. `condition_dropout` is the
    share of training prompts that are left empty, as classifier-free guidance asks the personalized base about the
    empty prompt, too: without it nobody teaches theta what it does there.
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
        """Raises ValueError if the losses cannot be those of such a hypernetwork and such data."""
        if not has_identifier(self.instance_prompt):
            raise ValueError(f"instance_prompt is {self.instance_prompt!r}, expected one with {IDENTIFIER} in it")
        if not self.alpha and not self.beta:
            raise ValueError("alpha and beta are both 0: expected at least one loss to train on")
        weighs = f"beta = {self.beta} weighs a loss against pre-optimized thetas"
        if self.beta and learn_bases:
            raise ValueError(
                f"{weighs}, which are numbers within the frozen bases; with learned bases expected beta = 0"
            )
        if self.beta and not has_targets:
            raise ValueError(f"{weighs}, but no targets were given")
        if self.gamma and not (freeze_encoder and self.alpha):
            raise ValueError(
                f"gamma = {self.gamma} weighs what the hypernetwork's encoder sees in denoised pictures: "
                f"expected a frozen encoder and alpha above 0, not {self.alpha}"
            )
