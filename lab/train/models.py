"""The frozen models that an adapter is trained between, and loaders for those of SDXL and SD1.5.

Nothing here downloads: files are local, and where one is missing the error says where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from pfv_core.reference.open_clip_vit import load_open_clip
from pfv_core.reference.vit import VisionEncoder

from ..diffusers.vision import ClipVisionEncoder
from .cache import fingerprint

EncodeText = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
EncodeLatents = Callable[[Tensor], Tensor]
DecodeLatents = Callable[[Tensor], Tensor]

_HUB = {"sdxl": "stabilityai/stable-diffusion-xl-base-1.0", "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
_PIPELINES: dict[str, Any] = {"sdxl": StableDiffusionXLPipeline, "sd15": StableDiffusionPipeline}
VISION_SOURCE = (
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K on the Hugging Face hub has it: open_clip_pytorch_model.safetensors, or "
    "config.json and model.safetensors as a folder"
)


class ModelsError(ValueError):
    """Models that are not there or do not belong together; the message says what to get."""


@dataclass(frozen=True)
class TrainingModels:
    """Everything frozen, on the device that trains.

    Attributes:
        base: family of the U-Net, as the adapter's file will name it: sdxl, sd15, demo.
        unet: predicts noise or velocity.
        vision: image encoder of the references.
        encode_text: captions -> context (B, T, C) and pooled text (B, P); P = 0 where the U-Net takes none.
        encode_latents: (B, 3, H, W) in 0..1 -> (B, 4, H/8, W/8), scaled as the U-Net takes them, without randomness.
        scheduler: noise schedule and prediction type, and the sampler of the validation pictures.
        decode_latents: the way back, (B, 3, H, W) in about 0..1; None = no validation pictures.
        identity: short names of the weights, which a run to resume and a cache must share.
    """

    base: str
    unet: UNet2DConditionModel
    vision: VisionEncoder
    encode_text: EncodeText
    encode_latents: EncodeLatents
    scheduler: Any
    decode_latents: DecodeLatents | None = None
    identity: Mapping[str, str] = field(default_factory=dict)


def unet_conditions(unet: UNet2DConditionModel, context: Tensor, pooled: Tensor, time_ids: Tensor) -> dict[str, Any]:
    """The U-Net's keyword arguments for (B, T, C) context, (B, P) pooled text and (B, 6) sizes in pixels."""
    conditions: dict[str, Any] = {"encoder_hidden_states": context.to(unet.dtype)}
    if unet.config["addition_embed_type"] == "text_time":
        sizes = time_ids.to(context.device, unet.dtype)
        conditions["added_cond_kwargs"] = {"text_embeds": pooled.to(unet.dtype), "time_ids": sizes}
    return conditions


def load_models(
    base: str,
    checkpoint: Path,
    vision: Path,
    *,
    configs: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> TrainingModels:
    """Load SDXL or SD1.5 and their image encoder from local files.

    Args:
        base: sdxl or sd15.
        checkpoint: a diffusers folder (with model_index.json) or a single-file checkpoint (.safetensors).
        vision: open_clip's ViT-H/14 weights as one file, or a transformers folder of a CLIP vision model.
        configs: for a single-file checkpoint: a diffusers folder whose configs and tokenizers it is read with; it needs
            no weights.
        dtype: of all frozen weights but the autoencoder's: SDXL's overflows in half precision.
        device: where everything goes.

    Raises:
        ModelsError: an unknown base, files that are missing or belong to another base.
    """
    if base not in _PIPELINES:
        raise ModelsError(f"base is {base!r}, expected one of {sorted(_PIPELINES)}")
    pipeline = _load_pipeline(base, checkpoint, configs, dtype)
    _check_base(base, pipeline.unet, checkpoint)
    encoder, vision_module = _load_vision(vision, dtype)
    for module in (*_modules(pipeline), vision_module):
        nn.Module.to(module, device, torch.float32 if module is pipeline.vae else dtype)
        module.eval().requires_grad_(False)
    return TrainingModels(
        base=base,
        unet=pipeline.unet,
        vision=encoder,
        encode_text=partial(_encode_text, pipeline),
        encode_latents=partial(_encode_latents, pipeline.vae),
        scheduler=DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False),
        decode_latents=partial(_decode_latents, pipeline.vae),
        identity={
            "unet": fingerprint(pipeline.unet),
            "autoencoder": fingerprint(pipeline.vae),
            "vision": fingerprint(vision_module),
        },
    )


