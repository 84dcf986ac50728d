"""The embedded default world: people who do not exist, seen in many views, with true captions and a true oracle.

Identity (who) + View (how) -> FaceWorld.render -> picture; caption(View) -> words; parse(words) -> what was asked for.
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
