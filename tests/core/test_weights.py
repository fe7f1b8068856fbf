"""Weights of an image prompt by layer and over the sampling."""

from __future__ import annotations

import math
import random

import pytest
import torch

from pfv_mepa.pfv_core.attention.control import PromptControl
from pfv_mepa.pfv_core.attention.curve import Curve, Sampling, sampling_curve, share_of_timestep
from pfv_mepa.pfv_core.attention.layer_weights import (
    CURVES,
    TABLES,
    Layers,
    LayerWeights,
    in_families,
)
from pfv_mepa.pfv_core.attention.transformers import Family, Transformer, transformer_of, transformers
from pfv_mepa.pfv_core.attention.unet_layout import ONE_LEVEL, SD15, SDXL, AttentionLayer, Side, unet_layers
from pfv_mepa.pfv_core.attention.weights import PromptWeights
from pfv_mepa.pfv_core.attention.weights_preview import HEIGHT, WIDTH, weights_preview

INPUT_2_1, MIDDLE = Transformer(Side.INPUT, 2, 1), Transformer(Side.MIDDLE, 2, 0)


# --- over the sampling ------------------------------------------------------------------------------------------------


def test_a_curve_is_straight_between_its_points_and_flat_beyond_them():
    curve = sampling_curve("custom", "0.2: 0.5, 0.4: 1.5\n0.8: 0")
    expected = {0.0: 0.5, 0.2: 0.5, 0.3: 1.0, 0.4: 1.5, 0.6: 0.75, 0.8: 0.0, 1.0: 0.0}
    assert {share: pytest.approx(curve.at(share)) for share in expected} == expected
    assert curve.constant is None
    assert (curve.at(0.2), curve.at(0.4), curve.at(0.8)) == (0.5, 1.5, 0.0)  # a point's own weight, to the bit


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("constant", (1, 1, 1)),
        ("rising", (0, 0.5, 1)),
        ("falling", (1, 0.5, 0)),
        ("rising_falling", (0, 1, 0)),
        ("falling_rising", (1, 0, 1)),
    ],
)
def test_curves_with_a_name(name, weights):
    curve = sampling_curve(name)
    assert tuple(curve.at(share) for share in (0.0, 0.5, 1.0)) == weights
    assert curve.constant == (1.0 if name == "constant" else None)
    assert set(Sampling) == {
        *map(Sampling, ("constant", "rising", "falling", "rising_falling", "falling_rising", "custom"))
    }


@pytest.mark.parametrize(
    ("sampling", "table", "message"),
    [
        ("slow", "", "sampling is 'slow', expected one of"),
        ("custom", " \n ", "sampling is custom and sampling_table is empty: give one, such as 0: 0, 0.5: 1, 1: 1"),
        ("rising", "0: 1", "sampling is 'rising' and sampling_table has entries that would count for nothing"),
        ("custom", "0: 0, 1.2: 1", "a point of the curve lies at 1.2 of the sampling: expected 0"),
        (
            "custom",
            "0.5: 0, 0.5: 1",
            "the curve's point at 0.5 stands behind that at 0.5: name each share once, rising",
        ),
        ("custom", "0.5: 0, 0.2: 1", "the curve's point at 0.2 stands behind that at 0.5"),
        ("custom", "0: -1", "the weight at 0 of the sampling is -1, expected 0"),
        ("custom", "0: inf", "the weight at 0 of the sampling is inf, expected 0"),
        ("custom", "half: 1", "sampling_table has a point at 'half', expected a share of the sampling"),
        ("custom", "0 1", "sampling_table has the entry '0 1', expected a name, a colon and a number"),
        ("custom", "0: one", "sampling_table has the entry '0: one', expected a name, a colon and a number"),
    ],
)
def test_a_curve_that_cannot_be_read_is_refused(sampling, table, message):
    with pytest.raises(ValueError, match=message):
        sampling_curve(sampling, table)


def test_shares_of_timesteps():
    assert [share_of_timestep(timestep, 1000) for timestep in (999, 0)] == [0.0, 1.0]
    assert share_of_timestep(333, 1000) == pytest.approx(2 / 3)


# --- by layer ---------------------------------------------------------------------------------------------------------


def weights_of(choice: str, layers=SDXL, table: str = "") -> list[float]:
    return [round(weight, 4) for weight in LayerWeights.of(choice, table).over(layers).values()]


