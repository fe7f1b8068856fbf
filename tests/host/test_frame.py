"""The frame of an ad in the real host: depth of any size, a canvas that knows its model, and what the nodes show."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pfv_mepa.nodes.ad.canvas_nodes import PFVAdCanvas, PFVAdCanvasPlace
from pfv_mepa.nodes.ad.compose_nodes import PFVDepthCompose
from pfv_mepa.nodes.ad.product_nodes import StrictIDComposite
from pfv_mepa.nodes.host import demo
from pfv_mepa.nodes.host.training_size import training_of
from pfv_mepa.nodes.mepa.region_nodes import MEPARegionFromMask, MEPARegionShape
from pfv_mepa.nodes.research.scale_nodes import PFVScaleMap
from pfv_mepa.pfv_core.ad.formats import Training
from pfv_mepa.pfv_demo.sizes import IMAGE_SIZE, WEIGHTS
from pfv_mepa.tests.host.sampling import reference
from pfv_mepa.tests.host.test_canvas_nodes import CANVAS, photo_mask

SIZE = (60, 80)


@pytest.fixture
def picture(host_base_directory):
    """Function: what a node shows -> its picture's pixels, (H, W, 3) whole numbers."""

    def pixels(shown: Any) -> np.ndarray:
        (entry,) = (shown if isinstance(shown, dict) else shown.as_dict())["images"]
        assert entry["type"] == "temp"
        with Image.open(host_base_directory / "temp" / entry["subfolder"] / entry["filename"]) as saved:
            return np.asarray(saved.convert("RGB"), dtype=int)

    return pixels


def hidden_block(height: int, width: int, batch: int = 1) -> Tensor:
    mask = torch.zeros(batch, height, width)
    mask[:, height // 4 : height // 2, width // 3 : width // 2] = 1
    return mask


def compose(**changes):
    inputs = {
        "foreground_depth": reference(*SIZE, seed=1),
        "product_mask": photo_mask(),
        "product_mask_selects": "product",
        "reference_depth": reference(*SIZE, seed=2),
        "fill": "surroundings",
    }
    return PFVDepthCompose.execute(**{**inputs, **changes})


class TestDepth:
    """PFV Depth Compose and depth of other sizes."""

    def test_pictures_of_the_frames_size_give_the_same_bits_with_every_fit(self):
        mask = hidden_block(*SIZE)
        (plain,) = compose(hidden_mask=mask).args
        for fit in ("same_size", "stretch", "crop"):
            assert torch.equal(compose(hidden_mask=mask, fit=fit).args[0], plain)

    @pytest.mark.parametrize("fit", ["stretch", "crop"])
    @pytest.mark.parametrize("fill", ["surroundings", "far"])
    def test_hidden_depth_of_another_size_changes_no_bit(self, fit, fill):
        depth, mask = reference(90, 200, seed=3), hidden_block(90, 200)
        inputs = {"hidden_mask": mask, "fit": fit, "fill": fill}
        (plain,) = compose(reference_depth=depth, **inputs).args
        assert plain.shape == (1, *SIZE, 3)
        for value in (0.0, 1.0, 9e9, float("inf"), float("nan")):
            other = torch.where(mask[..., None] > 0, value, depth)
            assert torch.equal(compose(reference_depth=other, **inputs).args[0], plain)
        with pytest.raises(ValueError, match="the visible reference_depth spans"):
            compose(reference_depth=torch.where(mask[..., None] > 0, depth, 9.0), **inputs)

    def test_the_products_mask_gives_the_frame_and_both_depths_come_to_it(self):
        small = reference(30, 40, batch=2, seed=4)
        result = compose(foreground_depth=small, reference_depth=reference(45, 45, batch=2, seed=5), fit="crop")
        (depth,) = result.args
        assert depth.shape == (2, *SIZE, 3)
        assert result.ui["pfv_line"] == [
            "hidden in the reference, so filled: 0%, 0% of the frame; its depth was 45x45, crop to 80x60"
        ]

    def test_crop_is_the_middle_of_the_reference(self):
        """A depth of three thirds, thrice as wide as the frame: the middle one alone is left."""
        depth = torch.tensor([0.1, 0.5, 0.9]).repeat_interleave(80)[None, None, :, None].expand(1, 60, 240, 3)
        (cropped,) = compose(reference_depth=depth, fit="crop").args
        background = cropped[photo_mask() == 0]
        assert (background == 0.5).all()

    def test_a_mask_of_the_reference_itself_serves_an_estimators_smaller_depth(self):
        mask = hidden_block(180, 240)
        result = compose(reference_depth=reference(90, 120, seed=6), hidden_mask=mask, fit="stretch")
        (share,) = [line.partition("filled: ")[2].partition("%")[0] for line in result.ui["pfv_line"]]
        assert 3 <= int(share) <= 5  # a quarter of the height by a sixth of the width
        with pytest.raises(ValueError, match="hidden_mask is 240x180, reference_depth 90x90"):
            compose(reference_depth=reference(90, 90), hidden_mask=mask, fit="stretch")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"reference_depth": reference(30, 40)},
                r"foreground_depth is \(1, 3, 60, 80\), reference_depth \(1, 3, 30, 40\)",
            ),
            ({"fit": "pad"}, "fit is 'pad', expected one of"),
            ({"hidden_mask": torch.zeros(1, 64, 64), "fit": "crop"}, "hidden_mask holds no mask"),
            ({"hidden_mask": hidden_block(30, 40)}, "hidden_mask is 30x40, its image is 60x80"),
            ({"product_mask": torch.zeros(1, 64, 64), "fit": "crop"}, "product_mask 0 selects nothing"),
        ],
    )
    def test_bad_input(self, change, message):
        with pytest.raises(ValueError, match=message):
            compose(**change)


