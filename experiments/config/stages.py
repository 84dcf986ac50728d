"""One dataclass per experiment. What a class of hdb owns is embedded, or inherited where its fields stand alone."""

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from experiments.config.parts import (
    PHOTO,
    Drawing,
    Logged,
    OnBase,
    PersonalWandb,
    ReadPeople,
    Training,
    Wandb,
)
from hdb.diffusion.base import BaseOptions
from hdb.diffusion.sampling import SamplingOptions
from hdb.faces.picture import open_picture
from hdb.faceworld.base.measure import MeasureOptions
from hdb.faceworld.base.parts import PARTS
from hdb.faceworld.world import SPLITS
from hdb.hypernet.trained import check_networks_exist
from hdb.lidb.options import LiDBOptions
from hdb.limits import choice_field, number_field, seed_field, texts_field
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.caches import CacheOptions
from hdb.training.finetuning_options import FinetuningOptions
from hdb.training.preoptimize import PreoptimizationOptions
from hdb.training.ranks import ProcessOptions


@dataclass
class Preoptimize(PreoptimizationOptions, ProcessOptions, Logged):
    """The best theta of many identities at once, as targets for `Pretrain`: theta shards under `output`.

    `encoder` is a face encoder: predictable.json tells how much of the thetas its embedding of one photo predicts.
    `identifier` is that of `Pretrain`.
    """

    output: str = "outputs/preoptimize"
    identifier: str | None = None
    lidb: LiDBOptions = field(default_factory=LiDBOptions)
    faces: ReadPeople = field(default_factory=ReadPeople)
    identities_per_shard: int = number_field(16, ge=1)
    encoder: str | None = None
    checkpoint_every: int = number_field(50, ge=1)


@dataclass
class Personalize(Drawing):
    """One photo to one file, and a picture beside it. `overwrite` true replaces what is there and not ours.

    `reference` is the photo, `more_references` are others of the same person: the prediction is then the mean of
    theirs, and finetuning sees all. `output` is the file to write. `hypernet` null takes the newest of `make train`,
    else the shipped one; best takes the best run of the newest sweep. `encoder` is the face encoder that it was trained
    with, where its file does not hold that. `instance_prompt` is what the photo is learned under. `prompts` are drawn
    on the sheet beside the file.

    `crop` aligns a photo; without it the picture must be a face crop already and keeps its framing. `min_face` is the
    smallest face in px. `face` chooses where there are several, 1 being the largest. `consent` is a free text that
    travels in the file; `source` another, null the name of the photo. `strict` true exits with code 3 if the pictures
    do not fit the photo. `dtype` of the file is float32 or, at half the size, float16.
    """

    reference: str = MISSING
    more_references: list[str] = field(default_factory=list)
    output: str = "subject.safetensors"
    wandb: PersonalWandb = field(default_factory=PersonalWandb)
    dtype: str = "float32"
    hypernet: str | None = None
    encoder: str | None = None
    instance_prompt: str = INSTANCE_PROMPT
    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    crop: bool = True
    min_face: int = number_field(64, ge=1)
    face: int | None = number_field(None, ge=1)
    strict: bool = False
    consent: str = ""
    source: str | None = None
    prompts: list[str] = texts_field(lambda: [PHOTO] * 4)
    overwrite: bool = False

    def refuse_missing(self, hypernet: Path) -> None:
        """Raises ValueError if a photo cannot be read or a network is not there: before gigabytes are read."""
        for photo in [self.reference, *self.more_references]:
            open_picture(photo)
        check_networks_exist(hypernet=self.hypernet and hypernet, encoder=self.encoder)


@dataclass
class Demo(Training):
    """The page: a photo in, pictures out, files to take along. It is bound to this machine unless told otherwise.

    `host` is the address to listen on, 0.0.0.0 for all of this machine's. `port` null takes the first free one from
    7860 on. `prompts` are those to choose from. All other fields are those of `Personalize`.
    """

    host: str = "127.0.0.1"
    port: int | None = number_field(None, ge=1, le=65535)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    hypernet: str | None = None
    encoder: str | None = None
    instance_prompt: str = INSTANCE_PROMPT
    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    min_face: int = number_field(64, ge=1)
    prompts: list[str] = texts_field(lambda: [PHOTO])


