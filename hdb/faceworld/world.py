"""FaceWorld: people who do not exist, photographed, painted and carved; the true answer to every prompt is known."""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

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
SPLITS: Mapping[str, range] = MappingProxyType(
    {"train": range(2000), "val": range(2000, 2200), "test": range(2200, 2400)}
)
# Root mean square distance of two faces' landmarks, in head units (a face is 1.5 wide), below which they are twins.
# Measured over 2,400 people: median of all pairs 0.033, of nearest neighbors 0.0147, 5 % quantile of those 0.0126.
TWIN_DISTANCE = 0.0126
_BATCH_PIXELS = 16 * 64 * 64  # per pass; fewer waste time on calls, more overflow the cache


class FaceWorld:
    """A world of people, fixed by its seed.

    Args:
        seed: Another seed is another population.
        resolution: Width and height of a picture; 64 or 128.
        device: Where to draw. Pixels may differ in the last bit between devices.

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
        """Names these pixels: sha256 of seed, resolution, version and the basis file."""
        return hashlib.sha256(f"{self.seed}:{self.resolution}:{VERSION}:{self._head.digest}".encode()).hexdigest()

    def identity(self, index: int) -> Identity:
        """Person `index`. A candidate too close to an earlier person is drawn again, so all before are drawn first."""
        if index < 0:
            raise ValueError(f"index is {index}, expected a number from 0")
        while len(self._people) <= index:
            self._admit(len(self._people))
        return self._people[index]

    def landmarks(self, index: int) -> np.ndarray:
        """Where 48 points of a person's neutral face lie, less the average face's, float32 (144,), in head units."""
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
        """View `view_index` of a person; cheap, draws nothing."""
        return sample_view(self.seed, identity_index, view_index)

    @torch.no_grad()
    def render(self, pairs: list[Pair]) -> Float[Tensor, "n 3 h w"]:
        """Pictures in [0, 1]. Fastest when pictures of one person follow each other."""
        if not pairs:
            raise ValueError("render was given no pairs, expected at least one (Identity, View)")
        size = max(1, _BATCH_PIXELS // self.resolution**2)
        batches = [self._renderer.draw(pairs[start : start + size]) for start in range(0, len(pairs), size)]
        return torch.cat(batches)

    def oracle(self, identity_index: int, prompt: str, *, seed: int) -> Float[Tensor, "3 h w"]:
        """The true answer to a prompt about a person; pose, light, gaze, shirt and backdrop come from `seed`.

        Raises:
            ValueError: If `captions.parse` does not understand the prompt.
        """
        view = self.oracle_view(prompt, seed=seed)
        return self.render([(self.identity(identity_index), view)])[0]

    def oracle_view(self, prompt: str, *, seed: int) -> View:
        """The view `oracle` draws. Held-out styles and pairs are allowed here."""
        nuisances = sample_nuisances(np.random.default_rng([self.seed, seed, 97]))
        return nuisances.replace(**parse(prompt)._asdict())