def canvas(**changes):
    inputs = {"product": reference(*SIZE, seed=1), "product_mask": photo_mask(), **CANVAS, "share": 0.3}
    return PFVAdCanvas.execute(**{**inputs, **changes})


class Flux:
    """A family of the host that is no U-Net."""


class TestCanvas:
    """PFV Ad Canvas and the model that is sampled."""

    @pytest.mark.parametrize(
        ("topology", "training"), [("sdxl", Training("SDXL", 1024)), ("sd15", Training("SD1.5", 512))]
    )
    def test_the_family_is_read_off_the_model(self, tiny_model_of, topology, training):
        assert training_of(tiny_model_of(topology).clone()) == training

    def test_auto_aims_at_the_models_training_area(self, tiny_model_of):
        sizes = {}
        for name, model in (("none", None), ("sdxl", tiny_model_of("sdxl")), ("sd15", tiny_model_of("sd15"))):
            result = canvas(format="1080x1920", sampling_scale="auto", model=model)
            sizes[name] = result.args[4:6]
            assert json.loads(result.args[6])["advice"] == []
        assert sizes == {"none": (816, 1440), "sdxl": (816, 1440), "sd15": (360, 640)}

    def test_the_demos_area_is_its_own(self):
        result = canvas(format="1:1", sampling_scale="auto", model=demo.demo_model(WEIGHTS))
        assert result.args[4:6] == (IMAGE_SIZE, IMAGE_SIZE)
        assert result.ui["pfv_line"] == [f"sampled at {IMAGE_SIZE}x{IMAGE_SIZE}, 1.00 of what the demo was trained on"]

    def test_the_line_says_what_auto_aims_at_and_what_is_sampled_badly(self, tiny_model_of):
        assert canvas(format="1:1", sampling_scale="auto").ui["pfv_line"] == [
            "sampled at 1024x1024; no model is connected, so auto aims at one megapixel"
        ]
        (line,) = canvas(format="980x55", sampling_scale="1", model=tiny_model_of("sdxl"), share=0.5).ui["pfv_line"]
        assert line.startswith(
            "sampled at 984x56, 0.05 of what SDXL was trained on; the sides are 17.8:1, beyond the 4:1"
        )
        assert line.endswith("so it comes coarse: choose sampling_scale 4")
        report = json.loads(canvas(format="980x55", sampling_scale="1", share=0.5).args[6])
        assert len(report["advice"]) == 2
        assert report["training"] is None

    def test_a_model_of_an_unknown_family_is_refused_by_auto_and_said_else(self):
        model = SimpleNamespace(model=SimpleNamespace(model_config=Flux()))
        with pytest.raises(ValueError, match="sampling_scale auto does not know what size Flux was trained on"):
            canvas(format="1:1", sampling_scale="auto", model=model)
        (line,) = canvas(format="1:1", model=model).ui["pfv_line"]
        assert line == "sampled at 1024x1024; what size Flux was trained on is not known here"


