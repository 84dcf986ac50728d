"""One dataclass per experiment."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from hdb.config.parts import Base, BasePart, Faces, Finetuning, HyperNet, Judges, LiDB, Sampling, Variant, Wandb


@dataclass
class Stage:
    """What every stage has. `memory` low recomputes activations in backward instead of keeping them: slower, same."""

    base: Base = field(default_factory=Base)
    sampling: Sampling = field(default_factory=Sampling)
    wandb: Wandb = field(default_factory=Wandb)
    accelerator: str = "auto"
    precision: str = "32-true"
    memory: str = "normal"
    seed: int = 0


@dataclass
class Preoptimize(Stage):
    """The best theta of many identities at once, as targets for `Pretrain`: theta shards under `output`.

    `encoder` is a face encoder to ask how much of the thetas its embedding of one photo predicts: predictable.json.
    """

    output: str = "outputs/preoptimize"
    lidb: LiDB = field(default_factory=LiDB)
    faces: Faces = field(default_factory=Faces)
    identities_per_shard: int = 16
    num_steps: int = 500
    lr: float = 5e-3
    views_per_step: int = 1
    mean_pull: float = 0.0
    timesteps: str = "uniform"
    encoder: str | None = None
    checkpoint_every: int = 50


@dataclass
class Pretrain(Stage):
    """The hypernetwork. Paper: alpha times the diffusion loss plus beta times the weight-space loss.

    gamma is the weight of the identity loss, ours: on photographs, or with `identity_styled` on all pictures, at
    timesteps below the share `identity_until`.

    beta above 0 needs `thetas`, the folder that preoptimize wrote, and frozen bases; `distance` of the weight-space
    loss is that of residuals, or of factors like the paper's. `bases_lr` is of learned bases, null that of `linear_lr`.
    `max_minutes` ends a run early, unfinished schedule and all. `val_every` and `checkpoint_every` count steps.
    """

    output: str = "outputs/pretrain"
    lidb: LiDB = field(default_factory=LiDB)
    faces: Faces = field(default_factory=Faces)
    hypernet: HyperNet = field(default_factory=HyperNet)
    judges: Judges = field(default_factory=Judges)
    thetas: str | None = "outputs/preoptimize"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.0
    identity_until: float = 0.85
    identity_styled: bool = False
    distance: str = "residuals"
    lr: float = 1e-4
    linear_lr: float = 1e-3
    bases_lr: float | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.01
    timesteps: str = "uniform"
    max_steps: int = 100_000
    max_minutes: float | None = None
    val_every: int = 1000
    num_val_draws: int = 4
    checkpoint_every: int = 200
    num_preview_identities: int = 4
    preview_prompts: list[str] = field(default_factory=lambda: ["a photo of a [V] face"])


@dataclass
class Personalize(Stage):
    """One photo to one file. `hypernet` null takes the newest of `make train`, else the shipped one.

    `crop` aligns a photo; without it the picture must be a face crop already and keeps its framing. `face` chooses
    where there are several, 1 being the largest. `consent` is a free text that travels in the file; `source` another,
    null the name of the photo. `dtype` of the file is float32 or, at half the size, float16.
    """

    reference: str = MISSING
    output: str = "subject.safetensors"
    dtype: str = "float32"
    hypernet: str | None = None
    encoder: str | None = None
    instance_prompt: str = "a [V] face"
    finetuning: Finetuning = field(default_factory=Finetuning)
    crop: bool = True
    min_face: int = 64
    face: int | None = None
    consent: str = ""
    source: str | None = None
    prompts: list[str] = field(default_factory=lambda: ["a photo of a [V] face"] * 4)


@dataclass
class Evaluate(Stage):
    """Every method on the same unseen people. Paper: 100 identities, 30 prompts, 10 pictures each.

    `no_hyper_lr` is the best rate of finetuning from zero: at the rate of the others, which null takes, it would look
    worse than it is. `dtype` of the subjects' files is float32 or float16. `methods` null takes all that the source has
    an answer for. `num_gallery` counts the unseen people among whom a picture's person is looked for: those evaluated
    and others of the test split, at most as many as there are.
    """

    output: str = "outputs/eval"
    methods: list[str] | None = None
    dtype: str = "float32"
    faces: Faces = field(default_factory=Faces)
    judges: Judges = field(default_factory=Judges)
    hypernet: str | None = None
    encoder: str | None = None
    instance_prompt: str = "a [V] face"
    finetuning: Finetuning = field(default_factory=Finetuning)
    no_hyper_lr: float | None = None
    subjects_per_batch: int = 1
    num_identities: int = 100
    num_references: int = 1
    num_gallery: int = 200
    prompts: str = "configs/prompts/people.txt"
    num_prompts: int = 30
    num_pictures: int = 10
    num_resamples: int = 10_000


@dataclass
class Ablate:
    """Hypernetworks and evaluations with some fields changed: `variants` are name -> words for `pretrain`, `evaluate`.

    `pretrain` and `evaluate` are the YAMLs they start from, `common` the words of all; `preoptimize` is the YAML of
    targets, for variants that need them: those with words for it, or with beta above 0 and no thetas.
    """

    output: str = "outputs/ablations"
    pretrain: str = MISSING
    evaluate: str = MISSING
    preoptimize: str | None = None
    common: Variant = field(default_factory=Variant)
    variants: dict[str, Variant] = field(default_factory=dict)


@dataclass
class Generate(Stage):
    """Pictures of one subject or several, in one batch: `subject=me.safetensors` or `subject=[me.safetensors,...]`.

    On one sheet, a row for each prompt and subject, and one by one in `output`. `scale` null is that of each file.
    """

    subject: list[str] = MISSING
    output: str = "outputs/generate"
    prompts: list[str] = field(default_factory=lambda: ["a photo of a [V] face"])
    num_pictures: int = 4
    scale: float | None = None


@dataclass
class Export:
    """A subject as other tools load it.

    `format` diffusers or kohya (ComfyUI, A1111) is a LoRA file of text encoder and UNet; merged is a whole pipeline
    folder in diffusers' layout, and the only one to need the base. `scale` null is that of the file.
    """

    subject: str = MISSING
    output: str = MISSING
    format: str = "diffusers"
    scale: float | None = None
    base: Base = field(default_factory=Base)


@dataclass
class Inspect:
    """What a subject's file says of itself, or which slots a base has; a base needs its configuration only.

    `base` is a folder, a hub id, or sd15-config: the published configuration of Stable Diffusion 1.5.
    """

    subject: str | None = None
    base: str | None = None
    lidb: LiDB = field(default_factory=LiDB)


@dataclass
class Benchmark:
    """What the stages cost on this machine, and two ratios; a base and a hypernetwork of random weights will do.

    `base` is a base, a folder of configs alone (unet.json, ...), or sd15-config, which is configs/sd15. `dtype` is its
    own, `batch_size` that of pretraining. A ratio compares runs of `num_steps` steps in `num_pairs` pairs.
    """

    base: str = "sd15-config"
    dtype: str = "float32"
    output: str = "outputs/benchmark"
    lidb: LiDB = field(default_factory=LiDB)
    hypernet: HyperNet = field(default_factory=HyperNet)
    finetuning: Finetuning = field(default_factory=Finetuning)
    sampling: Sampling = field(default_factory=lambda: Sampling(num_inference_steps=25))
    instance_prompt: str = "a [V] face"
    batch_size: int = 8
    num_pictures: int = 4
    num_residuals: int = 8
    num_people: int = 16
    num_steps: int = 10
    num_repeats: int = 3
    num_pairs: int = 7
    accelerator: str = "auto"
    precision: str = "32-true"
    memory: str = "normal"
    seed: int = 0


@dataclass
class TrainBase:
    """Trains what is frozen later, part after part, each resumable; `minutes` bounds all of it, null takes steps.

    `pretrain` is the YAML of the hypernetwork that the report tells of, too: its settings, and where its training lies.
    """

    root: str = "data/faceworld"
    resolution: int = 128
    num_identities: int | None = None
    views_per_identity: int = 12
    num_workers: int = 2
    output: str = "outputs/base"
    weights: str = "outputs/base/weights"
    pretrain: str = "configs/faceworld/pretrain.yaml"
    parts: list[str] = field(
        default_factory=lambda: [
            "autoencoder",
            "text",
            "denoiser",
            "encoder",
            "recognizer",
            "dino",
            "classifier",
        ]
    )
    minutes: float | None = None
    num_measured: int = 200
    num_generated: int = 600
    autoencoder: BasePart = field(default_factory=lambda: BasePart(4000, 32, 2e-3, 0.18))
    text: BasePart = field(default_factory=lambda: BasePart(2000, 128, 1e-3, 0.06))
    denoiser: BasePart = field(default_factory=lambda: BasePart(40000, 64, 6e-4, 0.44))
    encoder: BasePart = field(default_factory=lambda: BasePart(4000, 64, 1e-3, 0.10))
    recognizer: BasePart = field(default_factory=lambda: BasePart(4000, 64, 1e-3, 0.10))
    dino: BasePart = field(default_factory=lambda: BasePart(2000, 64, 5e-4, 0.08))
    classifier: BasePart = field(default_factory=lambda: BasePart(2000, 64, 1e-3, 0.04))
    wandb: Wandb = field(default_factory=Wandb)
    accelerator: str = "auto"
    precision: str = "32-true"
    seed: int = 0


@dataclass
class Prepare:
    """Photos, cropped once, as tar shards in `output`, for faces.source=shards faces.root=<output>.

    `source`, `root`, `splits` and the numbers of people are those of `Faces`. `min_face` is the smallest face in px,
    `max_turn` the largest yaw in degrees, `margin` the share of the crop's side added all around. `num_workers` null
    takes one process per core, 0 none but this one.
    """

    source: str = MISSING
    root: str = MISSING
    output: str = MISSING
    splits: str | None = None
    num_identities: int | None = None
    num_val_identities: int = 100
    num_test_identities: int = 100
    identities_per_shard: int = 256
    resolution: int = 512
    min_face: int = 64
    max_turn: float = 45.0
    margin: float = 0.0
    num_workers: int | None = None


@dataclass
class RenderFaceworld:
    """The embedded world as pictures on disk; or one `portrait` (a path) of `identity`."""

    root: str = "data/faceworld"
    resolution: int = 128
    views_per_identity: int = 12
    num_identities: int | None = None
    splits: list[str] = field(default_factory=lambda: ["train", "val", "test"])
    num_workers: int = 2
    seed: int = 0
    portrait: str | None = None
    identity: int = 2200
