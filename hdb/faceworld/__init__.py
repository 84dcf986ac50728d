"""Faceworld: rendered people who do not exist, in many views, with exact captions and the true answer to each prompt.

    Identity (who) + View (pose, light, context, style) ─► FaceWorld.render ─► picture
    View ─► caption ─► prompt ─► parse ─► PromptLabels

`people` and `oracle` plug it into training and evaluation; `base` trained what `weights/` holds.
"""

from importlib import import_module

# Imported on first use: commands read the options of `base` without waiting for the renderer.
_PUBLIC = {
    "HELD_OUT_PAIRS": "view",
    "HELD_OUT_STYLES": "view",
    "KINDS": "view",
    "SPLITS": "splits",
    "VERSION": "world",
    "VOCABULARY": "captions",
    "FaceWorld": "world",
    "Identity": "identity",
    "PromptLabels": "captions",
    "View": "view",
    "caption": "captions",
    "parse": "captions",
    "sample_identity": "identity",
    "sample_view": "view",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(import_module(f"hdb.faceworld.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'hdb.faceworld' has no attribute {name!r}, expected one of {', '.join(__all__)}")
