"""The schemas of the commands for people: photos to files, files to pictures, files for other programs, the page."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from experiments.config.parts import PHOTO_PROMPT, OnBase, TrainingOnBase
from hdb.diffusion.options import BaseOptions, SamplingOptions
from hdb.lidb.options import LiDBOptions
from hdb.limits import choice_field, number_field, texts_field
from hdb.prompts import INSTANCE_PROMPT
from hdb.runs.options import PersonalWandbOptions
from hdb.training.options import FinetuningOptions

METHODS = ("hyperdreambooth", "only_hyper", "no_hyper")


@dataclass
class Personalize(TrainingOnBase):
    """One photo to one file, and a picture beside it. `overwrite` true replaces a file of somebody else.

    `reference` is the photo, `more_references` are others of the same person: the prediction is then the mean of
    theirs, and finetuning sees all. `output` is the file to write. `method` hyperdreambooth predicts and finetunes,
    only_hyper predicts, no_hyper finetunes alone: on any base, without a hypernetwork, and less alike.

    `hypernet` is a hypernetwork's folder, the folder of its run or a checkpoint; null takes the newest of `make train`,
    else the shipped one; best takes the best run of the newest sweep. `encoder` is the face encoder that it was trained
    with, where its file does not hold that. `instance_prompt` is what the photo is learned under. `prompts` are drawn
    on the sheet beside the file.

    `crop` true cuts the face out and aligns it, false keeps the framing of a picture that is a face crop already, null
    finds out which of the two it is. `min_face` is the smallest face in px. `face` chooses where there are several, 1
    being the largest. `consent` is a free text that travels in the file; `source` another, null the name of the photo.
    `strict` true exits with code 3 if the pictures do not fit the photo. `dtype` of the file is float32 or, at half the
    size, float16.
    """

    reference: str = MISSING
    more_references: list[str] = field(default_factory=list)
    output: str = "subject.safetensors"
    method: str = choice_field("hyperdreambooth", METHODS)
    wandb: PersonalWandbOptions = field(default_factory=PersonalWandbOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    dtype: str = "float32"
    hypernet: str | None = None
    encoder: str | None = None
    instance_prompt: str = INSTANCE_PROMPT
    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    crop: bool | None = None
    min_face: int = number_field(64, ge=1)
    face: int | None = number_field(None, ge=1)
    strict: bool = False
    consent: str = ""
    source: str | None = None
    prompts: list[str] = texts_field(lambda: [PHOTO_PROMPT] * 4)
    overwrite: bool = False


@dataclass
class Demo(TrainingOnBase):
    """The page: a photo in, pictures out, files to take along. It listens on this machine alone by default.

    `host` is the address to listen on, 0.0.0.0 for all of this machine's. `port` null takes the first free one from
    7860 on. `prompts` are those to choose from. `keep_seconds` is how long a visitor's files are kept after the page
    was closed, as it may be loaded again. All other settings are those of `Personalize`.
    """

    host: str = "127.0.0.1"
    port: int | None = number_field(None, ge=1, le=65535)
    keep_seconds: float = number_field(15.0, gt=0)
    method: str = choice_field("hyperdreambooth", ("hyperdreambooth", "no_hyper"))
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    hypernet: str | None = None
    encoder: str | None = None
    instance_prompt: str = INSTANCE_PROMPT
    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    min_face: int = number_field(64, ge=1)
    prompts: list[str] = texts_field(lambda: [PHOTO_PROMPT])


@dataclass
class Generate(OnBase):
    """Pictures of one subject or several, in one batch: `subject=me.safetensors` or `subject=[me.safetensors,...]`.

    `subject` is a file of one person, or several. `output` gets the pictures one by one, and a sheet with a row for
    each prompt and subject. `prompts` are what to draw. `num_pictures` is how many of each. `scale` null is that of
    each file, `text_encoder_scale` that of the text encoder's layers alone, null the same. `mix` puts all subjects into
    each picture, `weights` how much of each, by default the same. `overwrite` true replaces pictures that are not of an
    earlier call.
    """

    subject: list[str] = MISSING
    output: str = "outputs/generate"
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    prompts: list[str] = texts_field(lambda: [PHOTO_PROMPT])
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
class Inspect:
    """What a file of a person says of itself, or which slots a base has; a base needs its configuration only.

    `subject` is a file of one person. `base` is a folder, a hub id, or sd15-config or sdxl-config: the published
    configurations of Stable Diffusion 1.5 and XL.
    """

    subject: str | None = None
    base: str | None = None
    lidb: LiDBOptions = field(default_factory=LiDBOptions)
