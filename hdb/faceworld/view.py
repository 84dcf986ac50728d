"""View: everything that differs between two pictures of one person."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hdb.faceworld.identity import Identity

KINDS = ("plain", "context", "styled")

# Name -> phrase in a caption. The order is that of the integer labels.
STYLES: Mapping[str, str] = MappingProxyType({
    "photo": "photo",
    "gray": "black and white photo",
    "pencil": "pencil sketch",
    "charcoal": "charcoal drawing",
    "oil": "oil painting",
    "watercolor": "watercolor painting",
    "pixel": "pixel art",
    "cartoon": "cartoon",
    "marble": "marble statue",
    "gold": "golden statue",
    "clay": "clay sculpture",
    "wood": "wood carving",
    "bronze": "bronze statue",
    "ice": "ice sculpture",
})  # fmt: skip
CONTEXTS: Mapping[str, str] = MappingProxyType({
    "studio": "",
    "beach": "on a beach",
    "snow": "in the snow",
    "forest": "in a forest",
    "city": "in a city at night",
    "space": "in outer space",
    "sunset": "at sunset",
    "desert": "in the desert",
    "library": "in a library",
    "underwater": "underwater",
    "autumn": "in an autumn park",
    "fire": "in front of a fire",
})  # fmt: skip
ACCESSORIES: Mapping[str, str] = MappingProxyType({
    "none": "",
    "glasses": "wearing glasses",
    "sunglasses": "wearing sunglasses",
    "hat": "wearing a hat",
    "cap": "wearing a cap",
    "beanie": "wearing a beanie",
    "crown": "wearing a crown",
    "headphones": "wearing headphones",
    "scarf": "wearing a scarf",
})  # fmt: skip
# Expression -> strength of each facial action unit of head_basis.npz.
EXPRESSIONS: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "neutral": {},
    "smiling": {"mouthSmile": 0.8, "cheekSquint": 0.5, "eyeSquint": 0.25},
    "laughing": {"mouthSmile": 0.9, "jawOpen": 0.42, "cheekSquint": 0.7, "eyeSquint": 0.4, "mouthUpperUp": 0.35},
    "surprised": {"jawOpen": 0.5, "eyeWide": 0.9, "browInnerUp": 0.9, "browOuterUp": 0.9},
    "angry": {"browDown": 1.0, "mouthFrown": 0.4, "noseSneer": 0.6, "mouthPress": 0.5, "eyeSquint": 0.4},
    "sad": {"browInnerUp": 1.0, "mouthFrown": 0.9, "mouthShrugLower": 0.4},
    "eyes closed": {"eyeBlink": 1.0},
    "pouting": {"mouthPucker": 0.8, "browInnerUp": 0.2},
})  # fmt: skip

HELD_OUT_STYLES = ("bronze", "ice")
HELD_OUT_PAIRS = (("oil", "space"), ("pencil", "city"), ("watercolor", "beach"), ("gold", "underwater"))
TRAINING_STYLES = tuple(style for style in STYLES if style != "photo" and style not in HELD_OUT_STYLES)

_EXPRESSION_WEIGHTS = (0.34, 0.24, 0.10, 0.07, 0.07, 0.06, 0.06, 0.06)
_EXPRESSION_STEPS = np.cumsum(_EXPRESSION_WEIGHTS) / np.sum(_EXPRESSION_WEIGHTS)
_EXPRESSION_NAMES, _CONTEXT_NAMES, _ACCESSORY_NAMES = tuple(EXPRESSIONS), tuple(CONTEXTS), tuple(ACCESSORIES)


@dataclass(frozen=True)
class View:
    """One picture's pose, expression, light, clothes, surroundings and style. Angles of the head are in degrees."""

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: tuple[float, float]
    gaze: tuple[float, float]
    light_azimuth: float
    light_elevation: float
    warmth: float
    key_light: float
    ambient_light: float
    shirt: tuple[float, float, float]
    accessory_color: tuple[float, float, float]
    context_seed: int
    expression: str = "neutral"
    context: str = "studio"
    accessory: str = "none"
    style: str = "photo"

    def __post_init__(self) -> None:
        vocabularies = {
            "expression": EXPRESSIONS,
            "context": CONTEXTS,
            "accessory": ACCESSORIES,
            "style": STYLES,
        }
        for field, names in vocabularies.items():
            if getattr(self, field) not in names:
                raise ValueError(f"{field} is {getattr(self, field)!r}, expected one of {', '.join(names)}")

    @property
    def kind(self) -> str:
        """One of `KINDS`: "styled" if it is no photo, "context" with surroundings or an accessory, else "plain"."""
        if self.style != "photo":
            return "styled"
        return "plain" if self.context == "studio" and self.accessory == "none" else "context"

    @property
    def held_out(self) -> bool:
        """Whether training never shows this style, or this style in this context."""
        return self.style in HELD_OUT_STYLES or (self.style, self.context) in HELD_OUT_PAIRS

    def replace(self, **changes: object) -> "View":
        """The same view with some fields changed; `sample_view` never draws held-out styles and pairs.

        >>> sample_nuisances(np.random.default_rng(0)).replace(style="bronze").held_out
        True
        """
        return dataclasses.replace(self, **changes)


