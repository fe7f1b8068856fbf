"""The host's own MODEL, CLIP, VAE, CLIP_VISION and CONTROL_NET objects with tiny widths and seeded random weights.

Needs the host in this process (`headless.host.boot`). Everything runs through the host's real classes: samplers,
loaders, memory management and attention patches treat these like the big ones. Images made with them are noise.
"""

from __future__ import annotations

from typing import Any

import comfy.cldm.cldm
import comfy.clip_vision
import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models as supported
import comfy.supported_models_base
import comfy.taesd.taesd
import torch

from .host_pack.architectures import clip_vision_from_config, text_config, vision_config
from .topologies import TOPOLOGIES, Topology

CLIP_L_WIDTH = 24
CLIP_G_WIDTH = 40
CONTEXT_DIM = CLIP_L_WIDTH + CLIP_G_WIDTH  # SDXL concatenates its two text encoders
POOLED_DIM = CLIP_G_WIDTH  # and takes the second one's pooled output
SIZE_EMBEDDING_DIM = 6 * 256  # six sizes and offsets, embedded to 256 each, follow the pooled text in SDXL

LATENT_CHANNELS = 4
INPAINTING = (
    9  # channels that an inpainting checkpoint reads: the latent, a mask, and what the mask leaves of a picture
)
INSTRUCTED = 8  # that one of InstructPix2Pix reads: the latent, and that of a picture

VISION_WIDTH = 64
VISION_PROJECTION = 32


@torch.no_grad()
def randomize(module: torch.nn.Module, seed: int, gain: float = 1.0) -> torch.nn.Module:
    """Give every parameter a seeded random value that keeps activations finite.

    The host allocates its layers without initialising them. Matrices and kernels get variance gain^2 / fan_in,
    embeddings and biases a small spread, norms one; single numbers stay as their module set them.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 0:
            parameter.copy_(_random_values(name, parameter.shape, gain, generator))
    return module.requires_grad_(False).eval()


def _random_values(name: str, shape: torch.Size, gain: float, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if "token_embedding" in name or "position_embedding" in name or "class_embedding" in name:
        return noise * 0.02
    if len(shape) >= 2:
        return noise * gain / noise[0].numel() ** 0.5
    return torch.ones(shape) if name.endswith("weight") else noise * 0.02


def tiny_model(
    topology: str = "sdxl",
    channels: int = 32,
    head_dim: int = 16,
    context_dim: int = CONTEXT_DIM,
    pooled_dim: int = POOLED_DIM,
    seed: int = 0,
    in_channels: int = LATENT_CHANNELS,
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL with the block topology of a released U-Net.

    Args:
        topology: a name of `topologies.TOPOLOGIES`. "sdxl" has all 70 cross-attentions.
        channels: width of the first level; a multiple of 32 (group norm).
        head_dim: width of an attention head in the SDXL family; SD1.5 has 8 heads at any width.
        context_dim: width of the text context.
        pooled_dim: width of the pooled text (SDXL family only).
        seed: of the weights.
        in_channels: 4; 9 is an inpainting checkpoint, 8 one of InstructPix2Pix.
    """
    plan = TOPOLOGIES[topology]
    config = model_config(plan, channels, head_dim, context_dim, pooled_dim, in_channels)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    randomize(model.diffusion_model, seed)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def model_config(
    plan: Topology, channels: int, head_dim: int, context_dim: int, pooled_dim: int, in_channels: int = LATENT_CHANNELS
) -> Any:
    """The host's configuration of a U-Net; the arguments are those of `tiny_model`."""
    unet_config = {
        "image_size": 32,
        "in_channels": in_channels,
        "out_channels": LATENT_CHANNELS,
        "model_channels": channels,
        "num_res_blocks": list(plan.num_res_blocks),
        "channel_mult": list(plan.channel_mult),
        "transformer_depth": list(plan.transformer_depth),
        "transformer_depth_middle": plan.transformer_depth_middle,
        "transformer_depth_output": list(plan.transformer_depth_output),
        "context_dim": context_dim,
        "use_linear_in_transformer": plan.sdxl_family,
        "use_spatial_transformer": True,
        "use_checkpoint": False,
        "use_temporal_resblock": False,
        "use_temporal_attention": False,
        "legacy": False,
    }
    if not plan.sdxl_family:
        kind = supported.SD15_instructpix2pix if in_channels == INSTRUCTED else supported.SD15
        return kind(unet_config | {"adm_in_channels": None})
    extra = {"num_classes": "sequential", "adm_in_channels": pooled_dim + SIZE_EMBEDDING_DIM}
    kind = supported.SDXL_instructpix2pix if in_channels == INSTRUCTED else supported.SDXL
    config = kind(unet_config | extra)
    config.unet_config["num_head_channels"] = head_dim  # the class sets 64
    return config


