"""The region on the grid of each layer, inside the real U-Net."""

from __future__ import annotations

import weakref

import pytest
import torch
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

from pfv_mepa.nodes.host.regional_prompt import PromptRun
from pfv_mepa.pfv_core.attention.query_mask import layer_grid
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, recorded_calls, right_half, sample


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


def level_of(call) -> int:
    """Of SDXL: the blocks at half the latent's size, and those at a quarter."""
    return 1 if call["block"] in [("input", 4), ("input", 5), ("output", 3), ("output", 4), ("output", 5)] else 2


@pytest.mark.parametrize(
    ("height", "width"), [(128, 128), (136, 184), (200, 328), (72, 264), (8 * 13, 8 * 31), (264, 72), (8 * 14, 8 * 22)]
)
def test_grid_of_odd_sizes(tiny_model, prompt, height, width):
    patched = apply(tiny_model, prompt, region=right_half(height, width))
    with recorded_calls() as calls:
        sample(patched, height=height, width=width, steps=1)
    assert len(calls) == 70
    for call in calls:
        rows, columns = call["activations_shape"][-2:]
        assert (rows, columns) == layer_grid(height, width, level_of(call))
        assert rows * columns == call["queries"]


def planned_masks(model, **size):
    """The region share of every query that the run planned with, by grid."""
    from pfv_mepa.nodes.host import facts as patch_module

    found = {}
    original = patch_module.query_mask

    def recording(region, grid, latent_size):
        mask = original(region, grid, latent_size)
        found[grid] = mask.view(-1, *grid)
        return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_module, "query_mask", recording)
        sample(model, steps=1, **size)
    return found


def test_deep_shrink_gets_each_grid_of_its_own(tiny_model, prompt):
    (shrunk,) = outputs(
        PatchModelAddDownscale,
        model=tiny_model,
        block_number=3,
        downscale_factor=2.0,
        start_percent=0.0,
        end_percent=0.35,
        downscale_after_skip=True,
        downscale_method="bicubic",
        upscale_method="bicubic",
    )
    region = right_half(192, 256)
    masks = planned_masks(apply(shrunk, prompt, region=region), height=192, width=256)
    assert set(masks) == {(6, 8), (3, 4), (12, 16)}  # after the shrink, below it, and where it has been undone
    for mask in masks.values():
        columns = mask.shape[2]
        assert (mask[:, :, : columns // 2] == 0).all()
        assert (mask[:, :, columns // 2 :] == 1).all()


def test_hypertile_leaves_the_grid_whole(tiny_model, prompt):
    (tiled,) = outputs(HyperTile, model=tiny_model, tile_size=64, swap_size=2, max_depth=0, scale_depth=False)
    with recorded_calls() as calls:
        sample(apply(tiled, prompt, region=right_half()), steps=1)
    assert {call["queries"] for call in calls} == {64, 16}


def test_an_inverted_region_gives_another_image(tiny_model, prompt):
    inverted = 1 - right_half()
    assert not torch.equal(
        sample(apply(tiny_model, prompt, region=right_half(), text_share=0.0)),
        sample(apply(tiny_model, prompt, region=inverted, text_share=0.0)),
    )


def test_a_soft_painted_rim_counts_as_hard(tiny_model, prompt):
    """The mask editor's 254/255 is 1: the same bits come out."""
    region = right_half()
    assert torch.equal(
        sample(apply(tiny_model, prompt, region=region * (254 / 255))), sample(apply(tiny_model, prompt, region=region))
    )


def test_plans_are_made_once_for_each_grid_and_go_with_the_run(tiny_model, prompt):
    patched = apply(tiny_model, prompt, region=right_half())
    made = []
    original = PromptRun.__init__

    def recording(self, *args):
        original(self, *args)
        made.append(weakref.ref(self))
        computed.append((self._computed, self._keys_values))

    computed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptRun, "__init__", recording)
        sample(patched, steps=3)
    assert [(len(plans), len(keys_values)) for plans, keys_values in computed] == [(2, 70)]
    assert [run() for run in made] == [None]  # without a collection of garbage: no circle holds it on the device
