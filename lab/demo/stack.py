"""The tiny models: building them untrained, and loading the trained ones with diffusers and transformers.

Layouts are those of the big ones: a UNet2DConditionModel with SDXL's features, one CLIP text encoder with projection
(SDXL's second; the refiner reads that one alone), a CLIP vision encoder, a depth ControlNet. The autoencoder is an
AutoencoderKL behind a pixel unshuffle, which makes it fast on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from pfv_demo.sizes import (
    AUTOENCODER,
    CLIP_MEAN,
    CLIP_STD,
    CONTEXT_DIM,
    CONTROLNET_CONDITIONING_CHANNELS,
    FILES,
    IMAGE_SIZE,
    LATENT_SIZE,
    MAX_TOKENS,
    TEXT,
    UNET,
    UNSHUFFLE,
    VISION,
    VOCABULARY,
    WEIGHTS,
)

__all__ = [
    "AUTOENCODER",
    "CLIP_MEAN",
    "CLIP_STD",
    "CONTEXT_DIM",
    "CONTROLNET_CONDITIONING_CHANNELS",
    "FILES",
    "IMAGE_SIZE",
    "LATENT_SIZE",
    "TEXT",
    "UNET",
    "UNSHUFFLE",
    "VISION",
    "WEIGHTS",
    "DemoStack",
    "UnshuffledAutoencoder",
    "added_conditions",
    "encode_text",
    "load_stack",
    "load_weights",
    "new_controlnet",
    "new_scheduler",
    "new_text_encoder",
    "new_unet",
    "new_vision_encoder",
    "pixel_values",
    "save_weights",
    "tokenize",
    "tokenizer",
]


class UnshuffledAutoencoder(nn.Module):
    """An AutoencoderKL on images whose 4x4 pixel blocks are channels; 8x smaller latents with 4 channels in all.

    Latents have mean 0 and deviation 1 on the training scenes: `mean` and `deviation` (1, 4, 1, 1) are part of the file.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kl = AutoencoderKL(**AUTOENCODER)
        self.register_buffer("mean", torch.zeros(1, 4, 1, 1))
        self.register_buffer("deviation", torch.ones(1, 4, 1, 1))

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 4, H/8, W/8)."""
        latents = self.kl.encode(F.pixel_unshuffle(image * 2 - 1, UNSHUFFLE)).latent_dist.mode()
        return (latents - self.mean) / self.deviation

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 4, h, w) -> (B, 3, 8h, 8w) in about 0..1."""
        image = self.kl.decode(latents * self.deviation + self.mean).sample
        return F.pixel_shuffle(image, UNSHUFFLE) / 2 + 0.5


def tokenizer() -> CLIPTokenizer:
    """CLIP's kind of tokenizer that knows the words of the grammar; anything else is spelt out."""
    loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(VOCABULARY, model_max_length=MAX_TOKENS)
    return loaded


def tokenize(captions: list[str], clip_tokenizer: CLIPTokenizer) -> Tensor:
    """(B, MAX_TOKENS) ids: begin, the caption, end, and 0 after it as SDXL's second encoder has it."""
    rows = []
    for caption in captions:
        ids = clip_tokenizer(caption).input_ids
        if len(ids) > MAX_TOKENS:
            raise ValueError(f"the caption has {len(ids)} tokens, at most {MAX_TOKENS} fit: {caption!r}")
        rows.append(ids + [0] * (MAX_TOKENS - len(ids)))
    return torch.tensor(rows)


def new_text_encoder() -> CLIPTextModelWithProjection:
    """Untrained."""
    clip_tokenizer = tokenizer()
    begin, end = clip_tokenizer("").input_ids
    config = CLIPTextConfig(
        **TEXT, vocab_size=len(clip_tokenizer), bos_token_id=begin, eos_token_id=end, pad_token_id=0
    )
    config._attn_implementation = "eager"  # faster than fused attention on a CPU at this size
    return CLIPTextModelWithProjection(config)


def new_vision_encoder() -> CLIPVisionModelWithProjection:
    """Untrained."""
    config = CLIPVisionConfig(**VISION)
    config._attn_implementation = "eager"
    return CLIPVisionModelWithProjection(config)


def new_unet() -> UNet2DConditionModel:
    """Untrained."""
    unet = UNet2DConditionModel(**UNET)
    unet.set_attn_processor(AttnProcessor())  # plain matrix products: faster on a CPU at this size
    return unet


def new_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A depth ControlNet that starts as a copy of the U-Net's encoder."""
    controlnet = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=CONTROLNET_CONDITIONING_CHANNELS, conditioning_channels=3
    )
    controlnet.set_attn_processor(AttnProcessor())
    return controlnet


def new_scheduler() -> DDIMScheduler:
    """v-prediction on SDXL's noise schedule, rescaled to end in pure noise."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def encode_text(text_encoder: CLIPTextModelWithProjection, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T) ids -> (B, T, C) penultimate hidden states and (B, C) pooled projection, as SDXL reads them."""
    output = text_encoder(ids, output_hidden_states=True)
    return output.hidden_states[-2], output.text_embeds


def added_conditions(pooled: Tensor, size: int = IMAGE_SIZE) -> dict[str, Tensor]:
    """SDXL's extra conditions: the pooled text, and the sizes of an uncropped square image."""
    sizes = torch.tensor([size, size, 0, 0, size, size], dtype=torch.float32, device=pooled.device)
    return {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), -1)}


def pixel_values(image: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> normalized input of the vision encoder."""
    size = VISION["image_size"]
    small = F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
    mean = torch.tensor(CLIP_MEAN, device=image.device).view(1, 3, 1, 1)
    return (small - mean) / torch.tensor(CLIP_STD, device=image.device).view(1, 3, 1, 1)


NEW: dict[str, Callable[[], Any]] = {
    "autoencoder": UnshuffledAutoencoder,
    "text_encoder": new_text_encoder,
    "vision_encoder": new_vision_encoder,
    "unet": new_unet,
    "controlnet": lambda: new_controlnet(new_unet()),
}


@dataclass(frozen=True)
class DemoStack:
    """The trained models; see the functions that make them untrained."""

    autoencoder: UnshuffledAutoencoder
    text_encoder: CLIPTextModelWithProjection
    vision_encoder: CLIPVisionModelWithProjection
    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    tokenizer: CLIPTokenizer


def load_stack(folder: Path = WEIGHTS, dtype: torch.dtype = torch.float32) -> DemoStack:
    """Read the trained models.

    Raises:
        FileNotFoundError: a file is missing.
    """
    return DemoStack(**{name: load_model(name, folder, dtype) for name in FILES}, tokenizer=tokenizer())


def load_model(name: str, folder: Path = WEIGHTS, dtype: torch.dtype = torch.float32) -> Any:
    """Read one trained model, named as its file; frozen.

    Raises:
        FileNotFoundError: its file is missing.
    """
    model = NEW[name]()
    load_weights(model, folder / f"{name}.safetensors")
    if dtype != torch.float32:  # diffusers warns of every cast
        model.to(dtype)
    return model.eval().requires_grad_(False)


def load_weights(model: nn.Module, file: Path) -> None:
    """Read one model's weights into it; FileNotFoundError where there is no such file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: it is part of the repository, or made by python -m lab.demo.train")
    model.load_state_dict({key: value.float() for key, value in load_file(file).items()})


def save_weights(model: nn.Module, file: Path, metadata: dict[str, str]) -> None:
    """Write one model's weights in half precision."""
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_file({key: value.contiguous().clone() for key, value in state.items()}, file, metadata)
