"""IC-Light, which lights a product anew: it reads a picture beside the latent, by weights that it adds to an SD1.5 model."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pfv_mepa.tests.host.beside import (
    HEIGHT,
    WIDTH,
    Pack,
    assert_apart,
    assert_near,
    assert_same,
    basic,
    cfg,
    mixed,
    noise_like,
    prediction,
    prompts,
)
from pfv_mepa.tests.host.sampling import outputs
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

SCALE = 5.0
FIRST = "input_blocks.0.0.weight"
FILE = "iclight.safetensors"
PARTS = pytest.mark.parametrize("part", ["prompt", "branches", "mask"])


@pytest.fixture(scope="module")
def base():
    """Of its own: the pack writes to what all clones of a model share."""
    return models.tiny_model("sd15")


@pytest.fixture(scope="module")
def pack(host_base_directory, tiny_clip_vision, base):
    file = host_base_directory / "models" / "ipadapter" / "beside-ic-light.safetensors"
    widths = adapter_files.cross_attention_widths(base.model.diffusion_model)
    sizes = {"encoder_width": models.VISION_WIDTH, "context_dim": models.CONTEXT_DIM}
    return Pack.of(host_base_directory, tiny_clip_vision, adapter_files.write_plus_adapter(file, widths, **sizes))


@pytest.fixture(scope="module")
def relit(ic_light, host_base_directory, base):
    """Function: model -> the model with weights for the picture."""
    kernel = torch.zeros_like(base.model.diffusion_model.state_dict()[FIRST]).repeat(1, 2, 1, 1)
    kernel[:, 4:] = torch.randn(kernel[:, 4:].shape, generator=torch.Generator().manual_seed(1)) / 3
    file = host_base_directory / "models" / "unet" / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({FIRST: kernel}, file)
    return lambda model: outputs(ic_light["LoadAndApplyICLightUnet"], model=model, model_path=FILE)[0]


@pytest.fixture(scope="module")
def pictured(ic_light, base, tiny_vae):
    """Positive, negative and LATENT with the product's picture."""
    positive, negative = prompts(base)
    inputs = {
        "vae": tiny_vae,
        "foreground": {"samples": noise_like(1, HEIGHT // 8, WIDTH // 8, 4)},
        "multiplier": 0.18215,
    }
    return outputs(ic_light["ICLightConditioning"], positive=positive, negative=negative, **inputs)


@PARTS
def test_each_prompt_is_what_it_is_alone_in_either_order(pack, base, relit, pictured, part):
    positive, negative, latent = pictured
    made = prediction(cfg(relit(pack.put(part, base)), positive, negative, SCALE), latent=latent)
    above, below = (
        prediction(basic(relit(pack.put(part, base, side)), text), latent=latent)
        for side, text in (("positive", positive), ("negative", negative))
    )
    assert_near(made, mixed(above, below, SCALE))
    assert_same(made, prediction(cfg(pack.put(part, relit(base)), positive, negative, SCALE), latent=latent))
    assert_apart(made, prediction(cfg(relit(base), positive, negative, SCALE), latent=latent))
    assert_apart(made, prediction(cfg(pack.put(part, base), *prompts(base), SCALE), latent=latent))


def test_fusion_reads_a_product_without_such_a_picture(pack, base, relit, pictured):
    positive, negative, latent = pictured
    with pytest.raises(ValueError, match=r"what the model asks of a prompt could not be made of reference_prompt"):
        prediction(cfg(pack.fusion(relit(base)), positive, negative, SCALE), latent=latent)
    fused = relit(pack.fusion(base, reference_model=models.tiny_model("sd15")))
    made, vanilla = (prediction(cfg(model, positive, negative, SCALE), latent=latent) for model in (fused, relit(base)))
    assert_apart(made, vanilla)