def test_transformers_stand_in_running_order():
    sides = [one.side for one in transformers(SDXL)]
    assert sides == [Side.INPUT] * 4 + [Side.MIDDLE] + [Side.OUTPUT] * 6
    assert [str(one) for one in transformers(SDXL)[3:7]] == ["input 2.1", "middle", "output 2.0", "output 2.1"]
    assert (len(transformers(SD15)), len(transformers(ONE_LEVEL))) == (16, 4)


@pytest.mark.parametrize(("layers", "count"), [(SDXL, 11), (SD15, 16)])
def test_the_curves_over_the_blocks(layers, count):
    """Of the place t among N: 5 % at least, and 95 % of 1 - t/N, t/N, and of how far it is from the middle or not."""
    from_middle = [abs(t - count / 2) / (count / 2) for t in range(count)]
    expected = {
        "ease_in": [1 - t / count for t in range(count)],
        "ease_out": [t / count for t in range(count)],
        "ease_in_out": [1 - far for far in from_middle],
        "reverse_in_out": from_middle,
    }
    for choice, shares in expected.items():
        assert weights_of(choice, layers) == [round(0.05 + 0.95 * share, 4) for share in shares]


@pytest.mark.parametrize(
    ("choice", "sdxl", "sd15"),
    [
        ("all", "11111111111", "1111111111111111"),
        ("weak_input", "wwww1111111", "wwwwww1111111111"),
        ("weak_middle", "1111w111111", "111111w111111111"),
        ("weak_output", "11111wwwwww", "1111111wwwwwwwww"),
        ("strong_middle", "wwww1wwwwww", "wwwwww1wwwwwwwww"),
        ("style_transfer", "00000010000", "1111000001111111"),
        ("look", "00000010000", "1111000001111111"),
        ("composition", "00010000000", "0000q10000000000"),
        ("layout", "00010000000", "0000q10000000000"),
        ("strong_style_transfer", "11101111111", "1111001111111111"),
        ("style_and_composition", "00010010000", "1111q10001111111"),
    ],
)
def test_the_tables_with_a_name(choice, sdxl, sd15):
    number = {"0": 0.0, "1": 1.0, "w": 0.2, "q": 0.25}
    assert weights_of(choice) == [number[letter] for letter in sdxl]
    assert weights_of(choice, SD15) == [number[letter] for letter in sd15]


def test_look_and_layout_of_the_demo_are_what_was_measured():
    assert weights_of("look", ONE_LEVEL) == [1, 0, 0, 1]
    assert weights_of("layout", ONE_LEVEL) == [0, 1, 0, 0]


def test_every_name_is_a_curve_or_a_table():
    assert {*CURVES, *TABLES, Layers.CUSTOM} == set(Layers)


def test_what_says_more_exactly_counts_and_the_rest_is_1():
    table = "output 2.1: 3\ninput: 0.5, input 2: 0.25, input 2.1: 0"
    assert weights_of("custom", table=table) == [0.5, 0.5, 0.25, 0, 1, 1, 3, 1, 1, 1, 1]
    entries = table.replace("\n", ",").split(",")
    random.Random(0).shuffle(entries)
    assert weights_of("custom", table=", ".join(entries)) == weights_of("custom", table=table)
    assert weights_of("custom", table="all: 0, middle: 1") == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert weights_of("custom", table="  input   2.1 :  .5 ,,")[3] == 0.5


@pytest.mark.parametrize(
    "name", ["foo", "Input", "input 2.1.3", "input 2.", "input two", "input -1", "middle 2", "all 1", "", "output 1 .0"]
)
def test_a_place_that_cannot_be_read_is_refused(name):
    with pytest.raises(
        ValueError, match=f"layer_table has a weight for '{name}', expected all, input, middle or output"
    ):
        LayerWeights.of("custom", f"{name}: 1")


