"""Beside a pack that takes the host's calls of the model apart, in the function that the host calls in the model's place.

Such a function cuts what it likes out of the latent and repeats what belongs to a row. The yardstick is a picture of each part's
own, with its share of the region.
"""

from __future__ import annotations

import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from pfv_mepa.nodes.host.taken_apart import WHOLE
from pfv_mepa.tests.host.beside import (
    EVERYTHING,
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
    run,
    sigmas_of,
    sized,
    together_controlled,
)
from pfv_mepa.tests.host.sampling import image_prompt, reference
from pfv_mepa.tests.support.tiny_stack.models import tiny_controlnet

pytestmark = pytest.mark.usefixtures("few_corners")  # a tile may lie in a product all over
ROWS, COLUMNS = HEIGHT // 8, WIDTH // 8
TILE = 8
TILES = [(0, 0), (0, 8), (4, 0), (4, 8)]  # top and left, latent pixels; the lower ones lie over the upper ones


@pytest.fixture(scope="module")
def texts(model):
    """Positive and negative, which say the same size of every picture."""
    return sized(*prompts(model))


def inside(top, left, scale=1):
    return (..., slice(scale * top, scale * (top + TILE)), slice(scale * left, scale * (left + TILE)))


def unchanged(tile):
    return tile


def changed(tile):
    return 1.01 * tile


def tiles(at_once=4, change=unchanged):
    """Several tiles at a time are one call, with all rows of one tile after all rows of the one before."""

    def function(apply_model, given):
        latent, inputs = given["input"], given["c"]
        out = torch.zeros_like(latent)
        for start in range(0, len(TILES), at_once):
            some = TILES[start : start + at_once]
            parts = torch.cat([change(latent[inside(*tile)]) for tile in some])
            own = {
                name: value.repeat(len(some), *[1] * (value.ndim - 1)) if isinstance(value, torch.Tensor) else value
                for name, value in inputs.items()
            }
            made = apply_model(parts, given["timestep"].repeat(len(some)), **own)
            for tile, part in zip(some, made.chunk(len(some)), strict=True):
                out[inside(*tile)] = part
        return out

    return function


def rows_apart(apply_model, given):
    """One row after the other, as where memory is short."""
    made = []
    for row in reversed(range(len(given["input"]))):
        own = {
            name: value[row : row + 1] if isinstance(value, torch.Tensor) else value
            for name, value in given["c"].items()
        }
        made.append(apply_model(given["input"][row : row + 1], given["timestep"][row : row + 1], **own))
    return torch.cat(made[::-1])


def taken_apart(model, function):
    clone = model.clone()
    clone.set_model_unet_function_wrapper(function)
    return clone


@PARTS
@pytest.mark.parametrize("at_once", [1, 4])
def test_a_tile_is_a_picture_with_its_part_of_the_region(pack, model, texts, part, at_once):
    noise = noise_like(1, ROWS, COLUMNS, seed=2)
    patched = pack.put(part, model, **in_region(part, region()))
    out = prediction(cfg(taken_apart(patched, tiles(at_once)), *texts), noise=Given(noise))
    for tile in TILES[2:]:
        small = pack.put(part, model, **in_region(part, region()[inside(*tile, 8)]))
        own = prediction(cfg(small, *texts), noise=Given(noise[inside(*tile)]), height=8 * TILE, width=8 * TILE)
        assert_near(out[inside(*tile)], own)
        other = pack.put(part, model, **in_region(part, region()[inside(0, 4, 8)]))
        there = prediction(cfg(other, *texts), noise=Given(noise[inside(*tile)]), height=8 * TILE, width=8 * TILE)
        assert_apart(own, there, 1e-3)


@EVERYTHING
def test_a_call_that_is_left_whole_is_whole(pack, model, texts, part):
    patched = pack.put(part, model)
    whole = taken_apart(patched, lambda run, given: run(given["input"], given["timestep"], **given["c"]))
    assert torch.equal(guided(cfg(whole, *texts)), guided(cfg(patched, *texts)))


@EVERYTHING
def test_rows_that_are_run_apart_keep_their_sides(pack, model, texts, part):
    patched = pack.put(part, model)
    assert_near(guided(cfg(taken_apart(patched, rows_apart), *texts)), guided(cfg(patched, *texts)))


def moved(there, back):
    """The picture otherwise, and with it whatever has its size."""

    def function(apply_model, given):
        own = {
            name: there(value) if isinstance(value, torch.Tensor) and value.ndim == 4 else value
            for name, value in given["c"].items()
        }
        return back(apply_model(there(given["input"]), given["timestep"], **own))

    return function


