"""Photos of many people, listed by person: a folder each, a folder of single pictures, CelebA, LFW."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torchvision

from hdb.faces.folders import HIDDEN, Other, list_pictures
from hdb.faces.formats import READABLE
from hdb.faces.names import as_text, in_sentence
from hdb.faces.picture import Picture
from hdb.faces.splits import refuse_duplicates

Photos = Mapping[str, Sequence[Picture]]
DEEPER = "lies in a folder in a folder, and nobody knows whether these are people; expected <name>/<picture>"


class Listed(dict[str, Sequence[Picture]]):
    """Photos found in a folder, and what else lies there: `others`."""

    def __init__(self, people: Photos, others: Sequence[Other] = ()):
        super().__init__(people)
        self.others = list(others)


def identity_folders(root: str | Path) -> Listed:
    """A folder per identity: root/<name>/*.jpg.

    Pictures in further folders within it are theirs too, if there are pictures of theirs beside those folders.
    """
    pictures, others = list_pictures(existing(root))
    people: dict[str, list[Path]] = {}
    for path in pictures:
        name, *below = path.relative_to(root).parts
        if below:
            people.setdefault(name, []).append(path)
        else:
            others.append(Other(in_sentence(str(path)), "lies in no folder; expected <name>/<picture>"))
    for name, paths in list(people.items()):
        folders = {path.parent for path in paths}
        if len(folders) > 1 and Path(root, name) not in folders:
            others += [Other(in_sentence(str(path)), DEEPER) for path in people.pop(name)]
    return told_and_named(people, others, root, "<name>/<picture>")


def flat_folder(root: str | Path) -> Listed:
    """A folder, or a tree of them, in which each picture is its own person: FFHQ, SFHQ, CelebA-HQ as in the paper.

    An identity is called by the picture's path below `root`.
    """
    pictures, others = list_pictures(existing(root))
    return told_and_named({path.relative_to(root).as_posix(): [path] for path in pictures}, others, root, "<picture>")


def told_and_named(people: Mapping[str, list[Path]], others: list[Other], root: str | Path, layout: str) -> Listed:
    """The people under names that can be written anywhere; a warning says what was passed over.

    Raises:
        ValueError: nobody there, or two names that are written alike.
    """
    counted = [other for other in others if other.reason != HIDDEN]
    if counted:
        first = "; ".join(f"{other.path}: {other.reason}" for other in counted[:3])
        rest = f"; and {len(counted) - 3} more" if len(counted) > 3 else ""
        message = f"{len(counted)} files in {in_sentence(str(root))} are not used: {first}{rest}"
        warnings.warn(message, stacklevel=3)
    if not people:
        found = f", but {len(counted)} other files, first {counted[0].path}: {counted[0].reason}" if counted else ""
        expected = f"expected {root}/{layout} with one of {', '.join(READABLE)}"
        raise ValueError(f"{in_sentence(str(root))} holds no picture{found}; {expected}")
    names = [as_text(name) for name in people]
    refuse_duplicates(names)
    return Listed(dict(sorted(zip(names, people.values(), strict=True))), others)


def kind_of(root: str | Path) -> str:
    """What a folder holds: "shards" (*.tar), "flat" (pictures) or "folders" (of pictures, one per identity).

    Raises:
        ValueError: none of them.
    """
    if any(path.suffix == ".tar" for path in existing(root).iterdir()):
        return "shards"
    depths = {len(path.relative_to(root).parts) for path in list_pictures(root).pictures}
    if depths:
        return "flat" if 1 in depths else "folders"
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


def existing(root: str | Path) -> Path:
    if not Path(root).is_dir():
        raise ValueError(f"{root} is no folder; expected a folder of pictures")
    return Path(root)
