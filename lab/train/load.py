"""SDXL, SD1.5 and their image encoder, read from local files for training.

Nothing here downloads: where a file is missing the error says where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, Dinov2Model

from pfv_core.reference.open_clip_vit import load_open_clip
from pfv_core.reference.vit import VisionEncoder
from pfv_core.research.mask_input import LATENT_CHANNELS

from ..diffusers.vision import ClipVisionEncoder, Dinov2Encoder
from .cache import fingerprint
from .models import ModelsError, TrainingModels

_HUB = {"sdxl": "stabilityai/stable-diffusion-xl-base-1.0", "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
_PIPELINES: dict[str, Any] = {"sdxl": StableDiffusionXLPipeline, "sd15": StableDiffusionPipeline}
_TEXT_ENCODERS: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_PARTS = {
    "unet": "U-Net",
    "vae": "autoencoder",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
}
SD2_WIDTH = 1024
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What frozen weights are kept in, by the precision of a run."""

_VISION: dict[str, tuple[Any, Any]] = {
    "clip": (CLIPVisionModelWithProjection, ClipVisionEncoder),
    "clip_vision_model": (CLIPVisionModelWithProjection, ClipVisionEncoder),
    "dinov2": (Dinov2Model, Dinov2Encoder),
}
"""What a folder's `model_type` is read as."""
VISION_SOURCE = (
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K on the Hugging Face hub has it: open_clip_pytorch_model.safetensors, or "
    "config.json and model.safetensors as a folder. For Strictly-ID also facebook/dinov2-large, or -giant, as a folder"
)


def load_models(
    base: str,
    checkpoint: Path,
    vision: Path | None,
    *,
    configs: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> TrainingModels:
    """Load SDXL or SD1.5 and their image encoder from local files.

    Args:
        base: sdxl or sd15.
        checkpoint: a diffusers folder (with model_index.json) or a single-file checkpoint (.safetensors).
        vision: open_clip's ViT-H/14 weights as one file, or a transformers folder of a CLIP vision model or a DINOv2; None = no
            encoder.
        configs: for a single-file checkpoint: a diffusers folder whose configs and tokenizers it is read with; it needs
            no weights.
        dtype: of all frozen weights but the autoencoder's, which are read in float32: SDXL's overflows in half precision.
        device: where everything goes.

    Raises:
        ModelsError: an unknown base, files that are missing or belong to another base.
    """
    if base not in _PIPELINES:
        raise ModelsError(f"base is {base!r}, expected one of {sorted(_PIPELINES)}")
    pipeline = _load_pipeline(base, checkpoint, configs, dtype)
    _check_whole(pipeline, checkpoint)
    _check_base(base, pipeline.unet, checkpoint)
    identity = {"unet": pipeline.unet, "autoencoder": pipeline.vae}
    encoder = None
    if vision is not None:
        encoder, identity["vision"] = _load_vision(vision, dtype)
    for module in dict.fromkeys((*_modules(pipeline).values(), *identity.values())):
        nn.Module.to(module, device).eval().requires_grad_(False)
    names = {part: fingerprint(module) for part, module in identity.items()}
    return models_of_pipeline(base, pipeline, encoder, names)


def models_of_pipeline(
    base: str, pipeline: Any, vision: VisionEncoder | None, identity: Mapping[str, str] | None = None
) -> TrainingModels:
    """A diffusers pipeline's parts as a training calls them.

    Args:
        base: the trained file will name it.
        pipeline: StableDiffusionPipeline or StableDiffusionXLPipeline, its modules frozen and where they belong.
        vision: image encoder of the references.
        identity: short names of the weights.
    """
    return TrainingModels(
        base=base,
        unet=pipeline.unet,
        vision=vision,
        encode_text=partial(_encode_text, pipeline),
        encode_latents=partial(_encode_latents, pipeline.vae),
        scheduler=DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False),
        decode_latents=partial(_decode_latents, pipeline.vae),
        identity=identity or {},
    )


