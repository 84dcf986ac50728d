"""Appearance: what shading needs of each picture's person and view, one row per picture."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hdb.faceworld.beard import SHADE
from hdb.faceworld.contexts import LIGHTS
from hdb.faceworld.identity import Identity
from hdb.faceworld.view import View


@dataclass
class Appearance:
    """Columns over n pictures: floats (n,), colors (n, 3). Index with the picture number of each pixel."""

    melanin: Tensor
    redness: Tensor
    age: Tensor
    freckles: Tensor
    skin_seed: Tensor
    moles: Tensor  # (n, 3, 3): x, y, radius; unused ones lie far away
    lip_color: Tensor
    lipstick: Tensor
    brow: Tensor  # (n, 7) in the order of `Brow`
    brow_color: Tensor
    iris_color: Tensor
    iris_radius: Tensor
    gaze: Tensor
    hair_color: Tensor
    hair_seed: Tensor
    scalp_shade: Tensor
    beard_shade: Tensor
    shirt: Tensor
    accessory_color: Tensor
    light: Tensor  # (n, 3) unit vector toward the key light
    key_color: Tensor
    ambient_color: Tensor

    @classmethod
    def from_pairs(cls, pairs: list[tuple[Identity, View]], *, device: torch.device) -> "Appearance":
        """Rows for pairs of person and view."""
        rows = [_row(identity, view) for identity, view in pairs]
        columns = {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
        return cls(**{name: torch.tensor(column, device=device) for name, column in columns.items()})


def _row(identity: Identity, view: View) -> dict[str, object]:
    brow = identity.brow
    hair = np.array(identity.hair_color)
    tint = np.array([0.62, 0.30, 0.27])
    tone = identity.lip_tint
    moles = [*identity.moles, *[(9.0, 9.0, 0.01)] * 3][:3]
    surroundings = LIGHTS[view.context]
    warmth = view.warmth
    key = surroundings.key if surroundings.key else view.key_light * np.array([1 + warmth, 1.0, 1 - warmth])
    ambient = surroundings.ambient or view.ambient_light * np.array([1 - warmth / 2, 1.0, 1 + warmth / 2])
    elevation = view.light_elevation if surroundings.elevation is None else surroundings.elevation
    azimuth = view.light_azimuth
    return {
        "melanin": identity.melanin,
        "redness": identity.redness,
        "age": identity.age,
        "freckles": identity.freckles,
        "skin_seed": identity.skin_seed,
        "moles": moles,
        "lip_color": 0.75 * tint + 0.25 * np.array([0.45 + 0.3 * tone[0], 0.2, 0.2 + 0.15 * tone[1]]),
        "lipstick": identity.lipstick,
        "brow": (brow.height, brow.thickness, brow.arch, brow.tilt, brow.gap, brow.length, brow.density),
        "brow_color": np.minimum(hair, 0.4) * 0.55,
        "iris_color": identity.iris_color,
        "iris_radius": identity.iris_radius,
        "gaze": view.gaze,
        "hair_color": hair,
        "hair_seed": identity.hair_seed,
        "scalp_shade": {"bald": 0.0, "receding": 0.45, "buzz cut": 0.8, "mohawk": 0.5}.get(identity.hair_style, 0.9),
        "beard_shade": SHADE[identity.beard] if identity.gender > 0.5 else 0.0,
        "shirt": np.array(view.shirt) ** 1.6,
        "accessory_color": np.array(view.accessory_color) ** 1.4,
        "light": (np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)),
        "key_color": key,
        "ambient_color": ambient,
    }