def tiny_clip(l_width: int = CLIP_L_WIDTH, g_width: int = CLIP_G_WIDTH, num_layers: int = 3, seed: int = 1) -> Any:
    """A CLIP of SDXL's kind with its real tokenizers: context (1, 77, l_width + g_width), pooled (1, g_width)."""
    options = {
        "clip_l_model_config": text_config(l_width, num_layers),
        "clip_g_model_config": text_config(g_width, num_layers),
        "dtype": torch.float32,
    }
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(target, model_options=options)
    randomize(clip.cond_stage_model, seed)
    return clip


def tiny_vae(channels: int = 32, seed: int = 2) -> Any:
    """A VAE of the AutoencoderKL class: 8x smaller latents with 4 channels."""
    ddconfig = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": channels,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": ddconfig, "embed_dim": 4}}, dtype=torch.float32)
    randomize(vae.first_stage_model, seed)
    return vae


def tiny_autoencoder(seed: int = 5) -> torch.nn.Module:
    """The host's TAESD, the only small autoencoder that its checkpoint loader accepts; fixed size, random weights.

    Its images scatter around mid-grey without reaching black or white, where a difference would be cut off.
    """
    autoencoder: Any = randomize(comfy.taesd.taesd.TAESD(latent_channels=4), seed)
    last_convolution = autoencoder.taesd_decoder[-1]
    last_convolution.weight.mul_(0.1)
    last_convolution.bias.fill_(0.5)
    return autoencoder


def tiny_clip_vision(
    width: int = VISION_WIDTH, num_layers: int = 4, projection_dim: int = VISION_PROJECTION, seed: int = 3
) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP_VISION with ViT-H's geometry (224 px, 14-px patches, 257 tokens), narrow and shallow."""
    clip_vision = clip_vision_from_config(vision_config(width, num_layers, projection_dim))
    randomize(clip_vision.model, seed)
    return clip_vision


def tiny_control_network(model: comfy.model_patcher.ModelPatcher, seed: int = 4) -> torch.nn.Module:
    """The control network that fits `model`: a copy of its input side that reads a 3-channel hint (a depth image)."""
    config = dict(model.model.model_config.unet_config)
    for key in ("out_channels", "transformer_depth_output", "disable_unet_model_creation"):
        config.pop(key, None)
    config |= {"hint_channels": 3, "operations": comfy.ops.disable_weight_init, "device": "cpu", "dtype": torch.float32}
    return randomize(comfy.cldm.cldm.ControlNet(**config), seed, gain=0.5)


def tiny_controlnet(model: comfy.model_patcher.ModelPatcher, seed: int = 4) -> comfy.controlnet.ControlNet:
    """A CONTROL_NET that fits `model`."""
    return comfy.controlnet.ControlNet(
        tiny_control_network(model, seed),
        load_device=comfy.model_management.get_torch_device(),
        manual_cast_dtype=None,
    )


def tiny_conditioning(model: comfy.model_patcher.ModelPatcher, num_tokens: int = 77, seed: int = 6) -> list[Any]:
    """A CONDITIONING of the width that `model` reads, where no text encoder is wanted."""
    config = model.model.model_config.unet_config
    generator = torch.Generator().manual_seed(seed)
    extras = {}
    if config.get("adm_in_channels"):
        pooled_dim = config["adm_in_channels"] - SIZE_EMBEDDING_DIM
        extras["pooled_output"] = torch.randn(1, pooled_dim, generator=generator)
    return [[torch.randn(1, num_tokens, config["context_dim"], generator=generator), extras]]
