"""The pictures of an evaluation on disk: drawn once, listed in a manifest, read back for the scores."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from hdb.diffusion.sampling import SamplingOptions
from hdb.diffusion.sheet import picture_grid, save_image, to_image
from hdb.evaluation.people import Unseen
from hdb.faces.picture import open_picture, to_tensor
from hdb.files import write_text
from hdb.methods.protocol import Personalization

PROMPTS_ABREAST = 6  # on the sheet of an evaluation


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
            save_image(to_image(reference), folder / "images" / "reference" / f"{name}.png")

    def seed(self, person: int, prompt: int, number: int) -> int:
        """Of the starting noise."""
        return self.first_seed + (person * self.shape[1] + prompt) * self.shape[2] + number

    def path(self, method: str, person: int, prompt: int, number: int) -> Path:
        """Below the folder of the evaluation."""
        return Path("images", method, self.people.names[person], f"{prompt:02d}-{number}.png")

    def missing(self, method: str, *, people_per_batch: int) -> Iterator[tuple[int, list[int]]]:
        """Batches (prompt, people) that are not on disk yet; lists each in the manifest once it is."""
        num_people, num_prompts, num_pictures = self.shape
        batches = [
            (prompt, list(range(start, min(start + people_per_batch, num_people))))
            for prompt in range(num_prompts)
            for start in range(0, num_people, people_per_batch)
        ]
        for prompt, members in tqdm(batches, desc=method):
            spots = [(person, prompt, number) for person in members for number in range(num_pictures)]
            if not all((self.folder / self.path(method, *spot)).is_file() for spot in spots):
                yield prompt, members
            for spot in spots:
                line = {
                    "method": method,
                    "identity": self.people.names[spot[0]],
                    "prompt": self.prompts[prompt],
                    "seed": self.seed(*spot),
                    "path": str(self.path(method, *spot)),
                    "reference": f"images/reference/{self.people.names[spot[0]]}.png",
                }
                self.lines.append(json.dumps(line))
            write_text(self.folder / "manifest.jsonl", "\n".join(self.lines) + "\n")

    def draw(self, method: str, personalization: Personalization, *, sampling: SamplingOptions) -> None:
        """Draws what is missing; each batch holds several people."""
        num_pictures = self.shape[2]
        for prompt, members in self.missing(method, people_per_batch=max(1, sampling.batch_size // num_pictures)):
            spots = [(person, prompt, number) for number in range(num_pictures) for person in members]  # tiled
            drawn = personalization[members].pictures(
                [self.prompts[prompt]] * len(spots), seeds=[self.seed(*spot) for spot in spots], sampling=sampling
            )
            for spot, picture in zip(spots, drawn, strict=True):
                save_image(to_image(picture), self.folder / self.path(method, *spot))

    def read(self, method: str) -> Float[Tensor, "n p k 3 h w"]:
        """From disk."""
        num_people, num_prompts, num_pictures = self.shape
        spots = [(i, p, k) for i in range(num_people) for p in range(num_prompts) for k in range(num_pictures)]
        pictures = [to_tensor(open_picture(self.folder / self.path(method, *spot))) for spot in spots]
        return torch.stack(pictures).unflatten(0, self.shape)


def comparison(pictures: Pictures, *, methods: Sequence[str]) -> Image.Image:
    """One row per person: the reference, then for every prompt the first picture of each method, ours first.

    Six prompts stand side by side, further ones below: a page shrinks a wider sheet until no prompt can be read.
    """
    shown = [pictures.read(method)[:, :, 0] for method in methods]
    blocks = []
    for start in range(0, len(pictures.prompts), PROMPTS_ABREAST):
        some = slice(start, start + PROMPTS_ABREAST)
        rows = []
        for person, reference in enumerate(pictures.people.references[:, 0]):
            beside = zip(*(of_method[person, some] for of_method in shown), strict=True)
            rows.append([reference, *(picture for prompt in beside for picture in prompt)])
        columns = ["reference", *(name for prompt in pictures.prompts[some] for name in (prompt, *methods[1:]))]
        blocks.append(picture_grid(rows, columns=columns))
    sheet = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), "white")
    for number, block in enumerate(blocks):
        sheet.paste(block, (0, sum(above.height for above in blocks[:number])))
    return sheet
