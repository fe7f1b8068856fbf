"""Sampling with guidance, against diffusers' own pipelines on the same models."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)

from lab.diffusers.new_adapter import adapter_config, new_adapter
from lab.diffusers.sample import ImagePrompt, sample_latents
from pfv_core.adapter.checkpoint import read_tensors, save_adapter
from pfv_core.adapter.model import AdapterKind
from pfv_core.attention.control import Gate, PromptControl

from .models import CONTEXT, ENCODER, POOLED, new_unet, noise

# What torch's tensors are to numpy 2, in diffusers' schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, ROWS, COLUMNS = 2, 8, 12
IMAGE_SIZE = (ROWS * 8, COLUMNS * 8)
TEXT = (noise(BATCH, 7, CONTEXT, seed=1), noise(BATCH, POOLED, seed=2))
NEGATIVE = (noise(BATCH, 7, CONTEXT, seed=3), noise(BATCH, POOLED, seed=4))
NOISE = noise(BATCH, 4, ROWS, COLUMNS, seed=5)

SCHEDULERS = {
    "ddim_v_zero_snr": lambda: DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    ),
    "euler_epsilon": EulerDiscreteScheduler,
    "euler_v": lambda: EulerDiscreteScheduler(prediction_type="v_prediction"),
    "dpm_2m": lambda: DPMSolverMultistepScheduler(use_karras_sigmas=True),
    "heun": HeunDiscreteScheduler,  # two calls of the U-Net for a step
}


@pytest.fixture(scope="module")
def unet():
    return new_unet("demo")


@pytest.fixture(scope="module")
def controlnet(unet):
    made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8)).eval()
    with torch.no_grad():
        for index, parameter in enumerate(made.parameters()):
            parameter.add_(0.05 * noise(*parameter.shape, seed=index))
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def adapter(unet):
    config = adapter_config(unet, kind=AdapterKind.LINEAR, base="demo", encoder=ENCODER, num_tokens=4)
    return new_adapter(unet, config, 0).requires_grad_(False)


def sample(unet, scheduler="ddim_v_zero_snr", start=NOISE, **options):
    defaults = {"text": TEXT, "negative_text": NEGATIVE, "guidance_scale": 3.0, "steps": 3, "image_size": IMAGE_SIZE}
    return sample_latents(unet, SCHEDULERS[scheduler](), start, **{**defaults, **options})


def of_pipeline(pipeline, guidance_scale=3.0, **options):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=TEXT[0],
        pooled_prompt_embeds=TEXT[1],
        negative_prompt_embeds=NEGATIVE[0],
        negative_pooled_prompt_embeds=NEGATIVE[1],
        latents=NOISE.clone(),
        guidance_scale=guidance_scale,
        num_inference_steps=3,
        output_type="latent",
        **options,
    ).images


def parts(unet, scheduler):
    none = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return {**none, "unet": unet, "scheduler": SCHEDULERS[scheduler](), "add_watermarker": False}


def difference(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_it_is_diffusers_pipeline(unet, scheduler, guidance_scale):
    pipeline = StableDiffusionXLPipeline(**parts(unet, scheduler))
    theirs = of_pipeline(pipeline, guidance_scale, height=IMAGE_SIZE[0], width=IMAGE_SIZE[1])
    assert difference(sample(unet, scheduler, guidance_scale=guidance_scale), theirs) < 1e-5


def test_with_a_controlnet_it_is_diffusers_pipeline(unet, controlnet):
    depth = torch.rand(BATCH, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    pipeline = StableDiffusionXLControlNetPipeline(**parts(unet, "euler_epsilon"), controlnet=controlnet)
    theirs = of_pipeline(pipeline, image=depth, controlnet_conditioning_scale=0.7)
    ours = sample(unet, "euler_epsilon", controlnet=controlnet, depth=depth, control_strength=0.7)
    assert difference(ours, theirs) < 1e-5
    assert difference(sample(unet, "euler_epsilon"), theirs) > 1e-3


def test_with_an_ip_adapter_it_is_diffusers_pipeline(unet, adapter, tmp_path):
    """The negative half of guidance gets the negative image prompt; a region over the left half."""
    save_adapter(tmp_path / "adapter.safetensors", adapter)
    embeds, negative_embeds = noise(1, 40, seed=6), noise(1, 40, seed=7)
    region = torch.zeros(1, *IMAGE_SIZE)
    region[:, :, : IMAGE_SIZE[1] // 2] = 1
    prompt = ImagePrompt(
        adapter,
        adapter.image_proj(embeds),
        adapter.image_proj(negative_embeds),
        PromptControl(0.8),
        region,
    )
    ours = sample(unet, image_prompts=[prompt])

    nested = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in read_tensors(tmp_path / "adapter.safetensors")[0].items():
        part, name = key.split(".", 1)
        nested[part][name] = tensor
    theirs_unet = copy.deepcopy(unet)
    theirs_unet._load_ip_adapter_weights([nested])
    pipeline = StableDiffusionXLPipeline(**parts(theirs_unet, "ddim_v_zero_snr"))
    pipeline.set_ip_adapter_scale(0.8)
    theirs = of_pipeline(
        pipeline,
        height=IMAGE_SIZE[0],
        width=IMAGE_SIZE[1],
        ip_adapter_image_embeds=[torch.stack([negative_embeds, embeds])],
        cross_attention_kwargs={"ip_adapter_masks": [region[:, None]]},
    )
    assert difference(ours, theirs) < 1e-5
    assert difference(sample(unet), theirs) > 1e-3


def prompt_of(adapter, batch=BATCH, **values):
    positive, negative = adapter.image_proj(noise(batch, 40, seed=6)), adapter.image_proj(torch.zeros(1, 40))
    return ImagePrompt(adapter, positive, negative, **values)


@pytest.mark.parametrize("gate", list(Gate))
def test_a_batch_is_its_images(unet, adapter, controlnet, gate):
    """Prompts, regions, texts and depths of their own, under guidance."""
    region = torch.rand(BATCH, *IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    depth = torch.rand(BATCH, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(2))
    control = PromptControl(0.9, 0.3, gate)
    whole = prompt_of(adapter, control=control, region=region)
    out = sample(unet, image_prompts=[whole], controlnet=controlnet, depth=depth)
    for index in range(BATCH):
        own = slice(index, index + 1)
        alone = sample(
            unet,
            start=NOISE[own],
            text=tuple(t[own] for t in TEXT),
            negative_text=tuple(t[own] for t in NEGATIVE),
            image_prompts=[ImagePrompt(adapter, whole.positive[own], whole.negative, control, region[own])],
            controlnet=controlnet,
            depth=depth[own],
        )
        assert difference(out[own], alone) < 1e-4


def test_one_of_each_serves_the_batch(unet, adapter, controlnet):
    region, depth = torch.rand(1, *IMAGE_SIZE), torch.rand(1, 3, *IMAGE_SIZE)
    one = prompt_of(adapter, batch=1, region=region)
    each = ImagePrompt(
        adapter,
        one.positive.expand(BATCH, -1, -1),
        one.negative.expand(BATCH, -1, -1),
        region=region.expand(BATCH, -1, -1),
    )
    text, negative = [tuple(t[:1] for t in pair) for pair in (TEXT, NEGATIVE)]
    single = sample(unet, text=text, negative_text=negative, image_prompts=[one], controlnet=controlnet, depth=depth)
    spread = sample(
        unet,
        text=tuple(t.expand(BATCH, *t.shape[1:]) for t in text),
        negative_text=tuple(t.expand(BATCH, *t.shape[1:]) for t in negative),
        image_prompts=[each],
        controlnet=controlnet,
        depth=depth.expand(BATCH, -1, -1, -1),
    )
    assert torch.equal(single, spread)


def test_strength_zero_is_without(unet, adapter, controlnet):
    plain = sample(unet)
    assert torch.equal(sample(unet, image_prompts=[prompt_of(adapter, control=PromptControl(0.0, 0.0))]), plain)
    depth = torch.rand(1, 3, *IMAGE_SIZE)
    assert torch.equal(sample(unet, controlnet=controlnet, depth=depth, control_strength=0.0), plain)


def test_without_guidance_the_negative_is_not_run(unet):
    batches = []
    handle = unet.register_forward_pre_hook(lambda _module, args: batches.append(len(args[0])))
    sample(unet, guidance_scale=1.0, negative_text=None)
    sample(unet)
    handle.remove()
    assert batches == [BATCH] * 3 + [2 * BATCH] * 3


def test_progress_is_told(unet):
    told = []
    sample(unet, on_step=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_unet_without_added_conditions():
    unet = new_unet("sd15")
    out = sample(unet, "euler_epsilon", text=TEXT, steps=1)
    assert out.shape == NOISE.shape
    assert out.isfinite().all()


def test_half_precision_keeps_the_latents_precision(adapter):
    half = new_unet("demo").to(torch.bfloat16)
    out = sample(half, image_prompts=[prompt_of(adapter)])
    assert out.dtype == torch.float32
    assert difference(out, sample(new_unet("demo"), image_prompts=[prompt_of(adapter)])) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative_text": None}, "guidance_scale is 3.0, but there is no negative_text"),
        ({"depth": torch.zeros(1, 3, 64, 96)}, "controlnet and depth belong together"),
        (
            {"text": tuple(t.repeat_interleave(2, 0)[:3] for t in TEXT)},
            "the text is a batch of 3, 2 latents are sampled",
        ),
    ],
)
def test_what_does_not_fit_is_refused(unet, options, message):
    with pytest.raises(ValueError, match=message):
        sample(unet, **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"region": torch.ones(1, 64, 64)}, "the region is 64x64, the image is 64x96"),
        ({"region": torch.ones(3, 64, 96)}, "the region is a batch of 3, 2 latents are sampled"),
        ({"batch": 3}, "the image prompt is a batch of 3, 2 latents are sampled"),
        ({"control": PromptControl(gamma=1000.0)}, "gamma is 1000, outside the model's schedule of 1000 timesteps"),
    ],
)
def test_an_image_prompt_that_does_not_fit_is_refused(unet, adapter, values, message):
    with pytest.raises(ValueError, match=message):
        sample(unet, image_prompts=[prompt_of(adapter, **values)])