class TestShown:
    """What nodes show of what they made."""

    def test_a_region_on_grey_with_its_share(self, picture):
        shape = MEPARegionShape.execute(80, 60, "half_plane", 0.0, 0.5, 1.0, 0.5, 0.0)
        from_mask = MEPARegionFromMask.execute(shape.args[0], "product", 0, 0, False)
        for result in (shape, from_mask):
            pixels = picture(result.ui)
            assert pixels.shape == (60, 80, 3)
            assert (pixels[:30] == 63).all()  # 0.25: nothing
            assert (pixels[30:] == [229, 89, 51]).all()  # the first region's colour
            assert result.ui["pfv_line"] == ["region: 50% of the frame"]

    def test_a_large_region_is_shown_small(self, picture):
        shape = MEPARegionShape.execute(2100, 1500, "half_plane", 0.0, 0.5, 1.0, 0.5, 0.0)
        assert picture(shape.ui).shape == (500, 700, 3)

    def test_the_placed_depth(self, picture):
        plan = canvas(format="custom").args[3]
        result = PFVAdCanvasPlace.execute(reference(*SIZE, seed=8), plan, 0.0)
        assert np.array_equal(picture(result.ui), (result.args[0][0] * 255).numpy().astype(int))

    def test_the_rows_of_the_scale_map(self, picture):
        result = PFVScaleMap.execute(
            torch.full((1, *SIZE, 3), 0.5), photo_mask(), "product", "ratio", 4.0, 20.0, 0.5, 0.0
        )
        pixels, rows = picture(result.ui), result.args[0][0, :, 0].bool().numpy()
        red = pixels[..., 0] - pixels[..., 2]
        assert red[rows].min() > 100
        assert (red[~rows] == 0).all()

    def test_the_composed_depth(self, picture):
        result = compose()
        assert np.array_equal(picture(result.ui), (result.args[0][0] * 255).numpy().astype(int))

    def test_the_composite_marks_its_rim_and_keeps_its_text(self, picture):
        generated, product = torch.zeros(1, *SIZE, 3), torch.full((1, *SIZE, 3), 0.5)
        result = StrictIDComposite.execute(generated, product, photo_mask(), "product", 2, 0)
        pixels = picture(result.ui)
        assert (pixels[22:48, 12:28] == 127).all()
        assert (pixels[20, 10:30] == [160, 0, 142]).all()  # 0.7 of magenta, over black
        assert (pixels[19] == 0).all()
        assert json.loads(result.ui["text"][0])["exact"] is True
        assert result.ui["pfv_line"] == [
            "exact: 416 of 416 pixels are the photo's; of the product, but left to the generated image: 184; no 8-bit "
            "photo's: 416, which a saved file rounds. The product image was resized, blurred or edited, or its file is not "
            "8-bit RGB: save it as 8-bit RGB PNG; in the picture magenta: the generated image"
        ]
