"""What several experiments have in common: the base, the shape of theta, where faces come from, who judges."""

from dataclasses import dataclass, field


@dataclass
class Base:
    """The frozen text-to-image model: a folder in diffusers' layout, or a hub id and the revision it is pinned to."""

    path: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    revision: str | None = None
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

    `source` is folders (one per identity), flat (each picture an identity), celeba, lfw, shards, artifact or faceworld;
    `root` their folder, for shards also a pattern like https://host/faces-{000..099}.tar, for artifact the W&B name
    entity/project/name:alias of folders, flat pictures or shards. `splits` is a JSON file with the lists train, val and
    test; null takes root/splits.json where there is one, else the last people are for test, those before for
    validation; of shards that nobody listed the first are. Null `num_identities` trains on everybody else.

    `target` is the picture that a prediction must explain: the same as the reference (paper), other, or on faceworld
    all or plain. `crop` null crops all but shards. `num_workers` read, `render_workers` render what of faceworld is not
    on disk yet, by default one per core.
    """

    source: str = "flat"
    root: str = "data/celeba-hq"
    splits: str | None = None
    resolution: int = 512
    num_identities: int | None = 15000
    num_val_identities: int = 100
    num_test_identities: int = 100
    views_per_identity: int = 12
    target: str = "same"
    crop: bool | None = None
    batch_size: int = 8
    num_workers: int = 0
    render_workers: int | None = None
    seed: int = 0


@dataclass
class HyperNet:
    """Reference to theta. Paper: a ViT-H encoder and a transformer decoder of 2 layers; k = 4 is the public code's.

    `learn_bases` trains the bases, too: no weight-space loss then, and finetuning is free.
    """

    encoder: str = "vit_huge_patch14_224.orig_in21k"
    freeze_encoder: bool = True
    width: int = 1024
    num_layers: int = 2
    num_heads: int = 8
    iterations: int = 4
    linear_path: bool = False
    learn_bases: bool = False
    seed: int = 0


@dataclass
class Finetuning:
    """Rank-relaxed fast finetuning. Paper: 40 iterations; rank 4 is the public code's.

    `basis` lidb keeps the residual within the frozen bases, and the file small; free leaves them for an ordinary LoRA
    of this rank. `lr` null takes 5e-3 of lidb, 1e-3 of free. `stratified` spreads the timesteps of a step evenly.
    """

    basis: str = "lidb"
    rank: int = 4
    num_steps: int = 40
    lr: float | None = None
    batch_size: int = 4
    timesteps: str = "uniform"
    stratified: bool = True


@dataclass
class Judges:
    """Who scores pictures: names of networks for real photos, folders for faceworld's own.

    `classifier` says what a picture shows, where prompts are captions of faceworld; there is none for real photos.
    """

    recognizer: str = "vggface2"
    dino: str = "vit_small_patch16_224.dino"
    clip: str = "openai/clip-vit-base-patch32"
    classifier: str | None = None


@dataclass
class Variant:
    """Words that a row of an ablation adds to those of its experiments."""

    pretrain: list[str] = field(default_factory=list)
    evaluate: list[str] = field(default_factory=list)
    preoptimize: list[str] = field(default_factory=list)


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
class BasePart:
    """How one network of faceworld's base is trained; `share` is its part of `minutes` where those are given.

    `optimizer` is adamw or muon, whose rates are ten times those of the other.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    share: float = 0.1
    optimizer: str = "adamw"
