"""Portraits: what the page asks of the model: a person from photos, pictures of the person, a verdict on them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from hdb.demo.photos import Photo, PhotoReader
from hdb.diffusion.options import SamplingOptions
from hdb.evaluation.gate import judge_subject
from hdb.faces.picture import StoredPicture
from hdb.lidb.file import Subject
from hdb.limits import check_limits, number_field, seed_field
from hdb.methods.protocol import Method, Photos
from hdb.pipeline import HyperDreamBoothPipeline
from hdb.training.options import FinetuningOptions

MAX_IMAGES = 8  # of each prompt

StepCallback = Callable[[float], None]  # takes the share that is done
ExampleFace = Callable[[], tuple[str, Float[Tensor, "3 r r"]]]  # draws a face; returns its name for the oracle, too


@dataclass
class DrawingOptions:
    """What to draw.

    Args:
        num_images: of each prompt; image i has the starting noise of seed + i.
        scale: strength of the person.
    """

    prompts: list[str]
    num_images: int = number_field(1, ge=1, le=MAX_IMAGES)
    scale: float = number_field(1.0, ge=0)
    seed: int = seed_field()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)


@dataclass(frozen=True)
class Drawing:
    """Pictures under p prompts.

    Args:
        pictures: n of each prompt.
        comparison: what else is drawn from the first starting noise, by name: a picture for each prompt, None where
            there is none.
    """

    prompts: list[str]
    pictures: Float[Tensor, "p n 3 h w"]
    comparison: dict[str, list[Tensor | None]]


class Portraits:
    """One pipeline for all visitors.

    `read_photo` and `draw_example` may be called by several threads. All other methods use the model, which serves one
    thread.

    Args:
        hypernet_path: the hypernetwork's gate lies beside it; None if there is no hypernetwork.
        finetuning: of every person.
        sampling: where a visitor chooses nothing else.
        min_face: smallest face in px.
        seed: of finetuning, and of drawing where a visitor chooses none.
        example_face: draws the face of somebody who does not exist, for visitors without a photo.
        oracle: a method that draws the true pictures of example faces.
    """

    def __init__(
        self,
        pipeline: HyperDreamBoothPipeline,
        *,
        hypernet_path: Path | None,
        finetuning: FinetuningOptions,
        sampling: SamplingOptions,
        min_face: int = 64,
        seed: int = 0,
        example_face: ExampleFace | None = None,
        oracle: Method | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.hypernet_path = hypernet_path
        self.finetuning = finetuning
        self.sampling = sampling
        self.seed = seed
        self.example_face = example_face
        self.oracle = oracle
        self._reader = PhotoReader(resolution=pipeline.diffusion.resolution, min_face=min_face)
        self._example_lock = threading.Lock()

    def read_photo(self, source: StoredPicture, *, face: int = 1) -> Photo:
        """Reads a photo and cuts a face out; see `PhotoReader.read`."""
        return self._reader.read(source, face=face)

    def draw_example(self) -> tuple[str, Float[Tensor, "3 r r"]]:
        """The name and the photo of somebody who does not exist."""
        with self._example_lock:
            return self.example_face()

    def open_subject(self, path: str | Path) -> Subject:
        """Reads a subject's file.

        Raises:
            ValueError: it is no such file, or of another base.
        """
        subject = Subject.load(path)
        metadata = subject.metadata
        self.pipeline.diffusion.check_compatible(metadata["base_digest"], name=str(path), base_name=metadata["base"])
        return subject

    def personalize(
        self, crops: Sequence[Float[Tensor, "3 r r"]], *, on_step: StepCallback
    ) -> tuple[Subject, Subject | None]:
        """Learns a person from face crops.

        Returns:
            The subject, and the prediction from which finetuning started, if there is a hypernetwork.
        """
        prediction = None
        if self.pipeline.hypernet is not None:
            prediction = self.pipeline.personalize(*crops, finetune=False, source="", progress_bar=False)
        num_steps = self.finetuning.num_steps
        subject = self.pipeline.personalize(
            *crops,
            finetuning=self.finetuning,
            seed=self.seed,
            source="",
            progress_bar=False,
            callback_on_step_end=lambda step: on_step(step / num_steps),
        )
        return subject, prediction

    def draw(
        self,
        subject: Subject,
        options: DrawingOptions,
        *,
        prediction: Subject | None = None,
        example: Photos | None = None,
        on_step: StepCallback,
    ) -> Drawing:
        """Draws a subject, and for comparison its prediction, the base without a person, and an example's truth.

        Raises:
            ValueError: a setting is out of range.
        """
        check_limits(options)
        others = {"before finetuning": prediction} if prediction is not None else {}
        others["without the person"] = None
        num_images = options.num_images + len(others)
        pictures = self._draw_images(
            subject,
            options,
            num_images=options.num_images,
            on_step=part_of(on_step, 0.0, options.num_images / num_images),
        )
        comparison: dict[str, list[Tensor | None]] = {}
        for number, (name, person) in enumerate(others.items(), start=options.num_images):
            on_row_step = part_of(on_step, number / num_images, (number + 1) / num_images)
            comparison[name] = list(self._draw_images(person, options, num_images=1, on_step=on_row_step)[:, 0])
        if example is not None and self.oracle is not None:
            comparison["the truth"] = [self._draw_truth(example, prompt, options) for prompt in options.prompts]
        return Drawing(options.prompts, pictures, comparison)

    def judge(self, subject: Subject, crop: Float[Tensor, "3 r r"], *, on_step: StepCallback) -> str:
        """The gate's sentence on how well a subject fits the photo."""
        num_steps = self.pipeline.settings.sampling.num_inference_steps
        verdict = judge_subject(
            self.pipeline,
            self.hypernet_path,
            subject,
            crop,
            callback_on_step_end=lambda step: on_step(step / num_steps),
        )
        return verdict.words

    def close(self, *, timeout: float = 30.0) -> None:
        """Waits for photos that are being read, and lets no other be read.

        Args:
            timeout: in seconds.
        """
        self._reader.close(timeout=timeout)

    def _draw_images(
        self, subject: Subject | None, options: DrawingOptions, *, num_images: int, on_step: StepCallback
    ) -> Float[Tensor, "p n 3 h w"]:
        num_pictures = len(options.prompts) * num_images
        num_batches = math.ceil(num_pictures / options.sampling.batch_size)
        num_steps = num_batches * options.sampling.num_inference_steps
        pictures = self.pipeline.draw(
            self.pipeline.people(subject, scale=options.scale),
            options.prompts,
            num_images=num_images,
            seed=options.seed,
            sampling=options.sampling,
            progress_bar=False,
            callback_on_step_end=lambda step: on_step(step / num_steps),
        )
        return pictures.unflatten(0, (len(options.prompts), num_images))

    def _draw_truth(self, example: Photos, prompt: str, options: DrawingOptions) -> Tensor | None:
        truth = self.oracle.personalize(example)
        try:
            return truth.pictures([prompt], seeds=[options.seed], sampling=options.sampling)[0]
        except ValueError:  # the oracle does not know the words of the prompt
            return None


def part_of(on_step: StepCallback, start: float, end: float) -> StepCallback:
    """The callback of a part of some work, which spans the shares from `start` to `end` of the whole."""
    return lambda share: on_step(start + share * (end - start))
