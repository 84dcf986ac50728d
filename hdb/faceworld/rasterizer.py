"""Rasterizer: the visible triangle at every pixel of a batch of pictures, in plain tensor operations.

Each triangle is cut into the rows of pixels that it crosses, each row into the pixels between two edges. Depth and
number of the triangle form one int64 key, and a scatter-minimum chooses: the result does not depend on the order.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_DEPTH_STEPS = 4e5  # per unit of depth; key = depth << 32 | triangle, so depth must stay below 5000
_EMPTY = torch.iinfo(torch.int64).max
_SLACK = 1e-3  # pixels; triangles that share an edge round differently, and would leave cracks without an overlap

KeepFragments = Callable[[Tensor, Tensor], Tensor]


def _span(edges: list[tuple[Tensor, Tensor, Tensor]], height: Tensor) -> tuple[Tensor, Tensor]:
    """Interval of x in which a x + b y + c >= 0 for all three edges of a triangle, at y = `height`."""
    lower = torch.full_like(height, -1e9)
    upper = torch.full_like(height, 1e9)
    for a, b, c in edges:
        crossing = -(b * height + c) / a
        lower = torch.where(a > 0, torch.maximum(lower, crossing), lower)
        upper = torch.where(a < 0, torch.minimum(upper, crossing), upper)
    return lower, upper


class _Fragments:
    """Triangles cut into fragments: pixel number, key and barycentric weights of each.

    Args:
        screen: x, y and depth of all vertices.
        corners: vertex numbers of the triangles' first, second and third corners.
        numbers: of the triangles, for the keys.
        image: picture number of each triangle.
    """

    def __init__(
        self, screen: list[Tensor], corners: list[Tensor], numbers: Tensor, image: Tensor, *, size: int
    ) -> None:
        x, y, z = ([column.index_select(0, corner) for corner in corners] for column in screen)
        area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
        inverse = 1 / area
        # Barycentric weight of the second and third corner as planes a x + b y + c.
        planes = []
        for i, j, sign in ((0, 2, 1.0), (0, 1, -1.0)):
            a = (y[j] - y[i]) * inverse * sign
            b = (x[i] - x[j]) * inverse * sign
            planes.append((a, b, -(a * x[0] + b * y[0])))
        (a1, b1, c1), (a2, b2, c2) = planes
        edges = [*planes, (-a1 - a2, -b1 - b2, 1 - c1 - c2)]
        top = torch.ceil(torch.minimum(torch.minimum(y[0], y[1]), y[2]) - 0.5).clamp(min=0)
        bottom = torch.floor(torch.maximum(torch.maximum(y[0], y[1]), y[2]) - 0.5).clamp(max=size - 1)
        num_rows = (bottom - top + 1).clamp(min=0).long()
        triangle = torch.repeat_interleave(num_rows)
        first_row = num_rows.cumsum(0) - num_rows
        row = top.index_select(0, triangle) + (torch.arange(len(triangle), device=numbers.device) - first_row[triangle])
        row_edges = [tuple(value.index_select(0, triangle) for value in edge) for edge in edges]
        lower, upper = _span(row_edges, row + 0.5)
        # The bounding box limits slivers, whose planes are steeper than float precision allows.
        left = torch.ceil(torch.minimum(torch.minimum(x[0], x[1]), x[2]) - 0.5).clamp(min=0).index_select(0, triangle)
        right = torch.floor(torch.maximum(torch.maximum(x[0], x[1]), x[2]) - 0.5).clamp(max=size - 1)
        first = torch.maximum(torch.ceil(lower - (0.5 + _SLACK)), left)
        last = torch.minimum(torch.floor(upper - (0.5 - _SLACK)), right.index_select(0, triangle))
        width = (last - first + 1).clamp(min=0).long()
        line = torch.repeat_interleave(width)
        start = width.cumsum(0) - width
        # Values of a fragment are those at the first pixel of its row plus steps along x: one gather instead of three.
        step = (torch.arange(len(line), device=numbers.device) - start.index_select(0, line)).float()
        origin = first.long() + row.long() * size + image.index_select(0, triangle) * (size * size)
        self.pixel = origin.index_select(0, line) + step.long()
        self._line = line
        self._step = step
        self._triangle = triangle
        self._row_edges = row_edges
        self._first = first + 0.5
        self._row = row + 0.5
        slope = a1 * (z[1] - z[0]) + a2 * (z[2] - z[0])
        rise = b1 * (z[1] - z[0]) + b2 * (z[2] - z[0])
        level = z[0] - slope * x[0] - rise * y[0]
        nearest = torch.minimum(torch.minimum(z[0], z[1]), z[2])
        farthest = torch.maximum(torch.maximum(z[0], z[1]), z[2])
        row_slope = slope.index_select(0, triangle)
        row_depth = (
            row_slope * self._first + rise.index_select(0, triangle) * self._row + level.index_select(0, triangle)
        )
        # Slivers seen edge-on have huge slopes: fragments are clamped to the depth range of their triangle.
        end = row_depth + row_slope * (width - 1).clamp(min=0)
        near, far = nearest.index_select(0, triangle), farthest.index_select(0, triangle)
        row_depth = row_depth.clamp(near, far)
        end = end.clamp(near, far)
        row_slope = (end - row_depth) / (width - 1).clamp(min=1)
        depth = row_depth.index_select(0, line) + row_slope.index_select(0, line) * step
        number = numbers.index_select(0, triangle).index_select(0, line)
        self.key = ((depth.clamp(0, 5000) * _DEPTH_STEPS).long() << 32) | number

    def weights(self, fragments: Tensor) -> Float[Tensor, "f 3"]:
        """Barycentric weights of some fragments."""
        line = self._line.index_select(0, fragments)
        x = self._first.index_select(0, line) + self._step.index_select(0, fragments)
        y = self._row.index_select(0, line)
        second, third = (
            a.index_select(0, line) * x + b.index_select(0, line) * y + c.index_select(0, line)
            for a, b, c in self._row_edges[:2]
        )
        return torch.stack([1 - second - third, second, third], 1)


def rasterize(
    screen: Float[Tensor, "v 3"],
    triangles: Int[Tensor, "t 3"],
    image: Int[Tensor, " t"],
    *,
    num_images: int,
    size: int,
    one_sided: Bool[Tensor, " t"],
    tested: Bool[Tensor, " t"] | None = None,
    keep: KeepFragments | None = None,
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """Visible triangle of every covered pixel.

    Args:
        screen: Pixel x, pixel y (down) and depth (small is near) of every vertex.
        image: Picture number of each triangle.
        one_sided: Triangles that are invisible from behind.
        tested: Triangles with holes. They are drawn after the solid ones, so that `keep` is only asked about fragments
            in front of those.
        keep: (triangle numbers, barycentric weights) -> which fragments exist.

    Returns:
        Numbers of the covered pixels (image * size^2 + y * size + x, ascending) and the visible triangle at each.
    """
    columns = [column.contiguous() for column in screen.unbind(1)]
    corners = [corner.contiguous() for corner in triangles.unbind(1)]
    x, y = ([column.index_select(0, corner) for corner in corners] for column in columns[:2])
    area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
    # In pixel coordinates (y down) a triangle facing the camera has negative area.
    visible = (area.abs() > 1e-4) & ~(one_sided & (area > 0))
    for values in (x, y):
        low = torch.minimum(torch.minimum(values[0], values[1]), values[2])
        high = torch.maximum(torch.maximum(values[0], values[1]), values[2])
        # Most triangles of a small picture fall between two pixel centers.
        visible &= torch.ceil(low - 0.5).clamp(min=0) <= torch.floor(high - 0.5).clamp(max=size - 1)

    nearest = torch.full((num_images * size * size,), _EMPTY, device=screen.device)
    solid = visible if tested is None else visible & ~tested
    passes = [(solid, False)] if tested is None else [(solid, False), (visible & tested, True)]
    for chosen, has_holes in passes:
        numbers = torch.nonzero(chosen).squeeze(1)
        if len(numbers) == 0:
            continue
        chosen_corners = [corner.index_select(0, numbers) for corner in corners]
        fragments = _Fragments(columns, chosen_corners, numbers, image.index_select(0, numbers), size=size)
        pixel = fragments.pixel
        key = fragments.key
        if has_holes and keep is not None:
            front = torch.nonzero(key < nearest.index_select(0, pixel)).squeeze(1)
            pixel = pixel.index_select(0, front)
            key = key.index_select(0, front)
            exists = torch.nonzero(keep(key & 0xFFFFFFFF, fragments.weights(front))).squeeze(1)
            pixel = pixel.index_select(0, exists)
            key = key.index_select(0, exists)
        nearest.scatter_reduce_(0, pixel, key, "amin")
    covered = torch.nonzero(nearest < _EMPTY).squeeze(1)
    return covered, nearest.index_select(0, covered) & 0xFFFFFFFF


def barycentric(
    screen: Float[Tensor, "v 3"], triangles: Int[Tensor, "p 3"], pixel: Int[Tensor, " p"], *, size: int
) -> Float[Tensor, "p 3"]:
    """Barycentric weights of pixel centers; `triangles` are the corners of the one visible at each pixel."""
    place = pixel % (size * size)
    px, py = (place % size).float() + 0.5, (place // size).float() + 0.5
    corners = [screen.index_select(0, triangles[:, corner]) for corner in range(3)]
    (ax, ay), (bx, by), (cx, cy) = ((corner[:, 0], corner[:, 1]) for corner in corners)
    inverse = 1 / ((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))
    second = ((px - ax) * (cy - ay) - (py - ay) * (cx - ax)) * inverse
    third = ((bx - ax) * (py - ay) - (by - ay) * (px - ax)) * inverse
    return torch.stack([1 - second - third, second, third], 1)
