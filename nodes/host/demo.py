"""The tiny trained models of `pfv_demo` as the host's own MODEL, CLIP, VAE, CLIP_VISION and CONTROL_NET.

The files are in the layouts of diffusers and transformers; here their tensors get the host's names and go into the
host's classes, so that every node treats these models like the big ones. All of them compute in float32: they are so
small that nothing is gained by less.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.clip_vision
import comfy.controlnet
import comfy.diffusers_convert
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.model_base import ModelType
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...pfv_demo.sizes import (
    ADAPTER_FILE,
    AUTOENCODER,
    CLIP_MEAN,
    CLIP_STD,
    CONTEXT_DIM,
    FILES,
    MAX_TOKENS,
    TEXT,
    UNET,
    UNSHUFFLE,
    VISION,
    VOCABULARY,
)
from .adapter import HostAdapter
from .control_network import control_network
from .files import fill
from .whole_layers import whole_layers

FULL_AUTOENCODER_LEVELS = 4  # what the host's conversion of diffusers' names counts from
BEGIN, END, PAD = "<|startoftext|>", "<|endoftext|>", 0  # marks of the vocabulary; SDXL's second encoder pads with 0


def demo_files(weights: Path) -> list[Path]:
    """The files that the demo is made of.

    Raises:
        FileNotFoundError: one is missing.
    """
    files = [*(weights / f"{name}.safetensors" for name in FILES), weights / ADAPTER_FILE]
    if missing := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"{', '.join(missing)} missing in {weights}: the demo's weights are part of the repository, so download it "
            "again as a whole; python -m lab.demo.train, in its repository, makes new ones"
        )
    return files


@whole_layers()
def demo_model(weights: Path) -> comfy.model_patcher.ModelPatcher:
    """MODEL: the U-Net, with v-prediction on SDXL's noise schedule rescaled to end in pure noise."""
    config = DemoSDXL(_unet_config())
    config.set_inference_dtype(torch.float32, None)
    offload_device = comfy.model_management.unet_offload_device()
    model = config.get_model({}, "", device=offload_device)
    names = comfy.utils.unet_to_diffusers(_unet_config())
    _load(model.diffusion_model, _renamed(_read(weights, "unet"), names), "unet")
    return comfy.model_patcher.ModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(), offload_device=offload_device
    )


@whole_layers()
def demo_clip(weights: Path) -> comfy.sd.CLIP:
    """CLIP: one text encoder, read as SDXL's second: penultimate hidden states, pooled projection."""
    clip = comfy.sd.CLIP(comfy.supported_models_base.ClipTarget(DemoTokenizer, DemoClip))
    _load(clip.cond_stage_model.clip_g.transformer, _read(weights, "text_encoder"), "text_encoder")
    return clip


@whole_layers()
def demo_vae(weights: Path) -> comfy.sd.VAE:
    """VAE: an autoencoder of the host's class behind a pixel unshuffle; its latents have mean 0 and deviation 1."""
    tensors = _read(weights, "autoencoder")
    kl = _host_autoencoder_names({key[3:]: value for key, value in tensors.items() if key.startswith("kl.")})
    parameters = {"ddconfig": _autoencoder_config(), "embed_dim": AUTOENCODER["latent_channels"]}
    vae = comfy.sd.VAE(sd=kl, config={"params": parameters}, dtype=torch.float32)
    _load(vae.first_stage_model, kl, "autoencoder")
    vae.first_stage_model = DemoAutoencoder(vae.first_stage_model, tensors["mean"], tensors["deviation"])
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model,
        load_device=vae.device,
        offload_device=comfy.model_management.vae_offload_device(),
    )
    return vae


@whole_layers()
def demo_clip_vision(weights: Path) -> comfy.clip_vision.ClipVisionModel:
    """CLIP_VISION: the image encoder. The host's constructor takes the path of a JSON file only."""
    constants = {"num_channels": 3, "model_type": "clip_vision_model", "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(VISION | constants), encoding="utf-8")
        clip_vision = comfy.clip_vision.ClipVisionModel(str(file))
    _load(clip_vision.model, _read(weights, "vision_encoder"), "vision_encoder")
    return clip_vision


@whole_layers()
def demo_controlnet(weights: Path) -> comfy.controlnet.ControlNet:
    """CONTROL_NET: a depth ControlNet for the MODEL; near is bright."""
    net = control_network(
        _read(weights, "controlnet"),
        *_refusal("controlnet"),
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
        num_head_channels=DemoSDXL.unet_extra_config["num_head_channels"],
    )
    return comfy.controlnet.ControlNet(
        net, load_device=comfy.model_management.get_torch_device(), manual_cast_dtype=None
    )


def demo_adapter(weights: Path) -> HostAdapter:
    """MEPA_ADAPTER: the image-prompt adapter trained for these models."""
    return HostAdapter.load(weights / ADAPTER_FILE)


class DemoSDXL(comfy.supported_models.SDXL):
    """SDXL as the host configures it, at the demo's sizes, prediction and latents; not in its list of known models."""

    latent_format = comfy.latent_formats.LatentFormat  # scale 1: the autoencoder's latents have deviation 1

    def model_type(self, state_dict: Any, prefix: str = "") -> ModelType:
        """The host's question what the U-Net predicts; it sets up the noise schedule by the answer."""
        self.sampling_settings["zsnr"] = True
        return ModelType.V_PREDICTION


class DemoAutoencoder(nn.Module):
    """The host's AutoencoderKL on images whose 4x4 pixel blocks are channels, with its latents normalised."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, kl: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.kl: Any = kl
        self.register_buffer("mean", mean)  # (1, 4, 1, 1)
        self.register_buffer("deviation", deviation)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, 4, H/8, W/8)."""
        return (self.kl.encode(F.pixel_unshuffle(image, UNSHUFFLE)) - self.mean) / self.deviation

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 3, 8h, 8w) in about -1..1."""
        return F.pixel_shuffle(self.kl.decode(latents * self.deviation + self.mean), UNSHUFFLE)


class DemoWords(comfy.sd1_clip.SDTokenizer):
    """The host's prompt syntax over the demo's vocabulary; a prompt that is too long goes into several sections."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        super().__init__(
            str(VOCABULARY),
            max_length=MAX_TOKENS,
            pad_with_end=False,
            embedding_directory=embedding_directory,
            embedding_size=CONTEXT_DIM,
            embedding_key="clip_g",
            tokenizer_data=tokenizer_data or {},
        )


class DemoTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """The tokenizer of a CLIP with SDXL's second encoder alone."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        super().__init__(embedding_directory, tokenizer_data or {}, clip_name="g", tokenizer=DemoWords)


class DemoTextModel(comfy.clip_model.CLIPTextModel):
    """The host's text model with a vocabulary of another size, which its constructor does not ask for."""

    def __init__(self, config: Any, dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config, dtype, device, operations)
        size = (config["vocab_size"], config["hidden_size"])
        self.set_input_embeddings(operations.Embedding(*size, dtype=dtype, device=device))


class DemoClipG(comfy.sd1_clip.SDClipModel):
    """SDXL's second encoder at the demo's sizes: penultimate hidden states without the final norm."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        vocabulary = json.loads((VOCABULARY / "vocab.json").read_text(encoding="utf-8"))
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=MAX_TOKENS,
            layer="hidden",
            layer_idx=-2,
            textmodel_json_config=TEXT | {"vocab_size": len(vocabulary), "eos_token_id": vocabulary[END]},
            model_class=DemoTextModel,
            special_tokens={"start": vocabulary[BEGIN], "end": vocabulary[END], "pad": PAD},
            layer_norm_hidden_state=False,
            return_projected_pooled=True,
            model_options=model_options or {},
        )


class DemoClip(comfy.sd1_clip.SD1ClipModel):
    """A CLIP with SDXL's second encoder alone, as the refiner has it."""

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__(device, dtype, model_options or {}, clip_name="g", clip_model=DemoClipG)


def _unet_config() -> dict[str, Any]:
    """The U-Net's sizes in the terms of the host's constructor. A list per residual block, level 0 first."""
    widths, blocks = UNET["block_out_channels"], UNET["layers_per_block"]
    depth = UNET["transformer_layers_per_block"]

    def depths(block_types: tuple[str, ...], blocks_per_level: int) -> list[int]:
        return [depth * ("CrossAttn" in name) for name in block_types for _ in range(blocks_per_level)]

    return {
        "image_size": UNET["sample_size"],
        "in_channels": UNET["in_channels"],
        "out_channels": UNET["out_channels"],
        "model_channels": widths[0],
        "num_res_blocks": [blocks] * len(widths),
        "channel_mult": [width // widths[0] for width in widths],
        "transformer_depth": depths(UNET["down_block_types"], blocks),
        "transformer_depth_middle": depth,
        "transformer_depth_output": depths(UNET["up_block_types"][::-1], blocks + 1),
        "context_dim": UNET["cross_attention_dim"],
        "num_classes": "sequential",
        "adm_in_channels": UNET["projection_class_embeddings_input_dim"],
        "use_linear_in_transformer": UNET["use_linear_projection"],
        "use_spatial_transformer": True,
        "use_temporal_resblock": False,
        "use_temporal_attention": False,
        "legacy": False,
    }


def _autoencoder_config() -> dict[str, Any]:
    widths = AUTOENCODER["block_out_channels"]
    return {
        "double_z": True,
        "z_channels": AUTOENCODER["latent_channels"],
        "resolution": UNET["sample_size"] * 2 ** (len(widths) - 1),
        "in_channels": AUTOENCODER["in_channels"],
        "out_ch": AUTOENCODER["out_channels"],
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": AUTOENCODER["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }


def _host_autoencoder_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' names -> the host's, whose own conversion numbers the decoder's levels as if there were four."""
    levels = len(AUTOENCODER["block_out_channels"])
    names = {f"decoder.up.{FULL_AUTOENCODER_LEVELS - levels + i}.": f"decoder.up.{i}." for i in range(levels)}
    converted: dict[str, Tensor] = comfy.diffusers_convert.convert_vae_state_dict(dict(tensors))
    return comfy.utils.state_dict_prefix_replace(converted, names)


def _read(weights: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file, float32."""
    file = weights / f"{name}.safetensors"
    if not file.is_file():
        demo_files(weights)
    try:
        return {key: value.float() for key, value in load_file(file).items()}
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): download the repository again") from error


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {names.get(key, key): value for key, value in tensors.items()}


def _load(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    fill(module, tensors, *_refusal(name))


def _refusal(name: str) -> tuple[str, str]:
    """What a message says where a file does not hold what it should."""
    return (
        f"{name}.safetensors does not hold the demo's {name}",
        "Weights and code are of different versions: download the repository again",
    )