ROLLED = moved(lambda picture: picture.roll(TILE, -1), lambda picture: picture.roll(-TILE, -1))
MIRRORED = moved(lambda picture: picture.flip(-1), lambda picture: picture.flip(-1))


@PARTS
@pytest.mark.parametrize("function", [ROLLED, MIRRORED], ids=["rolled", "mirrored"])
def test_a_picture_that_is_moved_as_a_whole_is_refused(pack, model, texts, part, function):
    with pytest.raises(RuntimeError, match=r"nobody says where in it that lies.*stand .*test_beside_wrappers\.moved"):
        prediction(cfg(taken_apart(pack.put(part, model), function), *texts))


def without_the_whole(apply_model, given):
    """Options of its own making."""
    options = {name: value for name, value in given["c"]["transformer_options"].items() if name != WHOLE}
    return apply_model(given["input"], given["timestep"], **{**given["c"], "transformer_options": options})


def test_numbers_of_nothing_are_refused(pack, model, texts):
    with pytest.raises(RuntimeError, match=r"called without the conditions' facts.*without_the_whole"):
        prediction(cfg(taken_apart(pack.prompt(model), without_the_whole), *texts))


def halved(apply_model, given):
    """Everything that goes with a row in half precision, for a while."""
    own = {
        name: value.half().float() if isinstance(value, torch.Tensor) and value.ndim == 2 else value
        for name, value in given["c"].items()
    }
    return tiles()(apply_model, {**given, "c": own})


def test_numbers_that_were_cast_are_numbers(pack, model, texts):
    given = {"noise": Given(noise_like(1, ROWS, COLUMNS, seed=2))}
    made, right = (prediction(cfg(taken_apart(pack.prompt(model), one), *texts), **given) for one in (halved, tiles()))
    assert_near(made, right, 1e-3)


# --- wrappers of the host's kinds -------------------------------------------------------------------------------------


