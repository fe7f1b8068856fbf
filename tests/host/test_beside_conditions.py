"""Beside what the host does to a prompt: areas, masks, ranges of the run, weights of its own, pictures to begin with.

An area is sampled as a picture of its own, so the yardstick is that picture, with the part of the region that lies there.
"""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from safetensors.torch import save_file

from pfv_mepa.pfv_core import masks
from pfv_mepa.tests.host.beside import (
    EVERYTHING,
    HEIGHT,
    PARTS,
    SCHEDULER,
    WIDTH,
    Given,
    assert_apart,
    assert_near,
    assert_same,
    basic,
    cfg,
    controlled,
    guided,
    host_node,
    in_region,
    mixed,
    noise_like,
    prediction,
    prompted_control_net,
    prompts,
    region,
    run,
    sigmas_of,
    sized,
)
from pfv_mepa.tests.host.sampling import right_half, sample
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning, tiny_controlnet, tiny_model

SCALE = 5.0
LATENT = HEIGHT // 8, WIDTH // 8
LORA = "beside.safetensors"


@pytest.fixture(scope="module")
def texts(model):
    """Positive, negative and a third text, with sizes."""
    return sized(*prompts(model), tiny_conditioning(model, seed=9))


@pytest.fixture(scope="module")
def plain(pack, model, texts):
    """Function: part -> the latent with it and nothing else."""
    known = {}

    def plain(part):
        if part not in known:
            known[part] = guided(cfg(pack.put(part, model) if part else model, *texts[:2], SCALE))
        return known[part]

    return plain


@pytest.fixture(scope="module")
def alone(pack, model):
    """Function: part, text, side -> the prediction for that text alone."""

    def alone(part, text, side):
        return prediction(basic(pack.put(part, model, side), text))

    return alone


def area(text, top, left, height, width, strength=1.0):
    """In latent pixels."""
    inputs = {"width": 8 * width, "height": 8 * height, "x": 8 * left, "y": 8 * top, "strength": strength}
    return run("ConditioningSetArea", conditioning=text, **inputs)


def masked(text, mask, set_cond_area="default", strength=1.0):
    inputs = {"mask": mask, "set_cond_area": set_cond_area, "strength": strength}
    return run("ConditioningSetMask", conditioning=text, **inputs)


# --- areas ------------------------------------------------------------------------------------------------------------

AREAS = {
    "one": [(2, 6, 8, 8)],
    "side by side": [(0, 0, 12, 8), (0, 8, 12, 8)],
    "one above another": [(0, 0, 6, 16), (6, 0, 6, 16)],
}


@pytest.mark.parametrize(
    ("part", "areas"),
    [
        *((part, "one") for part in ("prompt", "branches", "fusion", "mask")),
        *(("everything", areas) for areas in AREAS if areas != "one"),
    ],
)
def test_an_area_is_a_picture_with_its_part_of_the_region(pack, model, texts, part, areas, monkeypatch):
    """Several of one shape run as rows of one call, and each lies elsewhere."""
    monkeypatch.setattr(masks, "CORNERS", 4)  # a part may lie in a product all over
    noise, areas = noise_like(1, *LATENT, seed=2), AREAS[areas]
    patched = pack.put(part, model, **in_region(part, region()))
    sides = [[entry for where in areas for entry in area(text, *where)] for text in texts[:2]]
    sigmas = sigmas_of(model, 2)
    out = guided(cfg(patched, *sides, SCALE), noise=Given(noise), sigmas=sigmas)
    vanilla = guided(cfg(model, *sides, SCALE), noise=Given(noise), sigmas=sigmas)
    for top, left, height, width in areas:
        inside = (..., slice(top, top + height), slice(left, left + width))
        pixels = (..., slice(8 * top, 8 * (top + height)), slice(8 * left, 8 * (left + width)))
        small = pack.put(part, model, **in_region(part, region()[pixels]))
        own = guided(
            cfg(small, *texts[:2], SCALE),
            noise=Given(noise[inside]),
            sigmas=sigmas,
            height=8 * height,
            width=8 * width,
        )
        assert_near(out[inside], own)
        assert_apart(out[inside], vanilla[inside])


