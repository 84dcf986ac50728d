"""FaceWorld: people who do not exist, rendered as photos, drawings and statues, and the true answer to each prompt."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hdb.faceworld.captions import parse
from hdb.faceworld.head import Head
from hdb.faceworld.identity import Identity, sample_identity
from hdb.faceworld.renderer import Renderer
from hdb.faceworld.scene import Pair
from hdb.faceworld.view import View, sample_nuisances, sample_view

VERSION = 2  # grows whenever a pixel changes
# Two faces whose landmarks differ less (root mean square, in head units: a face is 1.5 wide) are twins. It is the 5 %
# quantile of the distance to the nearest neighbor over 2,400 people; its median is 0.0147, that of all pairs 0.033.
TWIN_DISTANCE = 0.0126
_BATCH_PIXELS = 16 * 64 * 64  # per pass; fewer cost overhead of calls, more overflow the cache


class FaceWorld:
    """A population of people and the renderer that draws them; both are functions of the seed.

    Args:
        seed: Of the population.
        resolution: Width and height of a picture; 64 or 128.
        device: Where pictures are rendered. Pixels may differ in the last bit between devices.

    >>> world = FaceWorld(resolution=64)
    >>> picture = world.oracle(0, "a [V] face in the snow, pencil sketch", seed=3)
    >>> tuple(picture.shape), 0 <= float(picture.min()) <= float(picture.max()) <= 1
    ((3, 64, 64), True)
    """

    def __init__(self, *, seed: int = 0, resolution: int = 128, device: torch.device | str = "cpu") -> None:
        self.seed, self.resolution, self.device = seed, resolution, torch.device(device)
        self._head = Head(device=device)
        self._renderer = Renderer(self._head, resolution=resolution)
        self._people: list[Identity] = []
        self._landmarks = np.zeros((0, self._head.num_landmark_values), np.float32)

    @property
    def digest(self) -> str:
        """What the pixels depend on: sha256 of seed, resolution, version and head basis."""
        return hashlib.sha256(f"{self.seed}:{self.resolution}:{VERSION}:{self._head.digest}".encode()).hexdigest()

    def identity(self, index: int) -> Identity:
        """Person `index`. All people before are drawn first: a candidate like one of them is drawn again."""
        if index < 0:
            raise ValueError(f"index is {index}, expected a number from 0")
        while len(self._people) <= index:
            self._admit(len(self._people))
        return self._people[index]

    def landmarks(self, index: int) -> np.ndarray:
        """Offsets of 48 points of a person's neutral face from the average face, float32 (144,), in head units."""
        self.identity(index)
        return self._landmarks[index].copy()

    def _admit(self, index: int) -> None:
        if index >= len(self._landmarks):
            grown = np.full((max(256, 2 * index), self._head.num_landmark_values), np.inf, np.float32)
            grown[:index] = self._landmarks[:index]
            self._landmarks = grown
        attempt = 0
        while True:
            candidate = sample_identity(self.seed, index, attempt=attempt)
            landmarks = self._head.landmarks(candidate)
            distance = np.sqrt(((self._landmarks[:index] - landmarks) ** 2).mean(1))
            if index == 0 or distance.min() >= TWIN_DISTANCE:
                break
            attempt += 1
        self._people.append(candidate)
        self._landmarks[index] = landmarks

    def view(self, identity_index: int, view_index: int) -> View:
        """Parameters of view `view_index` of a person; renders nothing."""
        return sample_view(self.seed, identity_index, view_index)

    @torch.no_grad()
    def render(self, pairs: list[Pair]) -> Float[Tensor, "n 3 h w"]:
        """Pictures in [0, 1]. It is fastest when pictures of one person follow each other."""
        if not pairs:
            raise ValueError("render was given no pairs, expected at least one (Identity, View)")
        size = max(1, _BATCH_PIXELS // self.resolution**2)
        batches = [self._renderer.draw(pairs[start : start + size]) for start in range(0, len(pairs), size)]
        return torch.cat(batches)

    def oracle(self, identity_index: int, prompt: str, *, seed: int) -> Float[Tensor, "3 h w"]:
        """The person as the prompt asks for; pose, light, gaze, shirt and backdrop come from `seed`.

        Raises:
            ValueError: If `captions.parse` does not understand the prompt.
        """
        view = self.oracle_view(prompt, seed=seed)
        return self.render([(self.identity(identity_index), view)])[0]

    def oracle_view(self, prompt: str, *, seed: int) -> View:
        """The view that `oracle` draws. Held-out styles and pairs are allowed."""
        nuisances = sample_nuisances(np.random.default_rng([self.seed, seed, 97]))
        return nuisances.replace(**parse(prompt)._asdict())
