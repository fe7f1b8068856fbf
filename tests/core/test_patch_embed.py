"""patch_embed: the fitted pixels that an encoder may see, and the zeroed tokens of Eq. 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pfv_mepa.pfv_core.reference.fit import fit_geometry
from pfv_mepa.pfv_core.reference.patch_embed import masked_pixel_values, zero_hidden_tokens
from pfv_mepa.pfv_core.reference.patch_mask import rebinarize

from . import reference
from .tiny_vit import MEAN, STD
from .weights import image, noise, ramp, seeded

EIGHT_BIT = 1 / 255


def make(keep: torch.Tensor, fit: str = "stretch", input_size: int = 20, patch_size: int = 10, threshold: float = 0.0):
    geometry = fit_geometry(keep.shape[1], keep.shape[2], input_size, patch_size, fit)
    return rebinarize(keep, geometry, threshold)


def visible(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def to_image(pixel_values: torch.Tensor) -> torch.Tensor:
    """Undo the encoder's normalisation."""
    return pixel_values * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


def clip_preprocess(reference_image: torch.Tensor, size: int, crop: bool) -> torch.Tensor:
    """What CLIP does to an image, written out: bicubic resize, centre crop, 8 bits, channel normalisation."""
    height, width = reference_image.shape[2:]
    if (height, width) != (size, size):
        scale = size / min(height, width)
        scaled = (round(scale * height), round(scale * width)) if crop else (size, size)
        reference_image = interpolate(reference_image, size=scaled, mode="bicubic", antialias=True)
    top, left = (reference_image.shape[2] - size) // 2, (reference_image.shape[3] - size) // 2
    reference_image = reference_image[:, :, top : top + size, left : left + size]
    pixels = torch.clip(255.0 * reference_image, 0, 255).round() / 255.0
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_values_where_nothing_is_resized():
    keep = visible(1, 20, 20)
    keep[0, 0, 0] = False  # hides the first patch
    pixels = ramp(1, 3, 20, 20, low=0.0, high=1.0)
    out = masked_pixel_values(pixels, make(keep), MEAN, STD)
    assert out.shape == (1, 3, 20, 20)
    assert out.dtype == torch.float32
    assert out[..., :10, :10].abs().max() == 0.0
    for channel, y, x in [(0, 0, 10), (1, 10, 0), (2, 19, 19), (1, 7, 13)]:
        rounded = round(255 * pixels[0, channel, y, x].item()) / 255
        assert out[0, channel, y, x].item() == pytest.approx((rounded - MEAN[channel]) / STD[channel], abs=1e-5)


