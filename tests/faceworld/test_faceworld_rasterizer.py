"""The rasterizer against its definition: the nearest triangle that contains the center of a pixel."""

import torch

from hdb.faceworld.mesh import Material, ball, tube, vertex_normals
from hdb.faceworld.noise import noise_2d, noise_3d
from hdb.faceworld.rasterizer import barycentric, rasterize

SIZE, IMAGES, TRIANGLES = 24, 2, 60


def random_triangles(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(TRIANGLES, 1, 3, generator=generator) * torch.tensor([SIZE, SIZE, 4.0])
    centers = centers + torch.tensor([0, 0, 5.0])
    corners = centers + (torch.rand(TRIANGLES, 3, 3, generator=generator) - 0.5) * torch.tensor([14.0, 14.0, 1.0])
    image = torch.randint(IMAGES, (TRIANGLES,), generator=generator)
    return corners.reshape(-1, 3), torch.arange(TRIANGLES * 3).view(-1, 3), image


def nearest_by_definition(screen, triangles, image):
    """Nearest triangle at each pixel, (images * size^2,), and whether rounding cannot change it."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    center = torch.stack([x, y], -1).reshape(-1, 1, 2).double()
    a, b, c = (screen[triangles[:, corner]].double() for corner in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    weights = []
    for p, q in ((b, c), (c, a), (a, b)):
        edge, local = q[:, :2] - p[:, :2], center - p[:, :2]
        weights.append((edge[:, 0] * local[..., 1] - edge[:, 1] * local[..., 0]) / area)
    weights = torch.stack(weights, -1)
    depth = (weights * torch.stack([a[:, 2], b[:, 2], c[:, 2]], -1)).sum(-1)
    winners, certain = [], []
    for number in range(IMAGES):
        in_image = (image == number)[None]
        inside = (weights > 0).all(-1) & in_image
        inside_depth = torch.where(inside, depth, torch.inf)
        first, second = inside_depth.topk(2, dim=1, largest=False).values.unbind(1)
        close_to_an_edge = ((weights.amin(-1).abs() < 1e-2) & in_image).any(1)
        winners.append(torch.where(first.isinf(), -1, inside_depth.argmin(1)))
        certain.append(~close_to_an_edge & ~(second - first < 1e-3))
    return torch.cat(winners), torch.cat(certain)


def test_rasterizer_finds_the_nearest_triangle_at_every_pixel():
    for seed in range(5):
        screen, triangles, image = random_triangles(seed)
        pixel, visible = rasterize(
            screen, triangles, image, num_images=IMAGES, size=SIZE, one_sided=torch.zeros(TRIANGLES, dtype=torch.bool)
        )
        found = torch.full((IMAGES * SIZE * SIZE,), -1)
        found[pixel] = visible
        expected, certain = nearest_by_definition(screen, triangles, image)
        assert certain.float().mean() > 0.5
        assert torch.equal(found[certain], expected[certain])


def test_the_result_does_not_depend_on_the_order_of_triangles():
    screen, triangles, image = random_triangles(7)
    two_sided = torch.zeros(TRIANGLES, dtype=torch.bool)
    pixel, visible = rasterize(screen, triangles, image, num_images=IMAGES, size=SIZE, one_sided=two_sided)
    order = torch.randperm(TRIANGLES, generator=torch.Generator().manual_seed(0))
    shuffled_pixel, shuffled_visible = rasterize(
        screen, triangles[order], image[order], num_images=IMAGES, size=SIZE, one_sided=two_sided
    )
    assert torch.equal(pixel, shuffled_pixel)
    assert torch.equal(visible, order[shuffled_visible])


def test_holes_show_what_lies_behind():
    screen = torch.tensor([[0, 0, 5.0], [24, 0, 5], [0, 24, 5], [0, 0, 4.0], [24, 0, 4], [0, 24, 4]])
    triangles, image = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.zeros(2, dtype=torch.long)
    tested = []

    def keep(triangle, weights):
        tested.append(triangle)
        return weights[:, 1] > 0.5  # right half

    pixel, visible = rasterize(
        screen, triangles, image, num_images=1, size=SIZE, one_sided=torch.zeros(2, dtype=torch.bool),
        tested=torch.tensor([False, True]), keep=keep,
    )  # fmt: skip
    assert set(torch.cat(tested).tolist()) == {1}
    assert torch.equal(visible == 1, pixel % SIZE >= SIZE // 2)


def test_one_sided_triangles_disappear_from_behind():
    screen = torch.tensor([[2, 2, 5.0], [20, 2, 5], [2, 20, 5]])
    image, one_sided = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
    counts = [
        len(rasterize(screen, torch.tensor([order]), image, num_images=1, size=SIZE, one_sided=one_sided)[0])
        for order in ([0, 1, 2], [0, 2, 1])
    ]
    assert counts[0] == 0 < counts[1]


def test_barycentric_weights_reproduce_the_pixel_center():
    screen, triangles, image = random_triangles(3)
    pixel, visible = rasterize(
        screen, triangles, image, num_images=IMAGES, size=SIZE, one_sided=torch.zeros(TRIANGLES, dtype=torch.bool)
    )
    corners = triangles[visible]
    weights = barycentric(screen, corners, pixel, size=SIZE)
    place = (screen[corners][..., :2] * weights[..., None]).sum(1)
    center = torch.stack([pixel % SIZE, pixel % SIZE**2 // SIZE], 1) + 0.5
    torch.testing.assert_close(place, center, atol=1e-3, rtol=0)


def test_primitive_shapes_face_outward():
    sphere = ball(torch.tensor([1.0, 2.0, 3.0]), 0.5, Material.TRIM)
    computed = vertex_normals(sphere.positions, sphere.triangles)
    inner = sphere.canonical[:, 1].sub(0.5).abs() < 0.4  # poles are degenerate
    assert ((computed * sphere.normals).sum(1)[inner] > 0.8).all()
    ring = torch.stack([torch.cos(torch.arange(12) / 12 * 6.2832), torch.sin(torch.arange(12) / 12 * 6.2832)], 1)
    torus = tube(torch.cat([ring, torch.zeros(12, 1)], 1), 0.1, Material.FRAME, closed=True)
    assert ((torus.positions[:, :2].norm(dim=1) - 1).abs() <= 0.1001).all()


def test_noise_stays_in_range_and_is_continuous():
    x = torch.linspace(-3, 3, 4001)
    for values in (noise_2d(x, x * 0.5, 3), noise_3d(torch.stack([x, -x, x * 0.3], 1), 3)):
        assert 0 <= values.min() and values.max() <= 1 and values.std() > 0.05
        assert values.diff().abs().max() < 0.01
    assert not torch.equal(noise_2d(x, x, 1), noise_2d(x, x, 2))
