"""Finds the face in a photo and cuts it out, square and upright."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from facenet_pytorch import MTCNN
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hdb.faces.framing import Framing
from hdb.faces.picture import (
    FaceCrop,
    FaceError,
    Picture,
    center_square,
    open_picture,
    picture_name,
    to_tensor,
    warn_or_collect,
)

# How far the tip of the nose stands in front of the eyes, in half eye distances. Fitted to the known yaw of 100
# faceworld renders (correlation .96, standard error 5 degrees, the same at 64 and 128 px).
NOSE_DEPTH = 1.11
# A face of at least this probability is taken to be upright; otherwise the other three turns of the picture are tried
# too. Two thirds of faceworld's faces reach it, and half of 100 of Labeled Faces in the Wild at 25 px; of those lying
# on their side or head 0.5 % do: bald people with a beard, upside down.
UPRIGHT_PROBABILITY = 0.999
# degrees clockwise -> what turns a picture by them
TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
# Share of the frame that may lie outside the photo, where the edge is repeated: without a warning, and at all.
WARN_OUTSIDE = 0.1
MAX_OUTSIDE = 0.4
# A picture whose sides differ by a larger factor is searched part by part: at 960 px its shorter side would have less
# than the 256 px to which small pictures are enlarged.
MAX_ASPECT = 3.75
MAX_PARTS = 12
# px. A square picture up to this size, or up to the base's resolution, may be a face crop in which MTCNN sees no face:
# a painting, a mask. Crops for a base have its resolution, and MTCNN enlarges smaller pictures to this size.
SMALL_SIZE = 256
# Standard deviation of gray at 16 px below which a picture shows nothing. The least of 150 faceworld renders is .058,
# of 100 Labeled Faces in the Wild .092; noise of 128 px has .036, a wall less.
FLAT_CONTRAST = 0.04


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the picture it was found in.

    Args:
        box: left, top, right, bottom; shape (4,).
        landmarks: left eye, right eye, nose, left and right corner of the mouth as seen in the picture; shape (5, 2).
        probability: of being a face.
    """

    box: np.ndarray
    landmarks: np.ndarray
    probability: float

    @property
    def size(self) -> float:
        """The longer side of the box."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def yaw(self) -> float:
        """Estimated yaw in degrees, 0 facing the camera: atan(offset of the nose along the eye axis / its depth)."""
        left, right, nose = self.landmarks[:3]
        half = (right - left) / 2
        offset = (nose - (left + right) / 2) @ half / max(float(half @ half), 1e-6)
        return math.degrees(math.atan(offset / NOSE_DEPTH))

    def shift(self, right: int, down: int) -> "Face":
        """The same face in a picture of which the one it was found in is a part."""
        offset = np.array([right, down], dtype=np.float64)
        return replace(self, box=self.box + np.tile(offset, 2), landmarks=self.landmarks + offset)

    @property
    def odds(self) -> float:
        """probability / (1 - probability), which tells apart what crowds near 1."""
        return self.probability / max(1 - self.probability, 1e-7)


class FaceCropper:
    """Finds faces with MTCNN and cuts them out, eyes level, framed as in CelebA-HQ.

    Before detection, pictures are brought to a shorter side of at least 256 px (small ones are enlarged) and a longer
    one of at most 960 px. Measured on 100 plain faceworld views, yaw up to 49 degrees: all are found, at 64 and at
    128 px, the least probable with .96; the best of 60 noise pictures and 20 photos without a face reaches .85. Hence
    `probability=0.9`. A picture that lies on its side or upside down is turned, and a warning says so.

    Args:
        min_size: smallest face that is accepted, longer side of its box in pixels of the given picture. 64 suits
            photos; a 64 px faceworld picture holds a face of about 41 px, so give 16 there.
        max_turn: largest estimated yaw in degrees. The landmarks of a face that is turned far away are guesses, and the
            estimate hardly passes 50. Of 24 faceworld heads 45 refuses none up to a yaw of 30, a quarter at 40, about
            60 % of those that are found at 50 to 80.
        margin: share of the crop's side added on every side of the CelebA-HQ frame.

    Example:
        >>> cropper = FaceCropper()
        >>> cropper.detect(Image.new("RGB", (300, 200), "gray"))
        []
    """

    def __init__(
        self,
        *,
        min_size: int = 64,
        max_turn: float = 45.0,
        margin: float = 0.0,
        probability: float = 0.9,
        device: str | torch.device = "cpu",
    ):
        self.min_size = min_size
        self.max_turn = max_turn
        self.margin = margin
        self.probability = probability
        self.detector = MTCNN(keep_all=True, min_face_size=20, device=torch.device(device))

    def crop(
        self, picture: Picture, *, resolution: int, face: int | None = None, remarks: list[str] | None = None
    ) -> Float[Tensor, "3 r r"]:
        """Cuts the chosen face out, rotated upright, as (3, resolution, resolution) in [0, 1].

        Warns where the photo does not hold the whole frame.

        Args:
            face: 1 is the largest, the default.
            remarks: gets the warnings, see `open_picture`.

        Raises:
            FaceError: unreadable picture, no face, too small, turned too far, cut off by the photo's border, or `face`
                beyond those found.
        """
        return self.read(picture, resolution=resolution, crop=True, face=face, remarks=remarks)

    def read(
        self,
        picture: Picture,
        *,
        resolution: int,
        crop: bool | None = None,
        face: int | None = None,
        remarks: list[str] | None = None,
    ) -> Float[Tensor, "3 r r"]:
        """Reads a photo as a face crop; see `cut`."""
        return self.cut(picture, resolution=resolution, crop=crop, face=face, remarks=remarks).pixels

    def cut(
        self,
        picture: Picture,
        *,
        resolution: int,
        crop: bool | None = None,
        face: int | None = None,
        remarks: list[str] | None = None,
    ) -> FaceCrop:
        """Reads a photo as a face crop, and how large that was in the photo.

        Where no face is found in a small square picture its framing is kept, unless `crop` is True, and a warning says
        so: a picture of up to 256 px, or up to `resolution`, that is not of one color.

        Args:
            crop: True cuts the face out, like `crop`. False keeps the framing of a picture that is a face crop already,
                and raises like `crop` where its face is unusable. None keeps the framing of a picture that is framed
                as a crop would be, and cuts the face out of all others.
            remarks: gets the warnings, see `open_picture`; for None, also which of the two was done.

        Raises:
            FaceError: see `crop`.
        """
        name = picture_name(picture)
        image, faces, turn = self.turn_upright(open_picture(picture, remarks=remarks))
        if not faces and not crop and face in (None, 1) and may_be_face_crop(image, resolution=resolution):
            found = f"no face found in {name} ({image.width}x{image.height} px)"
            warn_or_collect(f"{found}: a small square picture, whose framing is kept as that of a face crop", remarks)
            return FaceCrop(center_square(image, resolution=resolution), min(image.size))
        chosen = self._choose_face(image, faces, turn=turn, name=name, face=face, remarks=remarks)
        if crop is None:
            crop = not is_face_crop(image, chosen)
            if remarks is not None:
                done = "the face is cut out (crop=false keeps the framing)"
                remarks.append(
                    f"{name}: {done if crop else 'a face crop, whose framing is kept (crop=true aligns it)'}"
                )
        if not crop:
            return FaceCrop(center_square(image, resolution=resolution), min(image.size))
        corners = crop_corners(chosen, margin=self.margin)
        outside = share_outside(corners, image.size)
        if outside > WARN_OUTSIDE:
            message = f"{outside:.0%} of the frame around the face in {name} lies outside the photo"
            if outside > MAX_OUTSIDE:
                expected = f"expected at most {MAX_OUTSIDE:.0%}: a photo with the whole head and some room around it"
                raise FaceError(f"{message}; {expected}", reason="outside")
            warn_or_collect(f"{message}: the photo's edge is repeated there", remarks)
        side = float(np.linalg.norm(corners[3] - corners[0]))
        return FaceCrop(align(image, chosen, resolution=resolution, margin=self.margin), round(side))

    def find_face(
        self,
        image: Image.Image,
        *,
        name: str = "the picture",
        face: int | None = None,
        remarks: list[str] | None = None,
    ) -> tuple[Image.Image, Face]:
        """Finds the face to use, and the picture turned upright that it is in.

        Warns when the picture is turned, and when there are several faces and `face` does not choose one.

        Args:
            name: of the picture, in messages.
            face: 1 is the largest, the default.
            remarks: gets the warnings, see `open_picture`.

        Raises:
            FaceError: see `crop`.
        """
        image, faces, turn = self.turn_upright(image)
        return image, self._choose_face(image, faces, turn=turn, name=name, face=face, remarks=remarks)

    def _choose_face(
        self,
        image: Image.Image,
        faces: Sequence[Face],
        *,
        turn: int,
        name: str,
        face: int | None,
        remarks: list[str] | None,
    ) -> Face:
        """The face to use of those that `turn_upright` found; see `find_face`."""
        if not faces:
            problem = f"no face found in {name} ({image.width}x{image.height} px)"
            raise FaceError(f"{problem}; expected an upright face of at least {self.min_size} px", reason="no face")
        if face is not None and not 1 <= face <= len(faces):
            problem = f"face={face} was asked for, but {name} shows {len(faces)}"
            raise FaceError(f"{problem}; expected 1 to {len(faces)}", reason="no face")
        chosen = faces[(face or 1) - 1]
        if turn:
            position = "upside down" if turn == 180 else "on its side"
            warn_or_collect(f"{name} lies {position}: it is turned by {turn} degrees clockwise", remarks)
        if len(faces) > 1 and face is None:
            sizes = ", ".join(f"{other.size:.0f}" for other in faces)
            message = f"{name} shows {len(faces)} faces ({sizes} px): the largest is used; face=2 takes the next"
            warn_or_collect(message, remarks)
        if chosen.size < self.min_size:
            problem = f"the face in {name} is {chosen.size:.0f} px large"
            raise FaceError(f"{problem}; expected at least {self.min_size} px", reason="too small")
        if abs(chosen.yaw) > self.max_turn:
            problem = f"the face in {name} is turned by about {abs(chosen.yaw):.0f} degrees"
            raise FaceError(f"{problem}; expected at most {self.max_turn:.0f}", reason="turned")
        return chosen

    def turn_upright(self, image: Image.Image) -> tuple[Image.Image, list[Face], int]:
        """Turns a picture so that its faces are upright; gives its faces and the degrees clockwise, too.

        A turn is taken if the odds of its most probable face are more than twice those of the picture as it is, since
        most pictures are upright. Of 400 views of faceworld, 64 and 128 px, half of them at yaw up to 45 and roll up to
        25 degrees, 2 are turned wrongly; of the same on their side or head, 1200, 16 are or stay as they are. Of 100
        Labeled Faces in the Wild none, and 1 of 300.
        """
        faces = self.detect(image)
        if any(face.probability >= UPRIGHT_PROBABILITY for face in faces):
            return image, faces, 0
        best = (image, faces, 0)
        best_odds = 2 * max((face.odds for face in faces), default=0.0)
        for turn, transpose in TURNS.items():
            turned = image.transpose(transpose)
            faces = self.detect(turned)
            odds = max((face.odds for face in faces), default=0.0)
            if odds > best_odds:
                best = (turned, faces, turn)
                best_odds = odds
        return best

    def detect(self, image: Image.Image) -> list[Face]:
        """Detects all faces in an RGB image, largest first.

        In a panorama or a long screenshot, of which little would be left at 960 px, they are looked for part by part.
        """
        found = [
            face.shift(left, top)
            for left, top, width, height in parts_of(image.size)
            for face in self._detect_in(image.crop((left, top, left + width, top + height)))
        ]
        faces: list[Face] = []
        for face in sorted(found, key=lambda face: -face.size):
            center = (face.box[:2] + face.box[2:]) / 2  # a second box within a face is the same face once more
            if not any((other.box[:2] < center).all() and (center < other.box[2:]).all() for other in faces):
                faces.append(face)
        return faces

    def _detect_in(self, image: Image.Image) -> list[Face]:
        scale = min(max(1.0, 256 / min(image.size)), 960 / max(image.size))
        size = (round(image.width * scale), round(image.height * scale))
        if min(size) < self.detector.min_face_size:  # MTCNN fails on an empty pyramid
            return []
        resized = image.resize(size, Image.Resampling.BICUBIC)
        boxes, probabilities, landmarks = self.detector.detect(resized, landmarks=True)
        if boxes is None:
            return []
        return [
            Face(box.astype(np.float64) / scale, points.astype(np.float64) / scale, float(probability))
            for box, probability, points in zip(boxes, probabilities, landmarks, strict=True)
            if probability >= self.probability
        ]


def parts_of(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """The parts of a picture in which faces are looked for, as (left, top, width, height): mostly the whole.

    Those of a picture whose sides differ much overlap by its shorter side, so that each face is whole in one of them.

    >>> parts_of((1000, 500)), parts_of((4000, 500))[:2]
    ([(0, 0, 1000, 500)], [(0, 0, 1500, 500), (1000, 0, 1500, 500)])
    """
    width, height = size
    longer = max(size)
    shorter = min(size)
    if longer <= MAX_ASPECT * shorter:
        return [(0, 0, width, height)]
    num = min(MAX_PARTS, math.ceil(longer / (2 * shorter)))
    step = math.ceil(longer / num)
    starts = range(0, longer, step)
    if width == longer:
        return [(start, 0, min(step + shorter, longer - start), height) for start in starts]
    return [(0, start, width, min(step + shorter, longer - start)) for start in starts]


def crop_corners(face: Face, *, margin: float = 0.0) -> Float[np.ndarray, "4 2"]:
    """The corners of the square around a face with level eyes: upper left, lower left, lower right, upper right.

    Framed as CelebA-HQ is, and as faceworld's people are; the side grows by 1 + 2 margin.
    """
    left, right, _, mouth_left, mouth_right = face.landmarks
    center, side, axis = Framing.around(left, right, (mouth_left + mouth_right) / 2)
    side = side * (1 + 2 * margin)
    axis = axis * side / 2
    normal = np.array([-axis[1], axis[0]])
    return np.stack([center - axis - normal, center - axis + normal, center + axis + normal, center + axis - normal])


def is_face_crop(image: Image.Image, face: Face) -> bool:
    """Whether a square picture is framed as a crop of its face would be.

    The center may be off by a tenth of the side, and the side by a quarter.
    """
    if not is_square(image):
        return False
    side = max(image.size)
    corners = crop_corners(face)
    center_offset = np.abs(corners.mean(0) - np.array(image.size) / 2).max() / side
    side_ratio = np.linalg.norm(corners[3] - corners[0]) / side
    return bool(center_offset < 0.1 and 0.8 < side_ratio < 1.25)


def is_square(image: Image.Image) -> bool:
    """Whether the sides of a picture differ by at most 2 %."""
    return abs(image.width - image.height) <= 0.02 * max(image.size)


def may_be_face_crop(image: Image.Image, *, resolution: int) -> bool:
    """Whether a picture in which no face is found may be a face crop all the same: small, square and not flat.

    >>> may_be_face_crop(Image.new("RGB", (64, 64), "gray"), resolution=64)
    False
    """
    if not is_square(image) or max(image.size) > max(SMALL_SIZE, resolution):
        return False
    gray = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), dtype=np.float32)
    return bool(gray.std() >= 255 * FLAT_CONTRAST)


def share_outside(corners: Float[np.ndarray, "4 2"], size: tuple[int, int]) -> float:
    """Share of a square that lies outside a picture of `size` (width, height), counted at 100 x 100 of its points."""
    steps = (np.arange(100) + 0.5) / 100
    across = corners[3] - corners[0]
    down = corners[1] - corners[0]
    points = corners[0] + steps[:, None, None] * across + steps[None, :, None] * down
    return float(((points < 0) | (points > size)).any(axis=2).mean())


def align(image: Image.Image, face: Face, *, resolution: int, margin: float = 0.0) -> Float[Tensor, "3 r r"]:
    """Cuts out the square of `crop_corners`; outside the picture its edge is repeated."""
    corners = crop_corners(face, margin=margin)
    side = float(np.linalg.norm(corners[3] - corners[0]))

    # Only the surroundings of the square are touched: a face in a large photo costs no more than in a small one.
    low = np.floor(corners.min(0)).astype(int) - 1
    high = np.ceil(corners.max(0)).astype(int) + 2
    inside_low = np.maximum(low, 0)
    inside_high = np.minimum(high, image.size)
    pixels = np.asarray(image.crop((*inside_low.tolist(), *inside_high.tolist())))
    before = inside_low - low
    after = high - inside_high
    # not reflected: a second, upside-down face could appear
    pixels = np.pad(pixels, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="edge")

    # Sampled at a whole multiple of the resolution and averaged down: a bilinear look-up alone would alias.
    factor = min(max(1, math.ceil(round(side / resolution, 6))), max(1, 4096 // resolution))
    size = (resolution * factor, resolution * factor)
    quad = Image.fromarray(pixels).transform(
        size, Image.Transform.QUAD, (corners - low).flatten().tolist(), Image.Resampling.BICUBIC
    )
    return to_tensor(quad.reduce(factor))
