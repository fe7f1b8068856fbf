"""encoder_spec: an encoder's sizes from the names and shapes of its file's tensors, in each of the layouts people have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pfv_mepa.pfv_core.headers import read_shapes
from pfv_mepa.pfv_core.reference.encoder_spec import VIT_H, EncoderSpec, read_encoder_spec

ROOT = Path(__file__).resolve().parents[2]


def clip(width: int, layers: int, projection: int, patches: int = 256, patch: int = 14) -> dict[str, list[int]]:
    """The layout of transformers, a text encoder beside it."""
    blocks = {f"vision_model.encoder.layers.{layer}.layer_norm1.weight": [width] for layer in range(layers)}
    return blocks | {
        "vision_model.embeddings.class_embedding": [width],
        "vision_model.embeddings.patch_embedding.weight": [width, 3, patch, patch],
        "vision_model.embeddings.position_embedding.weight": [1 + patches, width],
        "visual_projection.weight": [projection, width],
        "text_model.encoder.layers.40.layer_norm1.weight": [width],
    }


def open_clip(width: int, layers: int, projection: int, patches: int = 256, patch: int = 14) -> dict[str, list[int]]:
    blocks = {f"visual.transformer.resblocks.{layer}.ln_1.weight": [width] for layer in range(layers)}
    return blocks | {
        "visual.class_embedding": [width],
        "visual.conv1.weight": [width, 3, patch, patch],
        "visual.positional_embedding": [1 + patches, width],
        "visual.proj": [width, projection],
        "transformer.resblocks.23.ln_1.weight": [1024],
    }


def dinov2(width: int, layers: int) -> dict[str, list[int]]:
    blocks = {f"encoder.layer.{layer}.layer_scale2.lambda1": [width] for layer in range(layers)}
    return blocks | {
        "embeddings.cls_token": [1, 1, width],
        "embeddings.patch_embeddings.projection.weight": [width, 3, 14, 14],
        "embeddings.position_embeddings": [1, 1 + 37 * 37, width],
    }


def without(shapes: dict[str, list[int]], name: str) -> dict[str, list[int]]:
    return {key: shape for key, shape in shapes.items() if key != name}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (clip(1280, 32, 1024), VIT_H),
        (open_clip(1280, 32, 1024), VIT_H),
        (clip(1664, 48, 1280), EncoderSpec(224, 14, 48, 1664, 1280)),
        (clip(1024, 24, 768), EncoderSpec(224, 14, 24, 1024, 768)),
        (clip(1024, 24, 768, patches=576), EncoderSpec(336, 14, 24, 1024, 768)),
        (clip(768, 12, 512, patches=49, patch=32), EncoderSpec(224, 32, 12, 768, 512)),
        (dinov2(1024, 24), EncoderSpec(518, 14, 24, 1024, 1024)),
        (dinov2(1536, 40), EncoderSpec(518, 14, 40, 1536, 1536)),
    ],
)
def test_sizes_of_the_layouts_people_have(shapes, expected):
    assert read_encoder_spec(shapes) == expected


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        without(clip(1152, 27, 1152), "vision_model.embeddings.class_embedding"),  # SigLIP
        without(clip(1280, 32, 1024), "visual_projection.weight"),
        clip(1280, 32, 1024, patches=255),
        dinov2(1024, 24) | {"embeddings.register_tokens": [1, 4, 1024]},  # its tokens attend to these as well
        dinov2(1024, 24) | {"embeddings.position_embeddings": [1370]},
        dinov2(1024, 24) | {"embeddings.position_embeddings": [0, 5]},
        dinov2(1024, 24) | {"embeddings.position_embeddings": [1, 1, 1024]},
        dinov2(1024, 24) | {"embeddings.cls_token": []},
        open_clip(1280, 32, 1024) | {"visual.proj": [1280]},
        {"ip_adapter.1.to_k_ip.weight": [640, 2048]},
    ],
)
def test_what_is_no_encoder_has_no_sizes(shapes):
    assert read_encoder_spec(shapes) is None


def test_shapes_are_read_from_the_header_of_a_real_file(tmp_path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(5)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert read_shapes(tmp_path / "x.safetensors") == {"a": [2, 3], "b": [5]}


def headed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        headed(b"[]"),
        headed(b'{"a":1}'),
        headed(b'{"a":{"shape":"ab"}}'),
        headed(b'{"a":{"shape":[-1]}}'),
        headed(b"[" * 100_000),
    ],
)
def test_another_file_has_no_tensors(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert read_shapes(tmp_path / "x.safetensors") == {}


def test_it_is_read_without_torch():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None; "
        "from pfv_core.reference.encoder_spec import VIT_H; from headless.ad.model_files import KINDS; "
        "import json; print(json.dumps([VIT_H.hidden_size, len(KINDS)]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [1280, 4]
