"""One dataclass per experiment: its fields, their types, and the paper's values as defaults. `load` fills one in.

A YAML under `configs/` lists only what differs from the defaults here; `key=value` words override both. The paper
leaves many values open (learning rates, batch size, widths): those below without a note are this project's choice.

Source: arXiv 2307.06949, sections 4 and 5.
"""

import sys
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Schema = TypeVar("Schema")


@dataclass
class Base:
    """The frozen text-to-image model: a folder in diffusers' layout or a hub id."""

    path: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    dtype: str = "float32"


@dataclass
class LiDB:
    """The shape of personal weights. Paper: r = 1, a = 100 on the input side, b = 50 on the output side."""

    a: int = 100
    b: int = 50
    rank: int = 1
    seed: int = 0


@dataclass
class Faces:
    """Where people come from.

    `source` is folders, flat, celeba, lfw, shards or faceworld; `target` the picture that a prediction must explain:
    the same as the reference (paper), other, or on faceworld all or plain. `num_workers` read, `render_workers` render
    what of faceworld is not on disk yet, by default one per core.
    """

    source: str = "flat"
    root: str = "data/celeba-hq"
    resolution: int = 512
    num_identities: int = 15000
    num_val_identities: int = 100
    views_per_identity: int = 12
    target: str = "same"
    crop: bool = True
    batch_size: int = 8
    num_workers: int = 0
    render_workers: int | None = None
    seed: int = 0


@dataclass
class HyperNet:
    """Reference to theta. Paper: a ViT-H encoder and a transformer decoder of 2 layers; k = 4 is the public code's."""

    encoder: str = "vit_huge_patch14_224.orig_in21k"
    freeze_encoder: bool = True
    width: int = 1024
    num_layers: int = 2
    num_heads: int = 8
    iterations: int = 4
    linear_path: bool = False
    seed: int = 0


@dataclass
class Finetuning:
    """Rank-relaxed fast finetuning. Paper: 40 iterations; rank 4 is the public code's."""

    rank: int = 4
    num_steps: int = 40
    lr: float = 5e-3
    batch_size: int = 4
    timesteps: str = "uniform"


@dataclass
class Judges:
    """Who scores pictures: names of networks for real photos, folders for faceworld's own."""

    recognizer: str = "vggface2"
    dino: str = "vit_small_patch16_224.dino"
    clip: str = "openai/clip-vit-base-patch32"


@dataclass
class Sampling:
    """How pictures are drawn from a bound base; `batch_size` counts pictures."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    batch_size: int = 8


@dataclass
class Wandb:
    """The run's place in Weights & Biases. `mode` null means online where a login exists, offline elsewhere."""

    project: str = "hdb"
    name: str | None = None
    mode: str | None = None


@dataclass
class Stage:
    """What every stage has."""

    base: Base = field(default_factory=Base)
    sampling: Sampling = field(default_factory=Sampling)
    wandb: Wandb = field(default_factory=Wandb)
    instance_prompt: str = "a [V] face"
    accelerator: str = "auto"
    precision: str = "32-true"
    seed: int = 0


@dataclass
class Preoptimize(Stage):
    """The best theta of many identities at once, as targets for `Pretrain`: theta shards under `output`."""

    output: str = "outputs/preoptimize"
    lidb: LiDB = field(default_factory=LiDB)
    faces: Faces = field(default_factory=Faces)
    identities_per_shard: int = 16
    num_steps: int = 500
    lr: float = 5e-3
    views_per_step: int = 1
    mean_pull: float = 0.0
    timesteps: str = "uniform"
    checkpoint_every: int = 50


@dataclass
class Pretrain(Stage):
    """The hypernetwork. Paper: alpha times the diffusion loss plus beta times the weight-space loss.

    beta above 0 needs `thetas`, the folder that preoptimize wrote. `max_minutes` ends a run early, unfinished schedule
    and all. `val_every` and `checkpoint_every` count steps.
    """

    output: str = "outputs/pretrain"
    lidb: LiDB = field(default_factory=LiDB)
    faces: Faces = field(default_factory=Faces)
    hypernet: HyperNet = field(default_factory=HyperNet)
    judges: Judges = field(default_factory=Judges)
    thetas: str | None = "outputs/preoptimize"
    alpha: float = 1.0
    beta: float = 1.0
    lr: float = 1e-4
    linear_lr: float = 1e-3
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
    where there are several, 1 being the largest. `consent` is a free text that travels in the file.
    """

    reference: str = MISSING
    output: str = "subject.safetensors"
    hypernet: str | None = None
    encoder: str | None = None
    finetuning: Finetuning = field(default_factory=Finetuning)
    crop: bool = True
    min_face: int = 64
    face: int | None = None
    consent: str = ""
    prompts: list[str] = field(default_factory=lambda: ["a photo of a [V] face"] * 4)


@dataclass
class Evaluate(Stage):
    """Every method on the same unseen people. Paper: 100 identities, 30 prompts, 10 pictures each.

    `no_hyper_lr` is the best rate of finetuning from zero: at the rate of the others it would look worse than it is.
    """

    output: str = "outputs/eval"
    faces: Faces = field(default_factory=Faces)
    judges: Judges = field(default_factory=Judges)
    hypernet: str | None = None
    encoder: str | None = None
    finetuning: Finetuning = field(default_factory=Finetuning)
    no_hyper_lr: float = 5e-3
    subjects_per_batch: int = 1
    num_identities: int = 100
    num_references: int = 1
    prompts: str = "configs/prompts/people.txt"
    num_prompts: int = 30
    num_pictures: int = 10
    num_resamples: int = 10_000


@dataclass
class Generate(Stage):
    """Pictures of a subject from its file, one row per prompt, on one sheet and one by one in `output`."""

    subject: str = MISSING
    output: str = "outputs/generate"
    prompts: list[str] = field(default_factory=lambda: ["a photo of a [V] face"])
    num_pictures: int = 4
    scale: float | None = None


@dataclass
class Inspect:
    """What a subject's file says of itself, or which slots a base has; a base needs its configuration only."""

    subject: str | None = None
    base: str | None = None
    lidb: LiDB = field(default_factory=LiDB)


