"""Identity: everything that is the same in all pictures of one person who does not exist.

All random numbers are drawn before any is selected, so that a new branch does not shift the draws after it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

HAIR_STYLES = (
    "bald", "buzz cut", "short", "side part", "slicked back", "fringe", "bob",
    "long straight", "long wavy", "curly", "afro", "mohawk", "bun", "receding",
)  # fmt: skip
HAIR_COLORS = {
    "black": (0.030, 0.025, 0.020),
    "dark brown": (0.090, 0.050, 0.030),
    "brown": (0.220, 0.120, 0.060),
    "light brown": (0.420, 0.260, 0.130),
    "dark blond": (0.500, 0.340, 0.160),
    "blond": (0.680, 0.520, 0.290),
    "red": (0.360, 0.100, 0.030),
    "grey": (0.360, 0.360, 0.370),
    "white": (0.720, 0.710, 0.690),
}
BEARDS = ("none", "stubble", "moustache", "goatee", "short beard", "full beard")

# Standard deviation of the local sliders by region of the head. Larger values give caricatures.
_LOCAL_SD = {
    "head": 0.20, "forehead": 0.28, "eyebrows": 0.32, "eyes": 0.33, "nose": 0.31,
    "mouth": 0.27, "ears": 0.32, "chin": 0.24, "cheek": 0.32, "neck": 0.26,
}  # fmt: skip
# Number of sliders per region, in the order of head_basis.npz. `Head` checks them against the file.
LOCAL_REGIONS = (
    ("head", 13), ("forehead", 3), ("eyebrows", 3), ("eyes", 17), ("nose", 20),
    ("mouth", 21), ("ears", 13), ("chin", 7), ("cheek", 4), ("neck", 5),
)  # fmt: skip
NUM_ASYMMETRY = 29
_REGION_RMS_LIMIT = 1.1  # in standard deviations; many extreme sliders in one region give a caricature

_IRIS_COLORS = np.array(
    [(0.22, 0.11, 0.05), (0.35, 0.19, 0.08), (0.45, 0.33, 0.15), (0.25, 0.38, 0.22),
     (0.22, 0.40, 0.60), (0.42, 0.52, 0.58), (0.10, 0.06, 0.04)]
)  # fmt: skip


@dataclass(frozen=True)
class Brow:
    """Painted eyebrow, in units of the canonical head (the face is about 1.5 wide)."""

    height: float
    thickness: float
    arch: float
    tilt: float
    gap: float
    length: float
    density: float


@dataclass(frozen=True)
class Identity:
    """One person: continuous parameters of shape and color, and a few categories.

    `local` and `asymmetry` are slider values of `head_basis.npz`; `ancestry`, `gender`, `age` and `weight` are its
    macro axes: axes of a shape space. Of these only age is ever said in captions.
    """

    index: int
    ancestry: tuple[float, float, float]
    gender: float
    age: float
    weight: float
    local: tuple[float, ...]
    asymmetry: tuple[float, ...]
    melanin: float
    redness: float
    freckles: float
    skin_seed: int
    moles: tuple[tuple[float, float, float], ...]
    iris_color: tuple[float, float, float]
    iris_radius: float
    lip_tint: tuple[float, float]
    lipstick: float
    brow: Brow
    hair_style: str
    hair_color_name: str
    hair_color: tuple[float, float, float]
    hair_volume: float
    hair_length: float
    hair_part: float
    hairline: float
    hair_seed: int
    beard: str
    beard_length: float

    @cached_property
    def shape_vector(self) -> np.ndarray:
        """All parameters of the shape, float32 (141,): 106 local sliders, 29 asymmetries, 6 macro axes."""
        macro = (*self.ancestry, self.gender, self.age, self.weight)
        return np.array((*self.local, *self.asymmetry, *macro), dtype=np.float32)


def _sample_local(rng: np.random.Generator) -> np.ndarray:
    """Local sliders (106,): normal, clipped at two deviations, no region above the RMS limit."""
    regions = []
    for region, count in LOCAL_REGIONS:
        z = rng.normal(size=count).clip(-2.0, 2.0)
        rms = np.sqrt((z**2).mean())
        regions.append(z * min(1.0, _REGION_RMS_LIMIT / rms) * _LOCAL_SD[region])
    return np.concatenate(regions).clip(-0.9, 0.9)


def _choice(rng: np.random.Generator, weights: np.ndarray) -> int:
    """Index drawn in proportion to `weights`, with one random number."""
    steps = np.cumsum(weights) / np.sum(weights)
    return int(np.searchsorted(steps, rng.random(), side="right").clip(0, len(weights) - 1))


def _hair_style_weights(*, male: bool, old: bool, melanin: float) -> np.ndarray:
    if male:
        weights = np.array([0.7, 1, 1.6, 1.5, 1, 0.9, 0.15, 0.25, 0.15, 0.8, 0.5, 0.3, 0.2, 1.0 if old else 0.3])
    else:
        weights = np.array([0.05, 0.12, 0.5, 0.5, 0.7, 1, 1.6, 1.9, 1.7, 1, 0.5, 0.1, 1.1, 0])
    if melanin > 0.6:
        weights = weights * np.array([1, 1.5, 1, 0.4, 0.6, 0.5, 0.6, 0.6, 0.8, 2, 4, 1, 1, 1])
    return weights


def _hair_color_weights(*, old: bool, melanin: float) -> np.ndarray:
    weights = np.array([0.2, 0.2, 0.17, 0.1, 0.1, 0.07, 0.06, 0.03, 0.02])
    if melanin > 0.5:
        weights = weights * np.array([4, 3, 1, 0.2, 0.1, 0.05, 0.05, 1, 1])
    if old:
        weights = weights * np.array([0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 9, 9])
    return weights


def sample_identity(seed: int, index: int, *, attempt: int = 0) -> Identity:
    """Draws person `index` of world `seed`; `attempt` counts candidates that were rejected as near twins.

    >>> sample_identity(0, 7) == sample_identity(0, 7)
    True
    >>> sample_identity(0, 7) == sample_identity(0, 8)
    False
    """
    rng = np.random.default_rng([seed, index, attempt, 11])
    ancestry = rng.dirichlet([0.55] * 3)
    male_side = rng.random() < 0.5
    gender = float(np.clip((0.92 if male_side else 0.08) + rng.normal(0, 0.1), 0, 1))
    male = gender > 0.5
    age = float(rng.beta(1.2, 2.0))
    old = age > 0.6
    weight = float(np.clip(rng.normal(0, 0.42), -1, 1))
    local = _sample_local(rng)
    asymmetry = rng.normal(0, 0.18, NUM_ASYMMETRY).clip(-0.45, 0.45)
    melanin = float(np.clip(ancestry @ np.array([0.82, 0.38, 0.16]) + rng.normal(0, 0.09), 0.02, 1))

    iris_weights = np.array([0.30, 0.22, 0.12, 0.1, 0.14, 0.07, 0.05])
    if melanin > 0.5:
        iris_weights = iris_weights * np.array([1, 1, 0.3, 0.08, 0.05, 0.03, 3])
    iris = _IRIS_COLORS[_choice(rng, iris_weights)] * rng.uniform(0.8, 1.2)
    color_name = tuple(HAIR_COLORS)[_choice(rng, _hair_color_weights(old=old, melanin=melanin))]
    hair_color = (np.array(HAIR_COLORS[color_name]) * rng.uniform(0.85, 1.2, 3)).clip(0, 1)
    hair_style = HAIR_STYLES[_choice(rng, _hair_style_weights(male=male, old=old, melanin=melanin))]
    beard = BEARDS[_choice(rng, np.array([0.42, 0.2, 0.1, 0.1, 0.1, 0.08]))]
    lipstick = (rng.random() < 0.45) * rng.uniform(0.3, 0.9)
    freckles = max(0.0, float(rng.normal(-0.3, 0.5)))
    moles = tuple(
        zip(rng.uniform(-0.55, 0.55, 3), rng.uniform(6.35, 7.9, 3), rng.uniform(0.012, 0.028, 3), strict=True)
    )
    num_moles = int(rng.integers(0, 4))
    brow = Brow(
        height=rng.uniform(-0.035, 0.05),
        thickness=rng.uniform(0.022, 0.05) * (1.15 if male else 0.85),
        arch=rng.uniform(0.0, 0.07),
        tilt=rng.uniform(-0.08, 0.10),
        gap=rng.uniform(0.07, 0.14),
        length=rng.uniform(0.38, 0.47),
        density=rng.uniform(0.65, 1.0),
    )
    return Identity(
        index=index,
        ancestry=tuple(map(float, ancestry)),
        gender=gender,
        age=age,
        weight=weight,
        local=tuple(map(float, local)),
        asymmetry=tuple(map(float, asymmetry)),
        melanin=melanin,
        redness=float(rng.uniform()),
        freckles=freckles if melanin < 0.35 else 0.0,
        skin_seed=int(rng.integers(977)),
        moles=tuple(tuple(map(float, mole)) for mole in moles[:num_moles]),
        iris_color=tuple(map(float, iris)),
        iris_radius=float(rng.uniform(0.44, 0.52)),
        lip_tint=tuple(map(float, rng.uniform(0, 1, 2))),
        lipstick=0.0 if male else float(lipstick),
        brow=brow,
        hair_style=hair_style,
        hair_color_name=color_name,
        hair_color=tuple(map(float, hair_color)),
        hair_volume=float(rng.uniform(0.06, 0.16)),
        hair_length=float(rng.uniform(0.15, 0.75)),
        hair_part=float((1 if rng.random() < 0.5 else -1) * rng.uniform(0.2, 0.7)),
        hairline=float(rng.uniform(-0.05, 0.06)),
        hair_seed=int(rng.integers(9973)),
        beard=beard if male else "none",
        beard_length=float(rng.uniform(0.04, 0.10)),
    )
