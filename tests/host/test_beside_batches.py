"""Beside what the host does to a batch: windows over its images, areas, devices that share a step, tensors in half precision.

Each image of a batch is independent of the others, so it is what it is alone; and a window's share of it is the same in every
window.
"""

from __future__ import annotations

from itertools import pairwise

import comfy.cli_args
import comfy.samplers
import pytest
import torch

from pfv_mepa.nodes.host.regional_prompt import PromptRun
from pfv_mepa.pfv_core import masks
from pfv_mepa.tests.host.beside import (
    EVERYTHING,
    HEIGHT,
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
    mixed,
    needs,
    noise_like,
    prediction,
    prompted_control_net,
    prompts,
    run,
)
from pfv_mepa.tests.host.sampling import image_prompt, painted, reference
from pfv_mepa.tests.host.test_text_regions import apply_text
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning, tiny_controlnet, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # the windows of older hosts
SCALE = 5.0
LATENT = HEIGHT // 8, WIDTH // 8
SIDES = "positive", "negative"
FRAMES = 3  # as many as a run of two steps has noise levels: until 0.4 the host's windows over a batch need that
EACH_PART = pytest.mark.parametrize("part", ["prompt", "normalised", "fusion", "mask"])


@pytest.fixture(scope="module")
def texts(model):
    return prompts(model)


@pytest.fixture(scope="module")
def references(tiny_clip_vision, plus_adapter_file):
    """Image prompts of as many references as there are frames."""
    return image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(batch=FRAMES))


def regions():
    """One for each frame: a bar that moves from left to right."""
    masks = torch.zeros(FRAMES, HEIGHT, WIDTH)
    for frame in range(FRAMES):
        masks[frame, :, 32 * frame : 32 * (frame + 1)] = 1
    return masks


@pytest.fixture(scope="module")
def per_frame(pack, references):
    """Function: part, model, frames -> the model with a reference and a region for each of these frames."""

    def prompt(model, frames, **options):
        tokens = type(references)(references.adapter, references.positive[frames], references.negative)
        return pack.prompt(model, tokens=tokens, region=regions()[frames], **options)

    def fusion(model, frames):
        latents = noise_like(FRAMES, 8, 6, seed=3)[frames]
        return pack.fusion(model, reference_latent={"samples": latents}, product_mask=regions()[frames])

    def mask(model, frames):
        return pack.mask(model, product_mask=regions()[frames])

    def per_frame(part, model, frames=slice(None)):
        if part == "everything":
            return mask(fusion(prompt(model, frames), frames), frames)
        if part == "normalised":
            return prompt(model, frames, std_norm=True, text_share=1.0)
        return {"prompt": prompt, "fusion": fusion, "mask": mask}[part](model, frames)

    return per_frame


def windows(model, **inputs):
    """Two frames at a time, each window with a frame of the one before it."""
    inputs = {"context_length": 2, "context_overlap": 1, "dim": 0} | inputs
    return run("ContextWindowsManual", model=model, **inputs)


OFFERED = host_node("ContextWindowsManual").INPUT_TYPES()["required"]


def made(model, texts, batch=FRAMES, **where):
    return guided(cfg(model, *texts, SCALE), batch=batch, **where)


@pytest.fixture(scope="module")
def together(per_frame, model, texts):
    """Function: part -> the whole batch with it, in one call."""
    known = {}

    def together(part):
        if part not in known:
            known[part] = made(per_frame(part, model), texts)
            assert_apart(known[part], made(model, texts))
        return known[part]

    return together


# --- each image -------------------------------------------------------------------------------------------------------


def in_area(texts):
    where = {"width": 64, "height": 64, "x": 48, "y": 16, "strength": 1.0}
    return [run("ConditioningSetArea", conditioning=text, **where) for text in texts]


def in_calls_of_their_own(texts):
    """77 and 539 tokens cannot share a call; the same attention."""
    (tokens, extras), *_ = texts[1]
    return [texts[0], [[tokens.repeat(1, 7, 1), extras]]]


