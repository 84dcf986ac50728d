"""Photos of visitors: reads them, finds the faces and marks those."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hdb.faces.crop import Face, FaceCropper, crop_corners, is_face_crop
from hdb.faces.picture import FaceError, StoredPicture, open_picture

CHOSEN_COLOR = "lime"
OTHER_COLOR = "white"
MARKED_SIZE = 1024  # px of the longer side of a marked photo
NUM_READERS = 2  # photos that are read at the same time: a large one takes up to 1 GB


@dataclass(frozen=True)
class Photo:
    """A photo, or the drawn face of somebody who does not exist.

    Args:
        name: of the file.
        crop: the chosen face, or None if it cannot be used.
        marked: the photo with its faces marked; None if it was drawn.
        source: the file, from which another face can be cut; None if the photo was drawn.
        face: number of the chosen face, 1 being the largest.
        num_faces: how many were found.
        remarks: sentences for the visitor.
    """

    name: str
    crop: Float[Tensor, "3 r r"] | None
    marked: Image.Image | None = None
    source: StoredPicture | None = None
    face: int = 1
    num_faces: int = 1
    remarks: tuple[str, ...] = ()


class PhotoReader:
    """Reads the photos of several visitors at a time, beside whatever the model is doing.

    Args:
        resolution: of the crops in px.
        min_face: smallest face in px.
    """

    def __init__(self, *, resolution: int, min_face: int) -> None:
        self.resolution = resolution
        self.cropper = FaceCropper(min_size=min_face)
        self._slots = threading.BoundedSemaphore(NUM_READERS)

    def read(self, source: StoredPicture, *, face: int = 1) -> Photo:
        """Reads a photo and cuts a face out.

        A photo of several faces is returned even if the chosen one cannot be used: the visitor may choose another.

        Raises:
            FaceError: it is no picture that can be read, or shows no face that can be used.
        """
        with self._slots:
            return self._read(source, face)

    def close(self, *, timeout: float) -> None:
        """Waits until nobody reads, and lets nobody begin.

        Args:
            timeout: in seconds.
        """
        for _ in range(NUM_READERS):
            self._slots.acquire(timeout=timeout)

    def _read(self, source: StoredPicture, face: int) -> Photo:
        remarks: list[str] = []
        image = open_picture(source, remarks=remarks)
        image.filename = source.name  # what sentences call it
        upright, faces, _ = self.cropper.turn_upright(image)
        # Without a face `read` refuses the photo, or keeps its framing.
        keeps_framing = not faces or (len(faces) >= face and is_face_crop(upright, faces[face - 1]))
        crop = None
        try:
            crop = self.cropper.read(
                image, resolution=self.resolution, crop=not keeps_framing, face=face, remarks=remarks
            )
        except FaceError as error:
            if len(faces) < 2:
                raise
            remarks.append(f"{error}.")
        if len(faces) > 1:
            remarks.append(f"{source.name} shows {len(faces)} faces, the largest being number 1: choose one below.")
        return Photo(
            name=source.name,
            crop=crop,
            marked=mark_faces(upright, faces, chosen=face, keeps_framing=keeps_framing),
            source=source,
            face=face,
            num_faces=len(faces),
            remarks=tuple(remarks),
        )


def mark_faces(image: Image.Image, faces: list[Face], *, chosen: int, keeps_framing: bool) -> Image.Image:
    """A reduced copy of a photo with what is cut out around each face, numbers if several, landmarks in the chosen one.

    Args:
        keeps_framing: whether the whole photo is the crop of the chosen face, as it is where no face was found.
    """
    marked = image.copy()
    marked.thumbnail((MARKED_SIZE, MARKED_SIZE))
    scale = marked.width / image.width
    pen = ImageDraw.Draw(marked)
    if not faces:
        pen.rectangle((0, 0, marked.width - 1, marked.height - 1), outline=CHOSEN_COLOR, width=1 + marked.width // 100)
    for number, face in enumerate(faces, start=1):
        color = CHOSEN_COLOR if number == chosen else OTHER_COLOR
        width = max(1, round(face.size * scale / 40))
        corners = [tuple(corner) for corner in crop_corners(face) * scale]
        if number == chosen and keeps_framing:
            pen.rectangle((0, 0, marked.width - 1, marked.height - 1), outline=color, width=width)
        else:
            pen.polygon(corners, outline=color, width=width)
        if number == chosen:
            for x, y in face.landmarks * scale:
                pen.ellipse((x - width, y - width, x + width, y + width), fill=color)
        if len(faces) > 1:
            font = ImageFont.load_default(size=max(12, round(face.size * scale / 4)))
            pen.text(corners[0], str(number), fill=color, font=font, stroke_width=2, stroke_fill="black")
    return marked
