"""A photo becomes a square, upright face crop, or one sentence that says why it cannot."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from facenet_pytorch import MTCNN
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hdb.faces.framing import Framing
from hdb.faces.picture import FaceError, Picture, name_of, open_picture, square, to_tensor, warn_or_collect

# Shape of a head: the tip of the nose stands 1.11 half eye distances in front of the eyes. Fitted to the known yaw of
# 100 faceworld renders (correlation .96, standard error 5 degrees, the same at 64 and 128 px).
NOSE_DEPTH = 1.11
# A face is looked for in the other three turns of a picture unless it is found at least as probable as this. Two thirds
# of faceworld's faces are, half of 100 of Labeled Faces in the Wild at 25 px; of those
# lying on their side or head 0.5 %: bald people with a beard, upside down.
CERTAIN = 0.999
TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}  # clockwise
# Share of the frame that lies outside the photo, where the edge is repeated: above the first it is said, above the
# second the picture is refused.
NOTED_OUTSIDE, MOST_OUTSIDE = 0.1, 0.4


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the picture it was found in.

    `landmarks` are left eye, right eye, nose, left and right corner of the mouth, as seen in the picture.
    """

    box: np.ndarray  # (4,) left, top, right, bottom
    landmarks: np.ndarray  # (5, 2)
    probability: float

    @property
    def size(self) -> float:
        """The longer side of the box."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def turn(self) -> float:
        """Estimated yaw in degrees, 0 facing the camera: atan(offset of the nose along the eye axis / its depth)."""
        left, right, nose = self.landmarks[:3]
        half = (right - left) / 2
        offset = (nose - (left + right) / 2) @ half / max(float(half @ half), 1e-6)
        return math.degrees(math.atan(offset / NOSE_DEPTH))

    @property
    def odds(self) -> float:
        """Of the probability, which crowds at 1."""
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
        self.min_size, self.max_turn, self.margin, self.probability = min_size, max_turn, margin, probability
        self.detector = MTCNN(keep_all=True, min_face_size=20, device=torch.device(device))

    def crop(
        self, picture: Picture, *, resolution: int, face: int | None = None, remarks: list[str] | None = None
    ) -> Float[Tensor, "3 r r"]:
        """The chosen face (1 is the largest, the default), rotated upright, as (3, resolution, resolution) in [0, 1].

        Warns where the photo does not hold the whole frame.

        Args:
            remarks: gets the warnings, see `open_picture`.

        Raises:
            FaceError: unreadable picture, no face, too small, turned too far, cut off by the photo's border, or `face`
                beyond those found.
        """
        name = name_of(picture)
        image, chosen = self.locate(open_picture(picture, remarks=remarks), name, face, remarks=remarks)
        outside = share_outside(frame(chosen, margin=self.margin), image.size)
        if outside > NOTED_OUTSIDE:
            message = f"{outside:.0%} of the frame around the face in {name} lies outside the photo"
            if outside > MOST_OUTSIDE:
                expected = f"expected at most {MOST_OUTSIDE:.0%}: a photo with the whole head and some room around it"
                raise FaceError(f"{message}; {expected}", reason="outside")
            warn_or_collect(f"{message}: the photo's edge is repeated there", remarks)
        return align(image, chosen, resolution=resolution, margin=self.margin)

    def check(
        self, picture: Picture, *, resolution: int, face: int | None = None, remarks: list[str] | None = None
    ) -> Float[Tensor, "3 r r"]:
        """The same refusals as `crop`, but the framing is kept: for pictures that are face crops already."""
        image, _ = self.locate(open_picture(picture, remarks=remarks), name_of(picture), face, remarks=remarks)
        return square(image, resolution=resolution)

    def read(
        self,
        picture: Picture,
        *,
        resolution: int,
        crop: bool | None = None,
        face: int | None = None,
        remarks: list[str] | None = None,
    ) -> Float[Tensor, "3 r r"]:
        """A photo as a face crop: `crop`, `check`, or whichever of the two the picture needs.

        Args:
            crop: True cuts the face out. False keeps the framing of a picture that is a face crop already. None keeps
                it where the face sits as in a crop, and cuts the face out of everything else.
            remarks: gets the warnings, see `open_picture`.

        Raises:
            FaceError: see `crop`.
        """
        if crop is None:
            crop = not self.is_face_crop(open_picture(picture, remarks=[]))  # `crop` and `check` warn
        read = self.crop if crop else self.check
        return read(picture, resolution=resolution, face=face, remarks=remarks)

    def is_face_crop(self, image: Image.Image) -> bool:
        """Whether a square picture is framed as `frame` would frame its largest face.

        The center may be off by a tenth of the side, and the side by a quarter.
        """
        side = max(image.size)
        if abs(image.width - image.height) > 0.02 * side:
            return False
        faces = self.detect(image)
        if not faces:
            return False
        corners = frame(faces[0])
        center_offset = np.abs(corners.mean(0) - np.array(image.size) / 2).max() / side
        side_ratio = np.linalg.norm(corners[3] - corners[0]) / side
        return bool(center_offset < 0.1 and 0.8 < side_ratio < 1.25)

    def upright(self, image: Image.Image) -> tuple[Image.Image, list[Face], int]:
        """The picture turned so that its faces are upright, its faces, and by how many degrees clockwise it was turned.

        Not each turn is as likely as another: one is taken if the odds of its most probable face are more than twice
        those of the picture as it is. Of 400 views of faceworld, 64 and 128 px, half of them at yaw up to 45 and roll
        up to 25 degrees, 2 are turned wrongly; of the same on their side or head, 1200, 16 are or stay as they are.
        Of 100 Labeled Faces in the Wild none, and 1 of 300.
        """
        found = self.detect(image)
        best, most = (image, found, 0), 2 * max((face.odds for face in found), default=0.0)
        if any(face.probability >= CERTAIN for face in found):
            return best
        for turn, transpose in TURNS.items():
            turned = image.transpose(transpose)
            found = self.detect(turned)
            odds = max((face.odds for face in found), default=0.0)
            if odds > most:
                best, most = (turned, found, turn), odds
        return best

    def detect(self, image: Image.Image) -> list[Face]:
        """All faces in an RGB image, largest first."""
        scale = min(max(1.0, 256 / min(image.size)), 960 / max(image.size))
        size = (round(image.width * scale), round(image.height * scale))
        if min(size) < self.detector.min_face_size:  # MTCNN's pyramid would be empty, which it does not survive
            return []
        boxes, probabilities, landmarks = self.detector.detect(
            image.resize(size, Image.Resampling.BICUBIC), landmarks=True
        )
        if boxes is None:
            return []
        found = [
            Face(box.astype(np.float64) / scale, points.astype(np.float64) / scale, float(probability))
            for box, probability, points in zip(boxes, probabilities, landmarks, strict=True)
            if probability >= self.probability
        ]
        faces: list[Face] = []
        for face in sorted(found, key=lambda face: -face.size):
            center = (face.box[:2] + face.box[2:]) / 2  # a second box within a face is the same face seen twice
            if not any((other.box[:2] < center).all() and (center < other.box[2:]).all() for other in faces):
                faces.append(face)
        return faces

    def choose(self, image: Image.Image, name: str = "the picture", face: int | None = None) -> Face:
        """The face that will be used, in pixels of the picture turned upright.

        Raises:
            FaceError: see `crop`.
        """
        return self.locate(image, name, face)[1]

    def locate(
        self, image: Image.Image, name: str, face: int | None, *, remarks: list[str] | None = None
    ) -> tuple[Image.Image, Face]:
        """The picture turned upright, and the face that will be used.

        Warns when the picture is turned, and when there are several faces and none was asked for.

        Args:
            remarks: gets the warnings, see `open_picture`.

        Raises:
            FaceError: see `crop`.
        """
        image, faces, turn = self.upright(image)
        if not faces:
            size = f"{image.width}x{image.height} px"
            found = f"no face found in {name} ({size}); expected an upright face of at least {self.min_size} px"
            raise FaceError(found, reason="no face")
        if face is not None and not 1 <= face <= len(faces):
            message = f"face={face} was asked for, but {name} shows {len(faces)}; expected 1 to {len(faces)}"
            raise FaceError(message, reason="no face")
        chosen = faces[(face or 1) - 1]
        if turn:
            lies = "upside down" if turn == 180 else "on its side"
            warn_or_collect(f"{name} lies {lies}: it is turned by {turn} degrees clockwise", remarks)
        if len(faces) > 1 and face is None:
            sizes = ", ".join(f"{other.size:.0f}" for other in faces)
            message = f"{name} shows {len(faces)} faces ({sizes} px): the largest is used; face=2 takes the next"
            warn_or_collect(message, remarks)
        if chosen.size < self.min_size:
            message = f"the face in {name} is {chosen.size:.0f} px large; expected at least {self.min_size} px"
            raise FaceError(message, reason="too small")
        if abs(chosen.turn) > self.max_turn:
            yaw = f"turned by about {abs(chosen.turn):.0f} degrees"
            raise FaceError(f"the face in {name} is {yaw}; expected at most {self.max_turn:.0f}", reason="turned")
        return image, chosen


def frame(face: Face, *, margin: float = 0.0) -> Float[np.ndarray, "4 2"]:
    """The corners of the square around a face with level eyes: upper left, lower left, lower right, upper right.

    Framed as CelebA-HQ is, and as faceworld's people are; the side grows by 1 + 2 margin.
    """
    left, right, _, mouth_left, mouth_right = face.landmarks
    center, side, axis = Framing.around(left, right, (mouth_left + mouth_right) / 2)
    side = side * (1 + 2 * margin)
    axis = axis * side / 2
    normal = np.array([-axis[1], axis[0]])
    return np.stack([center - axis - normal, center - axis + normal, center + axis + normal, center + axis - normal])


def share_outside(corners: Float[np.ndarray, "4 2"], size: tuple[int, int]) -> float:
    """Share of a square that lies outside a picture of `size` (width, height), counted at 100 x 100 of its points."""
    steps = (np.arange(100) + 0.5) / 100
    across, down = corners[3] - corners[0], corners[1] - corners[0]
    points = corners[0] + steps[:, None, None] * across + steps[None, :, None] * down
    return float(((points < 0) | (points > size)).any(axis=2).mean())


def align(image: Image.Image, face: Face, *, resolution: int, margin: float = 0.0) -> Float[Tensor, "3 r r"]:
    """The `frame` around a face, cut out; outside the picture its edge is repeated."""
    corners = frame(face, margin=margin)
    side = float(np.linalg.norm(corners[3] - corners[0]))

    # Only the square's surroundings are touched, so that a face in a large photo costs no more than in a small one.
    low, high = np.floor(corners.min(0)).astype(int) - 1, np.ceil(corners.max(0)).astype(int) + 2
    inside_low, inside_high = np.maximum(low, 0), np.minimum(high, image.size)
    pixels = np.asarray(image.crop((*inside_low.tolist(), *inside_high.tolist())))
    before, after = inside_low - low, high - inside_high
    # not reflected: a second, upside-down face could appear
    pixels = np.pad(pixels, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="edge")

    # Sampled at a whole multiple of the resolution and averaged down: a bilinear look-up alone would alias.
    factor = min(max(1, math.ceil(round(side / resolution, 6))), max(1, 4096 // resolution))
    size = (resolution * factor, resolution * factor)
    quad = Image.fromarray(pixels).transform(
        size, Image.Transform.QUAD, (corners - low).flatten().tolist(), Image.Resampling.BICUBIC
    )
    return to_tensor(quad.reduce(factor))
