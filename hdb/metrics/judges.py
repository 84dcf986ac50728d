"""Judges: the networks that score pictures, by name or folder, and the four scores under them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hdb.metrics.embedders import ClipEmbedder, FaceNet, TimmEmbedder, is_local
from hdb.metrics.networks import AttributeClassifier, require
from hdb.metrics.similarity import ClipImage, ClipText, DinoScore, FaceRec, ImageSimilarity


@dataclass
class JudgeOptions:
    """Who scores pictures: names of networks for real photos, folders for faceworld's own."""

    recognizer: str = "vggface2"
    dino: str = "vit_small_patch16_224.dino"
    clip: str = "openai/clip-vit-base-patch32"

    def refuse_missing(self) -> None:
        """Raises ValueError if one of them is a folder and not there: before something large is read for nothing."""
        _refuse_missing_recognizer(self.recognizer)
        for folder in (self.dino, self.clip):
            if is_local(folder):
                require(folder, "config.json", "model.safetensors")


class Judges(NamedTuple):
    """The judges, read."""

    recognizer: TimmEmbedder | FaceNet
    dino: TimmEmbedder
    clip: ClipEmbedder

    @classmethod
    def read(cls, options: JudgeOptions, *, device: torch.device | str = "cpu") -> "Judges":
        """Each from its folder, or downloaded by its name.

        Raises:
            ValueError: there is no such network.
        """
        return cls(
            recognizer(options.recognizer).to(device),
            TimmEmbedder.dino(options.dino).to(device),
            ClipEmbedder.from_pretrained(options.clip).to(device),
        )

    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> "Seen":
        """What each of them sees."""
        return Seen(*(judge.embed_images(images) for judge in self))


class Seen(NamedTuple):
    """Unit vectors of the same n pictures under each judge."""

    recognizer: Float[Tensor, "n _"]
    dino: Float[Tensor, "n _"]
    clip: Float[Tensor, "n _"]


class Scores:
    """The paper's four scores of generated pictures as torchmetrics; a picture is embedded once per network.

    Args:
        judges: who embeds.
    """

    def __init__(self, judges: Judges) -> None:
        self.judges = judges
        self.metrics: dict[str, ImageSimilarity] = {
            "face_rec": FaceRec(judges.recognizer),
            "dino": DinoScore(judges.dino),
            "clip_i": ClipImage(judges.clip),
            "clip_t": ClipText(judges.clip),
        }

    def update(
        self,
        generated: Seen | Float[Tensor, "n 3 h w"],
        references: Seen | Float[Tensor, "m 3 hh ww"],
        prompts: Sequence[str] | Float[Tensor, "n d"],
        people: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Adds pictures, or what the judges saw in them.

        Args:
            references: one for each picture, or m = 1 for all.
            prompts: one for each picture, without the identifier; or what CLIP reads in them.
            people: whom each picture shows.
        """
        generated, known = (x if isinstance(x, Seen) else self.judges.embed_images(x) for x in (generated, references))
        self.metrics["face_rec"].update(generated.recognizer, known.recognizer, people)
        self.metrics["dino"].update(generated.dino, known.dino, people)
        self.metrics["clip_i"].update(generated.clip, known.clip, people)
        self.metrics["clip_t"].update(generated.clip, prompts, people)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Name -> mean over the pictures of all processes."""
        return {name: metric.compute() for name, metric in self.metrics.items()}

    def per_person(self) -> dict[str, Float[Tensor, " k"]]:
        """Name -> mean of each of the k people seen, in the order of their numbers."""
        return {name: metric.per_person() for name, metric in self.metrics.items()}

    def reset(self) -> None:
        for metric in self.metrics.values():
            metric.reset()


def recognizer(source: str) -> TimmEmbedder | FaceNet:
    """Who says whether two pictures show one person: faceworld's own is a folder with a config.json, FaceNet is not."""
    _refuse_missing_recognizer(source)
    if (Path(source) / "config.json").is_file():
        return TimmEmbedder.from_folder(source)
    return FaceNet.from_pretrained(source)


def _refuse_missing_recognizer(source: str) -> None:
    if "/" in source and not Path(source).is_dir():
        raise ValueError(f"no face recognizer in {source}: expected a folder, or vggface2")


def classifier(folder: str | None, *, device: torch.device | str = "cpu") -> AttributeClassifier | None:
    """Who says what a picture shows, where prompts are captions of faceworld; there is none for real photos."""
    return None if folder is None else AttributeClassifier.from_folder(folder).to(device)
