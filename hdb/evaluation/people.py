"""The protocol of an evaluation, and its people: unseen ones, their references, and the gallery of rank_1."""

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
    first `num_photos` of the references of each person; those that take one photo are given the first.
    `without_identity_guidance` names methods that are drawn guided by the prompt alone, because that is better for them
    on validation people. `subjects_per_batch` people are personalized together. `num_resamples` is of the bootstrap
    intervals.
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

    def sampling_for(self, method: str, sampling: SamplingOptions) -> SamplingOptions:
        """The options that this method's pictures are drawn with."""
        if method in self.without_identity_guidance:
            return replace(sampling, identity_guidance_scale=None)
        return sampling


class UnseenPeople(NamedTuple):
    """The n people of an evaluation, and m others to look for somebody among.

    Args:
        names: of the n people.
        references: v photos of each; the first `num_photos` are given to methods.
        others: one photo of each further person of the same split.
    """

    names: list[str]
    references: Float[Tensor, "n v 3 h w"]
    others: Float[Tensor, "m 3 h w"]
    num_photos: int = 1

    @property
    def photos(self) -> Photos:
        """The photos that methods are given."""
        more = self.references[:, 1 : self.num_photos] if self.num_photos > 1 else None
        return Photos(self.names, self.references[:, 0], more)

    @property
    def gallery(self) -> Float[Tensor, "g 3 h w"]:
        """A photo of each of the n people, not the one given to methods if there is another, and the others'."""
        photos = []
        for references in self.references:
            first = references[0]
            photos.append(next((photo for photo in references if not torch.equal(photo, first)), first))
        return torch.cat([torch.stack(photos), self.others])


def select_unseen_people(
    people: PeopleSource, protocol: ProtocolOptions, *, hypernet: Path, split: str = "test"
) -> UnseenPeople:
    """The first people of a split of a source.

    Args:
        hypernet: folder or checkpoint, beside which a list says whom it was trained on.
        split: test, or val for choices that are made before anybody is tested.

    Raises:
        ValueError: there are fewer people, the gallery is smaller, or the hypernetwork was trained on one of them.
    """
    num, num_references = protocol.num_identities, protocol.num_references
    if num < 1 or num_references < 1:
        raise ValueError(f"num_identities is {num} and num_references {num_references}, expected at least 1 each")
    if protocol.num_photos > num_references:
        raise ValueError(f"num_photos is {protocol.num_photos}, expected at most num_references, {num_references}")
    if protocol.num_gallery < num:
        raise ValueError(f"num_gallery is {protocol.num_gallery}, expected at least num_identities, which is {num}")
    people.refuse_trained(hypernet)
    references = people.references(
        split, num_identities=num, num_references=num_references, num_gallery=protocol.num_gallery
    )
    return UnseenPeople(references.names, references.photos, references.others, num_photos=protocol.num_photos)
