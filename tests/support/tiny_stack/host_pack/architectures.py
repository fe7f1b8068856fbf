"""SDXL's checkpoint and ViT-H's vision encoder at other widths, for the host's own loaders.

The loaders recognise a checkpoint by its exact released widths and a vision encoder by its number of layers. `register`
adds one architecture and one rule beside those. All sizes are read from the files, except the number of attention
heads, which leaves no trace in a file.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base

SDXL_CHANNELS = 320
NARROWEST_RELEASED_ENCODER = 768  # ViT-B

TEXT_HEADS = 2
VISION_HEADS = 4

CLIP_L = "conditioner.embedders.0.transformer.text_model."
CLIP_G = "conditioner.embedders.1.model."

VIT_H_GEOMETRY = {  # what the meaning of hidden states depends on: 224 / 14 = 16x16 patches and a class token
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "model_type": "clip_vision_model",
}


def register() -> None:
    """Teach the host's loaders; to be called once in a process that is used for nothing else."""
    comfy.supported_models.models.append(TinySDXL)
    load_released_encoder = comfy.clip_vision.load_clipvision_from_sd

    def load_clipvision_from_sd(sd: dict[str, Any], prefix: str = "", convert_keys: bool = False) -> Any:
        class_embedding = sd.get("vision_model.embeddings.class_embedding")
        if class_embedding is None or class_embedding.shape[0] >= NARROWEST_RELEASED_ENCODER:
            return load_released_encoder(sd, prefix, convert_keys)
        encoder = clip_vision_from_config(_vision_config_of(sd))
        encoder.load_sd(sd)
        return encoder

    comfy.clip_vision.load_clipvision_from_sd = load_clipvision_from_sd


class TinySDXL(comfy.supported_models.SDXL):
    """SDXL's 70-block topology, narrower than the released one."""

    unet_config = {  # noqa: RUF012  (the host's own layout of these classes)
        key: comfy.supported_models.SDXL.unet_config[key]
        for key in ("use_linear_in_transformer", "transformer_depth", "use_temporal_attention")
    }

    @classmethod
    def matches(cls, unet_config: dict[str, Any], *details: Any, **named_details: Any) -> bool:
        """The host's question whether a checkpoint is of this class; what it tells besides the sizes grew over time."""
        narrower = unet_config.get("model_channels", SDXL_CHANNELS) < SDXL_CHANNELS
        return narrower and super().matches(unet_config, *details, **named_details)

    def clip_target(self, state_dict: Any = None) -> Any:
        """The host's question for the text encoders: SDXL's two, as wide and deep as the checkpoint has them."""
        l_width = state_dict[f"{CLIP_L}final_layer_norm.weight"].shape[0]
        g_width = state_dict[f"{CLIP_G}ln_final.weight"].shape[0]
        l_layers = _count(state_dict, CLIP_L + "encoder.layers.{}.mlp.fc1.weight")
        g_layers = _count(state_dict, CLIP_G + "transformer.resblocks.{}.mlp.c_fc.weight")
        options = {
            "clip_l_model_config": text_config(l_width, l_layers),
            "clip_g_model_config": text_config(g_width, g_layers),
        }

        def tiny_clip_model(device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> Any:
            return comfy.sdxl_clip.SDXLClipModel(device, dtype, (model_options or {}) | options)

        return comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, tiny_clip_model)


def text_config(width: int, num_layers: int) -> dict[str, int]:
    """The host's configuration of a text encoder, where it differs from CLIP's own."""
    return {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": TEXT_HEADS,
        "num_hidden_layers": num_layers,
        "projection_dim": width,
    }


def vision_config(width: int, num_layers: int, projection_dim: int) -> dict[str, Any]:
    """The host's configuration of a vision encoder with ViT-H's geometry."""
    return VIT_H_GEOMETRY | {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": VISION_HEADS,
        "num_hidden_layers": num_layers,
        "projection_dim": projection_dim,
    }


def clip_vision_from_config(config: dict[str, Any]) -> comfy.clip_vision.ClipVisionModel:
    """The host's CLIP_VISION with uninitialised weights; its constructor takes the path of a JSON file only."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        return comfy.clip_vision.ClipVisionModel(str(file))


def _vision_config_of(sd: dict[str, Any]) -> dict[str, Any]:
    width = sd["vision_model.embeddings.class_embedding"].shape[0]
    num_layers = _count(sd, "vision_model.encoder.layers.{}.layer_norm1.weight")
    return vision_config(width, num_layers, projection_dim=sd["visual_projection.weight"].shape[0])


def _count(state_dict: dict[str, Any], key_of_layer: str) -> int:
    layer = 0
    while key_of_layer.format(layer) in state_dict:
        layer += 1
    return layer
