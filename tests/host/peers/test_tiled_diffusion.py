"""Tiled Diffusion takes the picture apart within each step: several tiles are rows of one call, each with its part of the masks.

The yardstick is a picture of each tile's own, with the part of the region that lies there, averaged as the method does it.
"""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.tests.host.beside import (
    HEIGHT,
    PARTS,
    WIDTH,
    Given,
    assert_apart,
    assert_near,
    cfg,
    guided,
    in_region,
    noise_like,
    prediction,
    prompted_control_net,
    prompts,
    region,
    sigmas_of,
    sized,
    together_controlled,
)
from pfv_mepa.tests.host.sampling import outputs, reference
from pfv_mepa.tests.support.tiny_stack.models import tiny_controlnet

pytestmark = pytest.mark.usefixtures("few_corners")  # a tile may lie in a product all over
ROWS, COLUMNS = HEIGHT // 8, WIDTH // 8
TILE = 8  # latent pixels
OF_A_TILE = {"height": 8 * TILE, "width": 8 * TILE}
METHODS = pytest.mark.parametrize("method", ["MultiDiffusion", "Mixture of Diffusers"])
CORNERS = [(top, left) for top in (0, 4) for left in (0, 4, 8)]


@pytest.fixture(scope="module")
def texts(model):
    """Positive and negative, which say the same size of every picture."""
    return sized(*prompts(model))


@pytest.fixture
def tiled(tiled_diffusion):
    """Function: model, method, tiles at a time -> the model that the node gives."""

    def tiled(model, method, at_once=4):
        sizes = {"tile_width": 8 * TILE, "tile_height": 8 * TILE, "tile_overlap": 32, "tile_batch_size": at_once}
        return outputs(tiled_diffusion.TiledDiffusion, model=model, method=method, **sizes)[0]

    return tiled


def by_hand(made, noise, weight):
    """The weighted mean of what `made` gives for each tile: a function of the tile's pixels and its noise."""
    total, weights = torch.zeros_like(noise), torch.zeros(ROWS, COLUMNS)
    for top, left in CORNERS:
        rows, columns = slice(top, top + TILE), slice(left, left + TILE)
        pixels = slice(8 * top, 8 * (top + TILE)), slice(8 * left, 8 * (left + TILE))
        total[..., rows, columns] += made(pixels, noise[..., rows, columns]) * weight
        weights[rows, columns] += weight
    return total / weights


@pytest.fixture
def weight(tiled_diffusion):
    """Function: method -> how much each pixel of a tile counts."""
    ones = torch.ones(TILE, TILE)
    return lambda method: ones if method == "MultiDiffusion" else tiled_diffusion.gaussian_weights(TILE, TILE).float()


@PARTS
@METHODS
@pytest.mark.parametrize("at_once", [1, 4])
def test_every_tile_has_its_part_of_the_region(pack, model, texts, tiled, weight, part, method, at_once):
    noise = noise_like(1, ROWS, COLUMNS, seed=2)

    def made(pixels, inside):
        small = pack.put(part, model, **in_region(part, region()[(..., *pixels)]))
        return prediction(cfg(small, *texts), noise=Given(inside), **OF_A_TILE)

    patched = pack.put(part, model, **in_region(part, region()))
    out = prediction(cfg(tiled(patched, method, at_once), *texts), noise=Given(noise))
    assert_near(out, by_hand(made, noise, weight(method)))
    assert_apart(out, prediction(cfg(tiled(model, method, at_once), *texts), noise=Given(noise)))


@METHODS
@pytest.mark.parametrize("prompted", [False, True])
def test_beside_a_controlnet(pack, model, texts, tiled, weight, method, prompted):
    """Whose hint it cuts itself."""
    noise, sigmas, hint = noise_like(1, ROWS, COLUMNS, seed=2), sigmas_of(model, 1), reference(HEIGHT, WIDTH)

    def guider(mask, picture, sampled=lambda model: model):
        patched, control_net = pack.prompt(model, region=mask), tiny_controlnet(model)
        own = prompted_control_net(control_net, patched) if prompted else control_net
        return cfg(sampled(patched), *together_controlled(own, *texts, picture))

    def made(pixels, inside):
        own = guider(region()[(..., *pixels)], hint[(slice(None), *pixels)])
        return prediction(own, noise=Given(inside), sigmas=sigmas, **OF_A_TILE)

    out = prediction(guider(region(), hint, lambda patched: tiled(patched, method)), noise=Given(noise), sigmas=sigmas)
    assert_near(out, by_hand(made, noise, weight(method)))


def test_tiles_that_go_around_the_edge_are_refused_where_they_have_a_place(pack, model, texts, tiled):
    """SpotDiffusion rolls the picture, so that a tile may have both of its edges."""
    with pytest.raises(RuntimeError, match=r"nobody says where in it that lies.*tiled_diffusion\.SpotDiffusion"):
        guided(cfg(tiled(pack.prompt(model, region=region()), "SpotDiffusion"), *texts))
    everywhere, vanilla = (tiled(one, "SpotDiffusion") for one in (pack.prompt(model, region=None), model))
    assert_apart(guided(cfg(everywhere, *texts)), guided(cfg(vanilla, *texts)))
