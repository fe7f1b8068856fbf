"""The model files that the shipped workflows name, and where they come from.

Sizes and hashes are those that people publish for these files; nothing was downloaded here to check them.
"""

from __future__ import annotations

from .description import ModelFile

CHECKPOINT = ModelFile(
    name="sd_xl_base_1.0.safetensors",
    folder="checkpoints",
    url="https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    size=6_938_078_334,
    sha256="31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
)
CLIP_VISION = ModelFile(  # there it is called model.safetensors
    name="CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    folder="clip_vision",
    url="https://huggingface.co/h94/IP-Adapter/resolve/main/models/image_encoder/model.safetensors",
    size=2_528_373_448,
    sha256="6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030",
)
ADAPTER = ModelFile(
    name="ip-adapter-plus_sdxl_vit-h.safetensors",
    folder="ipadapter",
    url="https://huggingface.co/h94/IP-Adapter/resolve/main/sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
    size=847_517_512,
    sha256="3f5062b8400c94b7159665b21ba5c62acdcd7682262743d7f2aefedef00e6581",
)
DEPTH_CONTROLNET = ModelFile(  # neither size nor hash of it is published where we looked
    name="diffusers_xl_depth_full.safetensors",
    folder="controlnet",
    url="https://huggingface.co/lllyasviel/sd_control_collection/resolve/main/diffusers_xl_depth_full.safetensors",
)
# What host nodes load. Neither sizes nor hashes of these were at hand.
BACKGROUND_REMOVAL = ModelFile(
    name="birefnet.safetensors",
    folder="background_removal",
    url="https://huggingface.co/Comfy-Org/BiRefNet/resolve/main/background_removal/birefnet.safetensors",
)
SAM3 = ModelFile(
    name="sam3.1_multiplex_fp16.safetensors",
    folder="checkpoints",
    url="https://huggingface.co/Comfy-Org/sam3.1/resolve/main/checkpoints/sam3.1_multiplex_fp16.safetensors",
)
DEPTH_ANYTHING = ModelFile(
    name="depth_anything_3_mono_large.safetensors",
    folder="geometry_estimation",
    url="https://huggingface.co/Comfy-Org/Depth-Anything-3/resolve/main/geometry_estimation/depth_anything_3_mono_large.safetensors",
)
