"""Renderer: pairs of person and view -> pictures, by geometry, visibility, paint, light and style, in this order."""

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
_ACCESSORY_PAINT = {  # share of the accessory's color, specular strength
    Material.FRAME: (0.15, 0.35),
    Material.FABRIC: (1.0, 0.03),
    Material.TRIM: (0.75, 0.03),
}
_UNIFORM_PAINT = {  # color, specular strength, gloss
    Material.UPPER_TEETH: ((0.80, 0.77, 0.70), 0.05, 40.0),
    Material.LOWER_TEETH: ((0.72, 0.69, 0.62), 0.05, 40.0),
    Material.TONGUE: ((0.42, 0.14, 0.13), 0.05, 20.0),
    Material.LASHES: ((0.02, 0.015, 0.01), 0.0, 10.0),
    Material.LENS: ((0.008, 0.008, 0.008), 0.25, 90.0),
    Material.METAL: ((0.85, 0.60, 0.12), 0.8, 25.0),
}


def detail(resolution: int) -> float:
    """How much of strands, strokes and grain is drawn: nothing at 64 px and below, all from 128 px."""
    return min(max(resolution / 64 - 1, 0.0), 1.0)


class Renderer:
    """Draws pictures, supersampled 2 x 2.

    Args:
        resolution: Width and height; meant for 64 and 128.
    """

    supersampling = 2

    def __init__(self, head: Head, *, resolution: int) -> None:
        if resolution < 16 or resolution % 2:
            raise ValueError(f"resolution is {resolution}, expected an even number of at least 16")
        self.head = head
        self.resolution = resolution
        self.size = resolution * self.supersampling
        # In a small picture five shells look like three, and take a fifth of its time.
        self.shells = 3 if resolution <= 64 else 5
        self.shadow_size = min(round(resolution * 1.5), 192)
        self.detail = detail(resolution)
        self._framing = head.framing
        eyes = {side: head.average[vertices] for side, vertices in head.eye_vertices.items()}
        self._eye_center = {side: (v.amin(0) + v.amax(0)) / 2 for side, v in eyes.items()}

    def draw(self, pairs: list[Pair]) -> Float[Tensor, "n 3 h w"]:
        """Pictures of people in [0, 1]. Batches of 8 to 32 are fastest; pictures of one person share geometry."""
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
        """One mesh per picture; what pictures of one person have in common is built once."""
        neutral: dict[int, Tensor] = {}
        hair: dict[tuple[int, bool], list[Mesh]] = {}
        faces: dict[tuple[int, str], list[Mesh]] = {}
        meshes = []
        for identity, view in pairs:
            person = id(identity)  # hashing an identity would hash two hundred numbers
            pressed = view.accessory in HEADWEAR
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
        skull = self.head.skull
        cut = Haircut.from_identity(identity, skull)
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
        mesh = scene.mesh
        material = mesh.materials
        one_sided = (material <= Material.RIGHT_EYE) | (material == Material.BEARD)
        # Hair on the skull hides its back; only hanging hair is visible from inside.
        lowest = mesh.canonical[:, 1][mesh.triangles].amax(1)
        one_sided |= (material == Material.HAIR) & (lowest <= 1)
        has_holes = (material == Material.HAIR) | (material == Material.BEARD) | (material == Material.LASHES)

        pixel, triangle = rasterize(
            scene.screen, mesh.triangles, scene.triangle_image,
            num_images=num_images, size=self.size, one_sided=one_sided, tested=has_holes,
            keep=_hair_fragments(scene, appearance),
        )  # fmt: skip
        corners = mesh.triangles.index_select(0, triangle)
        weights = barycentric(scene.screen, corners, pixel, size=self.size)
        position = scene.gather(mesh.positions, corners, weights)
        normal = normalize(scene.gather(mesh.normals, corners, weights), dim=1)
        toward_camera = normalize(torch.tensor(CAMERA, device=position.device) - position, dim=1)
        visible_material = material.index_select(0, triangle)
        turned = ((normal * toward_camera).sum(1) < 0) & (visible_material >= Material.HAIR)
        return pixel, Surface(
            image=scene.triangle_image.index_select(0, triangle),
            material=visible_material,
            canonical=scene.gather(mesh.canonical, corners, weights),
            position=position,
            normal=torch.where(turned[:, None], -normal, normal),
            toward_camera=toward_camera,
            occlusion=scene.gather(mesh.occlusion, corners, weights),
            channels=scene.gather(mesh.channels, corners, weights),
            depth=scene.gather(scene.screen[:, 2].contiguous(), corners, weights),
        )

    def _paint(self, surface: Surface, appearance: Appearance) -> Paint:
        count = len(surface.image)
        device = surface.image.device
        paint = Paint(
            albedo=torch.full((count, 3), 0.5, device=device),
            specular=torch.full((count,), 0.05, device=device),
            gloss=torch.full((count,), 18.0, device=device),
        )

        def select(material: Material) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            """Pixels of a material with their picture numbers, canonical points and channels."""
            pixels = torch.nonzero(surface.material == material).squeeze(1)
            return pixels, surface.image[pixels], surface.canonical[pixels], surface.channels[pixels]

        pixels, image, points, channels = select(Material.SKIN)
        albedo, specular, gloss = skin_albedo(appearance, image, points, channels)
        paint.albedo[pixels] = albedo
        paint.specular[pixels] = specular
        paint.gloss[pixels] = gloss
        for eye, side in ((Material.LEFT_EYE, 1.0), (Material.RIGHT_EYE, -1.0)):
            pixels, image, points, _ = select(eye)
            paint.albedo[pixels] = eye_albedo(appearance, image, points, center=self._eye_center[eye], side=side)
            paint.specular[pixels] = 0.85
            paint.gloss[pixels] = 120.0
        pixels, image, points, channels = select(Material.HAIR)
        curl = channels[:, Channel.CURL]
        seed = appearance.hair_seed[image]
        paint.albedo[pixels] = hair_albedo(points, curl, seed, appearance.hair_color[image], detail=self.detail)
        strands = strand_noise(points, curl, seed, across=34.0, along=2.0)
        paint.specular[pixels] = hair_highlight(surface, appearance, strands, pixels)
        paint.gloss[pixels] = 0.0
        pixels, image, points, channels = select(Material.BEARD)
        paint.albedo[pixels] = beard_albedo(points, channels[:, Channel.HEIGHT], appearance.hair_color[image])
        paint.specular[pixels] = 0.0
        for material, (factor, specular) in _ACCESSORY_PAINT.items():
            pixels, image, points, _ = select(material)
            ribs = 0.9 + 0.1 * torch.sin(points[:, :1] * 28) if material == Material.FABRIC else 1.0
            paint.albedo[pixels] = appearance.accessory_color[image] * factor * ribs
            paint.specular[pixels] = specular
            paint.gloss[pixels] = 40.0
        for material, (color, specular, gloss) in _UNIFORM_PAINT.items():
            pixels = torch.nonzero(surface.material == material).squeeze(1)
            paint.albedo[pixels] = torch.tensor(color, device=device)
            paint.specular[pixels] = specular
            paint.gloss[pixels] = gloss
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
        """Averages samples, lays the person over the context and redraws pictures of drawn styles."""
        count = len(pairs)
        size = self.size

        def dense(values: Tensor, empty: float = 0.0) -> Tensor:
            values = values.view(len(pixel), -1)
            picture = torch.full((count * size * size, values.shape[1]), empty, device=values.device)
            picture[pixel] = values
            return picture.view(count, size, size, -1).permute(0, 3, 1, 2)

        person = avg_pool2d(dense(torch.cat([color, torch.ones_like(color[:, :1])], 1)), self.supersampling)
        cover = person[:, 3:]
        contexts = [
            paint_context(view.context, seed=view.context_seed, size=self.resolution, device=color.device)
            for _, view in pairs
        ]
        pictures = (person[:, :3] + torch.stack(contexts) * (1 - cover)).clamp(0, 1)
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


