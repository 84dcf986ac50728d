"""The protocol of an evaluation, and its people: unseen ones, their references, and the gallery of rank_1."""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.evaluation.options import ProtocolOptions
from hdb.faces.people import PeopleSource
from hdb.methods.protocol import Photos


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
