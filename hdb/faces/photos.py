"""Lists photos by person: a folder for each person, a folder of single pictures, CelebA, Labeled Faces in the Wild."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torchvision

from hdb.faces.folders import HIDDEN, UnusedFile, list_pictures
from hdb.faces.formats import READABLE
from hdb.faces.names import printable, to_text
from hdb.faces.photo_files import DATASETS, existing_folder, missing_dataset
from hdb.faces.picture import Picture
from hdb.faces.splits import refuse_duplicates

Photos = Mapping[str, Sequence[Picture]]


class PhotoListing(dict[str, Sequence[Picture]]):
    """The photos of a folder by person; `unused` is what else lies there."""

    def __init__(self, photos: Photos, unused: Sequence[UnusedFile] = ()):
        super().__init__(photos)
        self.unused = list(unused)


def identity_folders(root: str | Path) -> PhotoListing:
    """Lists a folder with a folder for each identity: root/<name>/*.jpg.

    Pictures in further folders within it are of the same identity, if there are pictures beside those folders.
    """
    pictures, unused = list_pictures(existing_folder(root))
    photos: dict[str, list[Path]] = {}
    for path in pictures:
        name, *below = path.relative_to(root).parts
        if below:
            photos.setdefault(name, []).append(path)
        else:
            unused.append(UnusedFile(printable(str(path)), "lies in no folder; expected <name>/<picture>"))
    for name, paths in list(photos.items()):
        folders = {path.parent for path in paths}
        if len(folders) > 1 and Path(root, name) not in folders:
            del photos[name]
            reason = "lies in a folder in a folder, which may be no person; expected <name>/<picture>"
            unused += [UnusedFile(printable(str(path)), reason) for path in paths]
    return _to_listing(photos, unused, root, "<name>/<picture>")


def flat_folder(root: str | Path) -> PhotoListing:
    """Lists a tree of pictures of which each is its own identity: FFHQ, SFHQ, CelebA-HQ as in the paper.

    The name of an identity is the path of its picture below `root`.
    """
    pictures, unused = list_pictures(existing_folder(root))
    photos = {path.relative_to(root).as_posix(): [path] for path in pictures}
    return _to_listing(photos, unused, root, "<picture>")


def _to_listing(
    photos: Mapping[str, list[Path]], unused: list[UnusedFile], root: str | Path, layout: str
) -> PhotoListing:
    """Gives people names that can be written anywhere, and warns of files that are not used.

    Raises:
        ValueError: there is nobody, or two names are written alike.
    """
    noteworthy = [file for file in unused if file.reason != HIDDEN]
    if noteworthy:
        first = "; ".join(f"{file.path}: {file.reason}" for file in noteworthy[:3])
        rest = f"; and {len(noteworthy) - 3} more" if len(noteworthy) > 3 else ""
        message = f"{len(noteworthy)} files in {printable(str(root))} are not used: {first}{rest}"
        warnings.warn(message, stacklevel=3)
    if not photos:
        found = ""
        if noteworthy:
            found = f", but {len(noteworthy)} other files, first {noteworthy[0].path}: {noteworthy[0].reason}"
        expected = f"expected {root}/{layout} with one of {', '.join(READABLE)}"
        raise ValueError(f"{printable(str(root))} holds no picture{found}; {expected}")
    names = [to_text(name) for name in photos]
    refuse_duplicates(names)
    return PhotoListing(dict(sorted(zip(names, photos.values(), strict=True))), unused)


def detect_source(root: str | Path) -> str:
    """What a folder holds: "shards" (*.tar), "flat" (pictures) or "folders" (of pictures, one for each identity).

    Raises:
        ValueError: none of them.
    """
    if any(path.suffix == ".tar" for path in existing_folder(root).iterdir()):
        return "shards"
    depths = {len(path.relative_to(root).parts) for path in list_pictures(root).pictures}
    if depths:
        return "flat" if 1 in depths else "folders"
    raise ValueError(f"{root} holds neither *.tar shards, nor pictures, nor folders of pictures, one per identity")


def celeba(root: str | Path, *, split: str = "train") -> Photos:
    """Lists CelebA by its identity labels, laid out for torchvision: root/celeba/{img_align_celeba/,*.txt}."""
    with _dataset_folder("celeba", root) as folder:
        dataset = torchvision.datasets.CelebA(root, split=split, target_type="identity")
    return _group_by_name(
        (f"{int(label):05d}", folder / "img_align_celeba" / name)
        for label, name in zip(dataset.identity, dataset.filename, strict=True)
    )


def lfw(root: str | Path, *, split: str = "train") -> Photos:
    """Lists Labeled Faces in the Wild, funneled, laid out for torchvision: root/lfw-py/{lfw_funneled/,*.txt}."""
    with _dataset_folder("lfw", root):
        dataset = torchvision.datasets.LFWPeople(str(root), split=split)
    return _group_by_name((Path(path).parent.name, Path(path)) for path in dataset.data)


@contextmanager
def _dataset_folder(source: str, root: str | Path) -> Iterator[Path]:
    """The folder of a dataset; turns torchvision's errors into one sentence."""
    name, folder = DATASETS[source]
    try:
        yield Path(root, folder)
    except (RuntimeError, OSError) as error:
        raise missing_dataset(name, Path(root, folder), error) from None


def select(photos: Photos, names: Sequence[str]) -> Photos:
    """The photos of some people, in the order of their names.

    Raises:
        ValueError: a name is listed twice or is not in `photos`.
    """
    refuse_duplicates(names)
    unknown = [name for name in names if name not in photos]
    if unknown:
        raise ValueError(f"{len(unknown)} of {len(names)} identities are not in the data, first {unknown[0]!r}")
    return {name: photos[name] for name in names}


def _group_by_name(pictures: Iterable[tuple[str, Path]]) -> Photos:
    """(name, picture) pairs as name -> pictures, sorted by name."""
    photos: dict[str, list[Path]] = {}
    for name, path in pictures:
        photos.setdefault(name, []).append(path)
    return dict(sorted(photos.items()))
