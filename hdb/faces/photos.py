"""Photos of many people, listed by person: a folder each, a folder of single pictures, CelebA, LFW."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torchvision

from hdb.faces.picture import Picture
from hdb.faces.splits import refuse_duplicates

READABLE = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SUFFIXES = (*READABLE, ".heic", ".heif")  # the last are listed to be refused by name, not overlooked
Photos = Mapping[str, Sequence[Picture]]


def identity_folders(root: str | Path) -> Photos:
    """A folder per identity: root/<name>/*.jpg."""
    people = {folder.name: pictures_in(folder) for folder in sorted(existing(root).iterdir()) if folder.is_dir()}
    return refuse_empty({name: pictures for name, pictures in people.items() if pictures}, root, "<name>/<picture>")


def flat_folder(root: str | Path) -> Photos:
    """A folder, or a tree of them, in which each picture is its own person: FFHQ, SFHQ, CelebA-HQ as in the paper.

    An identity is called by the picture's path below `root`.
    """
    pictures = sorted(path for path in existing(root).rglob("*") if is_picture(path))
    return refuse_empty({path.relative_to(root).as_posix(): [path] for path in pictures}, root, "<picture>")


def kind_of(root: str | Path) -> str:
    """What a folder holds: "shards" (*.tar), "flat" (pictures) or "folders" (of pictures, one per identity).

    Raises:
        ValueError: none of them.
    """
    entries = sorted(existing(root).iterdir())
    if any(path.suffix == ".tar" for path in entries):
        return "shards"
    if any(is_picture(path) for path in entries):
        return "flat"
    if any(path.is_dir() and pictures_in(path) for path in entries):
        return "folders"
    raise ValueError(f"{root} holds neither *.tar shards, nor pictures, nor folders of pictures, one per identity")


def celeba(root: str | Path, *, split: str = "train") -> Photos:
    """CelebA with its identity labels, laid out for torchvision: root/celeba/{img_align_celeba/,*.txt}."""
    with say_missing("CelebA", Path(root) / "celeba"):
        data = torchvision.datasets.CelebA(root, split=split, target_type="identity")
    folder = Path(root) / "celeba" / "img_align_celeba"
    return group((f"{int(label):05d}", folder / name) for label, name in zip(data.identity, data.filename, strict=True))


def lfw(root: str | Path, *, split: str = "train") -> Photos:
    """Labeled Faces in the Wild, funneled, laid out for torchvision: root/lfw-py/{lfw_funneled/,*.txt}."""
    with say_missing("LFW", Path(root) / "lfw-py"):
        data = torchvision.datasets.LFWPeople(str(root), split=split)
    return group((Path(path).parent.name, Path(path)) for path in data.data)


@contextmanager
def say_missing(name: str, folder: Path) -> Iterator[None]:
    """Turns torchvision's errors into one sentence."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"{name} is missing or damaged in {folder} and is not downloaded; "
            f"put it there as torchvision's documentation of {name} says ({error})"
        ) from None


def select(people: Photos, names: Sequence[str]) -> Photos:
    """Only these people, in this order: a stored split.

    Raises:
        ValueError: a name twice, or a name that is not there.
    """
    refuse_duplicates(names)
    unknown = [name for name in names if name not in people]
    if unknown:
        raise ValueError(f"{len(unknown)} of {len(names)} identities are not in the data, first {unknown[0]!r}")
    return {name: people[name] for name in names}


def group(pictures: Iterable[tuple[str, Path]]) -> Photos:
    """(name, picture) pairs as name -> pictures, sorted by name."""
    people: dict[str, list[Path]] = {}
    for name, path in pictures:
        people.setdefault(name, []).append(path)
    return dict(sorted(people.items()))


def pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_picture(path))


def is_picture(path: Path) -> bool:
    """By its name; a name that begins with a dot is some system's own file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def existing(root: str | Path) -> Path:
    if not Path(root).is_dir():
        raise ValueError(f"{root} is no folder; expected a folder of pictures")
    return Path(root)


def refuse_empty(people: Photos, root: str | Path, layout: str) -> Photos:
    if not people:
        raise ValueError(f"{root} holds no picture; expected {root}/{layout} with one of {', '.join(READABLE)}")
    return people
