"""Whether a file may be a photo, without torch, so that commands say at once what is missing."""

from pathlib import Path

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
