"""Options of all trainings, in a file without torch so that commands check their settings at once."""

from dataclasses import dataclass, field
from typing import Any

from hdb.diffusion.options import SamplingOptions
from hdb.limits import Limit, choice_field, limited_field, number_field, texts_field
from hdb.metrics.table import METRICS
from hdb.prompts import IDENTIFIER, INSTANCE_PROMPT, has_identifier

METRIC_MODES = {f"val/{name}": metric.mode for name, metric in METRICS.items()}
METRIC_MODES |= {"val/own_better": "max", "val/own_minus_other": "min", "val/diffusion_loss": "min"}
# Of the distributions of timesteps: the density at t, from 0 (the picture) to 1 (noise), grows as t^(exponent - 1).
TIMESTEP_EXPONENTS = {"uniform": 1.0, "high_noise": 3.0}
# By `basis`. At 64 px 3e-2 with lidb and 4e-3 with free ruin other views of the person.
DEFAULT_LR = {"lidb": 5e-3, "free": 1e-3}
PREVIEW_PROMPTS = (
    f"a photo of {INSTANCE_PROMPT}",
    f"a photo of {INSTANCE_PROMPT} on a beach",
    f"an oil painting of {INSTANCE_PROMPT}",
    f"a bronze statue of {INSTANCE_PROMPT}",
)
_STRATEGY_LIMIT = Limit(
    lambda name: not name.endswith(("_spawn", "_fork", "_notebook")),
    "one whose processes run the whole command (auto, ddp, ddp_find_unused_parameters_true, ...)",
)


def accelerator_field(default: str = "auto") -> Any:
    """A dataclass field with the Trainer's `accelerator`."""
    return choice_field(default, ("auto", "cpu", "gpu", "cuda", "mps", "tpu"))


def precision_field() -> Any:
    """A dataclass field with the Trainer's `precision`."""
    names = ("32-true", "16-mixed", "bf16-mixed", "64-true", "32", "16", "bf16", "64")
    message = "{name} is {value!r}, expected one of {expected}: what is trained stays in float32"
    return choice_field("32-true", names, message=message)


def timesteps_field() -> Any:
    """A dataclass field with the name of a distribution of timesteps."""
    return choice_field("uniform", TIMESTEP_EXPONENTS)


def mask_field() -> Any:
    """A dataclass field that says where in the photo the diffusion loss counts."""
    return choice_field(None, ("face",), message="{name} is {value!r}, expected {expected} or null")


def check_mask(mask: str | None) -> None:
    """Raises ValueError if there is no mask of this name."""
    if mask not in (None, "face"):
        raise ValueError(f"mask is {mask!r}, expected face or null")


def check_precision(precision: str, dtype: str) -> None:
    """Checks that the precision of the Trainer suits the dtype of the base.

    Gradients flow through a half-precision base whatever the Trainer computes in. In float16 most of them vanish
    without a gradient scaler. In bfloat16 they do not, and the scaler's autocast would cast the base at every step.

    Raises:
        ValueError: A base in float16 without `16-mixed`, or one in bfloat16 with it.
    """
    has_scaler = precision in ("16-mixed", "16")
    if dtype == "float16" and not has_scaler:
        raise ValueError(
            f"the base is in float16 and precision is {precision!r}, where no scaler keeps its gradients: "
            "expected precision 16-mixed, or a base in bfloat16"
        )
    if dtype == "bfloat16" and has_scaler:
        raise ValueError(
            f"the base is in bfloat16 and precision is {precision!r}, which would cast all of it at every step: "
            "expected precision bf16-mixed, or a base in float16"
        )


@dataclass
class ProcessOptions:
    """The processes of a run, as Lightning's Trainer takes them.

    `devices` on each of `num_nodes` machines: a number, auto, or a list of GPUs like 0,2. On a CPU it counts processes.
    Several machines are started by torchrun or SLURM.
    """

    devices: str = "1"
    num_nodes: int = number_field(1, ge=1)
    strategy: str = limited_field("auto", _STRATEGY_LIMIT)

    @property
    def trainer_args(self) -> dict[str, Any]:
        """The arguments of a Trainer that runs on all processes."""
        return {"devices": self.devices, "num_nodes": self.num_nodes, "strategy": self.strategy}


@dataclass
class FinetuningOptions:
    """Rank-relaxed fast finetuning. Paper: 40 iterations. The public code has rank 4.

    `rank` is that of the residual after relaxation. `basis` lidb keeps the residual within the frozen bases and the
    file small; free makes it an ordinary LoRA of this rank. `lr` null is 5e-3 with lidb and 1e-3 with free. `num_steps`
    is the number of iterations. `batch_size` counts draws of noise and timestep per subject and step. `timesteps` names
    the distribution they are drawn from; `stratified` spreads those of a step evenly over it.

    `train_text_encoder` false leaves the text encoder's layers as they start. Ours; it keeps more of the prompt and
    bears twice the rate. LoRA trainers do so by default.

    `prior_preservation` is the weight of DreamBooth's loss on `num_class_pictures` pictures of the class prompt, drawn
    by the base. `mask` face masks the loss softly to an ellipse where a crop has the face; nothing is detected. Both
    are ours, are off by default, and keep finetuning from copying more of the photo than the person.
    """

    basis: str = choice_field("lidb", ("lidb", "free"))
    rank: int = number_field(4, ge=1)
    num_steps: int = number_field(40, ge=1)
    lr: float | None = number_field(None, gt=0)
    batch_size: int = number_field(4, ge=1)
    timesteps: str = timesteps_field()
    stratified: bool = True
    train_text_encoder: bool = True
    prior_preservation: float = number_field(0.0, ge=0)
    num_class_pictures: int = number_field(32, ge=1)
    mask: str | None = mask_field()

    @property
    def learning_rate(self) -> float:
        """`lr`, or the default of the basis."""
        return DEFAULT_LR[self.basis] if self.lr is None else self.lr


