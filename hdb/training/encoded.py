"""EncodedViews: what frozen networks make of all training pictures, kept on the device and drawn from by index."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from hdb.diffusion.stable_diffusion import StableDiffusion
from hdb.diffusion.transfer import to_device
from hdb.faces.caches import CachedTensors
from hdb.faces.sources import FaceBatch, ViewChoice
from hdb.hypernet.encoder import FaceEncoder


@runtime_checkable
class ViewedFaces(Protocol):
    """People of whom each has as many views, for example those of faceworld."""

    num_views: int
    reference_views: Sequence[int]  # that can be references

    def __len__(self) -> int: ...

    def choose(self, index: int, rng: np.random.Generator) -> ViewChoice: ...

    def image(self, index: int, view: int) -> Tensor: ...


class EncodedViews:
    """Latents and face features of every view of people, in single precision.

    A training step then encodes no picture, starts no worker process and copies nothing but indices to the device.
    2,000 people with 12 views of 64 px take 0.3 GB.

    Args:
        source: The pictures, and which of them make a sample.
        seed: Of the source's samples.
        batch_size: Pictures that are encoded together.
    """

    @torch.no_grad()
    def __init__(
        self,
        source: ViewedFaces,
        *,
        diffusion: StableDiffusion,
        encoder: FaceEncoder,
        seed: int,
        batch_size: int = 128,
    ) -> None:
        self.source = source
        self.seed = seed
        self.device = diffusion.device
        encoder = encoder.to(self.device).eval()
        is_reference = torch.zeros(source.num_views, dtype=torch.bool)
        is_reference[list(source.reference_views)] = True
        latents, embeddings, tokens = [], [], []
        pairs = [(index, view) for index in range(len(source)) for view in range(source.num_views)]
        for start in range(0, len(pairs), batch_size):
            chunk = pairs[start : start + batch_size]
            pictures = to_device(torch.stack([source.image(index, view) for index, view in chunk]), self.device)
            features = encoder(pictures)
            latents.append(diffusion.encode_images(pictures).float())
            embeddings.append(features.embedding.float())
            chosen = is_reference[[view for _, view in chunk]]
            tokens.append(features.tokens[to_device(chosen, self.device)].float())
        self.latents = torch.cat(latents)
        self.embeddings = torch.cat(embeddings)
        self.tokens = torch.cat(tokens)  # of references alone, person by person
        self._token_place = {view: place for place, view in enumerate(sorted(source.reference_views))}

    def read_batch(self, keys: Sequence[tuple[int, int]]) -> FaceBatch:
        """The samples of keys (draw, index), as the source would give them, without their pictures."""
        source = self.source
        choices = [source.choose(index, np.random.default_rng([self.seed, draw, index])) for draw, index in keys]
        rows = []
        for (_, index), choice in zip(keys, choices, strict=True):
            first_view = index * source.num_views
            first_token = index * len(self._token_place)
            token_row = first_token + self._token_place[choice.reference]
            rows.append((first_view + choice.reference, first_view + choice.target, token_row))
        references, targets, token_rows = to_device(torch.tensor(rows), self.device).unbind(1)
        no_pictures = torch.zeros(len(choices), 3, 1, 1, device=self.device)
        return FaceBatch(
            reference=no_pictures,
            target=no_pictures,
            prompts=[choice.prompt for choice in choices],
            identities=torch.tensor([choice.identity for choice in choices]),
            photos=torch.tensor([choice.photo for choice in choices]),
            cached=CachedTensors(
                latents=self.latents[targets],
                target_embedding=self.embeddings[targets],
                embedding=self.embeddings[references],
                tokens=self.tokens[token_rows],
            ),
        )