def _load_pipeline(base: str, checkpoint: Path, configs: Path | None, dtype: torch.dtype) -> Any:
    """The diffusers pipeline, for its parts. The autoencoder comes from its file by itself: rounded first, then widened, it
    would stay rounded."""
    pipeline = _PIPELINES[base]
    options: dict[str, Any] = {"local_files_only": True}
    unused = {"safety_checker": None, "requires_safety_checker": False} if base == "sd15" else {}
    if (checkpoint / "model_index.json").is_file():
        vae = _read(checkpoint, AutoencoderKL.from_pretrained, checkpoint, subfolder="vae", **options)
        there = {part: kind for part, kind in _TEXT_ENCODERS.items() if (checkpoint / part).is_dir()}
        texts = {part: _of_transformers(kind, checkpoint, dtype, part) for part, kind in there.items()}
        return _read(
            checkpoint, pipeline.from_pretrained, checkpoint, vae=vae, dtype=dtype, **texts, **options, **unused
        )
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
    file, options = str(checkpoint), {**options, "config": str(configs)}
    vae = _read(checkpoint, AutoencoderKL.from_single_file, file, subfolder="vae", **options)
    return _read(checkpoint, pipeline.from_single_file, file, vae=vae, dtype=dtype, **options, **unused)


def _read(checkpoint: Path, load: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return load(*args, **options)
    except (OSError, ValueError, KeyError, SafetensorError, SingleFileComponentError) as error:
        reason = str(error).partition("Please load the component")[0].strip()  # which is no way of a command line
        raise ModelsError(f"{checkpoint} cannot be read as a diffusion model: {reason}") from error
    except NotImplementedError as error:
        if "meta tensor" not in str(error):  # torch's words of a weight that a single file has not
            raise
        raise ModelsError(
            f"{checkpoint} lacks weights of its U-Net, its autoencoder or a text encoder: give one that holds all of them"
        ) from error


def _of_transformers(kind: Any, folder: Path, dtype: torch.dtype, subfolder: str = "") -> nn.Module:
    """A whole encoder: weights that its file lacks transformers fills with random numbers."""
    options = {"dtype": dtype, "local_files_only": True, "output_loading_info": True, "subfolder": subfolder}
    model, found = _read(folder, kind.from_pretrained, folder, **options)
    if missing := sorted(found["missing_keys"]):
        raise ModelsError(
            f"{folder / subfolder} lacks {len(missing)} weights of a {kind.__name__}, {missing[0]} for one: it would be trained "
            "with random numbers in their place. Give the folder of the whole encoder"
        )
    whole: nn.Module = model
    return whole


def _check_whole(pipeline: Any, checkpoint: Path) -> None:
    for part, module in _modules(pipeline).items():
        if lacking := [name for name, parameter in module.named_parameters() if parameter.is_meta]:
            raise ModelsError(
                f"{checkpoint} lacks {len(lacking)} weights of its {_PARTS.get(part, part)}, {lacking[0]} for one"
            )


def _check_base(base: str, unet: UNet2DConditionModel, checkpoint: Path) -> None:
    width, channels = unet.config["cross_attention_dim"], unet.config["in_channels"]
    if channels != LATENT_CHANNELS:
        raise ModelsError(
            f"{checkpoint} holds a U-Net of {channels} input channels, as an inpainting model has, expected {LATENT_CHANNELS}: "
            f"give the plain {base}"
        )
    if width == SD2_WIDTH:
        raise ModelsError(f"{checkpoint} holds a U-Net with contexts of {width} channels, SD2's, which is no {base}")
    takes_sizes = unet.config["addition_embed_type"] == "text_time"
    if takes_sizes != (base == "sdxl"):
        raise ModelsError(
            f"{checkpoint} holds a U-Net with contexts of {width} channels {'and' if takes_sizes else 'without'} SDXL's "
            f"added conditions, which is no {base}: give the checkpoint of the preset's base, or another preset"
        )


def _load_vision(vision: Path, dtype: torch.dtype) -> tuple[VisionEncoder, nn.Module]:
    """The encoder, and the module that holds its weights."""
    if (vision / "config.json").is_file():
        kind = json.loads((vision / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind not in _VISION:
            raise ModelsError(
                f"{vision} holds an image encoder of kind {kind!r}, expected one of {sorted(_VISION)}: {VISION_SOURCE}"
            )
        model_class, encoder_class = _VISION[kind]
        model = _of_transformers(model_class, vision, dtype)
        return encoder_class(model), model
    if not vision.is_file():
        raise ModelsError(f"no image encoder at {vision}: {VISION_SOURCE}")
    encoder = load_open_clip(vision, dtype=dtype)
    return encoder, encoder.visual


def _modules(pipeline: Any) -> dict[str, nn.Module]:
    return {part: module for part, module in pipeline.components.items() if isinstance(module, nn.Module)}


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
