"""Portraits: from a photo to pictures of a person beside what they would be without, for one visitor at a time."""

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

from hdb.diffusion.sampling import SamplingOptions
from hdb.evaluation.gate import judge_person
from hdb.faces.crop import FaceCropper, crop_corners
from hdb.faces.picture import Picture, open_picture, picture_name
from hdb.hypernet.trained import predict
from hdb.lidb.residuals import Residuals
from hdb.methods.hyperdreambooth import Finetuner, HyperDreamBooth
from hdb.methods.protocol import Method, Photos
from hdb.methods.theta import PersonalTheta

MARKS = "lime"  # color of landmarks and frame
Told = Callable[[float], None]  # of a share that is done
ExampleFace = Callable[[], tuple[str, Float[Tensor, "3 r r"]]]  # draws somebody's name, known to the oracle, and photo
Rows = dict[str, list[Tensor | None]]  # what a row shows -> a picture for each prompt, (3, h, w), if there is one


@dataclass(frozen=True)
class Looked:
    """What was found in a photo: the crop, the photo with what was found drawn on it, and remarks."""

    photo: Float[Tensor, "3 r r"]
    marked: Image.Image
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """A person before and after finetuning; `example` is the name of an example face."""

    photo: Float[Tensor, "3 r r"]
    before: Residuals
    after: PersonalTheta
    example: str | None = None


class Portraits:
    """One base and one hypernetwork for all visitors, who wait for each other: only thetas are their own.

    Args:
        path: of the hypernetwork, beside which its gate lies.
        example_face: draws the face of somebody who does not exist, for visitors without a photo.
        oracle: a method that draws the true pictures of example faces.
    """

    def __init__(
        self,
        method: HyperDreamBooth,
        *,
        path: Path,
        cropper: FaceCropper,
        sampling: SamplingOptions,
        example_face: ExampleFace | None = None,
        oracle: Method | None = None,
    ) -> None:
        self.method, self.path, self.cropper, self.sampling = method, path, cropper, sampling
        self.example_face, self.oracle = example_face, oracle
        self.personalized = method.finetuner.context.personalized
        self.resolution, self.turn = self.personalized.diffusion.resolution, threading.Lock()

    def look(self, picture: Picture) -> Looked:
        """Finds the face.

        Raises:
            FaceError: there is none that can be used; the sentence is the command's.
        """
        with self.turn, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            photo = self.cropper.crop(picture, resolution=self.resolution)
            image, face = self.cropper.find_face(open_picture(picture), name=picture_name(picture))
        marked, corners = image.copy(), crop_corners(face)
        pen, width = ImageDraw.Draw(marked), max(1, round(face.size / 40))
        pen.polygon([tuple(corner) for corner in corners], outline=MARKS, width=width)
        for x, y in face.landmarks:
            pen.ellipse((x - width, y - width, x + width, y + width), fill=MARKS)
        return Looked(photo, marked, tuple(dict.fromkeys(str(warning.message) for warning in told)))

    def draw_example(self) -> tuple[str, Float[Tensor, "3 r r"]]:
        """The name and the photo of somebody who does not exist."""
        with self.turn:
            return self.example_face()

    def personalize(self, photo: Float[Tensor, "3 r r"], *, example: str | None = None, told: Told) -> Made:
        """Predicts and finetunes."""
        finetuner, hypernet = self.method.finetuner, self.method.hypernet
        trainer = dict(finetuner.context.trainer) | {"callbacks": [Telling(told, finetuner.options.num_steps)]}
        ours = HyperDreamBooth(hypernet, Finetuner(replace(finetuner.context, trainer=trainer), finetuner.options))
        with self.turn:
            before = Residuals(predict(hypernet, photo[None]), hypernet.layout)
            return Made(photo, before, ours.personalize(Photos(["photo"], photo[None])), example)

    def draw(self, made: Made, prompts: Sequence[str], *, scale: float, num_steps: int, seed: int) -> Rows:
        """A picture of each prompt: ours, before finetuning, unpersonalized, and the true one of who does not exist."""
        people = {"yours": made.after.residuals, "before finetuning": made.before, "unpersonalized": None}
        sampling, seeds = replace(self.sampling, num_inference_steps=num_steps), range(seed, seed + len(prompts))
        with self.turn:
            rows: Rows = {
                name: list(self.personalized.pictures(of, prompts, seeds=seeds, sampling=sampling, scale=scale))
                for name, of in people.items()
            }
            if made.example is not None and self.oracle is not None:
                rows["the truth"] = [
                    self._true_picture(made, prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)
                ]
        return rows

    def fit(self, made: Made, prompts: Sequence[str], rows: Rows) -> str:
        """The gate's sentence."""
        with self.turn:
            pictures = torch.stack([picture for picture in rows["yours"] if picture is not None])
            return judge_person(self.path, self.method.hypernet, made.photo, prompts=prompts, pictures=pictures).words

    def close(self, *, patience: float = 30.0) -> None:
        """Ends the turns, for good, and waits for the one that is on: torch aborts if Python ends while it computes.

        Args:
            patience: in seconds.
        """
        self.turn.acquire(timeout=patience)

    def _true_picture(self, made: Made, prompt: str, *, seed: int) -> Tensor | None:
        truth = self.oracle.personalize(Photos([made.example], made.photo[None]))
        try:
            return truth.pictures([prompt], seeds=[seed], sampling=self.sampling)[0]
        except ValueError:  # a prompt that the oracle has no words for
            return None


class Telling(L.Callback):
    """Tells how much of a fit is done, after each step."""

    def __init__(self, told: Told, num_steps: int) -> None:
        self.told, self.num_steps = told, num_steps

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.told(trainer.global_step / self.num_steps)
