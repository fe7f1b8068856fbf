"""Model files are told apart by their tensors; a file's name counts only where the tensors say nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headless.ad.model_files import KINDS, find_model_files
from pfv_core.headers import read_shapes

UNET = "model.diffusion_model."
SDXL = {
    UNET + "input_blocks.0.0.weight": [320, 4, 3, 3],
    UNET + "middle_block.1.transformer_blocks.9.attn2.to_k.weight": [1280, 2048],
    "conditioner.embedders.1.model.ln_final.weight": [1280],
    "first_stage_model.decoder.conv_in.weight": [512, 4, 3, 3],
}
SDXL_INPAINTING = SDXL | {UNET + "input_blocks.0.0.weight": [320, 9, 3, 3]}
SDXL_UNET_ONLY = {name: shape for name, shape in SDXL.items() if name.startswith(UNET)}
SD15 = {
    UNET + "input_blocks.0.0.weight": [320, 4, 3, 3],
    UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight": [1280, 768],
    "first_stage_model.decoder.conv_in.weight": [512, 4, 3, 3],
}
CONTROLNET = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": [640, 2048],
    "controlnet_down_blocks.0.weight": [320, 320, 1, 1],
}
LDM_CONTROLNET = {
    "control_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": [640, 2048],
    "control_model.zero_convs.0.0.weight": [320, 320, 1, 1],
}
CONTROLNET_SD15 = {name: [640, 768] if "to_k" in name else shape for name, shape in CONTROLNET.items()}


def vit(width: int, layers: int, projection: int) -> dict[str, list[int]]:
    """What tells the sizes of a CLIP vision model in the layout of transformers."""
    return {f"vision_model.encoder.layers.{layer}.layer_norm1.weight": [width] for layer in range(layers)} | {
        "vision_model.embeddings.class_embedding": [width],
        "vision_model.embeddings.patch_embedding.weight": [width, 3, 14, 14],
        "vision_model.embeddings.position_embedding.weight": [257, width],
        "visual_projection.weight": [projection, width],
    }


VIT_H = vit(1280, 32, 1024)
OPEN_CLIP_VIT_H = {f"visual.transformer.resblocks.{layer}.ln_1.weight": [1280] for layer in range(32)} | {
    "visual.class_embedding": [1280],
    "visual.conv1.weight": [1280, 3, 14, 14],
    "visual.positional_embedding": [257, 1280],
    "visual.proj": [1280, 1024],
}
VIT_BIGG = vit(1664, 48, 1280)
PLUS = {
    "image_proj.latents": [1, 16, 1280],
    "image_proj.proj_in.weight": [1280, 1280],
    "ip_adapter.1.to_k_ip.weight": [640, 2048],
}
LINEAR = {"image_proj.proj.weight": [8192, 1024], "ip_adapter.1.to_k_ip.weight": [640, 2048]}
PLUS_SD15 = PLUS | {"ip_adapter.1.to_k_ip.weight": [320, 768]}


def write_header(file: Path, shapes: dict[str, list[int]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    header = {name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)


def test_a_full_set_is_found_in_subfolders_too(tmp_path):
    write_header(tmp_path / "checkpoints" / "a_sd15.safetensors", SD15)
    write_header(tmp_path / "checkpoints" / "xl" / "base.safetensors", SDXL)
    write_header(tmp_path / "controlnet" / "xl_depth.safetensors", CONTROLNET)
    write_header(tmp_path / "clip_vision" / "model.safetensors", VIT_H)
    write_header(tmp_path / "ipadapter" / "a_linear.safetensors", LINEAR)
    write_header(tmp_path / "ipadapter" / "plus.safetensors", PLUS)
    assert find_model_files(tmp_path) == {
        "checkpoint": str(Path("xl") / "base.safetensors"),
        "controlnet": "xl_depth.safetensors",
        "clip_vision": "model.safetensors",
        "adapter": "plus.safetensors",
    }


def test_nothing_is_found_where_there_is_nothing(tmp_path):
    assert find_model_files(tmp_path) == {}


@pytest.mark.parametrize(
    ("field", "path", "shapes", "fits"),
    [
        ("checkpoint", "a", SDXL, True),
        ("checkpoint", "sd_xl_base", SD15, False),
        ("checkpoint", "a", SDXL_INPAINTING, False),
        ("checkpoint", "a", SDXL_UNET_ONLY, False),
        ("controlnet", "Depth/a", CONTROLNET, True),
        ("controlnet", "depth", LDM_CONTROLNET, True),
        ("controlnet", "canny", CONTROLNET, False),
        ("controlnet", "depth", CONTROLNET_SD15, False),
        ("clip_vision", "a", VIT_H, True),
        ("clip_vision", "a", OPEN_CLIP_VIT_H, True),
        ("clip_vision", "vit_h", VIT_BIGG, False),
        ("adapter", "a", PLUS, True),
        ("adapter", "plus", LINEAR, False),
        ("adapter", "plus", PLUS_SD15, False),
    ],
)
def test_kinds(field, path, shapes, fits):
    (kind,) = [kind for kind in KINDS if kind.field == field]
    assert kind.fits(Path(f"{path}.safetensors"), shapes) is fits


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08" + b"\x00" * 7 + b"not json"])
def test_a_file_that_is_no_safetensors_has_no_tensors(tmp_path, content):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    assert read_shapes(file) == {}
