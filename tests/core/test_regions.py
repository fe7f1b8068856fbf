"""regions: shapes by their definitions, and how regions share the frame."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.region.regions import Shape, Sharing, draw_region, share_frame

from .weights import image

SIZE = (40, 60)
FIRST, SECOND = (0.1, 0.2), (0.6, 0.9)


def centres() -> list[tuple[int, int, float, float]]:
    """Row, column, and the centre of the pixel as shares of the canvas."""
    return [(r, c, (c + 0.5) / SIZE[1], (r + 0.5) / SIZE[0]) for r in range(SIZE[0]) for c in range(SIZE[1])]


def in_rectangle(x: float, y: float) -> bool:
    return FIRST[0] <= x <= SECOND[0] and FIRST[1] <= y <= SECOND[1]


def in_ellipse(x: float, y: float) -> bool:
    (x1, y1), (x2, y2) = FIRST, SECOND
    return ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((y - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2 <= 1


def in_half_plane(x: float, y: float) -> bool:
    """On the right of the walk from the first to the second point, where y points down."""
    (x1, y1), (x2, y2) = ((px * SIZE[1], py * SIZE[0]) for px, py in (FIRST, SECOND))
    return (x2 - x1) * (y * SIZE[0] - y1) - (y2 - y1) * (x * SIZE[1] - x1) >= 0


@pytest.mark.parametrize(
    ("shape", "inside"), [("rectangle", in_rectangle), ("ellipse", in_ellipse), ("half_plane", in_half_plane)]
)
def test_a_hard_shape_holds_the_pixels_whose_centres_lie_in_it(shape, inside):
    region = draw_region(shape, SIZE, FIRST, SECOND)
    assert tuple(region.shape) == (1, *SIZE)
    assert region.dtype == torch.float32
    for row, column, x, y in centres():
        assert region[0, row, column].item() == float(inside(x, y)), (row, column)


@pytest.mark.parametrize("shape", ["rectangle", "ellipse"])
def test_the_order_of_a_boxs_corners_does_not_matter(shape):
    expected = draw_region(shape, SIZE, FIRST, SECOND, 0.1)
    for first, second in ((SECOND, FIRST), ((0.1, 0.9), (0.6, 0.2)), ((0.6, 0.2), (0.1, 0.9))):
        torch.testing.assert_close(draw_region(shape, SIZE, first, second, 0.1), expected, rtol=0, atol=1e-6)


def test_below_is_right_of_a_walk_from_left_to_right():
    region = draw_region("half_plane", SIZE, (0.0, 0.6), (1.0, 0.6))
    assert (region[0, 24:] == 1).all()
    assert (region[0, :24] == 0).all()
    turned = draw_region("half_plane", SIZE, (1.0, 0.6), (0.0, 0.6))
    assert torch.equal(turned, 1 - region)


def test_a_gradient_rises_from_the_first_to_the_second_point():
    region = draw_region("gradient", SIZE, (0.25, 0.3), (0.75, 0.3))[0]
    assert torch.equal(region[0], region[-1])
    across = (torch.arange(60) + 0.5) / 60
    assert (region[0] - ((across - 0.25) / 0.5).clamp(0, 1)).abs().max() < 1e-6
    down = draw_region("gradient", SIZE, (0.5, 1.0), (0.5, 0.0))[0]
    assert down[:, 0].diff().max() < 0


@pytest.mark.parametrize("shape", ["rectangle", "ellipse", "half_plane"])
def test_a_soft_edge_is_a_ramp_around_the_hard_one(shape):
    hard, soft = (draw_region(shape, SIZE, FIRST, SECOND, softness) for softness in (0.0, 0.2))
    assert ((soft > 0.5) <= (hard > 0)).all()
    assert ((soft < 0.5) <= (hard == 0)).all()
    assert ((soft > 0) & (soft < 1)).any()
    assert soft.max() == 1
    assert soft.min() == 0


def test_a_soft_edge_of_a_rectangle_is_its_distance():
    soft = draw_region("rectangle", SIZE, (0.5, 0.25), (2.0, 2.0), 0.25)[0]  # an edge of 10 px around x 30 and y 10
    along_row = (0.5 + (torch.arange(60) + 0.5 - 30) / 10).clamp(0, 1)
    assert (soft[30] - along_row).abs().max() < 1e-6
    corner = math.hypot(2.5, 1.5)
    assert soft[8, 27].item() == pytest.approx(0.5 - corner / 10)


def test_an_ellipse_fades_to_first_order_like_a_circle():
    soft = draw_region("ellipse", (60, 60), (0.2, 0.2), (0.8, 0.8), 0.2)[0]  # a circle of 18 px, an edge of 12
    y, x = torch.meshgrid(*[torch.arange(60) + 0.5 - 30] * 2, indexing="ij")
    expected = (0.5 - (torch.hypot(x, y) - 18) / 12).clamp(0, 1)
    assert (soft - expected).abs().max() < 1e-5


@pytest.mark.parametrize("shape", list(Shape))
def test_a_drawing_serves_every_resolution(shape):
    small, large = (draw_region(shape, size, FIRST, SECOND) for size in (SIZE, (400, 600)))
    averaged = torch.nn.functional.avg_pool2d(large[:, None], 10)[:, 0]
    assert (averaged - small).abs().mean() < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("star", SIZE, FIRST, SECOND), "shape is 'star', expected one of"),
        (("ellipse", (0, 60), FIRST, SECOND), r"the canvas is 60x0 pixels \(width x height\)"),
        (("rectangle", SIZE, FIRST, SECOND, -0.1), "softness is -0.1, expected 0 or more, and 0 for a gradient"),
        (("gradient", SIZE, FIRST, SECOND, 0.1), "softness is 0.1, expected 0 or more, and 0 for a gradient"),
        (("rectangle", SIZE, (0.3, 0.1), (0.3, 0.9)), r"\(0.3, 0.1\) and \(0.3, 0.9\) span no rectangle"),
        (("half_plane", SIZE, (0.3, 0.1), (0.3, 0.1)), "span no half_plane: move one of them"),
        (("gradient", SIZE, FIRST, (math.nan, 1.0)), "expected finite shares of the canvas"),
        (("rectangle", SIZE, (-math.inf, 0.0), SECOND), "expected finite shares of the canvas"),
        (("ellipse", SIZE, (1.2, 1.2), (1.5, 1.5)), "the ellipse from .* holds no pixel of the canvas"),
    ],
)
def test_what_is_no_region_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_region(*arguments)


def one_row(*values: float) -> Tensor:
    return torch.tensor(values)[None, None]


def test_sharing_by_hand():
    regions = [one_row(1, 1, 0, 0, 0.8, 0.2), one_row(0, 1, 1, 0, 0.8, 0.2)]
    shared, rest = share_frame(regions, "overlap")
    assert [row.flatten().tolist() for row in shared] == [row.flatten().tolist() for row in regions]
    assert rest.flatten().tolist() == pytest.approx([0, 0, 0, 1, 0, 0.6])
    shared, rest = share_frame(regions, "partition")
    assert shared[0].flatten().tolist() == pytest.approx([1, 0.5, 0, 0, 0.5, 0.2])
    assert shared[1].flatten().tolist() == pytest.approx([0, 0.5, 1, 0, 0.5, 0.2])
    assert rest.flatten().tolist() == pytest.approx([0, 0, 0, 1, 0, 0.6])
    shared, rest = share_frame(regions, "layers")
    assert shared[0].flatten().tolist() == pytest.approx([1, 1, 0, 0, 0.8, 0.2])
    assert shared[1].flatten().tolist() == pytest.approx([0, 0, 1, 0, 0.16, 0.16])
    assert rest.flatten().tolist() == pytest.approx([0, 0, 0, 1, 0.04, 0.64])


@pytest.mark.parametrize("sharing", ["partition", "layers"])
@pytest.mark.parametrize("num_regions", [1, 2, 4])
def test_regions_and_rest_add_up_to_1_and_what_is_alone_keeps_its_bits(sharing, num_regions):
    regions = [image(1, 20, 30, seed=seed) * (image(1, 20, 30, seed=seed + 9) > 0.5) for seed in range(num_regions)]
    shared, rest = share_frame(regions, sharing)
    assert (sum(shared) + rest - 1).abs().max() < 1e-6
    assert (rest >= 0).all()
    for index, (before, after) in enumerate(zip(regions, shared, strict=True)):
        alone = sum(other for number, other in enumerate(regions) if number != index) == torch.zeros(1, 20, 30)
        assert torch.equal(after[alone], before[alone])
        assert (after <= before).all()


def test_hard_regions_stay_hard_in_layers_and_the_first_is_on_top():
    first, second = (draw_region("rectangle", SIZE, (x, 0.0), (x + 0.5, 1.0)) for x in (0.0, 0.3))
    shared, rest = share_frame([first, second], Sharing.LAYERS)
    assert torch.equal(shared[0], first)
    assert torch.equal(shared[1], ((second == 1) & (first == 0)).float())
    assert torch.equal(rest, ((second == 0) & (first == 0)).float())


def test_one_region_serves_a_batch():
    batch = image(3, 4, 5, seed=1)
    shared, rest = share_frame([torch.full((1, 4, 5), 0.5), batch], "partition")
    assert tuple(shared[0].shape) == tuple(rest.shape) == (3, 4, 5)
    for item in range(3):
        alone, alone_rest = share_frame([torch.full((1, 4, 5), 0.5), batch[item : item + 1]], "partition")
        assert torch.equal(shared[1][item], alone[1][0])
        assert torch.equal(rest[item], alone_rest[0])


@pytest.mark.parametrize(
    ("regions", "sharing", "message"),
    [
        ([], "overlap", "no region is given"),
        ([torch.ones(1, 4, 5), torch.ones(1, 5, 5)], "overlap", r"region 2 is 5x5, region 1 is 4x5 \(height x width\)"),
        ([torch.ones(2, 4, 5), torch.ones(3, 4, 5)], "overlap", "region 1 is a batch of 2, another one of 3"),
        ([torch.ones(1, 4, 5)], "mix", "sharing is 'mix', expected one of"),
        ([torch.ones(1, 4, 5), torch.ones(1, 4, 5)], "layers", "nothing is left of region 2"),
    ],
)
def test_regions_that_cannot_share_are_refused(regions, sharing, message):
    with pytest.raises(ValueError, match=message):
        share_frame(regions, sharing)