@dataclass
class BasePart:
    """How one network of faceworld's base is trained; `share` is its part of `minutes` where those are given."""

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    share: float = 0.1


@dataclass
class TrainBase:
    """Trains what is frozen later, part after part, each resumable; `minutes` bounds all of it, null takes steps."""

    root: str = "data/faceworld"
    resolution: int = 128
    num_identities: int | None = None
    views_per_identity: int = 12
    num_workers: int = 2
    output: str = "outputs/base"
    weights: str = "outputs/base/weights"
    parts: list[str] = field(
        default_factory=lambda: [
            "autoencoder",
            "text",
            "denoiser",
            "decoder",
            "encoder",
            "recognizer",
            "dino",
            "classifier",
        ]
    )
    minutes: float | None = None
    num_measured: int = 200
    num_generated: int = 600
    autoencoder: BasePart = field(default_factory=lambda: BasePart(4000, 32, 2e-3, 0.12))
    text: BasePart = field(default_factory=lambda: BasePart(2000, 128, 1e-3, 0.06))
    denoiser: BasePart = field(default_factory=lambda: BasePart(40000, 64, 6e-4, 0.44))
    decoder: BasePart = field(default_factory=lambda: BasePart(2000, 32, 1e-3, 0.06))
    encoder: BasePart = field(default_factory=lambda: BasePart(4000, 64, 1e-3, 0.10))
    recognizer: BasePart = field(default_factory=lambda: BasePart(4000, 64, 1e-3, 0.10))
    dino: BasePart = field(default_factory=lambda: BasePart(2000, 64, 5e-4, 0.08))
    classifier: BasePart = field(default_factory=lambda: BasePart(2000, 64, 1e-3, 0.04))
    wandb: Wandb = field(default_factory=Wandb)
    accelerator: str = "auto"
    precision: str = "32-true"
    seed: int = 0


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


def load(schema: type[Schema], argv: list[str]) -> Schema:
    """Merges the defaults of `schema`, then YAML files, then `key=value` words, in the order given.

    Args:
        schema: a dataclass of this module.
        argv: paths ending in .yaml and words like `hypernet.iterations=2`; `--help` prints all fields and leaves.

    Raises:
        ValueError: an unknown key, a value of the wrong type, a missing file or a required field left open.

    >>> load(Inspect, ["base=sd15", "lidb.rank=2"]).lidb.rank
    2
    """
    config = OmegaConf.structured(schema)
    if {"-h", "--help"} & set(argv):
        print(f"{schema.__doc__}\n\nFields and defaults, each overridden by key=value:\n\n{OmegaConf.to_yaml(config)}")
        sys.exit(0)
    for word in argv:
        config = _merge(config, _differences(word), origin=word)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"{', '.join(missing)} must be given: add {' '.join(f'{key}=...' for key in missing)}")
    return OmegaConf.to_object(config)


def dotted(config: object, prefix: str = "") -> dict[str, object]:
    """A config as flat {dotted name: value}: the names that YAML, command line, sweeps and logged runs share."""
    flat: dict[str, object] = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        flat |= dotted(value, f"{prefix}{entry.name}.") if is_dataclass(value) else {f"{prefix}{entry.name}": value}
    return flat


def _differences(word: str) -> DictConfig:
    if word.endswith((".yaml", ".yml")) and "=" not in word:
        if not Path(word).is_file():
            raise ValueError(f"no config file {word!r}; the shipped ones are under configs/")
        try:
            loaded = OmegaConf.load(word)
        except Exception as error:  # yaml's own errors share no base with OmegaConf's
            raise ValueError(f"{word} is not readable as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(loaded, DictConfig):
            raise ValueError(f"{word} must hold keys and values, not {type(loaded).__name__}")
        return loaded
    if "=" not in word or word.startswith(("-", "=")):
        raise ValueError(f"{word!r} is neither a .yaml file nor key=value")
    try:
        return OmegaConf.from_dotlist([word])
    except Exception as error:
        raise ValueError(f"{word!r} is not readable as key=value: {' '.join(str(error).split())}") from None


def _merge(config: DictConfig, differences: DictConfig, *, origin: str) -> DictConfig:
    try:
        return OmegaConf.merge(config, differences)
    except OmegaConfBaseException as error:
        key, reason = error.full_key or origin, str(error).split("\n")[0]
        if reason.startswith("Key "):
            known = config if "." not in key else OmegaConf.select(config, key.rpartition(".")[0])
            raise ValueError(f"unknown config key {key!r} (in {origin}); known here: {', '.join(known)}") from None
        raise ValueError(f"{key} (in {origin}): {reason}") from None