def cutting(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
    """Whatever has the latent's size is cut with it."""
    out = torch.zeros_like(x)
    for tile in TILES:
        own = {
            name: value[inside(*tile)] if value.ndim == 4 and value.shape[-2:] == x.shape[-2:] else value
            for name, value in kwargs.items()
        }
        out[inside(*tile)] = executor(x[inside(*tile)], t, c_concat, c_crossattn, control, transformer_options, **own)
    return out


def turning(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
    """The rows of a call the other way round, and whatever goes with them."""
    own = {name: value.flip(0) for name, value in kwargs.items()}
    return executor(x.flip(0), t, c_concat, c_crossattn.flip(0), control, transformer_options, **own).flip(0)


def wrapped(pack, part, model, kind, wrapper, first):
    """A part and another pack's wrapper on a model, in either order."""
    model = model.clone() if first else pack.put(part, model, **in_region(part, region())).clone()
    model.add_wrapper_with_key(kind, "another pack", wrapper)
    return pack.put(part, model, **in_region(part, region())) if first else model


EITHER_ORDER = pytest.mark.parametrize("first", [True, False], ids=["before", "after"])


@PARTS
@EITHER_ORDER
def test_a_wrapper_that_cuts_tiles(pack, model, texts, part, first):
    noise = noise_like(1, ROWS, COLUMNS, seed=2)
    patched = wrapped(pack, part, model, WrappersMP.APPLY_MODEL, cutting, first)
    out = prediction(cfg(patched, *texts), noise=Given(noise))
    for tile in TILES[2:]:
        small = pack.put(part, model, **in_region(part, region()[inside(*tile, 8)]))
        own = prediction(cfg(small, *texts), noise=Given(noise[inside(*tile)]), height=8 * TILE, width=8 * TILE)
        assert_near(out[inside(*tile)], own)


@PARTS
@EITHER_ORDER
def test_a_wrapper_that_turns_the_rows_round(pack, model, texts, part, first):
    patched = wrapped(pack, part, model, WrappersMP.APPLY_MODEL, turning, first)
    assert_near(guided(cfg(patched, *texts)), guided(cfg(pack.put(part, model, **in_region(part, region())), *texts)))


@EITHER_ORDER
def test_a_wrapper_that_adds_a_condition(pack, model, texts, first):
    """Of the same text: the mean of both is the one."""

    def adding(executor, *args, **kwargs):
        positive = executor.class_obj.conds["positive"]
        executor.class_obj.conds = {**executor.class_obj.conds, "positive": [*positive, dict(positive[0])]}
        return executor(*args, **kwargs)

    patched = wrapped(pack, "prompt", model, WrappersMP.OUTER_SAMPLE, adding, first)
    assert_near(guided(cfg(patched, *texts)), guided(cfg(pack.prompt(model, region=region()), *texts)))


@EITHER_ORDER
@EVERYTHING
def test_a_wrapper_that_samples_twice(pack, model, texts, part, first):
    """First a part of the picture, then all of it: each is a sampling of its own."""

    def twice(executor, noise, latent, *args, **kwargs):
        top = (..., slice(0, ROWS // 2), slice(0, COLUMNS // 2))
        executor(noise[top], latent[top], *args, **kwargs)
        return executor(noise, latent, *args, **kwargs)

    patched = wrapped(pack, part, model, WrappersMP.OUTER_SAMPLE, twice, first)
    assert_near(guided(cfg(patched, *texts)), guided(cfg(pack.put(part, model, **in_region(part, region())), *texts)))


@EITHER_ORDER
def test_a_wrapper_that_takes_other_steps(pack, model, texts, first, caplog):
    """What is said of a window is said of the steps that are taken."""

    def later(executor, guider, sigmas, *args, **kwargs):
        return executor(guider, sigmas[2:], *args, **kwargs)

    own = {"region": None, "start_percent": 0.0, "end_percent": 0.15}
    clone = model.clone() if first else pack.prompt(model, **own).clone()
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "another pack", later)
    guided(cfg(pack.prompt(clone, **own) if first else clone, *texts), steps=4)
    assert "none of the 2 steps of this sampling begins" in caplog.text


@EVERYTHING
def test_a_pack_that_puts_its_wrappers_in_the_place_of_all_others(pack, model, texts, part):
    """As BrushNet does."""
    ran = []

    def through(executor, *args, **kwargs):
        ran.append(1)
        return executor(*args, **kwargs)

    patched = pack.put(part, model)
    replaced = patched.clone()
    replaced.wrappers.update({kind: {None: [through]} for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL)})
    assert torch.equal(guided(cfg(replaced, *texts)), guided(cfg(patched, *texts)))
    assert len(ran) == 3  # around two steps


@pytest.mark.parametrize("function", [tiles(), rows_apart], ids=["tiles", "rows"])
def test_each_image_of_a_batch_keeps_its_own(pack, model, texts, tiny_clip_vision, plus_adapter_file, function):
    """Two images, with a reference and a region for each."""
    noise, both = noise_like(2, ROWS, COLUMNS, seed=2), torch.cat([region(), 1 - region()])
    tokens = image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(batch=2))

    def made(image):
        own = type(tokens)(tokens.adapter, tokens.positive[image], tokens.negative)
        patched = pack.prompt(model, tokens=own, region=both[image])
        latent = noise[image]
        return prediction(cfg(taken_apart(patched, function), *texts), noise=Given(latent), batch=len(latent))

    together = made(slice(0, 2))
    assert_near(together, torch.cat([made(slice(0, 1)), made(slice(1, 2))]))
    assert_apart(together[:1], together[1:])


def images_apart(apply_model, given):
    """All rows of one image after all of the one before."""
    images, made = len(given["input"]) // len(given["cond_or_uncond"]), torch.zeros_like(given["input"])
    for image in range(images):
        rows = slice(image, None, images)
        own = {name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in given["c"].items()}
        made[rows] = apply_model(given["input"][rows], given["timestep"][rows], **own)
    return made


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # the windows of older hosts
def test_each_image_of_a_window_keeps_its_own(pack, model, texts, tiny_clip_vision, plus_adapter_file):
    """Three frames, as many as a run of two steps has noise levels: until 0.4 the host's windows need that."""
    noise, frames = noise_like(3, ROWS, COLUMNS, seed=2), torch.cat([region(), 1 - region(), region().flip(2)])
    tokens = image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(batch=3))
    patched = pack.prompt(model, tokens=tokens, region=frames)
    windows = run("ContextWindowsManual", model=patched, context_length=2, context_overlap=1, dim=0)
    regrouped, right = (
        guided(cfg(one, *texts), batch=3, noise=Given(noise)) for one in (taken_apart(windows, images_apart), windows)
    )
    assert_near(regrouped, right)


