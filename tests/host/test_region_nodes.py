"""Regions and scale map in the real host."""

from __future__ import annotations

import comfy.controlnet
import nodes as host_nodes
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pfv_mepa.nodes.mepa.region_nodes import MEPARegionBuilder, MEPARegionFromMask, MEPARegionShape
from pfv_mepa.nodes.research.scale_nodes import PFVScaleMap
from pfv_mepa.tests.host.sampling import outputs, reference, sample
from pfv_mepa.tests.support.tiny_stack import models


def photo_mask(batch: int = 1) -> Tensor:
    """As the mask editor leaves it: 254/255, a product 20 wide and 30 high."""
    mask = torch.zeros(batch, 60, 80)
    mask[:, 20:50, 10:30] = 254 / 255
    return mask


class TestRegions:
    """MEPA Region Shape, From Mask and Builder."""

    def from_mask(self, **changes):
        inputs = {"mask": photo_mask(), "mask_selects": "product", "grow": 0, "softness": 0, "around": False}
        (region,) = outputs(MEPARegionFromMask, **{**inputs, **changes})
        return region

    def shape(self, **changes):
        inputs = {
            "width": 80,
            "height": 60,
            "shape": "half_plane",
            "x1": 0.0,
            "y1": 0.5,
            "x2": 1.0,
            "y2": 0.5,
            "softness": 0.0,
        }
        (region,) = outputs(MEPARegionShape, **{**inputs, **changes})
        return region

    def test_a_painted_mask_is_a_region_grown_shrunk_faded_and_turned(self):
        plain = self.from_mask()
        assert torch.equal(plain, (photo_mask() > 0.5).float())
        assert torch.equal(self.from_mask(mask=1 - photo_mask(), mask_selects="background"), plain)
        assert torch.equal(self.from_mask(around=True), 1 - plain)
        assert self.from_mask(grow=3)[0, 17, 15] == 1
        assert self.from_mask(grow=3)[0, 17, 8] == 0  # the corner is a disk's: 3 up and 2 left are further than 3
        assert self.from_mask(grow=-3).sum() == 24 * 14
        assert self.from_mask(softness=3)[0, 18, 15].item() == pytest.approx(0.5)
        assert self.from_mask(softness=3, around=True)[0, 18, 15].item() == pytest.approx(0.5)

    def test_a_shape_is_the_canvass(self):
        region = self.shape()
        assert region.shape == (1, 60, 80)
        assert (region[:, 30:] == 1).all()
        assert (region[:, :30] == 0).all()

    def build(self, sharing, *regions, image=None):
        inputs = {f"region_{number}": region for number, region in enumerate(regions, 1) if region is not None}
        return outputs(MEPARegionBuilder, sharing=sharing, image=image, **inputs)

    def test_layers_partition_and_overlap(self):
        product, below = self.from_mask(), self.shape()
        both = (product == 1) & (below == 1)
        one, two, three, four, rest, preview = self.build("layers", product, below)
        assert torch.equal(one, product)
        assert torch.equal(two, torch.where(both, 0.0, below))
        assert not three.any()
        assert not four.any()
        assert torch.equal(one + two + rest, torch.ones(1, 60, 80))
        assert preview.shape == (1, 60, 80, 3)
        one, two, *_, rest, _ = self.build("partition", product, below)
        assert (one[both] == 0.5).all()
        assert torch.equal(one + two + rest, torch.ones(1, 60, 80))
        one, two, *_, rest, striped = self.build("overlap", product, below, image=reference(30, 40))
        assert torch.equal(one, product)
        assert torch.equal(two, below)
        assert (rest[both] == 0).all()
        assert set(striped[both].unique().tolist()) == {0.0, 1.0}

    def test_the_outputs_keep_the_numbers_of_the_inputs(self):
        one, two, three, *_ = self.build("layers", self.from_mask(), None, self.shape())
        assert one.any()
        assert not two.any()
        assert three.any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"grow": -20}, "grow is -20: nothing is left of mask 0"),
            ({"grow": 900}, "grow is 900: the whole frame is taken of mask 0"),
            ({"mask": torch.zeros(1, 60, 80)}, "mask 0 selects nothing"),
            ({"mask": torch.ones(1, 60, 80)}, "mask 0 selects the whole image"),
            ({"mask": photo_mask() * 255}, r"mask spans 0\.\.254"),
            ({"mask_selects": "both"}, "mask_selects is 'both', expected one of"),
        ],
    )
    def test_masks_that_make_no_region(self, change, message):
        with pytest.raises(ValueError, match=message):
            self.from_mask(**change)

    def test_regions_that_cannot_be_built(self):
        with pytest.raises(ValueError, match="region 2 is 30x80, region 1 is 60x80"):
            self.build("layers", self.from_mask(), self.shape(height=30))
        with pytest.raises(ValueError, match="region_2 selects nothing"):
            self.build("layers", self.from_mask(), torch.zeros(1, 60, 80))
        with pytest.raises(ValueError, match="sharing is 'mix', expected one of"):
            self.build("mix", self.from_mask())
        with pytest.raises(ValueError, match="shape is 'star', expected one of"):
            self.shape(shape="star")