def load_demo(folder: Path | None = None, device: torch.device | str = "cpu") -> TrainingModels:
    """The tiny stack that the repository ships, or another one of its layout in `folder`."""
    from ..demo import stack  # rests on this package: imported only by those who ask for it

    weights = stack.WEIGHTS if folder is None else folder
    names = ("unet", "vision_encoder", "text_encoder", "autoencoder")
    modules = {name: stack.load_model(name, weights).to(device) for name in names}
    clip_tokenizer = stack.tokenizer()

    def encode_text(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = stack.tokenize(list(captions), clip_tokenizer)
        return stack.encode_text(modules["text_encoder"], ids.to(device))

    return TrainingModels(
        base="demo",
        unet=modules["unet"],
        vision=ClipVisionEncoder(modules["vision_encoder"]),
        encode_text=encode_text,
        encode_latents=modules["autoencoder"].encode,
        scheduler=stack.new_scheduler(),
        decode_latents=modules["autoencoder"].decode,
        identity={name: fingerprint(module) for name, module in modules.items()},
    )


def _load_pipeline(base: str, checkpoint: Path, configs: Path | None, dtype: torch.dtype) -> Any:
    """The diffusers pipeline, for its parts."""
    pipeline = _PIPELINES[base]
    if (checkpoint / "model_index.json").is_file():
        return _read(checkpoint, pipeline.from_pretrained, checkpoint, dtype=dtype, **_options(base))
    if not checkpoint.is_file():
        raise ModelsError(
            f"no {base} model at {checkpoint}: give a diffusers folder (with model_index.json) or a single "
            f".safetensors checkpoint, for example of {_HUB[base]} on the Hugging Face hub"
        )
    if configs is None or not (configs / "model_index.json").is_file():
        raise ModelsError(
            f"{checkpoint.name} is a single file without configs and tokenizers: also give a folder with those of its "
            f"base (a few MB), made by: hf download {_HUB[base]} --include '*.json' '*.txt' --local-dir FOLDER"
        )
    options = {"config": str(configs), "local_files_only": True, **_options(base)}
    return _read(checkpoint, pipeline.from_single_file, str(checkpoint), dtype=dtype, **options)


def _read(checkpoint: Path, load: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return load(*args, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelsError(f"{checkpoint} cannot be read as a diffusion model: {error}") from error


def _options(base: str) -> dict[str, Any]:
    unused: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False} if base == "sd15" else {}
    return {"local_files_only": True, **unused}


def _check_base(base: str, unet: UNet2DConditionModel, checkpoint: Path) -> None:
    width = unet.config["cross_attention_dim"]
    takes_sizes = unet.config["addition_embed_type"] == "text_time"
    if takes_sizes != (base == "sdxl"):
        raise ModelsError(
            f"{checkpoint} holds a U-Net with contexts of {width} channels {'and' if takes_sizes else 'without'} SDXL's "
            f"added conditions, which is no {base}: give the checkpoint of the preset's base, or another preset"
        )


def _load_vision(vision: Path, dtype: torch.dtype) -> tuple[VisionEncoder, nn.Module]:
    """The encoder, and the module that holds its weights."""
    if (vision / "config.json").is_file():
        model = _read(vision, CLIPVisionModelWithProjection.from_pretrained, vision, dtype=dtype, local_files_only=True)
        return ClipVisionEncoder(model), model
    if not vision.is_file():
        raise ModelsError(f"no image encoder at {vision}: {VISION_SOURCE}")
    encoder = load_open_clip(vision, dtype=dtype)
    return encoder, encoder.visual


def _modules(pipeline: Any) -> list[nn.Module]:
    return [module for module in pipeline.components.values() if isinstance(module, nn.Module)]


@torch.no_grad()
def _encode_text(pipeline: Any, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    given = {"device": pipeline.unet.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    encoded = pipeline.encode_prompt(prompt=list(captions), **given)
    context = encoded[0]
    return context, encoded[2] if len(encoded) > 2 else context.new_zeros(len(context), 0)


@torch.no_grad()
def _encode_latents(vae: Any, image: Tensor) -> Tensor:
    """The mode of the latents' distribution: drawing from it would forbid caching."""
    latents: Tensor = vae.encode(image.to(vae.dtype) * 2 - 1).latent_dist.mode()
    return latents * vae.config.scaling_factor


@torch.no_grad()
def _decode_latents(vae: Any, latents: Tensor) -> Tensor:
    image: Tensor = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
    return image / 2 + 0.5