def sample_nuisances(rng: np.random.Generator) -> View:
    """A plain neutral view whose pose, light, gaze, shirt and backdrop come from `rng`."""
    return View(
        yaw=_normal(rng, 14.0, 32.0),
        pitch=_normal(rng, 5.0, 12.0),
        roll=_normal(rng, 1.0, 3.0),
        zoom=rng.uniform(0.97, 1.03),
        shift=(_normal(rng, 0.015, 0.04), _normal(rng, 0.015, 0.04)),
        gaze=(_normal(rng, 0.12, 0.3), _normal(rng, 0.12, 0.3)),
        light_azimuth=rng.uniform(-1.1, 1.1),
        light_elevation=rng.uniform(0.1, 1.0),
        warmth=_normal(rng, 0.12, 0.3),
        key_light=rng.uniform(0.75, 1.05),
        ambient_light=rng.uniform(0.28, 0.5),
        shirt=tuple(rng.uniform(0.08, 0.85, 3).tolist()),
        accessory_color=tuple(rng.uniform(0.05, 0.9, 3).tolist()),
        context_seed=int(rng.integers(1_000_000)),
    )


def _normal(rng: np.random.Generator, deviation: float, limit: float) -> float:
    """A normal number of mean 0, clipped at plus and minus `limit`."""
    return min(max(rng.normal(0.0, deviation), -limit), limit)


def sample_view(seed: int, identity: Identity | int, index: int) -> View:
    """Draws view `index` of a person; its kind is `KINDS[index % 3]` and it is never held out.

    Args:
        seed: The world's seed.
        identity: The person, or the person's index.
        index: Any number from 0.
    """
    person = identity.index if isinstance(identity, Identity) else identity
    rng = np.random.default_rng([seed, person, index, 29])
    view = sample_nuisances(rng)
    expression = _EXPRESSION_NAMES[int(np.searchsorted(_EXPRESSION_STEPS, rng.random(), side="right"))]
    style = TRAINING_STYLES[int(rng.integers(len(TRAINING_STYLES)))]
    contexts = [_CONTEXT_NAMES[place] for place in rng.permutation(len(_CONTEXT_NAMES))]
    outdoors = [name for name in contexts if name != "studio"]
    accessory = _ACCESSORY_NAMES[int(rng.integers(1, len(_ACCESSORY_NAMES)))]
    coin = rng.random(2)

    kind = KINDS[index % 3]
    if kind == "plain":
        return view.replace(expression=expression)
    if kind == "context":
        has_accessory = contexts[0] == "studio" or coin[0] < 0.5
        return view.replace(
            expression=expression, context=contexts[0], accessory=accessory if has_accessory else "none"
        )
    allowed = next(name for name in outdoors if (style, name) not in HELD_OUT_PAIRS)
    return view.replace(
        expression=expression,
        style=style,
        context=allowed if coin[0] < 1 / 2 else "studio",
        accessory=accessory if coin[1] < 1 / 3 else "none",
    )
