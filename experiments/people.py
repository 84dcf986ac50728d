"""The people an experiment runs on, as its config names them."""

from hdb.faceworld.dataset import FaceWorldDataset

from hdb.config import Faces
from hdb.faces.crop import FaceCropper
from hdb.faces.sources import FaceSource, FaceworldFaces, PhotoFaces, celeba, flat_folder, identity_folders, lfw, select
from hdb.faceworld.world import SPLITS


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
    dataset.prepare(num_workers=config.num_workers, progress=True)
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
