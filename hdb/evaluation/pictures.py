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

from hdb.diffusion.sampling import SamplingOptions
from hdb.diffusion.sheet import save_image, to_pil
from hdb.evaluation.people import Unseen
from hdb.faces.picture import open_picture, to_tensor
from hdb.files import write_text
from hdb.methods.protocol import Personalization
from hdb.training.ranks import is_rank_zero


class Batch(NamedTuple):
    """Pictures of one person, and the number of the prompt of each."""

    person: int
    prompts: list[int]
    pictures: Float[Tensor, "m 3 h w"]


class Pictures:
    """Every method's k pictures of each of n people for each of p prompts.

    The seed of a picture depends on person, prompt and number, not on the method: all are compared on the same noise.
    Paths in manifest.jsonl are relative to the folder it is in.
    """

    def __init__(self, people: Unseen, prompts: list[str], folder: Path, *, num_pictures: int, seed: int = 0) -> None:
        self.people, self.prompts, self.folder, self.first_seed = people, prompts, folder, seed
        self.shape = len(people.names), len(prompts), num_pictures
        self.lines: list[str] = []
        for name, reference in zip(people.names, people.references[:, 0], strict=True):
            save_image(to_pil(reference), folder / "images" / "reference" / f"{name}.png")

    def seed(self, person: int, prompt: int, number: int) -> int:
        """Of the starting noise."""
        return self.first_seed + (person * self.shape[1] + prompt) * self.shape[2] + number

    def path(self, method: str, person: int, prompt: int, number: int) -> Path:
        """Below the folder of the evaluation."""
        return Path("images", method, self.people.names[person], f"{prompt:02d}-{number}.png")

    def draw(
        self, method: str, personalization: Personalization, *, people: Sequence[int], sampling: SamplingOptions
    ) -> None:
        """Draws and saves what is missing of some people, by their numbers."""
        for person in tqdm(people, desc=method, disable=not is_rank_zero()):
            for _ in self._present(method, personalization[[person]], person, sampling=sampling):
                pass

    def drawn(self, method: str, personalization: Personalization, *, sampling: SamplingOptions) -> Iterator[Batch]:
        """Every picture as it is on disk, person by person; what is missing is drawn and saved first."""
        for person in tqdm(range(self.shape[0]), desc=method):
            for some in self._present(method, personalization[[person]], person, sampling=sampling):
                found = [self.read(method, person, *spot) for spot in some]
                yield Batch(person, [prompt for prompt, _ in some], torch.stack(found))
        self._list(method)

    def _present(
        self, method: str, own: Personalization, person: int, *, sampling: SamplingOptions
    ) -> Iterator[list[tuple[int, int]]]:
        """The prompts and numbers of a person's pictures, batch by batch, each once it is on disk.

        A person stays bound while they are drawn: a model of their own is read once, whatever the number of prompts.
        """
        _, num_prompts, num_pictures = self.shape
        spots = [(prompt, number) for prompt in range(num_prompts) for number in range(num_pictures)]
        batches = [spots[start : start + sampling.batch_size] for start in range(0, len(spots), sampling.batch_size)]
        missing = [self._misses(method, person, some) for some in batches]
        with own.bound() if any(missing) else nullcontext():
            for some, misses in zip(batches, missing, strict=True):
                if misses:
                    self._draw(method, own, person, some, sampling=sampling)
                yield some

    def read(self, method: str, person: int, prompt: int, number: int = 0) -> Float[Tensor, "3 h w"]:
        """One picture from disk."""
        return to_tensor(self.open(method, person, prompt, number))

    def open(self, method: str, person: int, prompt: int, number: int = 0) -> Image.Image:
        return open_picture(self.folder / self.path(method, person, prompt, number))

    def _misses(self, method: str, person: int, spots: list[tuple[int, int]]) -> bool:
        return not all((self.folder / self.path(method, person, *spot)).is_file() for spot in spots)

    def _draw(
        self,
        method: str,
        own: Personalization,
        person: int,
        spots: list[tuple[int, int]],
        *,
        sampling: SamplingOptions,
    ) -> None:
        prompts = [self.prompts[prompt] for prompt, _ in spots]
        drawn = own.pictures(prompts, seeds=[self.seed(person, *spot) for spot in spots], sampling=sampling)
        for spot, picture in zip(spots, drawn, strict=True):
            save_image(to_pil(picture), self.folder / self.path(method, person, *spot))

    def _list(self, method: str) -> None:
        """Adds a method's pictures to the manifest."""
        num_people, num_prompts, num_pictures = self.shape
        for spot in ((i, p, k) for i in range(num_people) for p in range(num_prompts) for k in range(num_pictures)):
            line = {
                "method": method,
                "identity": self.people.names[spot[0]],
                "prompt": self.prompts[spot[1]],
                "seed": self.seed(*spot),
                "path": str(self.path(method, *spot)),
                "reference": f"images/reference/{self.people.names[spot[0]]}.png",
            }
            self.lines.append(json.dumps(line))
        write_text(self.folder / "manifest.jsonl", "\n".join(self.lines) + "\n")