def test_an_area_of_a_prompted_controlnet(pack, model, texts):
    """The host squeezes the whole hint into the area; the region's part is that of the area."""
    noise, control_net = noise_like(1, *LATENT, seed=2), tiny_controlnet(model)
    top, left, height, width = 2, 6, 8, 8
    inside = (..., slice(top, top + height), slice(left, left + width))
    sigmas = sigmas_of(model, 2)

    def sampled(mask, place, **where):
        patched = pack.prompt(model, region=mask)
        own = prompted_control_net(control_net, patched)
        sides = [place(text) for text in controlled(own, *texts[:2])]
        return guided(cfg(patched, *sides, SCALE), sigmas=sigmas, **where)

    out = sampled(region(), lambda text: area(text, top, left, height, width), noise=Given(noise))
    pixels = region()[:, 8 * top : 8 * (top + height), 8 * left : 8 * (left + width)]
    small = {"height": 8 * height, "width": 8 * width}
    own = sampled(pixels, lambda text: text, noise=Given(noise[inside]), **small)
    assert_near(out[inside], own)


def enlarging(model, x, sigmas, extra_args=None, **others):
    """A sampler that goes on at twice the size, as the host's Sampler LCM Upscale does."""
    for at in (x, torch.nn.functional.interpolate(x, scale_factor=2.0)):
        denoised = model(at, sigmas[:1], **extra_args)
    return denoised