class TestScaleMap:
    """PFV Scale Map, and a ControlNet of the host that takes its hint."""

    def scale(self, **changes):
        inputs = {
            "product": reference(60, 80, seed=5),
            "product_mask": photo_mask(),
            "product_mask_selects": "product",
            "height_from": "sizes",
            "product_cm": 30.0,
            "subject_cm": 20.0,
            "height_ratio": 0.5,
            "center": 0.0,
        }
        return outputs(PFVScaleMap, **{**inputs, **changes})

    def test_sizes_and_ratio(self):
        rows, hint = self.scale()
        assert rows[0, :, 0].nonzero().flatten().tolist() == list(range(10, 30))  # 20 px around the product's top at 20
        assert hint.shape == (1, 60, 80, 4)
        assert torch.equal(hint[..., 3], rows)
        product = photo_mask()[0] > 0.5
        assert torch.equal(hint[0, ..., :3][product], reference(60, 80, seed=5)[0][product])
        assert (hint[0, ..., :3][~product] == 0).all()
        rows, _ = self.scale(height_from="ratio")
        assert rows[0, :, 0].nonzero().flatten().tolist() == list(range(5, 35))

    def test_a_controlnet_with_four_hint_channels_is_loaded_from_a_file_and_reads_the_map(self, tmp_path):
        model = models.tiny_model("vega", head_dim=64)
        network = models.tiny_control_network(model)
        state = {key: value.clone() for key, value in network.state_dict().items()}
        first = state["input_hint_block.0.weight"]
        torch.manual_seed(0)
        state["input_hint_block.0.weight"] = torch.cat([first, torch.randn_like(first[:, :1])], 1).contiguous()
        save_file(state, tmp_path / "scale.safetensors")
        control_net = comfy.controlnet.load_controlnet(str(tmp_path / "scale.safetensors"), model)

        def sampled(hint):
            conditioning = models.tiny_conditioning(model)
            positive, negative = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
                conditioning, conditioning, control_net, hint, 1.0, 0.0, 1.0
            )
            return sample(model, positive, negative, height=64, width=80)

        _, small = self.scale(height_from="ratio", height_ratio=0.2)
        _, large = self.scale(height_from="ratio", height_ratio=0.8)
        assert torch.equal(small[..., :3], large[..., :3])
        assert not torch.equal(sampled(small), sampled(large))
        control_net = models.tiny_controlnet(model)  # of three channels, as those that are public
        with pytest.raises(RuntimeError, match="to have 3 channels, but got 4 channels instead"):
            sampled(small)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"height_from": "guess"}, "height_from is 'guess', expected one of"),
            ({"center": 4.0, "subject_cm": 1.0}, "no row of the subject of product 0 lies in the image"),
            ({"product_mask": torch.zeros(1, 60, 80)}, "product_mask 0 selects nothing"),
        ],
    )
    def test_bad_input(self, change, message):
        with pytest.raises(ValueError, match=message):
            self.scale(**change)
