"""The adapter files have the public layout: these names and shapes, in this order."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from pfv_mepa.tests.support.tiny_stack.adapter_files import write_linear_adapter, write_plus_adapter

LAYERS = [64, 64, 128]


@pytest.fixture
def linear(tmp_path):
    return load_file(
        write_linear_adapter(tmp_path / "new" / "a.safetensors", LAYERS, image_embed_dim=32, context_dim=48)
    )


@pytest.fixture
def plus(tmp_path):
    return load_file(write_plus_adapter(tmp_path / "a.safetensors", LAYERS, encoder_width=56, context_dim=48, depth=2))


def shapes(tensors, prefix):
    return {
        name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith(prefix)
    }


def test_linear_projection(linear):
    assert shapes(linear, "image_proj.") == {
        "proj.weight": (4 * 48, 32),
        "proj.bias": (4 * 48,),
        "norm.weight": (48,),
        "norm.bias": (48,),
    }


def test_plus_resampler(plus):
    layer = {
        "0.norm1.weight": (128,),
        "0.norm1.bias": (128,),
        "0.norm2.weight": (128,),
        "0.norm2.bias": (128,),
        "0.to_q.weight": (128, 128),
        "0.to_kv.weight": (256, 128),
        "0.to_out.weight": (128, 128),
        "1.0.weight": (128,),
        "1.0.bias": (128,),
        "1.1.weight": (512, 128),
        "1.3.weight": (128, 512),
    }
    expected = {
        "latents": (1, 16, 128),
        "proj_in.weight": (128, 56),
        "proj_in.bias": (128,),
        "proj_out.weight": (48, 128),
        "proj_out.bias": (48,),
        "norm_out.weight": (48,),
        "norm_out.bias": (48,),
    }
    expected |= {f"layers.{index}.{name}": shape for index in range(2) for name, shape in layer.items()}
    assert shapes(plus, "image_proj.") == expected


@pytest.mark.parametrize("kind", ["linear", "plus"])
def test_layers_have_odd_numbers_in_order(kind, request):
    tensors = request.getfixturevalue(kind)
    assert shapes(tensors, "ip_adapter.") == {
        f"{number}.{name}.weight": (width, 48)
        for number, width in zip((1, 3, 5), LAYERS, strict=True)
        for name in ("to_k_ip", "to_v_ip")
    }


def test_a_seed_gives_the_same_file_and_another_gives_another(tmp_path, linear):
    again, other = (
        load_file(write_linear_adapter(tmp_path / "b", LAYERS, image_embed_dim=32, context_dim=48, seed=seed))
        for seed in (7, 8)
    )
    assert all(torch.equal(again[name], tensor) for name, tensor in linear.items())
    assert not torch.equal(other["image_proj.proj.weight"], linear["image_proj.proj.weight"])
