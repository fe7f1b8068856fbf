"""depth_fit: depth of any size on an ad's frame, and nothing hidden in it."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.pfv_core.ad.depth_fit import DepthFit, even_cut, fit_depth, visible_at

from .weights import image, ramp, seeded

FRAME = (24, 40)
OTHER_SIZES = [(48, 60), (13, 17), (7, 90), (24, 41), (90, 7)]


def scattered(height: int, width: int, batch: int = 1) -> torch.Tensor:
    """Visible but for a block and a tenth of the pixels."""
    visible = torch.rand(batch, height, width, generator=seeded(height)) > 0.1
    visible[:, height // 3 : height // 2, width // 4 : width // 2] = False
    return visible


@pytest.mark.parametrize("fit", [DepthFit.STRETCH, DepthFit.CROP])
@pytest.mark.parametrize("size", OTHER_SIZES)
def test_hidden_depth_changes_no_bit(size, fit):
    depth, visible = image(2, 3, *size, seed=3), scattered(*size, batch=2)
    plain, seen = fit_depth(depth, visible, FRAME, fit)
    assert plain.shape == (2, 3, *FRAME)
    assert seen.shape == (2, *FRAME)
    assert seen.any()
    for value in (0.0, 1.0, -5.0, 1e30, float("inf"), float("nan")):
        other = torch.where(visible[:, None], depth, value)
        again, seen_again = fit_depth(other, visible, FRAME, fit)
        assert torch.equal(again, plain)
        assert torch.equal(seen_again, seen)
    changed, _ = fit_depth(torch.where(visible[:, None], 1 - depth, depth), visible, FRAME, fit)
    assert not torch.equal(changed, plain)


def test_a_visible_average_is_of_visible_depth_alone():
    """Four columns become two: the first of a hidden and a visible one, the second of two visible ones."""
    depth = torch.tensor([0.9, 0.2, 0.4, 0.6]).expand(1, 1, 4, 4)
    visible = torch.tensor([False, True, True, True]).expand(1, 4, 4)
    fitted, seen = fit_depth(depth, visible, (2, 2), "stretch")
    # Antialiased by a triangle that reaches two columns to each side: weights 3, 3, 1 of 7 and 1, 3, 3 of 7 at the border.
    assert fitted[0, 0, 0].tolist() == pytest.approx([(3 * 0.2 + 0.4) / 4, (0.2 + 3 * 0.4 + 3 * 0.6) / 7])
    assert seen.all()  # 4 of 7, and all
    _, seen = fit_depth(depth, torch.tensor([False, False, True, True]).expand(1, 4, 4), (2, 2), "stretch")
    assert seen[0, 0].tolist() == [False, True]


def test_it_is_linear_between_its_values_where_it_grows():
    fitted, _ = fit_depth(ramp(1, 1, 1, 2, low=0.0, high=1.0), torch.ones(1, 1, 2, dtype=torch.bool), (1, 4), "stretch")
    assert fitted.flatten().tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])


def test_same_size_and_the_frames_own_size_give_the_same_tensors():
    depth, visible = image(1, 3, *FRAME, seed=1), scattered(*FRAME)
    for fit, size in ((DepthFit.SAME_SIZE, (9, 9)), (DepthFit.CROP, FRAME), (DepthFit.STRETCH, FRAME)):
        fitted, seen = fit_depth(depth, visible, size, fit)
        assert fitted is depth
        assert seen is visible


def test_crop_takes_the_middle_in_the_frames_shape():
    assert even_cut((100, 300), (50, 50)) == (slice(0, 100), slice(100, 200))
    assert even_cut((300, 100), (20, 40)) == (slice(125, 175), slice(0, 100))
    assert even_cut((3, 1000), (10, 1)) == (slice(0, 3), slice(499, 500))
    depth = torch.zeros(1, 1, 10, 30)
    depth[..., 10:20] = 1
    fitted, _ = fit_depth(depth, torch.ones(1, 10, 30, dtype=torch.bool), (5, 5), "crop")
    assert torch.equal(fitted, torch.ones(1, 1, 5, 5))
    stretched, _ = fit_depth(depth, torch.ones(1, 10, 30, dtype=torch.bool), (5, 5), "stretch")
    assert not torch.equal(stretched, fitted)


def test_batch_is_per_item():
    depth, visible = image(3, 1, 33, 50, seed=5), scattered(33, 50, batch=3)
    together = fit_depth(depth, visible, FRAME, "crop")
    for item in range(3):
        alone = fit_depth(depth[item : item + 1], visible[item : item + 1], FRAME, "crop")
        assert torch.equal(together[0][item], alone[0][0])
        assert torch.equal(together[1][item], alone[1][0])


def test_a_single_column_is_each_rows_own():
    depth = torch.linspace(0, 1, 8)[None, None, :, None].expand(1, 1, 8, 6)
    fitted, _ = fit_depth(depth, torch.ones(1, 8, 6, dtype=torch.bool), (8, 1), "stretch")
    assert fitted[0, 0, :, 0].tolist() == pytest.approx(torch.linspace(0, 1, 8).tolist())


def test_a_mask_at_the_depths_size_hides_all_that_it_touches():
    visible = torch.ones(1, 100, 200, dtype=torch.bool)
    visible[0, 50, 100] = False
    assert (~visible_at(visible, (10, 20))).nonzero().tolist() == [[0, 5, 10]]
    assert (~visible_at(visible, (9, 18))).nonzero().tolist() == [[0, 4, 9]]
    larger = visible_at(visible, (150, 300))
    assert (~larger).nonzero().tolist() == [[0, row, column] for row in (75, 76) for column in (150, 151)]
    assert visible_at(visible, (100, 200)) is visible


def test_a_mask_of_another_picture_is_refused():
    visible = torch.ones(1, 100, 200, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"hidden_mask is 200x100, reference_depth 50x50 \(width x height\), which are other"
    ):
        visible_at(visible, (50, 50))
    assert visible_at(visible, (252, 518)).all()  # whole patches of 14 pixels


def test_an_unknown_fit_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"fit is 'pad', expected one of \['same_size', 'stretch', 'crop'\]"):
        fit_depth(torch.zeros(1, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), (2, 2), "pad")
