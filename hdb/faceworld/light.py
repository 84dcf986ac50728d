"""Light: a key light with soft shadows, a fill light from the camera and an ambient light."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from hdb.faceworld.appearance import Appearance
from hdb.faceworld.mesh import Material
from hdb.faceworld.rasterizer import barycentric, rasterize

_SCENE_CENTER = (0.0, 0.75 + 6.45, 0.65)
_SCENE_WIDTH = 3.6
_DISTANCE = 10.0
_NO_SHADOW = 1e3


@dataclass
class Surface:
    """Geometry at each of p covered pixels."""

    image: Int[Tensor, " p"]
    material: Int[Tensor, " p"]
    canonical: Float[Tensor, "p 3"]
    position: Float[Tensor, "p 3"]
    normal: Float[Tensor, "p 3"]
    toward_camera: Float[Tensor, "p 3"]
    occlusion: Float[Tensor, " p"]
    channels: Float[Tensor, "p 8"]
    depth: Float[Tensor, " p"]

    @property
    def in_mouth(self) -> Bool[Tensor, " p"]:
        """Which pixels show teeth or tongue. They cast and receive no shadow: closed lips would turn them black."""
        return (self.material >= Material.UPPER_TEETH) & (self.material <= Material.TONGUE)


@dataclass
class Paint:
    """Color, specular strength and gloss at each of p covered pixels."""

    albedo: Float[Tensor, "p 3"]
    specular: Float[Tensor, " p"]
    gloss: Float[Tensor, " p"]


class ShadowMap:
    """Distance from the key light to the first surface it meets, for each picture.

    Args:
        vertex_image: picture number of each vertex.
        triangle_image: picture number of each triangle.
        light: unit vector toward the key light of each picture.
        size: width and height of the map in pixels.
    """

    def __init__(
        self,
        positions: Float[Tensor, "v 3"],
        vertex_image: Int[Tensor, " v"],
        triangles: Int[Tensor, "t 3"],
        triangle_image: Int[Tensor, " t"],
        one_sided: Bool[Tensor, " t"],
        light: Float[Tensor, "n 3"],
        *,
        size: int,
    ) -> None:
        self.size = size
        self._light = light
        up = torch.tensor([0.0, 1.0, 0.0], device=light.device).expand_as(light)
        self._right = normalize(torch.linalg.cross(up, light), dim=1)
        self._up = torch.linalg.cross(light, self._right)
        screen = self._project(positions, vertex_image)
        pixel, triangle = rasterize(
            screen, triangles, triangle_image, num_images=len(light), size=size, one_sided=one_sided
        )
        corners = triangles.index_select(0, triangle)
        weights = barycentric(screen, corners, pixel, size=size)
        depth = screen[:, 2][corners].mul_(weights).sum(1)
        self._depth = torch.full((len(light) * size * size,), _NO_SHADOW, device=light.device)
        self._depth[pixel] = depth

    def _project(self, points: Tensor, image: Tensor) -> Tensor:
        scale = self.size / _SCENE_WIDTH
        local = points - torch.tensor(_SCENE_CENTER, device=points.device)
        right = (local * self._right.index_select(0, image)).sum(1)
        up = (local * self._up.index_select(0, image)).sum(1)
        toward = (local * self._light.index_select(0, image)).sum(1)
        return torch.stack([self.size / 2 + right * scale, self.size / 2 - up * scale, _DISTANCE - toward], 1)

    def lit(self, surface: Surface) -> Float[Tensor, " p"]:
        """Share of the key light that arrives, in quarters. Strands of hair close together do not shade each other."""
        place = self._project(surface.position + surface.normal * 0.03, surface.image)
        limit = place[:, 2] - 0.07 - 0.05 * (surface.material >= Material.HAIR)
        start = surface.image * (self.size * self.size)
        total = torch.zeros_like(limit)
        for dy in (-0.7, 0.7):
            row = (place[:, 1] + dy - 0.5).round().long().clamp(0, self.size - 1) * self.size + start
            for dx in (-0.7, 0.7):
                column = (place[:, 0] + dx - 0.5).round().long().clamp(0, self.size - 1)
                total += (self._depth.index_select(0, row + column) > limit).float()
        return torch.where(surface.in_mouth, 1.0, total * 0.25)


def shade(surface: Surface, paint: Paint, appearance: Appearance, lit: Float[Tensor, " p"]) -> Float[Tensor, "p 3"]:
    """Display color of each pixel, in [0, 1]: tone-mapped and gamma-encoded."""
    image = surface.image
    normal = torch.where(surface.in_mouth[:, None], surface.toward_camera, surface.normal)
    light = appearance.light.index_select(0, image)
    key, ambient = appearance.key_color.index_select(0, image), appearance.ambient_color.index_select(0, image)
    skin = ((surface.material == Material.SKIN) | (surface.material == Material.BEARD))[:, None]
    facing = (normal * light).sum(1)
    # Diffuse light wraps around, farthest in red: an approximation of scattering under the skin.
    wrap = torch.where(skin, normal.new_tensor([0.38, 0.20, 0.12]), normal.new_tensor([0.1, 0.1, 0.1]))
    diffuse = ((facing[:, None] + wrap) / (1 + wrap)).clamp(min=0)
    softened = torch.where(skin, torch.stack([lit**0.55, lit**0.85, lit], 1), lit[:, None])
    fill = (normal * normal.new_tensor([-0.35, 0.25, 0.9])).sum(1).clamp(min=0) * 0.16
    sky = 0.62 + 0.38 * normal[:, 1]
    half = normalize(light + surface.toward_camera, dim=1)
    highlight = (normal * half).sum(1).clamp(min=0) ** paint.gloss
    specular = paint.specular * highlight * lit * (facing > -0.1)
    grazing = (1 - (normal * surface.toward_camera).sum(1).clamp(0, 1)) ** 4
    occlusion = surface.occlusion[:, None]
    color = paint.albedo * (diffuse * softened * key + (ambient * sky[:, None] + fill[:, None]) * occlusion)
    color = color + specular[:, None] * key * 0.9 + grazing[:, None] * 0.10 * ambient * occlusion * skin
    color = color / (1 + 0.12 * color)
    return color.clamp(0, 1) ** (1 / 2.2)


def hair_highlight(surface: Surface, appearance: Appearance, strands: Tensor, pixels: Tensor) -> Float[Tensor, " h"]:
    """Specular strength of the hair at some pixels: a band across the strands.

    Source: Kajiya and Kay, Rendering Fur with Three Dimensional Textures, 1989, section 5.
    """
    normal, image = surface.normal[pixels], surface.image[pixels]
    half = normalize(appearance.light[image] + surface.toward_camera[pixels], dim=1)
    down = normal.new_tensor([0.0, -1.0, 0.0])
    along = normalize(down - normal * (normal * down).sum(1, keepdim=True), dim=1)
    across = (1 - (along * half).sum(1) ** 2).clamp(min=0).sqrt()
    return across**28 * 0.13 * (0.4 + 0.8 * strands)
