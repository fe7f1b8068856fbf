"""The host's options for the U-Net's precision: an image prompt goes into a half- or eighth-precision model as into any."""

from __future__ import annotations

import comfy.cli_args
import comfy.clip_vision
import comfy.supported_models
import nodes as host_nodes
import pytest
import torch

from pfv_mepa.tests.host.sampling import apply, image_prompt, right_half, sample
from pfv_mepa.tests.support.tiny_stack import models
from pfv_mepa.tests.support.tiny_stack.files import TINY_FILES, write_tiny_files
from pfv_mepa.tests.support.tiny_stack.host_pack.architectures import register

DTYPES = {
    "bf16_unet": torch.bfloat16,
    "fp16_unet": torch.float16,
    "fp8_e4m3fn_unet": torch.float8_e4m3fn,
}


@pytest.fixture(scope="module")
def checkpoint(host_base_directory):
    """Function: the option that is set, or None -> MODEL from the tiny checkpoint file, as the host loads it."""
    write_tiny_files(host_base_directory / "models")
    released, load_released = list(comfy.supported_models.models), comfy.clip_vision.load_clipvision_from_sd
    register()

    def load(option=None):
        with pytest.MonkeyPatch.context() as patch:
            if option:
                patch.setattr(comfy.cli_args.args, option, True)
            else:
                patch.setattr(comfy.cli_args.args, "fp32_unet", True)
            return host_nodes.CheckpointLoaderSimple().load_checkpoint(TINY_FILES.checkpoint)[0]

    yield load
    comfy.supported_models.models[:] = released
    comfy.clip_vision.load_clipvision_from_sd = load_released


@pytest.fixture(scope="module")
def prompt(checkpoint, host_base_directory):
    return image_prompt(models.tiny_clip_vision(), host_base_directory / "models" / "ipadapter" / TINY_FILES.adapter)


@pytest.fixture(scope="module")
def full(checkpoint, prompt):
    """Latents of the float32 model, without and with an image prompt."""
    model = checkpoint()
    return small(model), small(patched(model, prompt))


def small(model):
    return sample(model, height=64, width=64, steps=1, cfg=1.5)


def patched(model, prompt, **options):
    return apply(model, prompt, region=right_half(64, 64), text_share=0.3, **options)


def error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("option", DTYPES)
def test_an_image_prompt_adds_nothing_to_the_models_own_rounding(checkpoint, prompt, full, option):
    model = checkpoint(option)
    weight = model.model.diffusion_model.input_blocks[4][1].transformer_blocks[0].attn2.to_q.weight
    assert weight.dtype == DTYPES[option]
    plain, with_prompt = small(model), small(patched(model, prompt))
    # 0 in fp16: the file holds halves, and the CPU computes in float32
    assert error(with_prompt, full[1]) <= 1.5 * error(plain, full[0])
    assert not torch.equal(with_prompt, plain)
    assert torch.equal(small(patched(model, prompt, strength=0.0)), plain)