@pytest.mark.parametrize("part", ["prompt", "fusion", "mask"])
@pytest.mark.parametrize("where", [None, (0, 0, *LATENT), (0, 0, LATENT[0], LATENT[1] // 2)])
def test_a_picture_that_grows_while_it_is_sampled(pack, model, texts, part, where):
    """The area keeps its pixels, and so does its part of the map; but what these are of is another frame by now."""
    positive, negative = (text if where is None else area(text, *where) for text in texts[:2])
    patched = pack.put(part, model)
    sampler = comfy.samplers.KSAMPLER(enlarging)
    with pytest.raises(RuntimeError, match=r"with another size of it, and nobody says where.*the sampler enlarging"):
        guided(cfg(patched, positive, negative, SCALE), sampler=sampler)


@pytest.mark.parametrize("kind", ["area", "percentage"])
@EVERYTHING
def test_an_area_of_the_whole_frame_is_none(pack, model, texts, plain, part, kind):
    positive, negative, _ = texts
    if kind == "area":
        whole = area(positive, 0, 0, *LATENT)
    else:
        where = {"width": 1.0, "height": 1.0, "x": 0.0, "y": 0.0, "strength": 1.0}
        whole = run("ConditioningSetAreaPercentage", conditioning=positive, **where)
    assert_near(guided(cfg(pack.put(part, model), whole, negative, SCALE)), plain(part))


@PARTS
def test_an_area_of_the_positive_alone(pack, model, texts, alone, part):
    """The host gives the negative an area like it beside its own whole frame; both sides are what they are alone."""
    positive, negative, _ = texts
    where = 2, 6, 8, 8
    patched = pack.put(part, model)
    made = prediction(cfg(patched, area(positive, *where), negative, SCALE))
    above = alone(part, area(positive, *where), "positive")
    below = alone(part, [*negative, *area(negative, *where)], "negative")
    assert_near(made, mixed(above, below, SCALE))
    inside = (..., slice(2, 10), slice(6, 14))
    vanilla = prediction(cfg(model, area(positive, *where), negative, SCALE))
    assert_apart(made[inside], vanilla[inside])


# --- masks ------------------------------------------------------------------------------------------------------------


@EVERYTHING
def test_masks_that_cover_the_frame_together_are_none(pack, model, texts, plain, part):
    positive, negative, _ = texts
    mask = region()
    patched = pack.put(part, model)
    both = [*masked(positive, mask), *masked(positive, 1 - mask)]
    for whole in (masked(positive, torch.ones(1, HEIGHT, WIDTH)), both):
        assert_near(guided(cfg(patched, whole, negative, SCALE)), plain(part))


@PARTS
def test_masked_prompts_are_the_sum_of_what_each_is_alone(pack, model, texts, alone, part):
    positive, negative, other = texts
    left = 1 - right_half(HEIGHT, WIDTH)
    masks = 0.7 * left + 0.1, 0.9 - 0.8 * left
    both = [*masked(positive, masks[0]), *masked(other, masks[1])]
    made = prediction(cfg(pack.put(part, model), both, negative, SCALE))
    first, second = (mask[:, None, ::8, ::8] for mask in masks)
    ones = [alone(part, text, "positive") for text in (positive, other)]
    above = (first * ones[0] + second * ones[1]) / (first + second)
    assert_near(made, mixed(above, alone(part, negative, "negative"), SCALE))
    assert_apart(ones[0], ones[1], 1e-2)


@EVERYTHING
def test_the_bounds_of_a_mask_are_an_area(pack, model, texts, part):
    patched = pack.put(part, model)
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 16:80, 48:112] = 1
    inside = (..., slice(2, 10), slice(6, 14))
    bounds = [masked(text, mask, "mask bounds") for text in texts[:2]]
    areas = [area(text, 2, 6, 8, 8) for text in texts[:2]]
    made, expected = (guided(cfg(patched, *sides, SCALE))[inside] for sides in (bounds, areas))
    assert_near(made, expected)
    assert_apart(made, guided(cfg(model, *bounds, SCALE))[inside])


@EVERYTHING
def test_a_default_prompt_for_what_no_mask_covers(pack, model, texts, plain, part):
    """The same text under the mask and by default is the text."""
    positive, negative, _ = texts
    whole = run(
        "ConditioningSetDefaultCombine", cond=masked(positive, right_half(HEIGHT, WIDTH)), cond_DEFAULT=positive
    )
    assert_near(guided(cfg(pack.put(part, model), whole, negative, SCALE)), plain(part))


# --- ranges of the run ------------------------------------------------------------------------------------------------


@EVERYTHING
def test_ranges_of_the_run(pack, model, texts, plain, part):
    """One text in two ranges is that text; two texts are two halves."""
    positive, negative, other = texts
    patched = pack.put(part, model)

    def ranges(first, second):
        halves = ((first, 0.0, 0.4), (second, 0.4, 1.0))
        return [
            entry
            for text, start, end in halves
            for entry in run("ConditioningSetTimestepRange", conditioning=text, start=start, end=end)
        ]

    assert_same(guided(cfg(patched, ranges(positive, positive), negative, SCALE)), plain(part))
    made = guided(cfg(patched, ranges(positive, other), negative, SCALE))
    assert_near(made, halves(patched, patched, positive, other, negative))
    assert_apart(made, plain(part), 1e-3)


def halves(first, second, positive, other, negative):
    """A run of two steps, each with a model and a positive text of its own."""
    sigmas = sigmas_of(first, 2)
    begun = guided(cfg(first, positive, negative, SCALE), sigmas=sigmas[:2])
    return guided(
        cfg(second, other, negative, SCALE),
        sigmas=sigmas[1:],
        latent={"samples": begun},
        noise=run("DisableNoise"),
    )


# --- weights of a prompt ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(host_base_directory, model):
    """The file's name among the host's LoRAs."""
    folder = host_base_directory / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    random, weights = torch.Generator().manual_seed(3), {}
    for layer in ("attn1.to_k", "attn2.to_q", "ff.net.2"):
        place = f"diffusion_model.input_blocks.3.1.transformer_blocks.0.{layer}"
        rows, columns = model.model_state_dict()[f"{place}.weight"].shape
        weights[f"{place}.lora_up.weight"] = torch.randn(rows, 4, generator=random)
        weights[f"{place}.lora_down.weight"] = torch.randn(4, columns, generator=random)
    save_file(weights, folder / LORA)
    return LORA


def lora_hooks():
    return run("CreateHookLora", lora_name=LORA, strength_model=1.0, strength_clip=0.0)


def hooked(text, hooks):
    return run("ConditioningSetProperties", cond_NEW=text, hooks=hooks)


def with_lora(model, lora):
    return run("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=1.0)


@EVERYTHING
def test_a_lora_before_and_after_is_one(pack, model, texts, plain, lora, part):
    after = guided(cfg(with_lora(pack.put(part, model), lora), *texts[:2], SCALE))
    assert_same(guided(cfg(pack.put(part, with_lora(model, lora)), *texts[:2], SCALE)), after)
    assert_apart(after, plain(part))
    assert_apart(after, guided(cfg(with_lora(model, lora), *texts[:2], SCALE)))


@PARTS
def test_a_lora_of_the_positive_alone(pack, model, texts, alone, lora, part):
    """It makes the two prompts two calls of the model, each with the weights and the side of its own."""
    positive, negative, _ = texts
    own = hooked(positive, lora_hooks())
    made = prediction(cfg(pack.put(part, model), own, negative, SCALE))
    above, below = alone(part, own, "positive"), alone(part, negative, "negative")
    assert_near(made, mixed(above, below, SCALE))
    assert_apart(above, alone(part, positive, "positive"))
    assert_apart(made, prediction(cfg(model, own, negative, SCALE)))


@pytest.mark.parametrize("part", ["prompt", "branches", "mask"])
def test_a_lora_of_both_prompts_is_the_models(pack, model, texts, lora, part):
    """Not so with attention fusion, whose reference is read without the weights of any prompt."""
    hooks = lora_hooks()
    made = guided(cfg(pack.put(part, model), *(hooked(text, hooks) for text in texts[:2]), SCALE))
    assert_near(made, guided(cfg(with_lora(pack.put(part, model), lora), *texts[:2], SCALE)))


def test_a_lora_that_ends_with_a_keyframe(pack, model, texts, lora):
    """From 40% of the run its strength is 0."""
    positive, negative, _ = texts
    frames = run("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0)
    frames = run("CreateHookKeyframe", strength_mult=0.0, start_percent=0.4, prev_hook_kf=frames)
    hooks = run("SetHookKeyframes", hooks=lora_hooks(), hook_kf=frames)
    patched = pack.prompt(model)
    made = guided(cfg(patched, hooked(positive, hooks), hooked(negative, hooks), SCALE))
    assert_near(made, halves(with_lora(patched, lora), patched, positive, positive, negative))
    assert_apart(made, guided(cfg(with_lora(patched, lora), positive, negative, SCALE)), 1e-3)


def test_a_model_as_the_lora_of_a_prompt(pack, model, texts):
    """At strength 1 on both prompts it is the other model, on the positive alone the other model there."""
    positive, negative, _ = texts
    other = tiny_model("few", seed=11)
    node = host_node("CreateHookModelAsLora")()
    weights = {name: tensor for name, tensor in other.model.state_dict().items() if "model_sampling" not in name}
    node.loaded_weights = (None, weights, None)  # as after loading a checkpoint; there is none of this size
    with torch.inference_mode():
        (hooks,) = node.create_hook("no file", 1.0, 0.0)
    patched, of_other = pack.prompt(model), pack.prompt(other)
    both = guided(cfg(patched, hooked(positive, hooks), hooked(negative, hooks), SCALE))
    assert_near(both, guided(cfg(of_other, positive, negative, SCALE)))
    made = prediction(cfg(patched, hooked(positive, hooks), negative, SCALE))
    above = prediction(basic(pack.prompt(other, "positive"), positive))
    below = prediction(basic(pack.prompt(model, "negative"), negative))
    assert_near(made, mixed(above, below, SCALE))


# --- the same run by other nodes --------------------------------------------------------------------------------------


@EVERYTHING
def test_the_hosts_sampler_nodes_agree(pack, model, texts, plain, part):
    positive, negative, _ = texts
    patched = pack.put(part, model)
    where = {"height": HEIGHT, "width": WIDTH, "scheduler": SCHEDULER, "cfg": SCALE}
    assert_same(sample(patched, positive, negative, **where), plain(part))
    made = run(
        "SamplerCustom",
        model=patched,
        noise_seed=1,
        cfg=SCALE,
        positive=positive,
        negative=negative,
        sampler=run("KSamplerSelect", sampler_name="euler"),
        sigmas=sigmas_of(patched, 2),
        latent_image={"samples": torch.zeros(1, 4, *LATENT)},
        add_noise=True,
    )
    assert_same(made["samples"], plain(part))


@EVERYTHING
def test_a_run_in_two_halves_is_the_run(pack, model, texts, plain, part):
    """By Split Sigmas, and by the steps of KSampler (Advanced)."""
    positive, negative, _ = texts
    patched = pack.put(part, model)
    first, second = _all_outputs("SplitSigmas", sigmas=sigmas_of(patched, 2), step=1)
    begun = guided(cfg(patched, positive, negative, SCALE), sigmas=first)
    rest = {"sigmas": second, "latent": {"samples": begun}, "noise": run("DisableNoise")}
    assert_near(guided(cfg(patched, positive, negative, SCALE), **rest), plain(part))
    latent = {"samples": torch.zeros(1, 4, *LATENT)}
    for start, end, noise in ((0, 1, "enable"), (1, 10000, "disable")):
        latent = run(
            "KSamplerAdvanced",
            model=patched,
            add_noise=noise,
            noise_seed=1,
            steps=2,
            cfg=SCALE,
            sampler_name="euler",
            scheduler=SCHEDULER,
            positive=positive,
            negative=negative,
            latent_image=latent,
            start_at_step=start,
            end_at_step=end,
            return_with_leftover_noise="enable",
        )
    assert_near(latent["samples"], plain(part))


def test_a_product_that_is_read_with_noise_is_read_alike_in_both_halves(pack, model, texts):
    """The second half has no noise of its own, and no seed: that of the reference is the same in every run."""
    patched = pack.fusion(model, reference_noise="step")
    whole = guided(cfg(patched, *texts[:2], SCALE))
    first, second = _all_outputs("SplitSigmas", sigmas=sigmas_of(patched, 2), step=1)
    begun = guided(cfg(patched, *texts[:2], SCALE), sigmas=first)
    rest = {"sigmas": second, "latent": {"samples": begun}, "noise": run("DisableNoise")}
    assert_near(guided(cfg(patched, *texts[:2], SCALE), **rest), whole)
    assert_apart(guided(cfg(pack.fusion(model), *texts[:2], SCALE)), whole, 1e-2)


def _all_outputs(node_id, **inputs):
    node = host_node(node_id)
    with torch.inference_mode():
        made = node.execute(**inputs) if hasattr(node, "execute") else getattr(node(), node.FUNCTION)(**inputs)
    return getattr(made, "args", made)


# --- pictures to begin with -------------------------------------------------------------------------------------------


@PARTS
def test_a_picture_that_is_changed_in_part(pack, model, texts, part):
    """Denoise 0.5 of KSampler is the second half of the noise levels; each row keeps its side."""
    positive, negative, _ = texts
    picture = {"samples": noise_like(1, *LATENT, seed=4)}
    patched = pack.put(part, model)
    sigmas = sigmas_of(model, 1, denoise=0.5)
    made = prediction(cfg(patched, positive, negative, SCALE), sigmas=sigmas, latent=picture)
    sides = [
        prediction(basic(pack.put(part, model, side), text), sigmas=sigmas, latent=picture)
        for text, side in ((positive, "positive"), (negative, "negative"))
    ]
    assert_near(made, mixed(*sides, SCALE))
    assert_apart(made, prediction(cfg(model, positive, negative, SCALE), sigmas=sigmas, latent=picture))
    by_node = run(
        "KSampler",
        model=patched,
        seed=1,
        steps=1,
        cfg=SCALE,
        sampler_name="euler",
        scheduler=SCHEDULER,
        positive=positive,
        negative=negative,
        latent_image=picture,
        denoise=0.5,
    )
    assert_near(patched.model.process_latent_in(by_node["samples"]), made)


@EVERYTHING
def test_inpainting(pack, model, texts, part):
    """Under a mask of ones everything is as without; where a mask is 0 the picture stays, elsewhere the part counts."""
    positive, negative, _ = texts
    picture = {"samples": noise_like(1, *LATENT, seed=4)}

    def made(model, mask=None):
        latent = picture if mask is None else run("SetLatentNoiseMask", samples=picture, mask=mask)
        return guided(cfg(model, positive, negative, SCALE), latent=latent)

    patched = pack.put(part, model)
    assert_near(made(patched, torch.ones(1, HEIGHT, WIDTH)), made(patched))
    right = right_half(HEIGHT, WIDTH)
    half = made(patched, right)
    assert_near(half[..., : LATENT[1] // 2], picture["samples"][..., : LATENT[1] // 2])
    assert_apart(half, made(model, right))
    assert_apart(half, made(pack.put(part, model, "swapped"), right))
