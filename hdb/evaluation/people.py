"""The people of an evaluation: unseen, with references, and a gallery to look for somebody among."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.diffusion.sampling import SamplingOptions
from hdb.faces.people import PeopleSource
from hdb.limits import choices_field, number_field
from hdb.methods.protocol import Photos
from hdb.methods.table import METHODS


@dataclass
class ProtocolOptions:
    """How much is drawn of how many. Paper: 100 identities, 30 prompts, 10 pictures each.

    `num_gallery` counts the unseen people among whom a picture's person is looked for: those evaluated and others of
    the test split, at most as many as there are. `prompts` is a text file with one per line. Methods are given the
    first `num_photos` of the references of each, those that take one photo the first. `without_identity_guidance` names
    methods that are drawn guided by the prompt alone: those that are the better for it on validation people.
    """

    subjects_per_batch: int = number_field(1, ge=1)
    num_identities: int = 100
    num_references: int = 1
    num_photos: int = number_field(1, ge=1)
    num_gallery: int = 200
    prompts: str = "configs/prompts/people.txt"
    num_prompts: int = 30
    num_pictures: int = number_field(10, ge=1)
    num_resamples: int = number_field(10_000, ge=1)
    without_identity_guidance: list[str] = choices_field(METHODS)

    def sampling_of(self, method: str, sampling: SamplingOptions) -> SamplingOptions:
        """How this method's pictures are drawn."""
        return replace(sampling, identity_guidance_scale=None) if method in self.without_identity_guidance else sampling


class Unseen(NamedTuple):
    """People of an evaluation. The first references of each, mostly one, are the photos that methods are given.

    `others` are photos of further people of the test split, one of each, to look for somebody among.
    """

    names: list[str]
    references: Float[Tensor, "n v 3 h w"]
    others: Float[Tensor, "m 3 h w"]
    num_photos: int = 1

    @property
    def photos(self) -> Photos:
        """What methods are given."""
        more = self.references[:, 1 : self.num_photos] if self.num_photos > 1 else None
        return Photos(self.names, self.references[:, 0], more)

    @property
    def gallery(self) -> Float[Tensor, "g 3 h w"]:
        """A photo of each of the n people, and the others'; where somebody has another one, not the photo given."""
        given = self.references[:, 0]
        known = [
            next((photo for photo in photos if not torch.equal(photo, first)), first)
            for first, photos in zip(given, self.references, strict=True)
        ]
        return torch.cat([torch.stack(known), self.others])


def unseen(people: PeopleSource, options: ProtocolOptions, *, hypernet: Path, split: str = "test") -> Unseen:
    """The first people of a split of a source.

    Args:
        split: test, or val for what is chosen before anybody is tested.

    Raises:
        ValueError: not as many, a smaller gallery, or the list beside `hypernet` says it was trained on one of them.
    """
    num, num_references = options.num_identities, options.num_references
    if num < 1 or num_references < 1:
        raise ValueError(f"num_identities is {num} and num_references {num_references}, expected at least 1 each")
    if options.num_photos > num_references:
        raise ValueError(f"num_photos is {options.num_photos}, expected at most num_references, {num_references}")
    if options.num_gallery < num:
        raise ValueError(f"num_gallery is {options.num_gallery}, expected at least num_identities, which is {num}")
    people.refuse_trained(hypernet)
    references = people.references(
        split, num_identities=num, num_references=num_references, num_gallery=options.num_gallery
    )
    return Unseen(references.names, references.photos, references.others, num_photos=options.num_photos)
