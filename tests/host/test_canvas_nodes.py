"""The canvas and the grown Strict-ID Composite in the real host."""

from __future__ import annotations

import json

import nodes as host_nodes
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pfv_mepa.nodes.ad.canvas_nodes import PFVAdCanvas, PFVAdCanvasFinish, PFVAdCanvasPlace
from pfv_mepa.nodes.ad.product_nodes import StrictIDComposite
from pfv_mepa.pfv_core.ad.composite import paste_back
from pfv_mepa.tests.host.sampling import outputs, reference, sample

CANVAS = {
    "product_mask_selects": "product",
    "format": "custom",
    "custom_width": 150,
    "custom_height": 100,
    "sampling_scale": "1",
    "position": "bottom",
    "scale_by": "height",
    "share": 0.5,
    "margin": 0.1,
    "safe_left": 0.0,
    "safe_top": 0.0,
    "safe_right": 0.0,
    "safe_bottom": 0.0,
    "x": 0.5,
    "y": 0.5,
    "region_rim": 0,
    "backdrop": 0.0,
}


def photo_mask(batch: int = 1) -> Tensor:
    """As the mask editor leaves it: 254/255, a product 20 wide and 30 high."""
    mask = torch.zeros(batch, 60, 80)
    mask[:, 20:50, 10:30] = 254 / 255
    return mask


def canvas(**changes):
    inputs = {"product": reference(60, 80, seed=1), "product_mask": photo_mask(), **CANVAS, **changes}
    return outputs(PFVAdCanvas, **inputs)


def composite(generated, product, mask, **changes):
    inputs = {"generated": generated, "product": product, "product_mask": mask, "product_mask_selects": "product"}
    return outputs(StrictIDComposite, **{**inputs, "erode": 2, "feather": 4, **changes})


