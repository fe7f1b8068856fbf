"""unet_layout: which cross-attention of a U-Net a weight belongs to."""

from __future__ import annotations

import pytest

from pfv_mepa.pfv_core.attention.unet_layout import (
    CONTEXT_DIM,
    LAYOUTS,
    SD15,
    SDXL,
    AttentionLayer,
    Side,
    match_layers,
    unet_layers,
)

from .adapter_layouts import PUBLIC

# (level, depth) of every transformer of the released models, in running order: input, middle, output.
MODELS = {
    "SSD-1B": ([(1, 2), (1, 2), (2, 4), (2, 4)], None, [(2, 4), (2, 4), (2, 10), (1, 2), (1, 1), (1, 1)]),
    "Vega": ([(1, 1), (1, 1), (2, 2), (2, 2)], None, [(2, 2)] * 3 + [(1, 1)] * 3),
    "KOALA-700M": ([(1, 2), (2, 5)], None, [(2, 5)] * 2 + [(1, 2)] * 2),
    "KOALA-1B": ([(1, 2), (2, 6)], (2, 6), [(2, 6)] * 2 + [(1, 2)] * 2),
}
COUNTS = {"SSD-1B": 34, "Vega": 15, "KOALA-700M": 21, "KOALA-1B": 30}
REFINER = ([(1, 4)] * 2 + [(2, 4)] * 2, (3, 4), [(2, 4)] * 3 + [(1, 4)] * 3)
WIDTH_OF_LEVEL = {1: 640, 2: 1280}


def test_sdxl_has_70_cross_attentions_with_the_middle_last():
    assert len(SDXL) == len(set(SDXL)) == 70
    assert [layer.side for layer in SDXL] == [Side.INPUT] * 24 + [Side.OUTPUT] * 36 + [Side.MIDDLE] * 10
    assert SDXL[0] == AttentionLayer(Side.INPUT, 1, 0, 0)
    assert SDXL[3] == AttentionLayer(Side.INPUT, 1, 1, 1)
    assert SDXL[4] == AttentionLayer(Side.INPUT, 2, 0, 0)
    assert SDXL[24] == AttentionLayer(Side.OUTPUT, 2, 0, 0)
    assert SDXL[54] == AttentionLayer(Side.OUTPUT, 1, 0, 0)
    assert SDXL[69] == AttentionLayer(Side.MIDDLE, 2, 0, 9)


def test_sd15_has_16_cross_attentions_of_one_block_each():
    assert len(SD15) == len(set(SD15)) == 16
    assert [layer.level for layer in SD15] == [0, 0, 1, 1, 2, 2, 2, 2, 2, 1, 1, 1, 0, 0, 0, 3]
    assert {layer.depth for layer in SD15} == {0}
    assert SD15[-1] == AttentionLayer(Side.MIDDLE, 3, 0, 0)


@pytest.mark.parametrize(("base", "name"), [("sdxl", "ip-adapter_sdxl_vit-h"), ("sd15", "ip-adapter_sd15")])
def test_levels_agree_with_the_widths_of_the_public_files(base, name):
    public = PUBLIC[name]
    assert CONTEXT_DIM[base] == public.context_dim
    width_of = {0: 320, 1: 640, 2: 1280, 3: 1280}
    assert [width_of[layer.level] for layer in LAYOUTS[base]] == list(public.widths)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_distilled_models_take_the_first_transformers_and_blocks_of_the_full_one(name):
    model = unet_layers(*MODELS[name])
    assert len(model) == COUNTS[name]
    index = match_layers(SDXL, model)
    assert set(index) == set(model)
    assert len(set(index.values())) == COUNTS[name]  # no weight serves twice
    for layer, position in index.items():
        assert SDXL[position] == layer
        assert PUBLIC["ip-adapter_sdxl_vit-h"].widths[position] == WIDTH_OF_LEVEL[layer.level]


def test_file_numbers_of_places_that_are_easy_to_mistake():
    """Blocks that a plain running count over a distilled model would give other weights."""
    place = match_layers(SDXL, unet_layers(*MODELS["SSD-1B"]))
    numbers = {str(layer): 2 * position + 1 for layer, position in place.items()}
    assert numbers["input level 2 transformer 0 block 3"] == 9 + 2 * 3
    assert numbers["input level 2 transformer 1 block 0"] == 29
    assert numbers["output level 2 transformer 0 block 0"] == 49
    assert numbers["output level 2 transformer 2 block 9"] == 107
    assert numbers["output level 1 transformer 1 block 0"] == 113
    middle = match_layers(SDXL, unet_layers(*MODELS["KOALA-1B"]))
    assert [2 * middle[AttentionLayer(Side.MIDDLE, 2, 0, block)] + 1 for block in (0, 5)] == [121, 131]


@pytest.mark.parametrize("layers", [SDXL, SD15])
def test_a_full_model_matches_itself_in_any_order(layers):
    assert match_layers(layers, layers) == {layer: position for position, layer in enumerate(layers)}
    assert match_layers(layers, reversed(layers)) == match_layers(layers, layers)


@pytest.mark.parametrize(
    ("adapter", "model", "message"),
    [
        (
            SDXL,
            SD15,
            "70 layers do not cover this model: 6 of its 16 cross-attentions have no weights .the first: "
            "input level 0 transformer 0 block 0.",
        ),
        (
            SD15,
            SDXL,
            "16 layers do not cover this model: 60 of its 70 .*the first: input level 1 transformer 0 block 1",
        ),
        (SDXL, unet_layers(*REFINER), "70 layers do not cover this model: .* of its 44 cross-attentions"),
        (unet_layers(*MODELS["Vega"]), SDXL, "15 layers do not cover this model: 55 of its 70 cross-attentions"),
    ],
)
def test_a_model_that_an_adapter_does_not_cover_is_refused_with_the_numbers(adapter, model, message):
    with pytest.raises(ValueError, match=message):
        match_layers(adapter, model)


def test_layers_are_enumerated_by_side_level_and_order():
    layers = unet_layers([(1, 1), (2, 2), (1, 1)], None, [(2, 1)])
    assert [str(layer) for layer in layers] == [
        "input level 1 transformer 0 block 0",
        "input level 2 transformer 0 block 0",
        "input level 2 transformer 0 block 1",
        "input level 1 transformer 1 block 0",
        "output level 2 transformer 0 block 0",
    ]
