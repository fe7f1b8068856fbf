"""RefAdGen's file: what is written comes back, and files that are none are told apart by what they hold."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from pfv_mepa.pfv_core.attention.fusion import Combine
from pfv_mepa.pfv_core.research.mask_input import load_mask_input
from pfv_mepa.pfv_core.research.refadgen import (
    FUSION,
    REFERENCE,
    RefAdGenFileError,
    open_refadgen,
    save_refadgen,
)

from .weights import noise

OF = {"base": "sd15", "context_dim": 768}
UNET = {"conv_in.weight": noise(6, 4, 3, 3, seed=1), "mid_block.attn1.to_k.weight": noise(6, 6, seed=2)}
PROJECTIONS = {"mid_block.attn1.to_k.weight": noise(6, 6, seed=3)}
KERNEL = noise(6, 1, 3, 3, seed=4)


def write(file, mask_kernel=KERNEL, **metadata):
    save_refadgen(file, UNET, PROJECTIONS, mask_kernel, **OF, metadata=metadata)
    return file


def test_what_is_written_comes_back(tmp_path):
    found = open_refadgen(write(tmp_path / "any name.safetensors", licence="MIT", base="of no account"))
    assert (found.base, found.context_dim, found.combine) == ("sd15", 768, Combine.ADD)
    assert (found.metadata["licence"], found.metadata["format"]) == ("MIT", "refadgen")
    for part, expected in ((REFERENCE, UNET), (FUSION, PROJECTIONS)):
        weights = found.weights(part)
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert found.shapes["reference.conv_in.weight"] == (6, 4, 3, 3)


def test_the_mask_channel_is_a_mask_input(tmp_path):
    mask_input = load_mask_input(write(tmp_path / "file.safetensors"))
    assert torch.equal(mask_input.kernel, KERNEL)
    assert mask_input.latent_kernel is None
    assert mask_input.metadata["context_dim"] == "768"
    with pytest.raises(ValueError, match="holds no mask input"):
        load_mask_input(write(tmp_path / "without.safetensors", mask_kernel=None))


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"image_proj.proj.weight": KERNEL}, {}, r"does not hold a reference U-Net \(its first keys: image_proj"),
        ({"mask_input.weight": KERNEL}, {}, r"does not hold a reference U-Net \(its first keys: mask_input"),
        ({"reference.a": KERNEL}, {}, "does not hold the fusion's projections"),
        ({"reference.a": KERNEL, "fusion.a": KERNEL}, {}, "does not say what it was trained for: .*'base': None"),
        (
            {"reference.a": KERNEL, "fusion.a": KERNEL},
            {"base": "sd15", "context_dim": "wide", "combine": "add"},
            "does not say what it was trained for: .*'context_dim': 'wide'",
        ),
    ],
)
def test_other_files_are_told_apart_by_what_they_hold(tmp_path, tensors, metadata, message):
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "refadgen.safetensors", metadata or None
    )
    with pytest.raises(RefAdGenFileError, match=message):
        open_refadgen(tmp_path / "refadgen.safetensors")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no RefAdGen file at"):
        open_refadgen(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(write(tmp_path / "whole.safetensors").read_bytes()[:50])
    with pytest.raises(RefAdGenFileError, match=r"cut\.safetensors is no whole safetensors file"):
        open_refadgen(tmp_path / "cut.safetensors")
