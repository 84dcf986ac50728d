"""Renderer: pairs of person and view -> pictures. Geometry, then visibility, then paint and light, then style."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from hdb.faceworld.accessories import HEADWEAR, accessory_mesh
from hdb.faceworld.appearance import Appearance
from hdb.faceworld.beard import beard_albedo, beard_exists, beard_mesh
from hdb.faceworld.contexts import paint_context
from hdb.faceworld.eyes import eye_albedo, lash_exists
from hdb.faceworld.hair import Haircut, hair_albedo, hair_exists, hair_mesh, strand_noise
from hdb.faceworld.head import Head
from hdb.faceworld.identity import Identity
from hdb.faceworld.light import Paint, ShadowMap, Surface, hair_highlight, shade
from hdb.faceworld.mesh import Channel, Material, Mesh
from hdb.faceworld.rasterizer import KeepFragments, barycentric, rasterize
from hdb.faceworld.scene import CAMERA, Pair, Scene
from hdb.faceworld.skin import skin_albedo
from hdb.faceworld.styles import DRAWN_STYLES, STATUES, Drawing, carve, draw, outlines

_FAR = 12.0
_PLAIN = {  # materials of one color: color, specular strength, gloss
    Material.UPPER_TEETH: ((0.80, 0.77, 0.70), 0.05, 40.0),
    Material.LOWER_TEETH: ((0.72, 0.69, 0.62), 0.05, 40.0),
    Material.TONGUE: ((0.42, 0.14, 0.13), 0.05, 20.0),
    Material.LASHES: ((0.02, 0.015, 0.01), 0.0, 10.0),
    Material.LENS: ((0.008, 0.008, 0.008), 0.25, 90.0),
    Material.METAL: ((0.85, 0.60, 0.12), 0.8, 25.0),
}


def detail(resolution: int) -> float:
    """How much of strands, strokes and grain a picture can carry: nothing at 64 px and below, all from 128 px."""
    return min(max(resolution / 64 - 1, 0.0), 1.0)


class Renderer:
    """Draws pictures of `resolution` pixels, supersampled 2 x 2.

    Args:
        head: The head basis.
        resolution: Width and height; 64 or 128 look as intended.
    """

    supersampling = 2

    def __init__(self, head: Head, *, resolution: int) -> None:
        if resolution < 16 or resolution % 2:
            raise ValueError(f"resolution is {resolution}, expected an even number of at least 16")
        self.head, self.resolution = head, resolution
        self.size = resolution * self.supersampling
        # Five shells cannot be told from three in a small picture, and cost a fifth of its time.
        self.shells = 3 if resolution <= 64 else 5
        self.shadow_size = min(round(resolution * 1.5), 192)
        self.detail = detail(resolution)
        self._framing = head.framing
        eyes = {side: head.average[vertices] for side, vertices in head.eye_vertices.items()}
        self._eye_center = {side: (v.amin(0) + v.amax(0)) / 2 for side, v in eyes.items()}

    def draw(self, pairs: list[Pair]) -> Float[Tensor, "n 3 h w"]:
        """Pictures of people, in order, in [0, 1]. A batch of 8 to 32 is fastest; people in a row share geometry."""
        scene = Scene(self._meshes(pairs), pairs, size=self.size, framing=self._framing)
        appearance = Appearance.from_pairs(pairs, device=self.head.device)
        pixel, surface = self._visible(scene, appearance, len(pairs))
        paint = self._paint(surface, appearance)
        for number, (_, view) in enumerate(pairs):
            if view.style in STATUES:
                carve(paint, surface, view.style, torch.nonzero(surface.image == number).squeeze(1), detail=self.detail)
        shadows = self._shadows(scene, appearance)
        color = shade(surface, paint, appearance, shadows.lit(surface))
        return self._finish(pairs, pixel, surface, color)

    def _meshes(self, pairs: list[Pair]) -> list[Mesh]:
        """One mesh per picture; what two pictures of a person have in common is built once."""
        neutral: dict[int, Tensor] = {}
        hair: dict[tuple[int, bool], list[Mesh]] = {}
        faces: dict[tuple[int, str], list[Mesh]] = {}
        meshes = []
        for identity, view in pairs:
            # Keyed by object, not by value: comparing people compares two hundred numbers.
            person, pressed = id(identity), view.accessory in HEADWEAR
            if person not in neutral:
                neutral[person] = self.head.neutral(identity)
            if (person, pressed) not in hair:
                hair[person, pressed] = self._hair(identity, neutral[person], pressed=pressed)
            if (person, view.expression) not in faces:
                faces[person, view.expression] = self._face(identity, neutral[person], view.expression)
            face = faces[person, view.expression]
            meshes.append(Mesh.join(face + hair[person, pressed] + accessory_mesh(view, self.head, face[0].positions)))
        return meshes

    def _hair(self, identity: Identity, neutral: Tensor, *, pressed: bool) -> list[Mesh]:
        cut, skull = Haircut.from_identity(identity, self.head.skull), self.head.skull
        if cut is None:
            return []
        return [hair_mesh(identity, cut, skull, skull.place(neutral), shells=self.shells, pressed=pressed)]

    def _face(self, identity: Identity, neutral: Tensor, expression: str) -> list[Mesh]:
        cut = Haircut.from_identity(identity, self.head.skull)
        positions = self.head.express(neutral, expression)
        face = self.head.mesh(positions, hairline=None if cut is None else cut.reach, beard=identity.beard)
        beard = beard_mesh(identity, self.head, positions, face.normals, shells=3)
        return [face] if beard is None else [face, beard]

    def _visible(self, scene: Scene, appearance: Appearance, num_images: int) -> tuple[Tensor, Surface]:
        mesh, material = scene.mesh, scene.mesh.materials
        one_sided = (material <= Material.RIGHT_EYE) | (material == Material.BEARD)
        # Hair on the skull hides its own back; only hanging hair is seen from inside.
        lowest = mesh.canonical[:, 1][mesh.triangles].amax(1)
        one_sided |= (material == Material.HAIR) & (lowest <= 1)
        holed = (material == Material.HAIR) | (material == Material.BEARD) | (material == Material.LASHES)

        pixel, triangle = rasterize(
            scene.screen, mesh.triangles, scene.triangle_image,
            num_images=num_images, size=self.size, one_sided=one_sided, tested=holed, keep=_grown(scene, appearance),
        )  # fmt: skip
        corners = mesh.triangles.index_select(0, triangle)
        weights = barycentric(scene.screen, corners, pixel, size=self.size)
        position = scene.gather(mesh.positions, corners, weights)
        normal = normalize(scene.gather(mesh.normals, corners, weights), dim=1)
        toward_camera = normalize(torch.tensor(CAMERA, device=position.device) - position, dim=1)
        kind = material.index_select(0, triangle)
        turned = ((normal * toward_camera).sum(1) < 0) & (kind >= Material.HAIR)
        return pixel, Surface(
            image=scene.triangle_image.index_select(0, triangle),
            material=kind,
            canonical=scene.gather(mesh.canonical, corners, weights),
            position=position,
            normal=torch.where(turned[:, None], -normal, normal),
            toward_camera=toward_camera,
            occlusion=scene.gather(mesh.occlusion, corners, weights),
            channels=scene.gather(mesh.channels, corners, weights),
            depth=scene.gather(scene.screen[:, 2].contiguous(), corners, weights),
        )

    def _paint(self, surface: Surface, appearance: Appearance) -> Paint:
        count, device = len(surface.image), surface.image.device
        paint = Paint(
            torch.full((count, 3), 0.5, device=device),
            torch.full((count,), 0.05, device=device),
            torch.full((count,), 18.0, device=device),
        )

        def select(material: Material) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            which = torch.nonzero(surface.material == material).squeeze(1)
            picked = (values.index_select(0, which) for values in (surface.image, surface.canonical, surface.channels))
            return which, *picked

        which, image, points, channels = select(Material.SKIN)
        paint.albedo[which], paint.specular[which], paint.gloss[which] = skin_albedo(
            appearance, image, points, channels
        )
        for eye, side in ((Material.LEFT_EYE, 1.0), (Material.RIGHT_EYE, -1.0)):
            which, image, points, _ = select(eye)
            paint.albedo[which] = eye_albedo(appearance, image, points, center=self._eye_center[eye], side=side)
            paint.specular[which], paint.gloss[which] = 0.85, 120.0
        which, image, points, channels = select(Material.HAIR)
        curl, seed = channels[:, Channel.CURL], appearance.hair_seed[image]
        paint.albedo[which] = hair_albedo(points, curl, seed, appearance.hair_color[image], detail=self.detail)
        strands = strand_noise(points, curl, seed, across=34.0, along=2.0)
        paint.specular[which], paint.gloss[which] = hair_highlight(surface, appearance, strands, which), 0.0
        which, image, points, channels = select(Material.BEARD)
        paint.albedo[which] = beard_albedo(points, channels[:, Channel.HEIGHT], appearance.hair_color[image])
        paint.specular[which] = 0.0
        for accent, factor, specular in (
            (Material.FRAME, 0.15, 0.35),
            (Material.FABRIC, 1.0, 0.03),
            (Material.TRIM, 0.75, 0.03),
        ):
            which, image, points, _ = select(accent)
            ribs = 0.9 + 0.1 * torch.sin(points[:, :1] * 28) if accent == Material.FABRIC else 1.0
            paint.albedo[which] = appearance.accessory_color[image] * factor * ribs
            paint.specular[which], paint.gloss[which] = specular, 40.0
        for material, (color, specular, gloss) in _PLAIN.items():
            which = torch.nonzero(surface.material == material).squeeze(1)
            paint.albedo[which] = torch.tensor(color, device=device)
            paint.specular[which], paint.gloss[which] = specular, gloss
        return paint

    def _shadows(self, scene: Scene, appearance: Appearance) -> ShadowMap:
        material = scene.mesh.materials
        outer = scene.mesh.channels[:, Channel.HEIGHT].index_select(0, scene.mesh.triangles[:, 0]) > 0.99
        casts = (material == Material.SKIN) | ((material == Material.HAIR) & outer)
        casts |= (material >= Material.FRAME) & (material != Material.LENS)
        triangles = scene.mesh.triangles[casts]
        return ShadowMap(
            scene.mesh.positions, scene.vertex_image, triangles, scene.triangle_image[casts],
            material[casts] == Material.SKIN, appearance.light, size=self.shadow_size,
        )  # fmt: skip

    def _finish(self, pairs: list[Pair], pixel: Tensor, surface: Surface, color: Tensor) -> Tensor:
        """Averages samples, lays the person over the surroundings and redraws what is drawn."""
        count, size = len(pairs), self.size

        def dense(values: Tensor, empty: float = 0.0) -> Tensor:
            values = values.view(len(pixel), -1)
            picture = torch.full((count * size * size, values.shape[1]), empty, device=values.device)
            picture[pixel] = values
            return picture.view(count, size, size, -1).permute(0, 3, 1, 2)

        person = avg_pool2d(dense(torch.cat([color, torch.ones_like(color[:, :1])], 1)), self.supersampling)
        cover = person[:, 3:]
        behind = torch.stack([
            paint_context(view.context, seed=view.context_seed, size=self.resolution, device=color.device)
            for _, view in pairs
        ])  # fmt: skip
        pictures = (person[:, :3] + behind * (1 - cover)).clamp(0, 1)
        drawn = [number for number, (_, view) in enumerate(pairs) if view.style in DRAWN_STYLES]
        if drawn:
            layers = (dense(surface.depth, _FAR), dense(surface.normal), dense(surface.material.float() + 1))
            edges = outlines(*(layer[drawn] for layer in layers), size=self.resolution)
            for number, edge in zip(drawn, edges, strict=True):
                view = pairs[number][1]
                one = slice(number, number + 1)
                pictures[one] = draw(
                    view.style, Drawing(pictures[one], edge[None], cover[one], view.context_seed % 9973, self.detail)
                )
        return pictures


def _grown(scene: Scene, appearance: Appearance) -> KeepFragments:
    """Which fragments of hair, beard and lashes are there: between strands one sees through."""
    mesh, material = scene.mesh, scene.mesh.materials

    def keep(triangle: Tensor, weights: Tensor) -> Tensor:
        corners = mesh.triangles.index_select(0, triangle)
        kind = material.index_select(0, triangle)
        exists = torch.zeros_like(kind, dtype=torch.bool)
        for sort in (Material.HAIR, Material.BEARD, Material.LASHES):
            which = torch.nonzero(kind == sort).squeeze(1)
            if len(which) == 0:
                continue
            at, weight = corners.index_select(0, which), weights.index_select(0, which)
            points = scene.gather(mesh.canonical, at, weight)
            if sort == Material.LASHES:
                exists[which] = lash_exists(points)
                continue
            grown = scene.gather(mesh.channels[:, : Channel.CURL + 1].contiguous(), at, weight)
            cover, height, curl = grown.unbind(1)
            if sort == Material.BEARD:
                exists[which] = beard_exists(points, cover, height)
            else:
                image = scene.triangle_image.index_select(0, triangle.index_select(0, which))
                exists[which] = hair_exists(points, cover, height, curl, appearance.hair_seed.index_select(0, image))
        return exists

    return keep