@pytest.mark.parametrize(
    ("part", "conditions"),
    [
        *((part, list) for part in ("prompt", "normalised", "fusion", "mask")),
        ("normalised", in_calls_of_their_own),
        ("everything", in_area),
        ("everything", in_calls_of_their_own),
    ],
)
def test_an_image_of_a_batch_is_what_it_is_alone(per_frame, model, texts, part, conditions):
    """With its own reference and region."""
    noise, sides = noise_like(FRAMES, *LATENT, seed=2), conditions(texts)
    batch = made(per_frame(part, model), sides, noise=Given(noise))
    for frame in (0, FRAMES - 1):
        only = slice(frame, frame + 1)
        alone = made(per_frame(part, model, only), sides, batch=1, noise=Given(noise[only]))
        assert_near(batch[only], alone)
    vanilla = made(model, sides, noise=Given(noise))
    assert_apart(batch[..., 2:10, 6:14], vanilla[..., 2:10, 6:14])


def test_an_image_that_is_taken_out_of_a_batch(pack, per_frame, model, texts):
    """It keeps its noise; references for all images do not fit it, one for all does."""
    latent = {"samples": torch.zeros(FRAMES, 4, *LATENT)}
    second = run("LatentFromBatch", samples=latent, batch_index=1, length=1)
    patched = pack.put("everything", model)
    assert_near(made(patched, texts, latent=second), made(patched, texts)[1:2])
    with pytest.raises(ValueError, match=r"is a batch of 3, 1 image\(s\) are being sampled"):
        made(per_frame("prompt", model), texts, latent=second)


def one_at_a_time(model, x, sigmas, extra_args=None, **others):
    """A sampler of another pack, which takes each image to its end before the next."""
    images = []
    for image in x.split(1):
        for sigma, lower in pairwise(sigmas):
            denoised = model(image, sigma * image.new_ones(1), **extra_args)
            image = image + (image - denoised) / sigma * (lower - sigma)
        images.append(image)
    return torch.cat(images)


@EACH_PART
def test_a_sampler_that_takes_images_by_themselves(pack, per_frame, model, texts, part):
    """Nobody says which image is under way: what is one for all serves it, what is one for each is refused."""
    sampler = comfy.samplers.KSAMPLER(one_at_a_time)
    with pytest.raises(RuntimeError, match=r"of the 3 images .* nobody says which, .*the sampler one_at_a_time"):
        made(per_frame(part, model), texts, sampler=sampler)
    options = {"std_norm": True, "text_share": 1.0} if part == "normalised" else {}
    patched = pack.put("prompt" if part == "normalised" else part, model, **options)
    assert_near(made(patched, texts, sampler=sampler), made(patched, texts))


@pytest.mark.parametrize(
    ("part", "many", "named"),
    [
        ("prompt", "tokens", "the image prompt"),
        ("prompt", "region", "the region"),
        ("fusion", "reference_latent", "reference_latent"),
        ("fusion", "product_mask", "product_mask"),
    ],
)
def test_each_thing_that_is_one_for_each_image_is_named(pack, model, texts, references, part, many, named):
    one_each = {
        "tokens": references,
        "region": regions(),
        "reference_latent": {"samples": noise_like(FRAMES, 8, 6, seed=3)},
        "product_mask": regions(),
    }
    patched = pack.put(part, model, **{many: one_each[many]})
    with pytest.raises(RuntimeError, match=f"nobody says which, so {named}, one for each image"):
        made(patched, texts, sampler=comfy.samplers.KSAMPLER(one_at_a_time))


def test_a_product_that_is_read_with_noise_is_in_a_batch_what_it_is_alone(pack, model, texts):
    """The noise of the reference is one for all of them."""
    noise, latents = noise_like(FRAMES, *LATENT, seed=2), noise_like(FRAMES, 8, 6, seed=3)

    def read(frames):
        given = {"reference_latent": {"samples": latents[frames]}, "reference_noise": "step"}
        return made(pack.fusion(model, **given), texts, batch=len(latents[frames]), noise=Given(noise[frames]))

    assert_near(read(slice(None))[2:], read(slice(2, 3)))


# --- windows over the batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule", ["standard_static", "standard_uniform", "looped_uniform", "batched"], ids=lambda name: name
)
@EVERYTHING
def test_windows_over_the_images_of_a_batch(per_frame, model, texts, together, part, schedule):
    """A frame's reference and region go with it into whichever window it is in."""
    looped = {"closed_loop": True} if schedule == "looped_uniform" else {}
    windowed = windows(per_frame(part, model), context_schedule=schedule, **looped)
    assert_near(made(windowed, texts), together(part))


