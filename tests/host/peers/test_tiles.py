"""MEPA Tiles before the upscaler that most people have: each tile is what MEPA Crop makes of the same part of the ad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nodes as host_nodes
import pytest
import torch
from torch import Tensor

from pfv_mepa.nodes.host import tracking
from pfv_mepa.nodes.host.facts import Crop
from pfv_mepa.nodes.mepa.crop_nodes import MEPACrop, MEPATiles
from pfv_mepa.tests.host.beside import assert_apart, assert_same
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, reference
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning

AD = 192, 256  # rows, columns
SETTINGS = {
    "seed": 1,
    "steps": 1,
    "cfg": 5.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "denoise": 0.5,
    "mode_type": "Linear",
    "tile_width": 128,
    "tile_height": 128,
    "mask_blur": 8,
    "tile_padding": 32,
    "seam_fix_mode": "None",
    "seam_fix_denoise": 0.5,
    "seam_fix_mask_blur": 8,
    "seam_fix_width": 64,
    "seam_fix_padding": 16,
    "force_uniform_tiles": True,
    "tiled_decode": False,
}
ROUNDED = 1  # pixels of the ad


@dataclass
class Tile:
    """One that the upscaler has sampled: the edges of its box in the ad, as the upscaler says and as it was read."""

    box: list[float]
    read: Crop | None
    latent: dict[str, Any]
    made: Tensor


@pytest.fixture(scope="module")
def model(tiny_model_of, tiny_clip_vision, plus_adapter_file):
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file)
    down, across = torch.linspace(0.0, 0.6, AD[0])[:, None], torch.linspace(0.0, 0.4, AD[1])[None]
    return apply(tiny_model_of("few"), prompt, region=(down + across)[None], text_share=0.0)


@pytest.fixture(scope="module")
def prompts(model):
    return [tiny_conditioning(model, seed=seed) for seed in (6, 7)]


@pytest.fixture
def upscaled(upscaler, tiny_vae, model, prompts, monkeypatch):
    """Function: whether MEPA Tiles is used, and settings of the upscaler -> its tiles."""
    boxes, read, tiles = [], [], []
    processing = upscaler.upscale.__globals__["StableDiffusionProcessing"].__init__.__globals__
    crop, sample, taken = processing["crop_cond"], processing["common_ksampler"], tracking.taken_from

    def cropping(prompt, region, init_size, canvas_size, tile_size):
        scale = [side / whole for side, whole in zip(AD[::-1], canvas_size, strict=True)] * 2
        boxes.append([edge * factor for edge, factor in zip(region, scale, strict=True)])
        return crop(prompt, region, init_size, canvas_size, tile_size)

    def reading(*conditions):
        read.append(taken(*conditions))
        return read[-1]

    def sampling(*given, denoise):
        (made,) = sample(*given, denoise=denoise)
        tiles.append(Tile(boxes[-1], read[-1], given[-1], made["samples"]))
        return (made,)

    monkeypatch.setitem(processing, "crop_cond", cropping)
    monkeypatch.setitem(processing, "common_ksampler", sampling)
    monkeypatch.setattr(tracking, "taken_from", reading)

    def upscaled(upscale_by=2.0, located=True, images=1, **settings):
        positive, negative = prompts
        if located:
            sizes = {"ad_width": AD[1], "ad_height": AD[0]}
            positive, negative = outputs(MEPATiles, positive=positive, negative=negative, **sizes)
        inputs = {"image": reference(*AD, batch=images), "model": model, "vae": tiny_vae, "upscale_by": upscale_by}
        sides = {"positive": positive, "negative": negative}
        tiles.clear()
        outputs(upscaler, **inputs, **sides, **{**SETTINGS, **settings})
        return list(tiles)

    return upscaled


def by_hand(model, prompts, tile):
    """What KSampler makes of a tile with MEPA Crop."""
    place = {"x": tile.read.left, "y": tile.read.top, "width": tile.read.width, "height": tile.read.height}
    (cropped,) = outputs(MEPACrop, model=model, **place, ad_width=AD[1], ad_height=AD[0])
    with torch.inference_mode():
        (made,) = host_nodes.KSampler().sample(
            cropped,
            1,
            SETTINGS["steps"],
            SETTINGS["cfg"],
            "euler",
            "normal",
            *prompts,
            tile.latent,
            SETTINGS["denoise"],
        )
    return made["samples"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"upscale_by": 1.5},
        {"upscale_by": 4.0, "tile_padding": 64},
        {"upscale_by": 1.0, "tile_width": 96, "tile_height": 96, "tile_padding": 0},
        {"seam_fix_mode": "Half Tile + Intersections"},
        {"seam_fix_mode": "Band Pass"},
        {"force_uniform_tiles": False},
        {"mode_type": "Chess"},
    ],
)
def test_every_tile_says_where_it_lies(upscaled, model, prompts, settings):
    tiles = upscaled(**settings)
    assert len(tiles) >= 4
    for tile in tiles:
        place = tile.read.left, tile.read.top, tile.read.left + tile.read.width, tile.read.top + tile.read.height
        assert max(abs(one - other) for one, other in zip(place, tile.box, strict=True)) <= ROUNDED
        assert_same(tile.made, by_hand(model, prompts, tile))


def test_without_it_the_region_is_squeezed_into_each_tile(upscaled):
    """Which is what it is for: of tiles of the ad's shape nobody can see that they are none."""
    tiles = {"tile_width": 128, "tile_height": 96, "tile_padding": 0}
    squeezed, found = upscaled(located=False, **tiles)[0], upscaled(**tiles)[0]
    assert squeezed.read is None
    assert squeezed.box == found.box
    assert_same(found.latent["samples"], squeezed.latent["samples"])
    assert_apart(found.made, squeezed.made)


def test_several_tiles_at_once_are_refused(upscaled):
    """Whose masks are all cut to the first one of them."""
    with pytest.raises(ValueError, match=r"MEPA Tiles: 2 images are sampled at once.*\(batch_size 1\)"):
        upscaled(batch_size=2)
    with pytest.raises(ValueError, match="MEPA Tiles: 2 images are sampled at once"):
        upscaled(images=2)