SIZES = [(32, 32), (64, 96), (96, 64), (32, 64), (33, 47), (500, 37), (37, 500), (20, 31), (9, 5), (1, 1), (200, 200)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_an_all_visible_image_is_clips_own_preprocessing_bit_for_bit(size, fit):
    pixels = image(2, 3, *size, seed=1)
    patch_mask = make(visible(2, *size), fit, 32, 8)
    expected = clip_preprocess(pixels, 32, crop=fit == "crop")
    assert torch.equal(masked_pixel_values(pixels, patch_mask, MEAN, STD), expected)


def test_pixels_whose_kernel_meets_no_hidden_pixel_are_clips_own_bit_for_bit():
    pixels = image(1, 3, 128, 192, seed=2)
    keep = visible(1, 128, 192)
    keep[:, :, 150:] = False
    out = masked_pixel_values(pixels, make(keep, "stretch", 32, 8), MEAN, STD)
    expected = clip_preprocess(pixels, 32, crop=False)
    first_hidden_patch = 24
    assert out[..., first_hidden_patch:].abs().max() == 0.0
    assert torch.equal(out[..., : first_hidden_patch - 2], expected[..., : first_hidden_patch - 2])


def test_padding_repeats_the_rim_in_a_shared_patch_and_is_zero_beyond():
    pixels = image(1, 3, 40, 15, seed=3)
    out = masked_pixel_values(pixels, make(visible(1, 40, 15), "pad", 40, 10), MEAN, STD)
    assert out[..., :10].abs().max() == 0.0
    assert out[..., 30:].abs().max() == 0.0
    shown = to_image(out)[..., 10:25]
    assert (shown - pixels).abs().max() <= 0.5 * EIGHT_BIT + 1e-6
    assert torch.equal(out[..., 25:30], out[..., 24:25].expand(-1, -1, -1, 5))


def test_a_tolerated_hidden_pixel_becomes_its_patchs_visible_average():
    keep = visible(1, 20, 20)
    keep[0, 2:4, 3:5] = False
    pixels = image(1, 3, 20, 20, seed=4)
    out = to_image(masked_pixel_values(pixels, make(keep, threshold=0.04), MEAN, STD))
    shown = keep[:, None, :10, :10]
    for channel in range(3):
        average = pixels[:, channel : channel + 1, :10, :10][shown].mean().item()
        filled = out[:, channel : channel + 1, :10, :10][~shown]
        assert filled.tolist() == pytest.approx([round(255 * average) / 255] * 4, abs=1e-5)
    assert (out - pixels)[keep[:, None].expand(-1, 3, -1, -1)].abs().max() <= 0.5 * EIGHT_BIT + 1e-6


def test_a_kept_patch_without_any_visible_pixel_is_the_mean_colour():
    out = masked_pixel_values(image(1, 3, 20, 20, seed=5), make(~visible(1, 20, 20), threshold=1.0), MEAN, STD)
    assert out.abs().max() <= 0.5 * EIGHT_BIT / min(STD) + 1e-6  # rounded to 8 bits like any colour


@pytest.mark.parametrize(
    ("size", "fit"),
    [((50, 70), "crop"), ((70, 50), "pad"), ((41, 90), "stretch"), ((11, 9), "crop"), ((13, 30), "pad")],
)
def test_the_resize_is_weighted_by_what_is_visible(size, fit):
    """Against explicit kernels. Visible here = not hidden by the mask and not under a hidden patch (I_ref * D_p)."""
    rng = np.random.default_rng(6)
    height, width = size
    keep = rng.random(size) > 0.01
    keep[: height // 3, : width // 3] = False
    pixels = image(1, 3, *size, seed=6)
    patch_mask = make(torch.from_numpy(keep)[None], fit, 28, 7, threshold=0.3)
    out = to_image(masked_pixel_values(pixels, patch_mask, MEAN, STD))[0].double().numpy()

    rows, columns = reference.image_cells(height, width, 28, 7, fit)
    kept = patch_mask.patch_keep_mask[0].numpy()
    seen = reference.pixels_of(kept, rows, columns, height, width)
    shown = keep & ~(reference.pixels_of(~kept, rows, columns, height, width) & ~seen)
    plans = [reference.axis_plan(height, width, 28, 7, fit), reference.axis_plan(width, height, 28, 7, fit)]
    kernels = [
        {kernel: reference.resize_weights(length, plan[0], kernel) for kernel in ("bilinear", "bicubic")}
        for length, plan in zip(size, plans, strict=True)
    ]
    expected = reference.visible_pixels(pixels[0].double().numpy(), shown, *kernels)
    compared = 0
    for i in range(28):
        for j in range(28):
            y, x = i - plans[0][1], j - plans[1][1]
            if not kept[i // 7, j // 7] or not (0 <= y < plans[0][0] and 0 <= x < plans[1][0]):
                continue
            if np.isnan(expected[0, y, x]):
                continue  # filled with its patch's average, which has a test of its own
            error = np.abs(out[:, i, j] - expected[:, y, x].clip(0, 1)).max()
            assert error <= 0.5 * EIGHT_BIT + 1e-5, (i, j)
            compared += 1
    assert compared > 100


@pytest.mark.parametrize("size", [(136, 2), (2, 136), (90, 1), (1, 90)])
def test_a_strip_that_shrinks_to_one_row_or_column_keeps_its_course(size):
    pixels = ramp(1, 3, *size, low=0.0, high=1.0)
    out = to_image(masked_pixel_values(pixels, make(visible(1, *size), "pad", 28, 7), MEAN, STD))[0].double().numpy()
    rows, columns = (reference.resize_weights(length, 28 if length > 2 else 1, "bicubic") for length in size)
    expected = np.einsum("oy,cyx,px->cop", rows, pixels[0].double().numpy(), columns)
    shown = out[:, :, 7:8] if size[0] > size[1] else out[:, 7:8, :]  # it starts at (28 - 1) // 2, on a patch edge 7
    assert np.abs(shown - expected.clip(0, 1)).max() <= 0.5 * EIGHT_BIT + 1e-5


def test_filled_pixels_stay_between_the_visible_neighbours():
    pixels = 0.4 + 0.2 * image(1, 3, 90, 60, seed=7)
    keep = visible(1, 90, 60)
    keep[0, 20:50, 10:40] = False
    patch_mask = make(keep, "pad", 32, 8, threshold=0.9)
    kept = patch_mask.patch_keep_mask[:, None].repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)
    out = to_image(masked_pixel_values(pixels, patch_mask, MEAN, STD))[kept]
    assert out.min() >= 0.35  # bicubic may overshoot a little, black or white would be far outside
    assert out.max() <= 0.65


def test_batch_is_per_item_and_one_mask_serves_every_image():
    pixels = image(3, 3, 45, 30, seed=8)
    keep = torch.rand(3, 45, 30, generator=seeded(9)) > 0.02
    together = masked_pixel_values(pixels, make(keep, "crop", 32, 8, 0.2), MEAN, STD)
    shared = masked_pixel_values(pixels, make(keep[:1], "crop", 32, 8, 0.2), MEAN, STD)
    for item in range(3):
        one = slice(item, item + 1)
        alone = masked_pixel_values(pixels[one], make(keep[one], "crop", 32, 8, 0.2), MEAN, STD)
        assert torch.equal(together[one], alone)
        with_first_mask = masked_pixel_values(pixels[one], make(keep[:1], "crop", 32, 8, 0.2), MEAN, STD)
        assert torch.equal(shared[one], with_first_mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_any_float_dtype_give_float32(dtype):
    pixels = image(1, 3, 45, 30, seed=10).to(dtype)
    patch_mask = make(visible(1, 45, 30), "crop", 32, 8)
    out = masked_pixel_values(pixels, patch_mask, MEAN, STD)
    assert out.dtype == torch.float32
    assert torch.equal(out, masked_pixel_values(pixels.float(), patch_mask, MEAN, STD))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 20, 20), r"reference_image is \(1, 4, 20, 20\), expected \(B, 3, H, W\): RGB without alpha"),
        ((3, 20, 20), r"reference_image is \(3, 20, 20\), expected \(B, 3, H, W\)"),
        ((2, 3, 20, 24), "reference_image is 20x24, its patch mask was made for 20x20: give both the same image"),
        ((3, 3, 20, 20), "patch mask holds 2 masks for 3 images: expected 1 or one each"),
    ],
)
def test_an_image_that_does_not_fit_its_mask_is_refused_with_its_numbers(shape, message):
    with pytest.raises(ValueError, match=message):
        masked_pixel_values(torch.zeros(shape), make(visible(2, 20, 20)), MEAN, STD)