@pytest.mark.skipif(
    "cond_retain_index_list" not in OFFERED,
    reason="this ComfyUI's Context Windows (Manual) keeps no conditions, which came with 0.18",
)
def test_windows_that_keep_the_first_frames_conditions(per_frame, model, texts, together):
    """For models that begin with a picture. Which image a row is of stays what it is."""
    anchor = {} if "causal_window_fix" not in OFFERED else {"causal_window_fix": False}
    windowed = windows(per_frame("everything", model), cond_retain_index_list="0", **anchor)
    assert_near(made(windowed, texts), together("everything"))


@EACH_PART
def test_windows_before_and_after_are_one(per_frame, model, texts, together, part):
    for windowed in (
        windows(per_frame(part, model), context_overlap=0),
        per_frame(part, windows(model, context_overlap=0)),
    ):
        assert_near(made(windowed, texts), together(part))


@pytest.mark.parametrize("kind", ["a reference each", "one reference", "a text"])
def test_windows_keep_no_more_than_the_whole_batch_does(pack, per_frame, model, texts, kind, monkeypatch):
    """Keys and values are kept for the prompts there are: windows are others at every step, and the host counts none of it."""
    runs = []
    begin = PromptRun.__init__

    def begun(self, *args):
        begin(self, *args)
        runs.append(self)

    monkeypatch.setattr(PromptRun, "__init__", begun)
    if kind == "a text":
        patched = apply_text(model, tiny_conditioning(model, seed=9), region=regions()[1:2])
    else:
        patched = pack.prompt(model) if kind == "one reference" else per_frame("prompt", model)
    batch = made(patched, texts)
    windowed = made(windows(patched, context_schedule="standard_uniform"), texts)
    assert_near(windowed, batch)
    kept = [sum(one.key.numel() for one in run._keys_values.values()) for run in runs]
    assert len(kept) == 2
    assert kept[0] == kept[1] > 0


def test_windows_with_guiders_and_areas(per_frame, model, texts):
    """The three facts at once: image, place and side."""
    patched = per_frame("prompt", model)
    positive, negative = in_area(texts)
    whole = made(patched, (positive, negative))
    inputs = {"cond1": positive, "cond2": positive, "negative": negative}
    scales = {"cfg_conds": SCALE, "cfg_cond2_negative": SCALE, "style": "regular"}
    guider = run("DualCFGGuider", model=windows(patched), **inputs, **scales)
    inside = (..., slice(2, 10), slice(6, 14))
    assert_near(guided(guider, batch=FRAMES)[inside], whole[inside])


def test_windows_with_a_prompted_controlnet(per_frame, model, texts):
    patched, control_net = per_frame("prompt", model), tiny_controlnet(model)
    sides = controlled(prompted_control_net(control_net, patched), *texts)
    batch = made(patched, sides)
    assert_near(made(windows(patched), sides), batch)
    assert_apart(batch, made(patched, controlled(control_net, *texts)), 1e-2)


# --- windows over the picture -------------------------------------------------------------------------------------------


APART = {"context_overlap": 2, "context_schedule": "looped_uniform", "closed_loop": True}  # both edges in one window
OVER = pytest.mark.parametrize("dim", [2, 3], ids=["rows", "columns"])


