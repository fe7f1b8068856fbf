"""Which cross-attentions a U-Net has, in the order of the public adapter files."""

from __future__ import annotations

import pytest
from diffusers import UNet2DConditionModel, UNet2DModel

from lab.diffusers.layers import attention_layers
from pfv_core.attention.unet_layout import SD15, SDXL, AttentionLayer, Side

from .models import new_unet


@pytest.mark.parametrize(("name", "layout"), [("sdxl", SDXL), ("sd15", SD15)])
def test_layers_are_those_of_the_public_files(name, layout):
    unet = new_unet(name)
    layers = attention_layers(unet)
    assert tuple(layers) == layout
    names = list(layers.values())
    assert [n.split(".")[0] for n in names] == sorted(
        [n.split(".")[0] for n in names], key=["down_blocks", "up_blocks", "mid_block"].index
    )
    assert set(names) == {n.removesuffix(".processor") for n in unet.attn_processors if "attn2" in n}
    widths = [unet.get_submodule(n).to_q.in_features for n in names]
    per_level = {layer.level: width for layer, width in zip(layers, widths, strict=True)}
    assert per_level == ({1: 32, 2: 64} if name == "sdxl" else {0: 16, 1: 32, 2: 64, 3: 64})


def test_layers_of_the_smallest(demo_unet):
    places = [(layer.side, layer.level, layer.ordinal) for layer in attention_layers(demo_unet)]
    assert places == [(Side.INPUT, 1, 0), (Side.OUTPUT, 1, 0), (Side.OUTPUT, 1, 1), (Side.MIDDLE, 1, 0)]


def test_a_unet_without_middle_or_without_attention_there():
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    assert list(attention_layers(unet)) == [
        AttentionLayer(Side.INPUT, 0, 0, 0),
        AttentionLayer(Side.OUTPUT, 0, 0, 0),
        AttentionLayer(Side.OUTPUT, 0, 1, 0),
    ]


def test_a_unet_of_another_kind_is_refused():
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 4, "norm_num_groups": 4}
    simple = UNet2DConditionModel(
        down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        **sizes,
    )
    with pytest.raises(ValueError, match="cross-attention"):
        attention_layers(simple)
    plain = UNet2DModel(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **sizes)
    with pytest.raises(ValueError, match="no cross-attention to put an image prompt into"):
        attention_layers(plain)
