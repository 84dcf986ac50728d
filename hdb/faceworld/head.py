"""Head: the CC0 head basis (mesh, morph targets, masks), and the grid on its skull that hair and hats are built on."""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from hdb.faces.framing import Framing
from hdb.faceworld.identity import LOCAL_REGIONS, NUM_ASYMMETRY, Identity
from hdb.faceworld.mesh import Channel, Material, Mesh, vertex_normals
from hdb.faceworld.noise import bump, smoothstep
from hdb.faceworld.view import EXPRESSIONS

BASIS_FILE = Path(__file__).with_name("head_basis.npz")
EYE_HEIGHT, EYE_DEPTH = 7.28, 1.22  # every head is moved so that its eyes are here, as those of the average head are
_UNUSED_GROUP = 7  # MakeHuman's hair helper: straps over the face
_SKULL_CENTER = (0.0, 7.5, 0.45)
_TEETH_RECESS, _TEETH_NARROWING = 0.08, 0.15
_NUM_LANDMARKS = 48


class SkullGrid:
    """57 azimuths x 16 polar rows on the skull, continued by 15 rows that hang freely.

    Column 28 is the front; row 0 is the crown, row 15 the rim at brow, ear and nape height.
    """

    columns, rows, hanging = 57, 16, 15

    def __init__(self, vertices: Tensor, skin: Tensor) -> None:
        device = vertices.device
        center = torch.tensor(_SKULL_CENTER, device=device)
        self.azimuth = torch.linspace(-math.pi, math.pi, self.columns, device=device)
        self.row = torch.linspace(0, 1, self.rows, device=device)
        polar = self._rim(self.azimuth)[:, None] * self.row
        azimuth = self.azimuth[:, None]
        self.directions = torch.stack(
            [torch.sin(polar) * torch.sin(azimuth), torch.cos(polar), torch.sin(polar) * torch.cos(azimuth)], -1
        )
        body = torch.nonzero(skin).squeeze(1)
        rays = normalize(vertices[body] - center, dim=1)
        closeness, nearest = (self.directions.reshape(-1, 3) @ rays.T).topk(6, dim=1)
        weight = torch.exp((closeness - 1) * 400)
        self._weight = (weight / weight.sum(1, keepdim=True).clamp(min=1e-9))[..., None]
        self._vertex = body[nearest]
        # The place of each vertex on the grid, so that skin is tinted up to the same hairline.
        ray = normalize(vertices - center, dim=1)
        self.vertex_azimuth = torch.atan2(ray[:, 0], ray[:, 2])
        self.vertex_row = torch.acos(ray[:, 1].clamp(-1, 1)) / self._rim(self.vertex_azimuth)

    @staticmethod
    def _rim(azimuth: Tensor) -> Tensor:
        """Polar angle of the last row: brows in front, below the ears at the sides, nape behind."""
        side = azimuth.abs()
        return torch.deg2rad(82 + 36 * smoothstep(0.7, 1.15, side) + 12 * smoothstep(1.6, 2.8, side))

    def place(self, positions: Float[Tensor, "v 3"]) -> Float[Tensor, "57 16 3"]:
        """The grid on a particular head."""
        return (positions[self._vertex] * self._weight).sum(1).view(self.columns, self.rows, 3)

    def at_vertices(self, values: Float[Tensor, " 57"]) -> Float[Tensor, " v"]:
        """Interpolates one value per azimuth to every vertex of the head."""
        place = (self.vertex_azimuth + math.pi) * ((self.columns - 1) / (2 * math.pi))
        left = place.floor().long().clamp(0, self.columns - 2)
        return torch.lerp(values[left], values[left + 1], place - left)