@pytest.mark.parametrize(("value", "span"), [(1.5, "0..1.5"), (-0.25, "-0.25..0"), (float("nan"), "nan..nan")])
def test_visible_values_out_of_range_are_refused_and_hidden_ones_are_not(value, span):
    pixels = torch.zeros(1, 3, 20, 20)
    pixels[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=f"reference_image spans {span} where it is visible, expected finite values"):
        masked_pixel_values(pixels, make(visible(1, 20, 20)), MEAN, STD)
    keep = visible(1, 20, 20)
    keep[0, 2, 3] = False
    assert torch.isfinite(masked_pixel_values(pixels, make(keep), MEAN, STD)).all()


def test_the_rounding_of_an_earlier_resize_is_no_range_error():
    pixels = torch.full((1, 3, 20, 20), 1.0 + 1e-6)
    out = masked_pixel_values(pixels, make(visible(1, 20, 20)), MEAN, STD)
    assert torch.equal(out, masked_pixel_values(torch.ones(1, 3, 20, 20), make(visible(1, 20, 20)), MEAN, STD))


def test_zeroed_tokens_are_exactly_zero_and_the_others_untouched():
    tokens = noise(2, 4, 5, seed=11)
    keep = torch.tensor([[True, False, True, False], [True, True, True, False]])
    poisoned = tokens.clone()
    poisoned[~keep] = float("nan")
    out = zero_hidden_tokens(poisoned, keep)
    assert torch.equal(out[keep], tokens[keep])
    assert out[~keep].abs().max() == 0.0
