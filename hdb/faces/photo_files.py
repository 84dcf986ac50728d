"""Whether photos and their folders are there, without torch, so that commands say at once what is missing."""

from pathlib import Path

DATASETS = {"celeba": ("CelebA", "celeba"), "lfw": ("LFW", "lfw-py")}  # source -> torchvision's name, folder in `root`
LARGEST_FILE = 1 << 30  # bytes; a file is read whole

# Why a picture is not used. Sources of faces count by these. "outside": the frame around the face leaves the photo;
# "copy": the picture is in another split too; "crashed": any other error.
REASONS = ("unreadable", "no face", "too small", "turned", "outside", "copy", "crashed")


class FaceError(ValueError):
    """A picture that cannot be used; the message is one sentence: what was given, what was expected.

    `reason` is one of `REASONS`.
    """

    def __init__(self, message: str, *, reason: str = "unreadable"):
        super().__init__(message)
        self.reason = reason


def refuse_missing(path: Path, name: str) -> None:
    """Raises FaceError unless `path` is a regular file that fits into memory; pipes and devices are not opened."""
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:  # a name that is too long, say
        raise FaceError(f"{name} cannot be opened: {error.strerror}") from None
    if size is None:
        problem = "is no file" if path.exists() else "no such file"
        raise FaceError(f"{name}: {problem}; expected a picture (JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JP2)")
    if size > LARGEST_FILE:
        raise FaceError(f"{name} is too large: {size >> 20} MB; expected at most {LARGEST_FILE >> 20}")


def refuse_missing_source(source: str, root: str | Path) -> None:
    """Raises ValueError if the folder that a source of photos reads is not there; other sources are not checked."""
    if source in ("folders", "flat"):
        existing_folder(root)
    elif source in DATASETS:
        name, folder = DATASETS[source]
        if not Path(root, folder).is_dir():
            raise missing_dataset(name, Path(root, folder), "no such folder")


def existing_folder(root: str | Path) -> Path:
    """The path of a folder of pictures.

    Raises:
        ValueError: it is not there.
    """
    if not Path(root).is_dir():
        raise ValueError(f"{root} is no folder; expected a folder of pictures")
    return Path(root)


def missing_dataset(name: str, folder: Path, problem: object) -> ValueError:
    """The error that a dataset of torchvision cannot be read in a folder."""
    return ValueError(
        f"{name} is missing or damaged in {folder} and is not downloaded; "
        f"put it there as torchvision's documentation of {name} says ({problem})"
    )