@dataclass
class Generate(OnBase):
    """Pictures of one subject or several, in one batch: `subject=me.safetensors` or `subject=[me.safetensors,...]`.

    `subject` is a file of one person, or several. `output` gets the pictures one by one, and a sheet with a row for
    each prompt and subject. `prompts` are what to draw. `num_pictures` is how many of each. `scale` null is that of
    each file, `text_encoder_scale` that of the text encoder's layers alone, null the same. `mix` puts all subjects
    into each picture, `weights` how much of each, by default the same. `overwrite` true replaces pictures that are not
    of an earlier call.
    """

    subject: list[str] = MISSING
    output: str = "outputs/generate"
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    prompts: list[str] = texts_field(lambda: [PHOTO])
    num_pictures: int = number_field(4, ge=1)
    scale: float | None = None
    text_encoder_scale: float | None = None
    mix: bool = False
    weights: list[float] = field(default_factory=list)
    overwrite: bool = False


@dataclass
class Export:
    """A subject as other programs load it.

    `subject` is a file of one person. `output` is the file to write, or the folder. `format` kohya is a LoRA file that
    ComfyUI, A1111, kohya's scripts and diffusers read, diffusers one that only diffusers does; merged is a whole
    pipeline folder in diffusers' layout, checkpoint the same as one file in the original layout, as ComfyUI and A1111
    load models, and both need the base. `scale` null is that of the file.

    `title` is what interfaces show, null the name of the output; `preview` is the picture they show, null the one that
    personalize put beside the subject. `overwrite` true replaces a file that is no such export.
    """

    subject: str = MISSING
    output: str = MISSING
    format: str = choice_field("kohya", ("kohya", "diffusers", "merged", "checkpoint"))
    scale: float | None = None
    title: str | None = None
    preview: str | None = None
    base: BaseOptions = field(default_factory=BaseOptions)
    overwrite: bool = False


@dataclass
class TrainBase(MeasureOptions):
    """Trains what is frozen later, part after part, each resumable; `minutes` bounds all of it, null takes steps.

    `pretrain` is the YAML of the hypernetwork that the report tells of, too: its settings, and where its training lies.
    `overwrite` true replaces weights that lie in `weights` and were not trained in `output`.
    """

    pretrain: str = "configs/faceworld/pretrain.yaml"
    parts: list[str] = texts_field(lambda: list(PARTS))
    wandb: Wandb = field(default_factory=Wandb)
    overwrite: bool = False


@dataclass
class Prepare:
    """Photos, cropped once, as tar shards in `output`, for faces.source=shards faces.root=<output>.

    `source`, `root`, `splits` and the numbers of people are those of `PeopleOptions`. `min_face` is the smallest face
    in px, `max_turn` the largest yaw in degrees, `margin` the share of the crop's side added all around. `num_workers`
    null takes one process per core, 0 none but this one.

    `cache` names a base and a face encoder whose latents and features of the training pictures are kept beside the
    shards, in half precision, for `faces.source=shards cached=true` of pretraining; later calls may add to them.
    """

    source: str = MISSING
    root: str = MISSING
    output: str = MISSING
    splits: str | None = None
    num_identities: int | None = number_field(None, ge=1)
    num_val_identities: int = number_field(100, ge=0)
    num_test_identities: int = number_field(100, ge=0)
    identities_per_shard: int = number_field(256, ge=1)
    resolution: int = number_field(512, ge=1)
    min_face: int = number_field(64, ge=1)
    max_turn: float = number_field(45.0, gt=0, le=180)
    margin: float = number_field(0.0, ge=0)
    num_workers: int | None = number_field(None, ge=0)
    cache: CacheOptions = field(default_factory=CacheOptions)


@dataclass
class RenderFaceworld:
    """The embedded world as pictures on disk; or one `portrait` (a path) of `identity`.

    `overwrite` true replaces a picture that is no portrait of ours.
    """

    root: str = "data/faceworld"
    resolution: int = 128
    views_per_identity: int = number_field(12, ge=1)
    num_identities: int | None = number_field(None, ge=1)
    splits: list[str] = texts_field(lambda: ["train", "val", "test"])
    num_workers: int = number_field(2, ge=0)
    seed: int = seed_field()
    portrait: str | None = None
    identity: int = number_field(2200, ge=0, le=SPLITS["test"][-1])
    overwrite: bool = False
