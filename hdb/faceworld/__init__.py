"""Faceworld: rendered people who do not exist, in many views, with exact captions and the true answer to each prompt.

    Identity (who) + View (pose, light, context, style) ─► FaceWorld.render ─► picture
    View ─► caption ─► prompt ─► parse ─► PromptLabels

`people` and `oracle` plug it into training and evaluation; `base` trained what `weights/` holds.
"""

from hdb.faceworld.captions import VOCABULARY, PromptLabels, caption, parse
from hdb.faceworld.identity import Identity, sample_identity
from hdb.faceworld.view import HELD_OUT_PAIRS, HELD_OUT_STYLES, KINDS, View, sample_view
from hdb.faceworld.world import SPLITS, VERSION, FaceWorld

__all__ = [
    "HELD_OUT_PAIRS",
    "HELD_OUT_STYLES",
    "KINDS",
    "SPLITS",
    "VERSION",
    "VOCABULARY",
    "FaceWorld",
    "Identity",
    "PromptLabels",
    "View",
    "caption",
    "parse",
    "sample_identity",
    "sample_view",
]