@PARTS
def test_a_tile_of_an_area(pack, model, texts, part):
    """Whose own corner is added to the tile's."""
    noise = noise_like(1, ROWS, 2 * COLUMNS, seed=2)
    wide = torch.cat([region(), region().flip(2)], 2)
    sides = [host_nodes.ConditioningSetArea().append(text, WIDTH, HEIGHT, WIDTH, 0, 1.0)[0] for text in texts]
    patched = taken_apart(pack.put(part, model, **in_region(part, wide)), tiles())
    out = prediction(cfg(patched, *sides), noise=Given(noise), width=2 * WIDTH)[..., COLUMNS:]
    alone = taken_apart(pack.put(part, model, **in_region(part, wide[..., WIDTH:])), tiles())
    assert_near(out, prediction(cfg(alone, *texts), noise=Given(noise[..., COLUMNS:])))


@pytest.mark.parametrize(
    ("change", "noise"),
    [(changed, noise_like(1, ROWS, COLUMNS, seed=2)), (unchanged, torch.ones(1, 4, ROWS, COLUMNS))],
    ids=["values that the picture has nowhere", "a flat picture, which has them everywhere"],
)
@PARTS
def test_a_tile_of_which_nobody_knows_where_it_lies_is_refused(pack, model, texts, part, change, noise):
    patched = taken_apart(pack.put(part, model), tiles(change=change))
    with pytest.raises(RuntimeError, match=r"nobody says where in it that lies.*stand .*test_beside_wrappers\.tiles"):
        prediction(cfg(patched, *texts), noise=Given(noise))


@pytest.mark.parametrize("part", ["prompt", "branches", "fusion"])
def test_without_a_region_nobody_asks_where_a_tile_lies(pack, model, texts, part):
    function = tiles(change=changed)
    patched = taken_apart(pack.put(part, model, **in_region(part, None)), function)
    assert_apart(prediction(cfg(patched, *texts)), prediction(cfg(taken_apart(model, function), *texts)))


@pytest.mark.parametrize("in_model", [True, False], ids=["in both", "in the ControlNet alone"])
def test_image_prompts_in_a_controlnet_that_is_run_for_each_tile(pack, model, texts, in_model):
    """As tiling packs run it: from within, on the rows of both sides, where they have put the tile's part of the hint."""
    noise, control_net, sigmas = noise_like(1, ROWS, COLUMNS, seed=2), tiny_controlnet(model), sigmas_of(model, 1)
    hint = reference(HEIGHT, WIDTH)

    def put(mask, picture):
        patched = pack.prompt(model, region=mask)
        own = prompted_control_net(control_net, patched)
        return patched if in_model else model, together_controlled(own, *texts, picture)

    def function(apply_model, given):
        control, inputs, out = sides[0][0][1]["control"], given["c"], torch.zeros_like(given["input"])
        for tile in TILES:
            part = given["input"][inside(*tile)]
            control.cond_hint = hint.movedim(-1, 1)[inside(*tile, 8)].to(part)
            how = inputs, len(given["cond_or_uncond"]), inputs["transformer_options"]
            residuals = control.get_control(part, given["timestep"], *how)
            out[inside(*tile)] = apply_model(part, given["timestep"], **{**inputs, "control": residuals})
        return out

    patched, sides = put(region(), hint)
    out = prediction(cfg(taken_apart(patched, function), *sides), noise=Given(noise), sigmas=sigmas)
    for tile in TILES[2:]:
        small, own = put(region()[inside(*tile, 8)], hint.movedim(-1, 1)[inside(*tile, 8)].movedim(1, -1))
        where = {"height": 8 * TILE, "width": 8 * TILE, "sigmas": sigmas}
        assert_near(out[inside(*tile)], prediction(cfg(small, *own), noise=Given(noise[inside(*tile)]), **where))


def enlarging(model, x, sigmas, extra_args=None, **others):
    """A sampler that goes on at twice the size."""
    for at in (x, torch.nn.functional.interpolate(x, scale_factor=2.0)):
        denoised = model(at, sigmas[:1], **extra_args)
    return denoised


@pytest.mark.parametrize("part", ["prompt", "fusion"])
def test_tiles_of_a_picture_that_grows_while_it_is_sampled(pack, model, texts, part):
    """Whose map keeps its size."""
    sampler = comfy.samplers.KSAMPLER(enlarging)
    with pytest.raises(RuntimeError, match=r"with another size of it, and nobody says where.*the sampler enlarging"):
        guided(cfg(taken_apart(pack.put(part, model), tiles()), *texts), sampler=sampler)
    everywhere = pack.put(part, model, **in_region(part, None))
    assert_apart(*(guided(cfg(taken_apart(one, tiles()), *texts), sampler=sampler) for one in (everywhere, model)))
