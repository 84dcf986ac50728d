"""The people an experiment runs on, as its config names them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hdb.config import Evaluate, Faces
from hdb.faces.crop import FaceCropper
from hdb.faces.sources import FaceSource, FaceworldFaces, PhotoFaces, celeba, flat_folder, identity_folders, lfw, select
from hdb.faceworld.dataset import FaceWorldDataset
from hdb.faceworld.world import SPLITS, FaceWorld


def faceworld_pictures(config: Faces, *, split: str, num_identities: int) -> FaceWorldDataset:
    """The first people of a split of faceworld; renders those that are not on disk yet."""
    people = SPLITS[split]
    if not 1 <= num_identities <= len(people):
        raise ValueError(f"{num_identities} {split} identities asked for; faceworld has 1 to {len(people)}")
    dataset = FaceWorldDataset(
        config.root,
        indices=people[:num_identities],
        views_per_identity=config.views_per_identity,
        seed=config.seed,
        resolution=config.resolution,
    )
    dataset.prepare(num_workers=config.render_workers, progress=True)
    return dataset


def faces(config: Faces, *, split: str) -> FaceSource:
    """The train or val people of any source."""
    num = config.num_identities if split == "train" else config.num_val_identities
    if config.source == "faceworld":
        return FaceworldFaces(
            faceworld_pictures(config, split=split, num_identities=num), target_views=config.target, seed=config.seed
        )
    readers = {"folders": identity_folders, "flat": flat_folder, "celeba": celeba, "lfw": lfw}
    if config.source not in readers:
        raise ValueError(f"faces.source is {config.source!r}, expected one of {', '.join((*readers, 'faceworld'))}")
    everyone = readers[config.source](config.root)
    names, num_val = sorted(everyone), config.num_val_identities
    if not 1 <= num_val < len(names):
        raise ValueError(f"faces.num_val_identities is {num_val}, expected 1 to {len(names) - 1} of {config.root}")
    # The last ones are for validation, whatever the number of people to train on.
    chosen = names[:-num_val][:num] if split == "train" else names[-num_val:]
    return PhotoFaces(
        select(everyone, chosen),
        resolution=config.resolution,
        cropper=FaceCropper() if config.crop else None,
        target=config.target,
        seed=config.seed,
    )


class Unseen(NamedTuple):
    """People of an evaluation. The first reference of each is the photo that methods are given."""

    names: list[str]
    references: Float[Tensor, "n v 3 h w"]
    oracle: Callable[[int, str, int], Float[Tensor, "3 h w"]] | None  # (person, prompt, seed) -> the true answer


def unseen(config: Evaluate) -> Unseen:
    """Test people of faceworld, with plain views as references and an oracle; else validation people of the source."""
    num, num_references, source = config.num_identities, config.num_references, config.faces
    if num < 1 or num_references < 1:
        raise ValueError(f"num_identities is {num} and num_references {num_references}, expected at least 1 each")
    if source.source != "faceworld":
        people = faces(source, split="val")
        if num > len(people):
            raise ValueError(f"num_identities is {num}, but {source.root} has {len(people)} validation people")
        references = [[people[draw, index].reference for draw in range(num_references)] for index in range(num)]
        names = [people.names[index] for index in range(num)]
        return Unseen(names, torch.stack([torch.stack(of_person) for of_person in references]), None)
    if num > len(SPLITS["test"]):
        raise ValueError(f"num_identities is {num}, but faceworld has {len(SPLITS['test'])} test people")
    world, indices = FaceWorld(seed=source.seed, resolution=source.resolution), SPLITS["test"][:num]
    # Every third view is plain: a photo in a studio.
    pairs = [
        (world.identity(index), world.view(index, 3 * view)) for index in indices for view in range(num_references)
    ]
    return Unseen(
        names=[str(index) for index in indices],
        references=world.render(pairs).unflatten(0, (num, num_references)),
        oracle=lambda person, prompt, seed: world.oracle(indices[person], prompt, seed=seed),
    )
