"""From a photo to pictures of a person beside what they would be without, for one visitor at a time."""

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from hdb.evaluation.gate import judge_person
from hdb.faces.crop import FaceCropper, crop_corners
from hdb.faces.picture import Picture, open_picture, picture_name
from hdb.hypernet.trained import predict
from hdb.lidb.file import Subject
from hdb.lidb.residuals import Residuals
from hdb.methods.protocol import Method, Photos
from hdb.pipeline import HyperDreamBoothPipeline

MARK_COLOR = "lime"  # of landmarks and frame
ProgressCallback = Callable[[float], None]  # takes the share that is done
ExampleFace = Callable[[], tuple[str, Float[Tensor, "3 r r"]]]  # draws a face; returns its name for the oracle, too
Rows = dict[str, list[Tensor | None]]  # what a row shows -> a picture (3, h, w) for each prompt, if there is one


@dataclass(frozen=True)
class FoundFace:
    """The face crop of a photo, the photo with the face marked, and remarks."""

    crop: Float[Tensor, "3 r r"]
    marked: Image.Image
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Portrait:
    """A person before and after finetuning.

    Args:
        example: name of the example face that the photo is of.
    """

    photo: Float[Tensor, "3 r r"]
    prediction: Residuals
    subject: Subject
    example: str | None = None


class Portraits:
    """One pipeline for all visitors, who wait for each other. Only the subjects are a visitor's own.

    Args:
        hypernet_path: the hypernetwork's gate lies beside it.
        example_face: draws the face of somebody who does not exist, for visitors without a photo.
        oracle: a method that draws the true pictures of example faces.
    """

    def __init__(
        self,
        pipeline: HyperDreamBoothPipeline,
        *,
        hypernet_path: Path,
        min_face: int = 64,
        seed: int = 0,
        example_face: ExampleFace | None = None,
        oracle: Method | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.hypernet_path = hypernet_path
        self.cropper = FaceCropper(min_size=min_face)
        self.seed = seed
        self.example_face = example_face
        self.oracle = oracle
        self.lock = threading.Lock()

    def find_face(self, picture: Picture) -> FoundFace:
        """Finds the face in a photo.

        Raises:
            FaceError: there is none that can be used; the sentence is that of `hdb personalize`.
        """
        with self.lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            crop = self.cropper.crop(picture, resolution=self.pipeline.diffusion.resolution)
            image, face = self.cropper.find_face(open_picture(picture), name=picture_name(picture))
        marked = image.copy()
        pen = ImageDraw.Draw(marked)
        width = max(1, round(face.size / 40))
        pen.polygon([tuple(corner) for corner in crop_corners(face)], outline=MARK_COLOR, width=width)
        for x, y in face.landmarks:
            pen.ellipse((x - width, y - width, x + width, y + width), fill=MARK_COLOR)
        remarks = dict.fromkeys(str(warning.message) for warning in caught)
        return FoundFace(crop, marked, tuple(remarks))

    def draw_example(self) -> tuple[str, Float[Tensor, "3 r r"]]:
        """The name and the photo of somebody who does not exist."""
        with self.lock:
            return self.example_face()

    def personalize(
        self, photo: Float[Tensor, "3 r r"], *, example: str | None = None, on_progress: ProgressCallback
    ) -> Portrait:
        """Predicts and finetunes."""
        hypernet = self.pipeline.hypernet
        num_steps = self.pipeline.settings.finetuning.num_steps
        with self.lock:
            prediction = Residuals(predict(hypernet, photo[None]), hypernet.layout)
            self.pipeline.trainer_args = {"callbacks": [ReportProgress(on_progress, num_steps)]}
            subject = self.pipeline.personalize(photo, seed=self.seed, source="", progress_bar=False)
        return Portrait(photo, prediction, subject, example)

    def draw(self, portrait: Portrait, prompts: Sequence[str], *, scale: float, num_steps: int, seed: int) -> Rows:
        """A row of pictures each of the person, before finetuning, unpersonalized, and the truth of an example face."""
        people = {
            "yours": portrait.subject.to(torch.float32),
            "before finetuning": portrait.prediction,
            "unpersonalized": None,
        }
        sampling = replace(self.pipeline.settings.sampling, num_inference_steps=num_steps)
        seeds = range(seed, seed + len(prompts))
        with self.lock:
            personalized = self.pipeline.personalized
            rows: Rows = {
                name: list(personalized.pictures(residuals, prompts, seeds=seeds, sampling=sampling, scale=scale))
                for name, residuals in people.items()
            }
            if portrait.example is not None and self.oracle is not None:
                rows["the truth"] = [
                    self._true_picture(portrait, prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)
                ]
        return rows

    def judge(self, portrait: Portrait, prompts: Sequence[str], rows: Rows) -> str:
        """The gate's sentence on the pictures of the person."""
        with self.lock:
            pictures = torch.stack(rows["yours"])
            verdict = judge_person(
                self.hypernet_path, self.pipeline.hypernet, portrait.photo, prompts=prompts, pictures=pictures
            )
        return verdict.words

    def close(self, *, timeout: float = 30.0) -> None:
        """Waits for the running computation, and allows no other. torch aborts if Python ends while it computes.

        Args:
            timeout: in seconds.
        """
        self.lock.acquire(timeout=timeout)

    def _true_picture(self, portrait: Portrait, prompt: str, *, seed: int) -> Tensor | None:
        truth = self.oracle.personalize(Photos([portrait.example], portrait.photo[None]))
        try:
            return truth.pictures([prompt], seeds=[seed], sampling=self.pipeline.settings.sampling)[0]
        except ValueError:  # the oracle does not know the words of the prompt
            return None


class ReportProgress(L.Callback):
    """Calls a function with the share of finetuning that is done, after each step."""

    def __init__(self, on_progress: ProgressCallback, num_steps: int) -> None:
        self.on_progress = on_progress
        self.num_steps = num_steps

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.on_progress(trainer.global_step / self.num_steps)