class TestCanvas:
    """PFV Ad Canvas, Place and Finish."""

    def test_outputs(self):
        image, mask, region, plan, width, height, report = canvas()
        assert image.shape == (1, 104, 152, 3)
        assert (width, height) == (152, 104)
        assert mask[0, 40:90, 58:91].all()  # 50 px high, 33 wide, 10 px above the lower edge of 100
        assert mask.sum() == 50 * 33
        assert torch.equal(region, 1 - mask)
        assert (image[mask == 0] == 0).all()
        assert json.loads(report) == plan.report()
        assert json.loads(report)["products"][0]["box"] == [58, 40, 33, 50]

    def test_numbers_and_covered_sides_are_each_their_own(self):
        """Across is across, left is left."""

        def corner(**changes):
            return json.loads(canvas(scale_by="original", margin=0.0, **changes)[6])["products"][0]["box"][:2]

        assert corner(position="numbers", x=0.3, y=0.6) == [round(0.3 * 150 - 10), round(0.6 * 100 - 15)]
        expected = {"left": (0, 45), "top": (1, 30), "right": (0, 150 - 45 - 20), "bottom": (1, 100 - 30 - 30)}
        for side, (axis, at) in expected.items():
            assert corner(position=side, **{f"safe_{side}": 0.3})[axis] == at, side

    def test_the_backdrop_is_what_stands_around_the_product(self):
        image, mask, _, plan, *_ = canvas(backdrop=0.5)
        assert (image[mask == 0] == 0.5).all()
        (placed,) = outputs(PFVAdCanvasPlace, image=reference(60, 80, seed=3), canvas=plan, backdrop=0.25)
        assert (placed[mask == 0] == 0.25).all()

    def test_a_transparent_cut_out_is_the_same_product(self):
        painted = canvas()
        cut_out = canvas(product_mask=1 - photo_mask(), product_mask_selects="background")
        for one, other in zip(painted[:3], cut_out[:3], strict=True):
            assert torch.equal(one, other)

    def test_a_soft_region_rises_from_the_product(self):
        _, mask, region, *_ = canvas(region_rim=9)
        assert (region[mask == 1] == 0).all()
        assert region[0, 39, 70].item() == pytest.approx(0.1)
        assert region[0, 35, 70].item() == pytest.approx(0.5)
        assert region[0, 25, 70].item() == 1

    def test_depth_lands_on_the_product_and_far_is_around_it(self):
        *_, plan, _, _, _ = canvas()
        depth = torch.linspace(0, 1, 60)[None, :, None, None].expand(1, 60, 80, 3)
        (placed,) = outputs(PFVAdCanvasPlace, image=depth, canvas=plan, backdrop=0.0)
        assert placed.shape == (1, 104, 152, 3)
        assert placed[0, 40, 70, 0].item() == pytest.approx(20 / 59, abs=0.02)
        assert placed[0, 89, 70, 0].item() == pytest.approx(49 / 59, abs=0.02)
        assert placed[0, 95, 70, 0] == 0

    @pytest.mark.parametrize(("scale", "size"), [("1", (104, 152)), ("2", (200, 304)), ("1/2", (56, 80))])
    def test_finish_gives_the_exact_size(self, scale, size):
        *_, plan, width, height, _ = canvas(sampling_scale=scale)
        assert (height, width) == size
        sampled = reference(height, width, batch=2, seed=3)
        (finished,) = outputs(PFVAdCanvasFinish, image=sampled, canvas=plan)
        assert finished.shape == (2, 100, 150, 3)
        if scale == "1":
            assert torch.equal(finished, sampled[:, :100, :150])

    def test_the_sampled_latent_is_the_canvass(self, tiny_model_of):
        *_, plan, width, height, _ = canvas()
        (latent,) = host_nodes.EmptyLatentImage().generate(width, height)
        assert latent["samples"].shape[2:] == (13, 19)
        assert sample(tiny_model_of("vega"), height=height, width=width).shape[2:] == (13, 19)
        assert plan.format.sampling == (8 * 13, 8 * 19)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"product_mask": torch.zeros(1, 60, 80)}, "product_mask 0 selects nothing"),
            ({"product_mask": torch.zeros(1, 64, 64)}, "product_mask holds no mask"),
            ({"product_mask": photo_mask()[:, :50]}, "product_mask is 50x80, its image is 60x80"),
            ({"product_mask": photo_mask(3), "product": reference(60, 80, batch=2)}, "holds 3 masks for 2 images"),
            ({"product": torch.rand(1, 60, 80, 4)}, "product has 4 channels"),
            ({"product": reference(60, 80) * float("nan")}, "product spans nan"),
            (
                {"share": 1.0},
                r"product 0: .* rows -10\.\.90, allowed are 10\.\.140 and 10\.\.90: lower share or margin",
            ),
            (
                {"scale_by": "width", "share": 0.9},
                "product 0: the product would be 135x202 pixels on a canvas of 150x100",
            ),
            ({"scale_by": "original", "custom_width": 16}, "the product would be 20x30 pixels on a canvas of 16x100"),
            ({"format": "2:1"}, "format is '2:1', expected one of"),
            ({"sampling_scale": "5"}, "sampling_scale is '5', expected one of"),
            ({"position": "middle"}, "position is 'middle', expected one of"),
            ({"scale_by": "depth"}, "scale_by is 'depth', expected one of"),
            ({"product_mask_selects": "both"}, "product_mask_selects is 'both'"),
        ],
    )
    def test_bad_input(self, change, message):
        with pytest.raises(ValueError, match=message):
            canvas(**change)

    def test_bad_input_of_the_others(self):
        *_, plan, _, _, _ = canvas()
        with pytest.raises(ValueError, match="image is 80x50, the product photo was 80x60"):
            outputs(PFVAdCanvasPlace, image=reference(50, 80), canvas=plan, backdrop=0.0)
        with pytest.raises(ValueError, match="image is 150x100, the canvas is sampled at 152x104"):
            outputs(PFVAdCanvasFinish, image=reference(100, 150), canvas=plan)