def halves(dim, **inputs):
    """Windows of half the picture's rows or columns."""
    return {"dim": dim, "context_length": LATENT[dim - 2] // 2, "context_overlap": 0, **inputs}


def beyond(dim):
    """A mask of the lower or of the right half."""
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask.narrow(dim - 1, mask.shape[dim - 1] // 2, mask.shape[dim - 1] // 2).fill_(1)
    return mask


@pytest.fixture(scope="module")
def with_mask(pack, model):
    """Function: part, mask -> the model with the part in it."""

    def with_mask(part, mask):
        if part in ("prompt", "normalised"):
            return pack.prompt(model, region=mask, std_norm=part == "normalised")
        return pack.put(part, model, product_mask=mask)

    return with_mask


@pytest.mark.skipif(
    "cond_retain_index_list" not in OFFERED,
    reason="before 0.4 the host's windows over the picture do not say where they lie; since 0.18 they have this input",
)
@OVER
@EACH_PART
def test_windows_that_say_where_they_lie_have_their_part_of_the_region(with_mask, model, texts, part, dim):
    """All of it is in the second of two."""
    windowed = halves(dim, context_schedule="standard_static")
    out, vanilla = (
        made(windows(one, **windowed), texts, batch=1).chunk(2, dim) for one in (with_mask(part, beyond(dim)), model)
    )
    assert_near(out[0], vanilla[0])
    assert_apart(out[1], vanilla[1])


@OVER
@EACH_PART
def test_windows_that_do_not_say_where_they_lie_are_refused_where_it_matters(with_mask, texts, part, dim):
    windowed = windows(with_mask(part, beyond(dim)), **halves(dim, **APART))
    with pytest.raises(RuntimeError, match=r"nobody says where .* Disconnect .* context_schedule standard_static"):
        made(windowed, texts, batch=1, steps=4)


@OVER
@pytest.mark.parametrize("part", ["prompt", "branches"])
def test_windows_that_do_not_say_where_they_lie_keep_the_sides(pack, model, texts, part, dim):
    """Without a region nothing but the place is unknown."""

    def windowed(side):
        return windows(pack.put(part, model, side, region=None), **halves(dim, **APART))

    both = prediction(cfg(windowed(""), *texts, SCALE))
    above, below = (prediction(basic(windowed(side), text)) for side, text in zip(SIDES, texts, strict=True))
    assert_near(both, mixed(above, below, SCALE))


# --- devices ----------------------------------------------------------------------------------------------------------


@needs("MultiGPU_WorkUnits")
def test_work_units_on_one_device_change_nothing(per_frame, model, texts, together):
    patched = run("MultiGPU_WorkUnits", model=per_frame("everything", model), max_gpus=2)
    assert_same(made(patched, texts), together("everything"))


@needs("MultiGPU_WorkUnits")
@EVERYTHING
def test_two_devices_that_share_a_step(per_frame, model, texts, together, part):
    """The host samples the two prompts in threads of their own, through one patch; the CPU stands for both devices."""
    patched = per_frame(part, model).clone()
    second = tiny_model("few")  # the same weights
    second.load_device = torch.device("cpu", 0)
    second.is_multigpu_base_clone = True
    patched.set_additional_models("multigpu", [second])
    patched.match_multigpu_clones()
    seen = set()
    patched.set_model_unet_function_wrapper(
        lambda apply_model, given: (
            seen.add(given["c"]["transformer_options"].get("multigpu_thread_device"))
            or apply_model(given["input"], given["timestep"], **given["c"])
        )
    )
    assert_near(made(patched, texts), together(part))
    assert len(seen) == 2


# --- half precision ---------------------------------------------------------------------------------------------------


def eight_bit(picture):
    """As a file has it; what half precision makes of such a step stands for that step."""
    return (picture * 255).round() / 255


def test_masks_and_images_in_half_precision_are_what_they_stand_for(
    pack, model, texts, tiny_clip_vision, plus_adapter_file, monkeypatch
):
    """What the host hands over with --fp16-intermediates, to each input that takes a picture, a mask or a latent."""
    monkeypatch.setattr(masks, "CORNERS", 4)  # every value counts, everywhere
    soft = eight_bit(torch.linspace(0.1, 0.9, WIDTH).repeat(1, HEIGHT, 1))
    latent = noise_like(1, 8, 6, seed=3).half().float()  # of no steps: its own values

    def sampled(dtype):
        image, mask = eight_bit(reference()).to(dtype), painted().to(dtype)
        tokens = image_prompt(tiny_clip_vision, plus_adapter_file, image=image, mask=mask)
        patched = pack.prompt(model, tokens=tokens, region=soft.to(dtype))
        given = {"reference_latent": {"samples": latent.to(dtype)}, "product_mask": soft.to(dtype)}
        return made(pack.mask(pack.fusion(patched, **given), product_mask=soft.to(dtype)), texts, batch=1)

    half = sampled(torch.float16)
    assert_same(half, sampled(torch.float32))
    assert_apart(half, made(model, texts, batch=1))


@pytest.mark.skipif(
    not hasattr(comfy.cli_args.args, "fp16_intermediates"),
    reason="this ComfyUI has no --fp16-intermediates, which came with 0.18",
)
def test_a_host_that_keeps_everything_in_half_precision(pack, model, texts, monkeypatch):
    """Empty Latent, the empty mask and what KSampler returns are half precision; the steps are not."""
    where = {"seed": 1, "steps": 2, "cfg": SCALE, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}

    def sampled():
        latent = run("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
        mask = run("SolidMask", value=1.0, width=WIDTH, height=HEIGHT)
        patched = pack.put("everything", pack.prompt(model, region=mask, strength=0.3))
        inputs = {"positive": texts[0], "negative": texts[1], "latent_image": latent}
        return run("KSampler", model=patched, **inputs, **where)["samples"]

    full = sampled()
    monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
    half = sampled()
    assert half.dtype == torch.float16
    assert_near(half.float(), full, 1e-3)
