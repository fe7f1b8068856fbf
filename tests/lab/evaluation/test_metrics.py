"""Each metric on a case computed by hand, and where it must be undefined or refuse."""

from __future__ import annotations

import math

import pytest
import torch

from lab.evaluation.metrics import (
    SHADES,
    SHARPNESS_GRID,
    color_share,
    layout_likeness,
    mean_color,
    palette_distance,
    region_correctness,
    sharpness,
    tint_towards,
    two_tones,
)


def plain(*colors: tuple[float, float, float], size: int = 8) -> torch.Tensor:
    return torch.tensor(colors).view(-1, 3, 1, 1).repeat(1, 1, size, size)


def everywhere(image: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(image[:, 0], dtype=torch.bool)


def left_half(image: torch.Tensor) -> torch.Tensor:
    mask = everywhere(image)
    mask[:, :, image.shape[3] // 2 :] = False
    return mask


def halves(left: tuple[float, float, float], right: tuple[float, float, float]) -> torch.Tensor:
    image = plain(left)
    image[:, :, :, 4:] = torch.tensor(right).view(1, 3, 1, 1)
    return image


def test_mean_color_is_of_the_mask_alone():
    image = halves((0.2, 0.4, 0.6), (1.0, 1.0, 1.0))
    assert mean_color(image, left_half(image))[0].tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert mean_color(image, everywhere(image))[0].tolist() == pytest.approx([0.6, 0.7, 0.8])
    assert bool(mean_color(image, ~everywhere(image)).isnan().all())


def test_palette_distance_of_plain_colors_is_euclidean():
    first, second = plain((0.1, 0.2, 0.3)), plain((0.7, 0.1, 0.5))
    expected = math.dist((0.1, 0.2, 0.3), (0.7, 0.1, 0.5))
    assert palette_distance(first, everywhere(first), second, everywhere(second)).item() == pytest.approx(
        expected, rel=0.03
    )


def test_palette_distance_sees_shares_and_not_places():
    stripes, mirrored = halves((1, 0, 0), (0, 0, 1)), halves((0, 0, 1), (1, 0, 0))
    assert palette_distance(stripes, everywhere(stripes), mirrored, everywhere(mirrored)).item() == 0
    one = plain((1, 0, 0))
    half_of_the_way = palette_distance(stripes, everywhere(stripes), one, everywhere(one)).item()
    assert half_of_the_way == pytest.approx(math.sqrt(2) / 2, rel=0.03)
    assert palette_distance(stripes, left_half(stripes), one, everywhere(one)).item() == 0
    assert math.isnan(palette_distance(one, ~everywhere(one), one, everywhere(one)).item())


def test_tint_is_a_signed_share_of_the_way():
    without, foreign = torch.tensor([[0.2, 0.2, 0.2]] * 4), torch.tensor([[0.2, 1.0, 0.2]] * 4)
    color = torch.tensor([[0.2, 0.2, 0.2], [0.2, 0.4, 0.2], [0.2, 1.0, 0.9], [0.2, 0.12, 0.2]])
    assert tint_towards(color, without, foreign).tolist() == pytest.approx([0.0, 0.25, 1.0, -0.1])


def test_tint_is_not_defined_towards_a_color_that_is_there_already():
    without = torch.tensor([[0.5, 0.5, 0.5]])
    assert math.isnan(tint_towards(without + 0.1, without, without + 0.1).item())  # |way| = 0.17 < 0.2
    assert tint_towards(without + 0.1, without, without + 0.2).item() == pytest.approx(0.5)


def test_color_share_counts_shades_of_the_color():
    color = torch.tensor([[0.8, 0.4, 0.2]])
    image = plain((0.0, 0.0, 0.0))
    image[0, :, :2] = color.view(3, 1, 1) * SHADES[0]
    image[0, :, 2:4] = color.view(3, 1, 1)
    image[0, :, 4:6] = color.view(3, 1, 1) * 0.3  # too dark
    assert color_share(image, everywhere(image), color).item() == 0.5
    assert color_share(image, left_half(image), color).item() == 0.5
    assert color_share(image, everywhere(image), color, tolerance=0.4).item() == 0.75


def test_two_tones_are_dark_and_light():
    image = halves((0.1, 0.1, 0.1), (0.9, 0.8, 0.7))
    assert two_tones(image, everywhere(image))[0].flatten().tolist() == pytest.approx([0.1] * 3 + [0.9, 0.8, 0.7])
    assert two_tones(image, left_half(image))[0].flatten().tolist() == pytest.approx([0.1] * 6)


def test_region_correctness_counts_pixels_nearer_to_what_belongs_there():
    image = halves((0.9, 0.1, 0.1), (0.1, 0.1, 0.9))
    red, blue = torch.tensor([[[1.0, 0, 0], [0.8, 0, 0]]]), torch.tensor([[[0, 0, 1.0]]])
    assert region_correctness(image, everywhere(image), red, blue).item() == 0.5
    assert region_correctness(image, left_half(image), red, blue).item() == 1.0
    assert region_correctness(image, left_half(image), blue, red).item() == 0.0


def test_layout_likeness_sees_places_and_not_colours():
    pattern, other = halves((1, 1, 1), (0, 0, 0)), halves((0.2, 0.3, 0.1), (0.9, 0.1, 0.4))
    mask = everywhere(pattern)
    assert layout_likeness(other, mask, pattern).item() == pytest.approx(1.0)  # darker and lighter change sides
    assert layout_likeness(other.mT, mask, pattern).item() == pytest.approx(0.0, abs=1e-7)
    assert math.isnan(layout_likeness(plain((0.5, 0.5, 0.5)), mask, pattern).item())
    quarter = pattern.clone()
    quarter[:, :, 4:] = 0  # of 64 pixels 16 are light, all of them where the pattern is: r = 16 / sqrt(16 * 48)
    assert layout_likeness(quarter, mask, pattern).item() == pytest.approx(16 / math.sqrt(16 * 48))
    assert layout_likeness(quarter, left_half(pattern), pattern).isnan().item()  # no spread of the pattern there


def ramp(width: int) -> torch.Tensor:
    """Black to white over a number of cells, in the middle of a picture of 2 pixels a cell."""
    across = ((torch.arange(SHARPNESS_GRID) - SHARPNESS_GRID // 2 + 1) / width).clamp(0, 1)
    return across.repeat_interleave(2).expand(1, 3, 2 * SHARPNESS_GRID, 2 * SHARPNESS_GRID).contiguous()


def test_an_edge_over_four_cells_is_a_fourth_as_sharp():
    edge = ramp(1)
    mask = everywhere(edge)
    assert sharpness(edge, mask, edge).item() == 1.0
    assert sharpness(ramp(4), mask, edge).item() == pytest.approx(0.25)
    assert sharpness(edge, mask, ramp(4)).item() == pytest.approx(4.0)
    assert sharpness(edge.mT, mask, edge).item() == 1.0  # its edges may lie elsewhere
    assert sharpness(edge / 2, mask, edge).item() == pytest.approx(0.25)


def test_sharpness_is_of_whole_cells_of_the_mask_and_undefined_where_nothing_has_an_edge():
    edge = ramp(1)
    aside = torch.zeros_like(everywhere(edge))
    aside[:, :, : SHARPNESS_GRID - 2] = True
    assert math.isnan(sharpness(edge, aside, edge).item())
    aside[:, :, : SHARPNESS_GRID + 4] = True
    assert sharpness(ramp(4), aside, edge).item() == pytest.approx(2 * 0.25**2)  # two of the four steps
    aside[:, :, SHARPNESS_GRID + 4] = True  # half of another cell
    assert sharpness(ramp(4), aside, edge).item() == pytest.approx(2 * 0.25**2)
    with pytest.raises(
        ValueError, match=r"image is \(1, 3, 8, 8\), truth \(1, 3, 8, 8\): give both the same size, mult"
    ):
        sharpness(plain((0, 0, 0)), everywhere(plain((0, 0, 0))), plain((0, 0, 0)))


def test_noise_finer_than_a_cell_is_not_sharpness():
    edge = ramp(1)
    noisy = edge.clone()
    noisy[..., ::2, ::2] += 0.1
    noisy[..., 1::2, 1::2] -= 0.1
    assert sharpness(noisy, everywhere(edge), edge).item() == pytest.approx(1.0, abs=1e-6)


def test_wrong_shapes_are_refused_with_their_numbers():
    image = plain((0, 0, 0))
    with pytest.raises(ValueError, match=r"image is \(1, 4, 8, 8\), expected \(B, 3, H, W\)"):
        mean_color(torch.zeros(1, 4, 8, 8), everywhere(image))
    with pytest.raises(ValueError, match=r"mask is \(1, 4, 4\) torch.bool, expected \(1, 8, 8\)"):
        mean_color(image, torch.ones(1, 4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="1 images and 2 references"):
        palette_distance(
            image,
            everywhere(image),
            *(tensor.repeat(2, *[1] * (tensor.ndim - 1)) for tensor in (image, everywhere(image))),
        )
    with pytest.raises(ValueError, match=r"color is \(3,\), without \(3, 3\), foreign \(3, 3\)"):
        tint_towards(torch.zeros(3), torch.zeros(3, 3), torch.zeros(3, 3))