class TestComposite:
    """Strict-ID Composite with what it has gained."""

    def test_without_the_new_inputs_it_gives_what_it_always_gave(self):
        generated, product, mask = reference(64, 96, batch=2, seed=1), reference(64, 96, seed=2), torch.zeros(1, 64, 96)
        mask[:, 20:40, 30:60] = 1
        image, exact, _ = composite(generated, product, mask)
        core = [tensor.movedim(-1, 1) for tensor in (generated, product.expand(2, -1, -1, -1))]
        expected, expected_exact = paste_back(*core, (mask > 0.5).expand(2, -1, -1), 2, 4)
        assert torch.equal(image, expected.movedim(1, -1))
        assert torch.equal(exact, expected_exact.float())

    @pytest.mark.parametrize("scale", ["1", "2", "1/2"])
    def test_with_a_canvas_the_ad_has_its_exact_size_and_the_saved_png_the_products_pixels(
        self, scale, host_base_directory
    ):
        image, mask, _, plan, width, height, _ = canvas(sampling_scale=scale, position="bottom_right", margin=0.0)
        generated = reference(height, width, seed=4)
        ad, exact, report = composite(generated, image, mask, canvas=plan)
        assert ad.shape == (1, 100, 150, 3)
        assert exact.shape == (1, 100, 150)
        assert exact[0, 52:100, 119:150].all()  # of rows 50..100 and columns 117..150; the ad's border is no rim
        assert exact.sum() == 48 * 31
        (finished,) = outputs(PFVAdCanvasFinish, image=generated, canvas=plan)
        outside = mask[:, :100, :150] == 0
        assert torch.equal(ad[outside], finished[outside])
        saver = host_nodes.SaveImage()
        saver.output_dir = str(host_base_directory / "output")
        (entry,) = saver.save_images(ad, "canvas", {}, {})["ui"]["images"]
        pixels = np.asarray(Image.open(host_base_directory / "output" / entry["filename"])).astype(int)
        expected = (image[0, :100, :150] * 255).round().numpy().astype(int)
        assert np.abs(pixels - expected)[exact[0].bool().numpy()].max() == 0
        assert json.loads(report)["ads"][0]["pixels_checked"] == 48 * 31

    def test_report(self):
        generated, product = reference(64, 96, batch=2, seed=1), reference(64, 96, seed=2)
        mask, drawn = torch.zeros(1, 64, 96), torch.zeros(2, 64, 96)
        mask[:, 20:40, 30:60] = 1
        drawn[0, 20:40, 30:45] = 1
        *_, report = composite(generated, product, mask, generated_mask=drawn)
        first, second = json.loads(report)["ads"]
        assert json.loads(report)["exact"] is True
        assert first == {
            "product_pixels": 600,
            "translucent_pixels": 0,
            "pixels_left_out": 0,
            "pixels_checked": 16 * 26,
            "pixels_equal": 16 * 26,
            "max_difference": 0.0,
            "mask_iou": 0.5,
            "pixels_not_8_bit": 16 * 26,
            "scale": None,
            "resized": None,
        }
        assert second["mask_iou"] == 0.0  # nothing was drawn: no error, a figure
        assert json.loads(composite(generated, product, mask)[2])["ads"][0]["mask_iou"] is None

    def test_the_generated_mask_follows_the_canvas(self):
        image, mask, _, plan, width, height, _ = canvas(sampling_scale="2")
        generated = reference(height, width, seed=4)
        drawn = torch.nn.functional.interpolate(mask[:, None], scale_factor=2)[:, 0]
        *_, report = composite(generated, image, mask, canvas=plan, generated_mask=drawn)
        assert json.loads(report)["ads"][0]["mask_iou"] == 1.0

    def test_a_shadow_darkens_beside_the_foot_alone(self):
        generated, product, mask = torch.full((1, 64, 96, 3), 0.5), reference(64, 96, seed=2), torch.zeros(1, 64, 96)
        mask[:, 20:40, 30:60] = 1
        plain, exact, _ = composite(generated, product, mask)
        shaded, shaded_exact, report = composite(generated, product, mask, shadow_strength=0.6, shadow_size=6)
        assert torch.equal(shaded_exact, exact)
        assert torch.equal(shaded[exact == 1], plain[exact == 1])
        assert json.loads(report)["exact"]
        assert (shaded[0, 40, 45] < 0.3).all()
        assert torch.equal(shaded[0, :20], plain[0, :20])
        assert torch.equal(shaded[0, 55:], plain[0, 55:])
        assert (shaded <= plain).all()

    def test_a_rim_beyond_the_mask_needs_no_erosion(self):
        generated, product, mask = torch.zeros(1, 64, 96, 3), torch.ones(1, 64, 96, 3), torch.zeros(1, 64, 96)
        mask[:, 20:40, 30:60] = 1
        image, exact, _ = composite(generated, product, mask, erode=0, feather=1, rim="beyond_mask")
        assert torch.equal(exact, mask)
        assert (image[0, 19, 40] == 0.5).all()
        assert (image[0, 18, 40] == 0).all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rim": "outside"}, "rim is 'outside', expected one of"),
            ({"generated_mask": torch.zeros(1, 60, 96)}, "generated_mask is 60x96, its image is 64x96"),
            ({"generated_mask": torch.zeros(3, 64, 96)}, "generated_mask holds 3 masks for 1 images"),
            ({"generated_mask": torch.full((1, 64, 96), 2.0)}, r"generated_mask spans 2\.\.2"),
        ],
    )
    def test_bad_input(self, change, message):
        mask = torch.zeros(1, 64, 96)
        mask[:, 20:40, 30:60] = 1
        with pytest.raises(ValueError, match=message):
            composite(reference(64, 96), reference(64, 96, seed=2), mask, **change)

    def test_a_canvas_of_another_ad(self):
        _, _, _, plan, _, _, _ = canvas()
        mask = torch.zeros(1, 64, 96)
        mask[:, 20:40, 30:60] = 1
        with pytest.raises(ValueError, match="image is 96x64, the canvas is sampled at 152x104"):
            composite(reference(64, 96), reference(64, 96, seed=2), mask, canvas=plan)
