"""HyperDreamBoothPipeline: one photo of a person becomes a Subject, and subjects become pictures."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ImagePipelineOutput
from jaxtyping import Float
from lightning import Callback, Trainer
from torch import Tensor
from tqdm.auto import tqdm

from hdb.diffusion.base import load_base
from hdb.diffusion.options import BaseOptions, SamplingOptions
from hdb.diffusion.personalized import PersonalizedDiffusion, build_layout
from hdb.diffusion.sampling import prompt_warnings, tiled_batches
from hdb.diffusion.sheet import to_pil
from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.faces.crop import FaceCropper
from hdb.faces.picture import FaceCrop, Picture, StoredPicture, digest_photos
from hdb.files import resolve_shipped
from hdb.hypernet.hypernet import HyperNet
from hdb.hypernet.trained import SHIPPED_BASE, SHIPPED_HYPERNET, load_hypernet, resolve_checkpoint
from hdb.lidb.file import Subject
from hdb.lidb.layout import Layout
from hdb.lidb.options import LiDBOptions
from hdb.lidb.residuals import Residuals
from hdb.methods.context import TrainingContext
from hdb.methods.hyperdreambooth import Finetuner, HyperDreamBooth, NoHyper, OnlyHyper
from hdb.methods.kinds import READERS, read_common_kind
from hdb.methods.protocol import Personalization, Photos
from hdb.methods.stored import THETA
from hdb.methods.theta import PersonalTheta
from hdb.methods.unpersonalized import NoPersonalization
from hdb.prompts import INSTANCE_PROMPT
from hdb.training.device import configure_device
from hdb.training.options import FinetuningOptions

SHIPPED_ENCODER = "hdb/faceworld/weights/encoder"
SETTINGS_FILE = "personalization.json"  # in a base's folder: how to personalize and sample it

SubjectLike = Subject | str | Path  # a person that is there already, or the file
Photo = Picture | FaceCrop | Tensor  # a tensor is a face crop, (3, h, w) in [0, 1]


@dataclass
class PipelineSettings:
    """How a base is personalized and sampled when a call does not say otherwise."""

    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    @classmethod
    def beside(cls, base: str | Path) -> PipelineSettings:
        """The settings that a base's folder recommends, or the paper's where it has no personalization.json.

        Raises:
            ValueError: the file names a setting that does not exist.
        """
        file = Path(base, SETTINGS_FILE)
        if not file.is_file():
            return cls()
        content = json.loads(file.read_text())
        return cls(
            finetuning=_options(FinetuningOptions, content.get("finetuning", {}), file),
            sampling=_options(SamplingOptions, content.get("sampling", {}), file),
        )


def _options(schema: type, values: Mapping[str, Any], file: Path) -> Any:
    unknown = sorted(set(values) - {entry.name for entry in fields(schema)})
    if unknown:
        raise ValueError(f"{file} has an unknown setting {unknown[0]!r}, expected settings of {schema.__name__}")
    return schema(**values)


class HyperDreamBoothPipeline:
    """Personalizes a text-to-image model from one photo of a face, and draws the person.

        photo -> HyperNet -> theta of rank 1 -> relaxed to rank r -> 40 steps of finetuning -> Subject (a small file)
        Subject + prompt -> LiDB layers in the denoiser and the text encoder -> pictures

    Without a hypernetwork `personalize` finetunes from the start that everyone shares ("No Hyper" in the paper). That
    works on every base and is weaker.

    Args:
        diffusion: the frozen base. Its linear layers are replaced in place.
        hypernet: trained for this base; None finetunes alone.
        settings: finetuning and sampling where a call does not say otherwise.
        instance_prompt: the prompt under which a photo is learned.
        precision: of finetuning, as Lightning's Trainer takes it.
        trainer_args: further arguments of the Trainer that finetunes, for example a logger.

    >>> pipe = HyperDreamBoothPipeline.from_pretrained()
    >>> pipe.diffusion.resolution, len(pipe.hypernet.layout.slots)
    (64, 75)

    Source: Ruiz et al., HyperDreamBooth, https://arxiv.org/abs/2307.06949
    """

    def __init__(
        self,
        diffusion: StableDiffusion,
        hypernet: HyperNet | None = None,
        *,
        settings: PipelineSettings | None = None,
        lidb: LiDBOptions | None = None,
        instance_prompt: str = INSTANCE_PROMPT,
        precision: str = "32-true",
        trainer_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.diffusion = diffusion
        self.hypernet = hypernet
        self.settings = settings or PipelineSettings()
        self.lidb = lidb or LiDBOptions()
        self.instance_prompt = instance_prompt
        self.precision = precision
        self.trainer_args = dict(trainer_args or {})
        self._personalized: PersonalizedDiffusion | None = None
        if hypernet is not None:
            diffusion.set_identifier(hypernet.identifier)  # the word that its prompts had in training

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | BaseOptions | None = None,
        *,
        hypernet: str | Path | None = None,
        encoder: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        variant: str | None = None,
        memory: str = "normal",
        precision: str | None = None,
        cuda_graph: str = "auto",
        instance_prompt: str = INSTANCE_PROMPT,
        trainer_args: Mapping[str, Any] | None = None,
    ) -> HyperDreamBoothPipeline:
        """Loads a base and the hypernetwork that was trained for it.

        Args:
            base: a folder in diffusers' layout, a hub id, a single safetensors file, or options that say more; None
                is the small base that is shipped.
            hypernet: a hypernetwork's folder, the folder of the run that trained it, or a checkpoint. None is the
                shipped one on the shipped base, and no hypernetwork on any other base.
            encoder: the face encoder that the hypernetwork was trained with, where its file does not hold it: a
                folder, or a name of timm's. On the shipped base None is the shipped encoder.
            device: None is the first GPU, or the CPU where there is none.
            dtype: of the base's weights.
            revision, variant: of a hub id, as in diffusers.
            memory: `low` trades time for memory: gradient checkpointing and sliced decoding.
            precision: of finetuning, as Lightning's Trainer takes it; None fits the dtype.
            cuda_graph: on a GPU `auto` replays the steps of finetuning and drawing from CUDA graphs, which are kept for
                the next person; `false` starts their kernels one by one, in less memory; `true` raises where a step
                cannot be captured, where `auto` says a line and goes on.

        Raises:
            ValueError: the base or the hypernetwork is missing or damaged, or they do not belong together.
        """
        is_shipped = base is None
        if is_shipped:
            base = resolve_shipped(SHIPPED_BASE)
            hypernet = hypernet or resolve_shipped(SHIPPED_HYPERNET)
            encoder = encoder or str(resolve_shipped(SHIPPED_ENCODER))
        if not isinstance(base, BaseOptions):
            dtype_name = str(dtype).removeprefix("torch.")
            base = BaseOptions(path=str(base), revision=revision, variant=variant, dtype=dtype_name)
        device = default_device() if device is None else torch.device(device)
        precision = precision or {"float16": "16-mixed", "bfloat16": "bf16-mixed"}.get(base.dtype, "32-true")
        diffusion = load_base(
            base, device=configure_device(device), memory=memory, precision=precision, cuda_graph=cuda_graph
        )
        network = None
        if hypernet is not None:
            network = load_hypernet(resolve_checkpoint(str(hypernet)), encoder=encoder, **diffusion.compatibility)
            network = network.to(device)
        return cls(
            diffusion,
            network,
            settings=PipelineSettings.beside(resolve_shipped(base.path)),
            instance_prompt=instance_prompt,
            precision=precision,
            trainer_args=trainer_args,
        )

    @property
    def device(self) -> torch.device:
        return self.diffusion.device

    @property
    def personalized(self) -> PersonalizedDiffusion:
        """The base with LiDB layers in it, of the hypernetwork's layout or, without one, of `lidb`."""
        layout = self.hypernet.layout if self.hypernet is not None else build_layout(self.diffusion, self.lidb)
        return self._with_layers_for(layout)

    def personalize(
        self,
        *photos: Photo | Sequence[Photo | Sequence[Photo]],
        finetune: bool = True,
        finetuning: FinetuningOptions | None = None,
        crop: bool | None = None,
        face: int | None = None,
        min_face: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        source: str | None = None,
        consent: str = "",
        progress_bar: bool = True,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Subject | list[Subject]:
        """Learns a person from one photo, or several people together.

            pipe.personalize("anna.jpg")                     one person, one photo
            pipe.personalize("anna1.jpg", "anna2.jpg")       one person, two photos
            pipe.personalize(["anna.jpg", "ben.jpg"])        two people in one batch: a list of two subjects

        An entry of the list may itself be a list: several photos of that person. Of several photos the prediction is
        the mean of theirs, and finetuning sees all of them. Everyone ends where they would have ended alone.

        Args:
            photos: files, PIL images, or face crops: `FaceCrop`, or float tensors in [0, 1] of shape (3, h, w).
            finetune: False keeps the hypernetwork's prediction as it is.
            finetuning: steps, rate, rank and more; None is that of `settings`.
            crop: True cuts the face out, False keeps the framing of a picture that is a face crop already; None finds
                out which of the two it is.
            face: which face of a photo, 1 being the largest; None takes the largest and warns if there are several.
            min_face: smallest face in px; None is 64, or less where the base draws small pictures.
            seed: of noise and timesteps in finetuning.
            dtype: of the subject's weights, float32 or float16.
            source: text that travels in the file; None is the file name of the first photo.
            consent: text that travels in the file.
            progress_bar: whether finetuning shows one.
            callback_on_step_end: called with the number of each finished step of finetuning, from 1. An exception that
                it raises ends the finetuning and is raised here.

        Returns:
            A Subject, or a list of them where a list of people was given.

        Raises:
            FaceError: a photo cannot be read or shows no face that can be used.
            ValueError: no photo, or neither a hypernetwork nor finetuning.
        """
        people, is_batch = _grouped(photos)
        cropper = FaceCropper(min_size=min_face or min(64, self.diffusion.resolution // 4))
        crops = [[self._read(photo, cropper=cropper, crop=crop, face=face) for photo in person] for person in people]
        names = [source if source is not None else _name_of(person[0]) for person in people]
        context = TrainingContext(
            self.personalized,
            prompt=self.instance_prompt,
            trainer=self._trainer_args(),
            sampling=self.settings.sampling,
            seed=seed,
            dtype=dtype,
        )
        options = finetuning or self.settings.finetuning
        subjects: list[Subject | None] = [None] * len(people)
        # People with as many photos as each other are one batch.
        for num_views in sorted({len(views) for views in crops}):
            rows = [row for row, views in enumerate(crops) if len(views) == num_views]
            batch = torch.stack([torch.stack([view.pixels for view in crops[row]]) for row in rows])
            sides = torch.tensor([[view.side for view in crops[row]] for row in rows])
            given = Photos([names[row] for row in rows], batch[:, 0], batch[:, 1:], sides)
            shows_bar = progress_bar and finetune
            with _quiet_lightning(), _StepCallback(options.num_steps, shows_bar, callback_on_step_end) as steps:
                callbacks = [*context.trainer.get("callbacks", ()), steps]
                with_steps = replace(context, trainer={**context.trainer, "callbacks": callbacks})
                result = self.method(with_steps, finetune=finetune, finetuning=options).personalize(given)
            about = [
                {
                    "source": names[row],
                    "consent": consent,
                    "reference_digest": digest_photos(people[row], face=face),
                }
                for row in rows
            ]
            for row, subject in zip(rows, result.subjects(about), strict=True):
                subjects[row] = subject
        return subjects if is_batch else subjects[0]

    def method(
        self, context: TrainingContext, *, finetune: bool = True, finetuning: FinetuningOptions | None = None
    ) -> HyperDreamBooth | NoHyper | OnlyHyper:
        """What `personalize` runs: the whole method, the prediction alone, or finetuning alone.

        Raises:
            ValueError: there is neither a hypernetwork nor finetuning.
        """
        if not finetune:
            if self.hypernet is None:
                raise ValueError("finetune is False and there is no hypernetwork: expected one of the two")
            return OnlyHyper(context.personalized, self.hypernet, dtype=context.dtype)
        finetuner = Finetuner(context, finetuning or self.settings.finetuning)
        if self.hypernet is None:
            return NoHyper(finetuner)
        return HyperDreamBooth(self.hypernet, finetuner)

    def __call__(
        self,
        subject: SubjectLike | Sequence[SubjectLike] | Personalization | None,
        prompt: str | Sequence[str],
        *,
        num_images: int = 1,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampling: SamplingOptions | None = None,
        scale: float | None = None,
        text_encoder_scale: float | None = None,
        mix_weights: Sequence[float] | None = None,
        output_type: str = "pil",
        progress_bar: bool = True,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> ImagePipelineOutput:
        """Draws subjects. Several subjects and several prompts are every combination of them, in one batch.

        Warns of a prompt that is too long for the text encoder, has words that it does not know, or has no [V].

        Args:
            subject: a Subject, its file, several of them, or None for the base without a person.
            prompt: one or several; "[V]" stands for the person.
            num_images: of each subject under each prompt.
            seed: image i has the starting noise of seed + i, whatever the subject and the prompt.
            num_inference_steps, guidance_scale: as in diffusers; None is that of `sampling`.
            sampling: all settings of sampling, identity guidance among them; None is that of `settings`.
            scale: strength of the person; None is that of each subject.
            text_encoder_scale: strength in the text encoder alone; None is `scale`.
            mix_weights: one number per subject: all of them become one person.
            output_type: "pil", or "pt" for a float tensor in [0, 1].
            callback_on_step_end: called with the number of sampling steps that are finished, all batches together. An
                exception that it raises ends the drawing and is raised here.

        Returns:
            diffusers' ImagePipelineOutput. `images` is ordered by prompt, then by subject, then by number.

        Raises:
            ValueError: a subject is of another base, or the settings do not fit each other.
        """
        if output_type not in ("pil", "pt"):
            raise ValueError(f"output_type is {output_type!r}, expected 'pil' or 'pt'")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts or num_images < 1:
            raise ValueError(f"{len(prompts)} prompts and num_images={num_images}, expected at least 1 of each")
        options = sampling or self.settings.sampling
        if num_inference_steps is not None:
            options = replace(options, num_inference_steps=num_inference_steps)
        if guidance_scale is not None:
            options = replace(options, guidance_scale=guidance_scale)
        people = self.people(subject, scale=scale, text_encoder_scale=text_encoder_scale, mix_weights=mix_weights)
        for message in prompt_warnings(self.diffusion, prompts, has_person=subject is not None):
            warnings.warn(message, stacklevel=2)
        images = self.draw(
            people,
            prompts,
            num_images=num_images,
            seed=seed,
            sampling=options,
            progress_bar=progress_bar,
            callback_on_step_end=callback_on_step_end,
        )
        return ImagePipelineOutput(images=[to_pil(image) for image in images] if output_type == "pil" else images)

    def draw(
        self,
        people: Personalization,
        prompts: Sequence[str],
        *,
        num_images: int = 1,
        seed: int = 0,
        sampling: SamplingOptions,
        progress_bar: bool = True,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "m 3 h w"]:
        """Pictures of people as a tensor on the CPU, ordered by prompt, then by person, then by number."""
        drawn = dict(
            self.draw_each(
                people,
                prompts,
                num_images=num_images,
                seed=seed,
                sampling=sampling,
                progress_bar=progress_bar,
                callback_on_step_end=callback_on_step_end,
            )
        )
        return torch.stack([drawn[key] for key in sorted(drawn)])

    def draw_each(
        self,
        people: Personalization,
        prompts: Sequence[str],
        *,
        num_images: int = 1,
        seed: int = 0,
        sampling: SamplingOptions,
        progress_bar: bool = True,
        callback_on_step_end: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[tuple[int, int, int], Float[Tensor, "3 h w"]]]:
        """Yields the pictures of `draw` batch by batch, each after its numbers: (prompt, person, picture)."""
        num_steps_done = 0

        def count_step(step: int) -> None:
            nonlocal num_steps_done
            num_steps_done += 1
            if callback_on_step_end is not None:
                callback_on_step_end(num_steps_done)

        batches = tiled_batches(len(prompts), num_images, len(people), max_batch_size=sampling.batch_size)
        with tqdm(total=len(batches), desc="drawing", disable=not progress_bar, leave=False) as bar:
            for batch in batches:
                present = sorted({person for _, _, person in batch})
                pictures = people[present].pictures(
                    [prompts[prompt] for prompt, _, _ in batch],
                    seeds=[seed + number for _, number, _ in batch],
                    sampling=sampling,
                    callback_on_step_end=count_step,
                )
                bar.update()
                for (prompt, number, person), picture in zip(batch, pictures, strict=True):
                    yield (prompt, person, number), picture

    def people(
        self,
        subject: SubjectLike | Sequence[SubjectLike] | Personalization | None,
        *,
        scale: float | None = None,
        text_encoder_scale: float | None = None,
        mix_weights: Sequence[float] | None = None,
    ) -> Personalization:
        """Subjects, their files, or the files of other methods, ready to be drawn by this base.

        Raises:
            ValueError: a file is missing, damaged or of another base, or the files are of several kinds.
        """
        if subject is None:
            return NoPersonalization(self._with_layers_for(None), num_people=1)
        if isinstance(subject, Personalization):
            return subject
        items = [subject] if isinstance(subject, SubjectLike) else list(subject)
        if not items:
            raise ValueError("no subject was given, expected one or several")
        files = [Path(item) for item in items if not isinstance(item, Subject)]
        if files and read_common_kind(files) != THETA:
            if len(files) < len(items) or text_encoder_scale is not None or mix_weights is not None:
                expected = "mix and text_encoder_scale are for residuals, expected neither, and no subjects beside it"
                raise ValueError(f"{files[0]} holds a {read_common_kind(files)}: {expected}")
            return READERS[read_common_kind(files)].from_files(self.diffusion, files, scale=scale)
        subjects = [item if isinstance(item, Subject) else Subject.load(item) for item in items]
        origins = ["the subject" if isinstance(item, Subject) else str(item) for item in items]
        return self._residuals_of(
            subjects, origins, scale=scale, text_encoder_scale=text_encoder_scale, mix_weights=mix_weights
        )

    def _residuals_of(
        self,
        subjects: Sequence[Subject],
        origins: Sequence[str],
        *,
        scale: float | None,
        text_encoder_scale: float | None,
        mix_weights: Sequence[float] | None,
    ) -> PersonalTheta:
        for subject, origin in zip(subjects, origins, strict=True):
            metadata = subject.metadata
            self.diffusion.check_compatible(metadata["base_digest"], name=origin, base_name=metadata["base"])
        identifiers = sorted({subject.metadata["identifier"] for subject in subjects})
        if len(identifiers) > 1:
            raise ValueError(
                f"the subjects are called {' and '.join(identifiers)} in prompts: expected one call for each"
            )
        self.diffusion.set_identifier(identifiers[0])
        scales = [subject.scale if scale is None else scale for subject in subjects]
        residuals = Residuals.join([subject.to(torch.float32) for subject in subjects])
        residuals = residuals.rescale(
            scales, text_encoder_scales=None if text_encoder_scale is None else [text_encoder_scale] * len(subjects)
        )
        if mix_weights is not None:
            residuals = residuals.mix(mix_weights)
        return PersonalTheta(self._with_layers_for(residuals.layout), residuals)

    def _with_layers_for(self, layout: Layout | None) -> PersonalizedDiffusion:
        """The base with LiDB layers that can be bound to residuals of a layout; None is any."""
        current = self._personalized
        if current is not None:
            if layout is None or _can_bind(current, layout):
                return current
            if self.hypernet is not None:
                current.lidb.check_layout(layout)
            current.detach()
        if self.hypernet is not None:
            layout = self.hypernet.layout
        elif layout is None:
            layout = build_layout(self.diffusion, self.lidb).as_lora  # no bases are drawn where none are needed
        self._personalized = PersonalizedDiffusion(self.diffusion, layout)
        return self._personalized

    def _trainer_args(self) -> dict[str, Any]:
        device = self.device
        return {
            "accelerator": "gpu" if device.type == "cuda" else device.type,
            "devices": [device.index or 0] if device.type == "cuda" else 1,
            "precision": self.precision,
            "logger": False,
            "enable_progress_bar": False,
            **self.trainer_args,
        }

    def _read(self, photo: Photo, *, cropper: FaceCropper, crop: bool | None, face: int | None) -> FaceCrop:
        resolution = self.diffusion.resolution
        side = None
        if isinstance(photo, FaceCrop):
            photo, side = photo.pixels, photo.side
        if not isinstance(photo, Tensor):
            return cropper.cut(photo, resolution=resolution, crop=crop, face=face)
        if photo.ndim != 3 or len(photo) != 3 or not photo.is_floating_point():
            raise ValueError(f"a photo is {photo.dtype} {tuple(photo.shape)}, expected a float tensor of (3, h, w)")
        side = side or min(photo.shape[1:])
        if photo.shape[1:] == (resolution, resolution):
            return FaceCrop(photo, side)
        size = (resolution, resolution)
        return FaceCrop(F.interpolate(photo[None], size=size, mode="bilinear", antialias=True)[0], side)


def _can_bind(personalized: PersonalizedDiffusion, layout: Layout) -> bool:
    try:
        personalized.lidb.check_layout(layout)
    except ValueError:
        return False
    return True


def default_device() -> torch.device:
    """The first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _grouped(photos: Sequence[Any]) -> tuple[list[list[Photo]], bool]:
    """The photos of each person, and whether a list of people was given.

    >>> _grouped(["a.jpg", "b.jpg"]), _grouped([["a.jpg", ["b.jpg", "c.jpg"]]])
    (([['a.jpg', 'b.jpg']], False), ([['a.jpg'], ['b.jpg', 'c.jpg']], True))
    """
    is_batch = len(photos) == 1 and _is_list(photos[0])
    if is_batch:
        people = [list(person) if _is_list(person) else [person] for person in photos[0]]
    else:
        people = [list(photos)]
    if not people or not all(people):
        raise ValueError("no photo was given, expected at least one of each person")
    return people, is_batch


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) and not isinstance(value, StoredPicture)


def _name_of(photo: Photo) -> str:
    if isinstance(photo, (str, Path)):
        return Path(photo).name
    return photo.name if isinstance(photo, StoredPicture) else ""


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keeps the Trainer from printing which devices it found and that it reached its last step."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


class _StepCallback(Callback):
    """Shows a bar over the steps of finetuning and calls the caller's function after each.

    Lightning's own bar counts epochs, of which there is one without an end.
    """

    def __init__(self, num_steps: int, shows_bar: bool, on_step_end: Callable[[int], None] | None) -> None:
        self.bar = tqdm(total=num_steps, desc="finetuning", disable=not shows_bar, leave=False)
        self.on_step_end = on_step_end

    def __enter__(self) -> _StepCallback:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.bar.update()
        if self.on_step_end is not None:
            self.on_step_end(trainer.global_step)