@pytest.mark.parametrize(
    ("choice", "table", "message"),
    [
        ("outputs", "", "layers is 'outputs', expected one of"),
        ("custom", "", "layers is custom and layer_table is empty: give one, such as all: 0, output 2.1: 1"),
        ("look", "all: 1", "layers is 'look' and layer_table has entries that would count for nothing: choose custom"),
        ("custom", "input: 1, input: 1", "layer_table names input twice"),
        ("custom", "input 2.1: -0.1", "the weight of input 2.1 is -0.1, expected 0"),
        ("custom", "all: nan", "layer_table has the entry 'all: nan'"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(choice, table, message):
    with pytest.raises(ValueError, match=message):
        LayerWeights.of(choice, table)


def test_a_layer_that_the_model_has_not_is_refused_where_the_model_is_known():
    with pytest.raises(
        ValueError, match=r"a weight for input 0, which the model has not: its transformers are input 1.0,"
    ):
        LayerWeights.of("custom", "input 0: 1").over(SDXL)
    without_middle = unet_layers([(1, 2), (2, 4)], None, [(2, 4), (1, 2)])
    with pytest.raises(ValueError, match="layers 'weak_middle' has a weight for middle, which the model has not"):
        LayerWeights.of("weak_middle").over(without_middle)
    with pytest.raises(ValueError, match=r"'style_transfer' names transformers of SDXL and SD1\.5, this model has"):
        LayerWeights.of("style_transfer").over(ONE_LEVEL)


def test_in_which_kinds_of_models_a_table_has_all_its_layers():
    assert set(in_families(LayerWeights.of("ease_in"))) == set(Family)
    assert set(in_families(LayerWeights.of("composition"))) == {Family.SDXL, Family.SD15}
    assert set(in_families(LayerWeights.of("custom", "output 0.2: 0"))) == {Family.SD15}
    assert in_families(LayerWeights.of("custom", "input 7: 0")) == {}


def test_all_blocks_of_a_transformer_share_its_weight():
    assert transformer_of(AttentionLayer(Side.INPUT, 2, 1, 9)) == INPUT_2_1
    assert transformer_of(AttentionLayer(Side.MIDDLE, 2, 0, 3)) == MIDDLE


def test_weights_of_1_are_none_at_all():
    assert PromptWeights().over(SDXL) is None
    assert PromptWeights(LayerWeights.of("custom", "input: 1")).over(SDXL) is None
    assert PromptWeights(LayerWeights.of("look")).over(SDXL)[MIDDLE] == 0.0


# --- what a weight does -----------------------------------------------------------------------------------------------


def test_a_weight_moves_image_and_text_together_and_above_1_the_image_alone():
    control = PromptControl(0.8, 0.2, "query", True, 400.0)
    assert control.weighted(1.0) is control
    assert control.weighted(0.0) is None
    half, twice = control.weighted(0.5), control.weighted(2.0)
    assert (half.image_scale, half.text_share) == (0.4, pytest.approx(0.6))
    assert (twice.image_scale, twice.text_share) == (1.6, pytest.approx(0.2))
    assert (half.gate, half.std_norm, half.gamma) == (control.gate, True, 400.0)


def test_a_time_weight_is_such_a_weight():
    control = PromptControl(0.8, 0.2, gamma=400.0)
    assert control.at(600.0) == PromptControl(0.8, 0.2).weighted(0.5)
    assert control.at(400.0) is control
    assert control.at(800.0) is None


def test_a_weight_of_numbers_for_each_sample():
    weighted = PromptControl(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])).weighted(0.25)
    assert weighted.image_scale.tolist() == [0.25, 0.5]
    assert weighted.text_share.tolist() == [0.75, 1.0]


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_has_a_bar_for_each_transformer_and_a_line():
    weights = LayerWeights.of("look").over(SDXL)
    picture = weights_preview([weights, LayerWeights.of("look").over(SD15)], sampling_curve("rising"))
    assert picture.shape == (1, 3, 3 * HEIGHT, WIDTH)
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    tall = picture[0, :, HEIGHT // 2, :]  # half way up the first panel: the one bar of weight 1
    green = ((tall - torch.tensor([0.25, 0.65, 0.35])[:, None]).abs().amax(0) < 1e-6).nonzero().flatten()
    step = (WIDTH - 16) / 11
    assert (int(green[0]), int(green[-1])) == (8 + round(6 * step), 8 + round(7 * step) - 5)


def test_a_weight_above_1_fits_into_the_picture():
    highest = weights_preview([{INPUT_2_1: 4.0}], Curve(((0.0, 3.0),)))
    once = weights_preview([{INPUT_2_1: 1.0}], Curve())
    assert highest.shape == once.shape
    assert not torch.equal(highest, once)
    assert math.isclose(float(highest[0, 0, 8, WIDTH // 2]), 0.15, abs_tol=1e-6)  # the bar, up to the margin