@dataclass
class PreoptimizationOptions:
    """How the hypernetwork's targets are fitted. The paper leaves it open.

    `views_per_step` counts draws of a view with noise and timestep, per identity and step. `mean_pull` is a decay
    towards the mean theta per unit of learning rate; with 0 the identities are independent.
    """

    num_steps: int = number_field(500, ge=1)
    lr: float = number_field(5e-3, gt=0)
    views_per_step: int = number_field(1, ge=1)
    mean_pull: float = number_field(0.0, ge=0)
    timesteps: str = timesteps_field()


@dataclass
class PretrainingOptions:
    """The losses and rates of pretraining. Paper: the first two losses. Their weights, rates and timesteps are open.

    `alpha`, `beta` and `gamma` are the weights of the diffusion, weight-space and identity loss; a loss of weight 0 is
    not computed. `distance` of the weight-space loss is that of the residuals, or of the factors as in the paper.

    The identity loss is ours. It is computed for photographs, with `identity_styled` also for paintings and statues. It
    is left out at timesteps above the share `identity_until`, where the clean picture is a guess, and computed for at
    most `identity_samples` of a batch, because decoding them costs as much as the rest of a step.

    `output_decay` is the weight of the squared length of what a photo changes in theta, against that of the mean. Ours;
    it replaces pre-optimized targets in "Finetuning-Free Personalization", https://arxiv.org/abs/2511.03156.

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
    output_decay: float = number_field(0.0, ge=0)
    identity_until: float = number_field(0.85, gt=0, le=1)
    identity_styled: bool = False
    identity_samples: int = number_field(16, ge=1)
    distance: str = choice_field("residuals", ("residuals", "factors"))
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


@dataclass
class ScheduleOptions:
    """How long a run is and what happens how often. `val_every` and `checkpoint_every` count optimizer steps.

    `max_minutes` ends a run early, before its learning rate has fallen to zero. A step takes the gradients of
    `accumulate_grad_batches` batches, or of those left at the end of an epoch. `ema_decay` validates and saves a moving
    average of the weights in their place. `best_metric` keeps the checkpoint of the best validation beside the last.
    """

    max_steps: int = number_field(100_000, ge=1)
    max_minutes: float | None = number_field(None, gt=0)
    val_every: int = number_field(1000, ge=1)
    checkpoint_every: int = number_field(200, ge=1)
    accumulate_grad_batches: int = number_field(1, ge=1)
    ema_decay: float | None = number_field(None, ge=0, le=0.99999)
    best_metric: str | None = choice_field(
        None, METRIC_MODES, message="{name} is {value!r}, expected one of {expected}, or null"
    )


@dataclass
class PreviewOptions:
    """What is drawn at each validation: `num_identities` people, each under all of `prompts`."""

    sampling: SamplingOptions = field(default_factory=lambda: SamplingOptions(num_inference_steps=10))
    num_identities: int = number_field(16, ge=1)
    prompts: list[str] = texts_field(lambda: list(PREVIEW_PROMPTS))


@dataclass
class DreamBoothOptions:
    """How the base is finetuned. Paper: 1,200 iterations. The other values are those of diffusers' example.

    `prior_preservation` is the weight of the loss on `num_class_pictures` pictures drawn by the base; 0 turns it off.
    `batch_size` counts draws of noise and timestep per step, and as many of class pictures. `mask` as in
    `FinetuningOptions`, for the loss of the photo.
    """

    num_steps: int = number_field(1200, ge=1)
    lr: float = number_field(5e-6, gt=0)
    batch_size: int = number_field(1, ge=1)
    timesteps: str = timesteps_field()
    prior_preservation: float = number_field(1.0, ge=0)
    num_class_pictures: int = number_field(200, ge=1)
    mask: str | None = mask_field()


@dataclass
class TextualInversionOptions:
    """How the embedding of the identifier is learned. Paper: 5,000 iterations. Rate and batch are diffusers' example's.

    `initial_word` is the word whose embedding everyone starts from. `batch_size` counts draws of noise and timestep per
    person and step. `mask` as in `FinetuningOptions`.
    """

    num_steps: int = number_field(5000, ge=1)
    lr: float = number_field(5e-4, gt=0)
    batch_size: int = number_field(1, ge=1)
    timesteps: str = timesteps_field()
    initial_word: str = "face"
    mask: str | None = mask_field()


@dataclass
class CacheOptions:
    """The caches that training reads instead of encoding pictures.

    `base` is the folder or hub id of the base whose autoencoder makes the latents. `encoder` is the name or folder of
    the face encoder that makes embeddings and tokens. Null writes no cache. `batch_size` counts pictures.
    """

    base: str | None = None
    revision: str | None = None
    encoder: str | None = None
    batch_size: int = number_field(8, ge=1)
    accelerator: str = accelerator_field()
