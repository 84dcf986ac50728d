"""The pictures of an evaluation on disk: drawn once, person by person, listed in a manifest, never all in memory."""

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from hdb.diffusion.options import SamplingOptions
from hdb.diffusion.sheet import save_image, to_pil
from hdb.evaluation.people import UnseenPeople
from hdb.faces.picture import to_tensor
from hdb.files import write_text
from hdb.methods.protocol import Personalization
from hdb.training.ranks import is_rank_zero

Place = tuple[int, int]  # of a picture among those of a person: its prompt, and its number for this prompt


class PictureBatch(NamedTuple):
    """Pictures of one person, and the prompt of each, by its number."""

    person: int
    prompts: list[int]
    pictures: Float[Tensor, "m 3 h w"]


class Pictures:
    """Every method's k pictures of each of n people for each of p prompts.

    The seed of a picture depends on person, prompt and number, not on the method: all start from the same noise.
    Paths in manifest.jsonl are relative to its folder.
    """

    def __init__(
        self, people: UnseenPeople, prompts: list[str], folder: Path, *, num_pictures: int, seed: int = 0
    ) -> None:
        self.people = people
        self.prompts = prompts
        self.folder = folder
        self.num_pictures = num_pictures
        self.first_seed = seed
        self._manifest: list[str] = []
        for name, reference in zip(people.names, people.references[:, 0], strict=True):
            save_image(to_pil(reference), folder / reference_path(name))

    @property
    def places(self) -> list[Place]:
        """Those of each person's pictures, in the order in which they are drawn."""
        return [(prompt, number) for prompt in range(len(self.prompts)) for number in range(self.num_pictures)]

    def seed(self, person: int, prompt: int, number: int) -> int:
        """The seed of a picture's starting noise."""
        return self.first_seed + (person * len(self.prompts) + prompt) * self.num_pictures + number

    def path(self, method: str, person: int, prompt: int, number: int) -> Path:
        """The path of a picture below the folder of the evaluation."""
        return Path("images", method, self.people.names[person], f"{prompt:02d}-{number}.png")

    def draw(
        self, method: str, personalization: Personalization, *, people: Sequence[int], sampling: SamplingOptions
    ) -> None:
        """Draws and saves the missing pictures of some people, by their numbers."""
        for person in tqdm(people, desc=method, disable=not is_rank_zero()):
            for _ in self._complete_batches(method, personalization[[person]], person, sampling=sampling):
                pass

    def batches(
        self, method: str, personalization: Personalization, *, sampling: SamplingOptions
    ) -> Iterator[PictureBatch]:
        """Reads every picture from disk, person by person; missing ones are drawn and saved first."""
        for person in tqdm(range(len(self.people.names)), desc=method):
            for places in self._complete_batches(method, personalization[[person]], person, sampling=sampling):
                pictures = [self.read(method, person, prompt, number) for prompt, number in places]
                yield PictureBatch(person, [prompt for prompt, _ in places], torch.stack(pictures))
        self._append_to_manifest(method)

    def read(self, method: str, person: int, prompt: int, number: int = 0) -> Float[Tensor, "3 h w"]:
        """One picture from disk."""
        return to_tensor(self.open(method, person, prompt, number))

    def open(self, method: str, person: int, prompt: int, number: int = 0) -> Image.Image:
        """One picture from disk, as 8 bit RGB."""
        return open_png(self.folder / self.path(method, person, prompt, number))

    def open_reference(self, person: int) -> Image.Image:
        """The photo that methods were given."""
        return open_png(self.folder / reference_path(self.people.names[person]))

    def _complete_batches(
        self, method: str, personalization: Personalization, person: int, *, sampling: SamplingOptions
    ) -> Iterator[list[Place]]:
        """The places of a person's pictures, batch by batch, each once all of its pictures are on disk.

        The person stays bound while they are drawn, so that residuals are folded, or a model is read, once.
        """
        size, places = sampling.batch_size, self.places
        batches = [places[start : start + size] for start in range(0, len(places), size)]
        incomplete = [not self._all_exist(method, person, batch) for batch in batches]
        with personalization.bound() if any(incomplete) else nullcontext():
            for batch, is_incomplete in zip(batches, incomplete, strict=True):
                if is_incomplete:
                    self._draw_batch(method, personalization, person, batch, sampling=sampling)
                yield batch

    def _all_exist(self, method: str, person: int, places: list[Place]) -> bool:
        return all((self.folder / self.path(method, person, *place)).is_file() for place in places)

    def _draw_batch(
        self,
        method: str,
        personalization: Personalization,
        person: int,
        places: list[Place],
        *,
        sampling: SamplingOptions,
    ) -> None:
        prompts = [self.prompts[prompt] for prompt, _ in places]
        seeds = [self.seed(person, *place) for place in places]
        pictures = personalization.pictures(prompts, seeds=seeds, sampling=sampling)
        for place, picture in zip(places, pictures, strict=True):
            save_image(to_pil(picture), self.folder / self.path(method, person, *place))

    def _append_to_manifest(self, method: str) -> None:
        for person, name in enumerate(self.people.names):
            for prompt, number in self.places:
                line = {
                    "method": method,
                    "identity": name,
                    "prompt": self.prompts[prompt],
                    "seed": self.seed(person, prompt, number),
                    "path": str(self.path(method, person, prompt, number)),
                    "reference": reference_path(name),
                }
                self._manifest.append(json.dumps(line))
        write_text(self.folder / "manifest.jsonl", "\n".join(self._manifest) + "\n")


def reference_path(name: str) -> str:
    """Where the photo of a person lies, below the folder of the evaluation."""
    return f"images/reference/{name}.png"


def open_png(path: Path) -> Image.Image:
    """A picture that this project wrote: 8 bit RGB without metadata to be honored.

    Raises:
        ValueError: somebody damaged it.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it, and the same command draws it again") from None
