"""One dataclass per experiment: its fields, their types, and the paper's values as defaults. `load` fills one in.

A YAML under `configs/` lists only what differs from the defaults here; `key=value` words override both. The paper
leaves many values open (learning rates, batch size, widths): those below without a note are this project's choice.

Source: arXiv 2307.06949, sections 4 and 5.
"""

import sys
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Schema = TypeVar("Schema")


@dataclass
class Base:
    """The frozen text-to-image model: a folder in diffusers' layout or a hub name."""

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
    """Where references come from.

    `source` is one of folders, flat, celeba, lfw, shards, faceworld. Paper: the target is the reference itself
    (`other_view=false`) and every prompt is the instance prompt.
    """

    source: str = "celeba"
    root: str = "data/celeba-hq"
    resolution: int = 512
    num_identities: int | None = None
    num_val_identities: int = 100
    views_per_identity: int = 12
    other_view: bool = False
    batch_size: int = 8
    num_workers: int = 0


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


@dataclass
class Judges:
    """What scores pictures: facenet/dino/clip names for real photos, folders for faceworld's own."""

    recognizer: str = "vggface2"
    dino: str = "vit_small_patch16_224.dino"
    clip: str = "openai/clip-vit-base-patch32"


@dataclass
class Sampling:
    """How pictures are drawn from a bound base."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5


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
    lidb: LiDB = field(default_factory=LiDB)
    sampling: Sampling = field(default_factory=Sampling)
    wandb: Wandb = field(default_factory=Wandb)
    instance_prompt: str = "a [V] face"
    accelerator: str = "auto"
    precision: str = "32-true"
    seed: int = 0


def load(schema: type[Schema], argv: list[str]) -> Schema:
    """Merges the defaults of `schema`, then YAML files, then `key=value` words, in the order given.

    Args:
        schema: a dataclass of this module.
        argv: paths ending in .yaml and words like `hypernet.iterations=2`; `--help` prints all fields and leaves.

    Raises:
        ValueError: an unknown key, a value of the wrong type, a missing file or a required field left open.

    >>> load(Stage, ["lidb.rank=2", "seed=7"]).lidb.rank
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