def _hair_fragments(scene: Scene, appearance: Appearance) -> KeepFragments:
    """The test of which fragments of hair, beard and lashes exist: there are gaps between strands."""
    mesh = scene.mesh
    material = mesh.materials

    def keep(triangle: Tensor, weights: Tensor) -> Tensor:
        corners = mesh.triangles.index_select(0, triangle)
        fragment_material = material.index_select(0, triangle)
        exists = torch.zeros_like(fragment_material, dtype=torch.bool)
        for hair in (Material.HAIR, Material.BEARD, Material.LASHES):
            fragments = torch.nonzero(fragment_material == hair).squeeze(1)
            if len(fragments) == 0:
                continue
            hair_corners = corners.index_select(0, fragments)
            hair_weights = weights.index_select(0, fragments)
            points = scene.gather(mesh.canonical, hair_corners, hair_weights)
            if hair == Material.LASHES:
                exists[fragments] = lash_exists(points)
                continue
            channels = mesh.channels[:, : Channel.CURL + 1].contiguous()
            cover, height, curl = scene.gather(channels, hair_corners, hair_weights).unbind(1)
            if hair == Material.BEARD:
                exists[fragments] = beard_exists(points, cover, height)
            else:
                image = scene.triangle_image.index_select(0, triangle.index_select(0, fragments))
                exists[fragments] = hair_exists(
                    points, cover, height, curl, appearance.hair_seed.index_select(0, image)
                )
        return exists

    return keep
