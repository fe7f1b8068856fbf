"""Two U-Nets that nobody here wrote: the host's and diffusers', on the same weights, with the same adapter file."""

from __future__ import annotations

import comfy.utils
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from pfv_mepa.nodes.host.adapter import HostAdapter, ImagePrompt
from pfv_mepa.nodes.host.cross_attention import apply_image_prompt, image_prompt_patches
from pfv_mepa.pfv_core.adapter.checkpoint import read_tensors
from pfv_mepa.pfv_core.attention.control import Gate, PromptControl
from pfv_mepa.tests.host.sampling import options_of_a_call
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

CONTEXT, POOLED, ENCODER = 64, 40, 96
ROWS, COLUMNS = 16, 24


@pytest.fixture(scope="module")
def diffusers_unet():
    """A tiny U-Net of SDXL's topology as diffusers builds it."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[2, 4, 8],  # by diffusers' naming accident: the number of heads
        cross_attention_dim=CONTEXT,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=POOLED + 6 * 256,
    )
    return unet.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def host_model(diffusers_unet):
    """The same weights in the host's U-Net."""
    model = models.tiny_model("sdxl", channels=32, head_dim=16, context_dim=CONTEXT, pooled_dim=POOLED)
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    state = {names[name]: tensor.clone() for name, tensor in diffusers_unet.state_dict().items()}
    missing, unexpected = model.model.diffusion_model.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    return model


@pytest.fixture(scope="module")
def adapter_file(tmp_path_factory, host_model):
    return adapter_files.write_plus_adapter(
        tmp_path_factory.mktemp("adapter") / "plus.safetensors",
        adapter_files.cross_attention_widths(host_model.model.diffusion_model),
        encoder_width=ENCODER,
        context_dim=CONTEXT,
    )


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "latent": random(1, 4, ROWS, COLUMNS),
        "text": random(1, 77, CONTEXT),
        "pooled": random(1, POOLED),
        "tokens": random(1, 257, ENCODER),
        "timestep": torch.tensor([500.0]),
        "time_ids": torch.tensor([[128.0, 192.0, 0.0, 0.0, 128.0, 192.0]]),
    }


def of_diffusers(unet, inputs, adapter_file, scale, mask):
    """Their U-Net with their IP-Adapter loader, image projection and attention processors."""
    nested = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in read_tensors(adapter_file)[0].items():
        part, name = key.split(".", 1)
        nested[part][name] = tensor.float()
    unet._load_ip_adapter_weights([nested])
    unet.float()
    processors = [p for p in unet.attn_processors.values() if isinstance(p, IPAdapterAttnProcessor2_0)]
    assert len(processors) == 70
    for processor in processors:
        processor.scale = [scale]
    return unet(
        inputs["latent"],
        inputs["timestep"],
        encoder_hidden_states=inputs["text"],
        added_cond_kwargs={
            "text_embeds": inputs["pooled"],
            "time_ids": inputs["time_ids"],
            "image_embeds": [inputs["tokens"][:, None]],
        },
        cross_attention_kwargs=None if mask is None else {"ip_adapter_masks": [mask[:, None]]},
    ).sample


def of_host(model, unet, inputs, adapter_file, scale, region):
    """The host's U-Net with MEPA Apply."""
    adapter = HostAdapter.load(adapter_file)
    positive = adapter._adapter.image_proj(inputs["tokens"])
    prompt = ImagePrompt(adapter, positive, torch.zeros_like(positive))
    patched = apply_image_prompt(model, prompt, PromptControl(scale, 1.0, Gate.OUTPUT), region)
    assert len(image_prompt_patches(patched)) == 1
    sizes = unet.add_time_proj(inputs["time_ids"].flatten()).view(1, -1)
    options = options_of_a_call(patched, inputs["latent"])
    return model.model.diffusion_model(
        inputs["latent"],
        inputs["timestep"],
        context=inputs["text"],
        y=torch.cat([inputs["pooled"], sizes], 1),
        transformer_options=options,
    )


def halves(rows=ROWS * 8, columns=COLUMNS * 8):
    mask = torch.zeros(1, rows, columns)
    mask[:, :, : columns // 2] = 1
    return mask


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_same_weights_same_output(diffusers_unet, host_model, adapter_file, inputs, scale, masked):
    mask = halves() if masked else None
    theirs = of_diffusers(diffusers_unet, inputs, adapter_file, scale, mask)
    ours = of_host(host_model, diffusers_unet, inputs, adapter_file, scale, mask)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5
    plain = host_model.model.diffusion_model(
        inputs["latent"],
        inputs["timestep"],
        context=inputs["text"],
        y=torch.cat([inputs["pooled"], diffusers_unet.add_time_proj(inputs["time_ids"].flatten()).view(1, -1)], 1),
        transformer_options={},
    )
    assert (plain - theirs).norm() / theirs.norm() > 1e-2  # the adapter does something


@torch.no_grad()
def test_an_inverted_mask_is_seen(diffusers_unet, host_model, adapter_file, inputs):
    theirs = of_diffusers(diffusers_unet, inputs, adapter_file, 1.0, halves())
    ours = of_host(host_model, diffusers_unet, inputs, adapter_file, 1.0, 1 - halves())
    assert (ours - theirs).norm() / theirs.norm() > 1e-3