class Head:
    """The head basis: average mesh plus 330 sparse morph targets.

    positions = average + coefficients @ morphs, with coefficients from an identity's sliders and a view's expression.
    """

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        content = BASIS_FILE.read_bytes()
        self.digest = hashlib.sha256(content).hexdigest()
        with np.load(BASIS_FILE) as data:
            basis = {name: data[name] for name in data.files}
        self.device = torch.device(device)
        kept = basis["tg"] != _UNUSED_GROUP
        self.average = torch.tensor(basis["v"], device=device)
        self.triangles = torch.tensor(basis["tris"][kept].astype(np.int64), device=device)
        self.materials = torch.tensor(basis["tg"][kept].astype(np.int64), device=device)
        self.vertex_material = torch.tensor(basis["vg"].astype(np.int64), device=device)
        self.names = [str(name) for name in basis["names"]]
        self._column = {name: column for column, name in enumerate(self.names)}
        self._morphs = self._load_morphs(basis)
        masks = {
            name: torch.tensor(basis[f"mask_{name}"].astype(np.float32) / 255, device=device)
            for name in ("lips", "ears", "inside_mouth", "face")
        }
        skin = self.vertex_material == Material.SKIN
        scalp = skin & (masks["ears"] < 0.3) & (self.average[:, 1] > 6.2) & (masks["inside_mouth"] < 0.1)
        self.skull = SkullGrid(self.average, scalp)
        self.eye_vertices = {
            side: torch.nonzero(self.vertex_material == side).squeeze(1)
            for side in (Material.LEFT_EYE, Material.RIGHT_EYE)
        }
        self.beards = self._beard_masks(masks)
        # Teeth are moved inward: those of the basis penetrate thin chins and lips.
        teeth = (self.vertex_material == Material.UPPER_TEETH) | (self.vertex_material == Material.LOWER_TEETH)
        inward = torch.tensor([_TEETH_NARROWING, 0.0, 0.0], device=device) * self.average
        self._recess = teeth[:, None] * (inward + torch.tensor([0.0, 0.0, _TEETH_RECESS], device=device))
        self.occlusion = self._occlusion(basis["ao"])
        self.channels = torch.zeros(len(self.average), len(Channel), device=device)
        self.channels[:, Channel.LIPS] = masks["lips"]
        self.channels[:, Channel.MOUTH] = masks["inside_mouth"]
        self.channels[:, Channel.LIDS] = self._lash_line()
        self.framing = self._framing()
        self._index_sliders()
        self._expressions = {name: self._morphed(self._expression(units)) for name, units in EXPRESSIONS.items()}
        face = torch.nonzero(masks["face"] > 0.5).squeeze(1)
        points = face[torch.linspace(0, len(face) - 1, _NUM_LANDMARKS, device=device).round().long()]
        at_points = self._morphs.view(len(self.names), -1, 3)[:, points]
        # Sliders also move the whole head; centering leaves the shape alone.
        self._landmark_morphs = (at_points - at_points.mean(1, keepdim=True)).flatten(1).cpu().numpy()

    def _load_morphs(self, basis: dict[str, np.ndarray]) -> Float[Tensor, "m v3"]:
        morphs = np.zeros((len(self.names), len(self.average), 3), np.float32)
        for number, scale in enumerate(basis["sc"]):
            entries = slice(basis["ptr"][number], basis["ptr"][number + 1])
            morphs[number, basis["idx"][entries]] = basis["val"][entries].astype(np.float32) * scale
        return torch.tensor(morphs, device=self.device).reshape(len(self.names), -1)

    def _index_sliders(self) -> None:
        """Finds the columns of the positive and negative morph of each slider; -1 where there is no negative one."""
        local = [name[5:] for name in self.names if name.startswith("loc+/")]
        asymmetry = [name[6:] for name in self.names if name.startswith("asym+/")]
        regions = [name.split("/")[0] for name in local]
        expected = [region for region, count in LOCAL_REGIONS for _ in range(count)]
        if regions != expected or len(asymmetry) != NUM_ASYMMETRY:
            raise ValueError(
                f"{BASIS_FILE.name} has {len(local)} local and {len(asymmetry)} asymmetry sliders; expected "
                f"{len(expected)} in the order of LOCAL_REGIONS and {NUM_ASYMMETRY}"
            )
        sliders = [("loc", name) for name in local] + [("asym", name) for name in asymmetry]
        self._positive = np.array([self._column[f"{kind}+/{name}"] for kind, name in sliders])
        self._negative = np.array([self._column.get(f"{kind}-/{name}", -1) for kind, name in sliders])

    def _framing(self) -> Framing:
        """The square around the average face from the front, x to the right and y down from between the eyes."""
        sides = (Material.RIGHT_EYE, Material.LEFT_EYE)  # the person's right is on the left
        left, right = (self.average[self.eye_vertices[side]].mean(0) for side in sides)
        lips = self.average[self.channels[:, Channel.LIPS] > 0.5]
        mouth = lips[lips[:, 0].abs().argmax()]  # a corner, in the middle of the face
        eyes = (left + right) / 2
        flat = [((point - eyes)[:2] * point.new_tensor([1.0, -1.0])).cpu().numpy() for point in (left, right, mouth)]
        return Framing.around(flat[0], flat[1], np.array([0.0, flat[2][1]], np.float32))

    def _lash_line(self) -> Tensor:
        """1 on skin within 0.01 of an eyelash root, 0 beyond 0.06."""
        lashes = self.average[self.vertex_material == Material.LASHES]
        distance = torch.cdist(self.average, lashes).amin(1)
        return smoothstep(0.06, 0.01, distance) * (self.vertex_material == Material.SKIN)

    def _occlusion(self, baked: np.ndarray) -> Tensor:
        """Baked ambient occlusion. Eyes and teeth are set to constants: it was baked with lids and lips closed."""
        occlusion = torch.tensor(baked.astype(np.float32) / 255, device=self.device)
        group = self.vertex_material
        occlusion = torch.where((group >= Material.UPPER_TEETH) & (group <= Material.TONGUE), 0.85, occlusion)
        occlusion = torch.where((group == Material.LEFT_EYE) | (group == Material.RIGHT_EYE), 0.8, occlusion)
        return occlusion.clamp(min=0.22)

    def _beard_masks(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Where each kind of beard grows on the average head, (v,) in [0, 1]."""
        x, y, z = self.average[:, 0].abs(), self.average[:, 1], self.average[:, 2]
        free = ((self.vertex_material == Material.SKIN) & (masks["inside_mouth"] < 0.2) & (masks["ears"] < 0.2)).float()
        free = free * (1 - masks["lips"])
        jaw_top = smoothstep(7.05, 6.55, y - 0.25 * (x - 0.3).clamp(min=0) - 0.9 * smoothstep(0.5, 0.72, x))
        jaw = jaw_top * smoothstep(5.95, 6.2, y) * smoothstep(0.5, 0.75, z + 0.25 * (y < 6.4))
        cheek = 1 - bump(x - 0.36, 0.14) * smoothstep(6.62, 6.82, y)
        moustache = bump(y - 6.80, 0.085) * smoothstep(0.40, 0.26, x) * smoothstep(1.3, 1.42, z)
        chin = (
            smoothstep(0.27, 0.15, x) * smoothstep(6.53, 6.45, y) * smoothstep(6.02, 6.12, y) * smoothstep(1.0, 1.2, z)
        )
        link = bump(x - 0.27, 0.05) * smoothstep(6.85, 6.75, y) * smoothstep(6.4, 6.5, y) * smoothstep(1.2, 1.3, z)
        full = ((jaw * cheek + moustache).clamp(0, 1) * free).clamp(0, 1)
        goatee = ((chin + moustache * 0.9 + link) * free).clamp(0, 1)
        return {"moustache": moustache * free, "goatee": goatee, "short beard": full, "full beard": full}

    def _expression(self, units: dict[str, float]) -> np.ndarray:
        coefficients = np.zeros(len(self.names), np.float32)
        for unit, strength in units.items():
            for side in ("", "Left", "Right"):
                if f"au/{unit}{side}" in self._column:
                    coefficients[self._column[f"au/{unit}{side}"]] = strength
        return coefficients

    def _morphed(self, coefficients: np.ndarray) -> Float[Tensor, "v 3"]:
        return (torch.tensor(coefficients, device=self.device) @ self._morphs).view(-1, 3)

    def coefficients(self, identity: Identity) -> np.ndarray:
        """Morph strengths (330,) of a neutral face."""
        coefficients = np.zeros(len(self.names), np.float32)
        sliders = np.array((*identity.local, *identity.asymmetry), np.float32)
        coefficients[self._positive] = sliders.clip(min=0)
        two_sided = self._negative >= 0
        coefficients[self._negative[two_sided]] = (-sliders[two_sided]).clip(min=0)
        for sex, sex_weight in (("male", identity.gender), ("female", 1 - identity.gender)):
            for age, age_weight in (("young", 1 - identity.age), ("old", identity.age)):
                share = sex_weight * age_weight
                for origin, weight in zip(("african", "asian", "caucasian"), identity.ancestry, strict=True):
                    coefficients[self._column[f"macro/{origin}-{sex}-{age}"]] = share * weight
                thin, heavy = max(0.0, -identity.weight), max(0.0, identity.weight)
                coefficients[self._column[f"macro/universal-{sex}-{age}-minweight"]] = share * thin
                coefficients[self._column[f"macro/universal-{sex}-{age}-maxweight"]] = share * heavy
        return coefficients

    @property
    def num_landmark_values(self) -> int:
        """Length of `landmarks`."""
        return self._landmark_morphs.shape[1]

    def landmarks(self, identity: Identity) -> np.ndarray:
        """Offsets of 48 points of the face from the average head, float32 (144,), for comparing people."""
        return self.coefficients(identity) @ self._landmark_morphs

    def neutral(self, identity: Identity) -> Float[Tensor, "v 3"]:
        """Vertex positions of a neutral face, with the eyes at a fixed place."""
        positions = self.average + self._morphed(self.coefficients(identity))
        eyes = positions[torch.cat(list(self.eye_vertices.values()))].mean(0)
        return positions - self._recess - eyes + torch.tensor([0.0, EYE_HEIGHT, EYE_DEPTH], device=self.device)

    def mesh(self, positions: Tensor, *, hairline: Tensor | None, beard: str) -> Mesh:
        """The head without hair and beard.

        Args:
            positions: of the vertices, (v, 3), as `neutral` and `express` give them.
            hairline: how far hair reaches down each column of the skull's grid, (57,) in [0, 1] from crown to rim; None
                for a bald head.
            beard: one of `beards`, the skin of whose region is painted. Any other name takes the region of a full
                beard; how dark it is painted is the renderer's.
        """
        channels = self.channels.clone()
        channels[:, Channel.BEARD] = self.beards.get(beard, self.beards["full beard"])
        channels[:, Channel.SCALP] = -1.0  # outside of the hairline; inside of it this is positive
        if hairline is not None:
            inside = self.skull.at_vertices(hairline) - self.skull.vertex_row
            channels[:, Channel.SCALP] = torch.where(self.skull.vertex_row < 1.05, inside, -1.0)
        return Mesh(
            positions=positions,
            canonical=self.average,
            normals=vertex_normals(positions, self.triangles),
            occlusion=self.occlusion,
            channels=channels,
            triangles=self.triangles,
            materials=self.materials,
        )

    def express(self, neutral: Float[Tensor, "v 3"], expression: str) -> Float[Tensor, "v 3"]:
        """Adds an expression's offsets."""
        return neutral + self._expressions[expression]
