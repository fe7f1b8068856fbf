"""The model files that the shipped workflows name, and where they come from."""

from __future__ import annotations

from .description import ModelFile

CHECKPOINT = ModelFile(
    name="sd_xl_base_1.0.safetensors",
    folder="checkpoints",
    url="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
)
CLIP_VISION = ModelFile(  # there it is called model.safetensors
    name="CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    folder="clip_vision",
    url="https://huggingface.co/h94/IP-Adapter/resolve/main/models/image_encoder/model.safetensors",
)
ADAPTER = ModelFile(
    name="ip-adapter-plus_sdxl_vit-h.safetensors",
    folder="ipadapter",
    url="https://huggingface.co/h94/IP-Adapter/resolve/main/sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
)
DEPTH_CONTROLNET = ModelFile(
    name="diffusers_xl_depth_full.safetensors",
    folder="controlnet",
    url="https://huggingface.co/lllyasviel/sd_control_collection/resolve/main/diffusers_xl_depth_full.safetensors",
)
