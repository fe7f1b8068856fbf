"""Which model files of a ComfyUI models folder the workflow `ad` can use. No torch: the two modules of
the core that it uses are standard library too.

Kinds are read from the tensors' names and shapes in a file's header, never from its name; only what a ControlNet was
trained on leaves no trace in its tensors, so "depth" must stand in that file's path. Only .safetensors is looked into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pfv_core.headers import Shapes, read_shapes
from pfv_core.reference.encoder_spec import VIT_H, read_encoder_spec

SDXL_CONTEXT = 2048


@dataclass(frozen=True)
class ModelFiles:
    """File names as the host's loaders list them, each below its own folder of `models`."""

    checkpoint: str
    controlnet: str
    clip_vision: str
    adapter: str


@dataclass(frozen=True)
class Kind:
    """One of the files that the workflow needs: its field, its folder, what to call it, and how it is recognised."""

    field: str
    folder: str
    description: str
    fits: Callable[[Path, Shapes], bool]


def find_model_files(models_folder: Path) -> dict[str, str]:
    """The first fitting file of each kind, by name; a kind of which there is none is left out.

    Args:
        models_folder: the host's `models`.

    Returns:
        Field of `ModelFiles` -> file name as the host's loaders list it.
    """
    found = {kind.field: _first(models_folder / kind.folder, kind.fits) for kind in KINDS}
    return {field: name for field, name in found.items() if name is not None}


def _first(folder: Path, fits: Callable[[Path, Shapes], bool]) -> str | None:
    for file in sorted(folder.rglob("*.safetensors")):
        name = file.relative_to(folder)
        if fits(name, read_shapes(file)):
            return str(name)
    return None


def _is_sdxl_checkpoint(name: Path, shapes: Shapes) -> bool:
    del name
    unet = "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight"
    text = any(tensor.startswith("conditioner.embedders.1.") for tensor in shapes)
    image = any(tensor.startswith("first_stage_model.") for tensor in shapes)
    four_channels = shapes.get("model.diffusion_model.input_blocks.0.0.weight", [0, 0])[1] == 4  # 9 = inpainting
    return shapes.get(unet, [])[1:] == [SDXL_CONTEXT] and text and image and four_channels


def _is_sdxl_depth_controlnet(name: Path, shapes: Shapes) -> bool:
    keys = ("down_blocks.1.attentions.0.transformer_blocks.0", "input_blocks.4.1.transformer_blocks.0")
    contexts = [shape[1:] for tensor, shape in shapes.items() if tensor.endswith("attn2.to_k.weight")]
    has_block = any(key in tensor for tensor in shapes for key in keys)
    zero_convolutions = any("zero_convs" in tensor or "controlnet_down_blocks" in tensor for tensor in shapes)
    return "depth" in name.as_posix().lower() and has_block and zero_convolutions and [SDXL_CONTEXT] in contexts


def _is_vit_h(name: Path, shapes: Shapes) -> bool:
    del name
    return read_encoder_spec(shapes) == VIT_H


def _is_plus_adapter_for_vit_h(name: Path, shapes: Shapes) -> bool:
    del name
    sdxl = shapes.get("ip_adapter.1.to_k_ip.weight", [])[1:] == [SDXL_CONTEXT]
    vit_h = shapes.get("image_proj.proj_in.weight", [])[1:] == [VIT_H.hidden_size]
    return sdxl and vit_h and "image_proj.latents" in shapes


KINDS = (
    Kind("checkpoint", "checkpoints", "an SDXL checkpoint", _is_sdxl_checkpoint),
    Kind("controlnet", "controlnet", "a depth ControlNet for SDXL", _is_sdxl_depth_controlnet),
    Kind("clip_vision", "clip_vision", "the ViT-H image encoder", _is_vit_h),
    Kind("adapter", "ipadapter", "an image-prompt adapter (plus, SDXL, ViT-H)", _is_plus_adapter_for_vit_h),
)
