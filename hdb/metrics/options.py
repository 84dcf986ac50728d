"""Options of the judges, in a file without torch so that commands check their settings at once."""

from dataclasses import dataclass


@dataclass
class JudgeOptions:
    """Networks that score pictures: names of published ones for photos, folders for faceworld's own."""

    recognizer: str = "vggface2"
    dino: str = "vit_small_patch16_224.dino"
    clip: str = "openai/clip-vit-base-patch32"
