"""strict_id_file: what is written is read, and what is no such file is told from it by what it holds."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file

from pfv_mepa.pfv_core.reference.encoder_spec import VIT_H, EncoderSpec
from pfv_mepa.pfv_core.reference.vit import ImageTokens
from pfv_mepa.pfv_core.research.control_branches import Branches, BranchSizes
from pfv_mepa.pfv_core.research.strict_id_file import (
    HINT_KERNEL,
    StrictIDConfig,
    StrictIDFileError,
    load_strict_id,
    save_strict_id,
)

from .weights import noise

SIZES = BranchSizes((8, 16), (2, 4), 12, 10)
ENCODER = EncoderSpec(32, 8, 2, 10, 6)
NETWORK = {HINT_KERNEL: noise(16, 4, 3, 3, seed=1), "conv_in.weight": noise(8, 4, 3, 3, seed=2)}


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "strict_id.safetensors"
    config = StrictIDConfig("sd15", SIZES, ENCODER, True, None, {"license": "CC0-1.0", "step": "7"})
    save_strict_id(path, config, NETWORK, Branches(SIZES))
    return path


def rewritten(path, metadata=None, **tensors):
    """The file with some metadata and tensors other than they were; None takes them out."""
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        said = dict(opened.metadata())
    state = {**load_file(path), **tensors}
    said |= metadata or {}
    save_file(
        {key: value for key, value in state.items() if value is not None},
        path,
        {key: value for key, value in said.items() if value is not None},
    )
    return path


def test_what_is_written_is_read(file):
    found = load_strict_id(file)
    assert (found.config.base, found.config.sizes, found.config.encoder) == ("sd15", SIZES, ENCODER)
    assert (found.config.std_norm, found.config.gamma) == (True, None)
    assert found.config.metadata["license"] == "CC0-1.0"
    assert {key: tensor.tolist() for key, tensor in found.network.items()} == {
        key: tensor.tolist() for key, tensor in NETWORK.items()
    }
    torch.manual_seed(0)
    for key, tensor in Branches(SIZES).state_dict().items():
        assert torch.equal(found.branches.state_dict()[key], tensor)
    assert not any(parameter.requires_grad for parameter in found.branches.parameters())


def test_a_plain_controlnet_is_named_as_one(tmp_path):
    path = tmp_path / "strict_id_by_name_alone.safetensors"
    save_file(NETWORK, path)
    with pytest.raises(StrictIDFileError, match=r"it is a plain ControlNet, for Load ControlNet Model"):
        load_strict_id(path)


def test_another_kind_of_file_is_told_by_its_keys(tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_file({"ip_adapter.1.to_k_ip.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(
        StrictIDFileError, match=r"its first keys: ip_adapter.1.to_k_ip.weight\): expected controlnet_cond"
    ):
        load_strict_id(path)


def test_odd_tensors_are_refused(file):
    whole = rewritten(file, **{"branches.pose.projection.weight": torch.zeros(12, 10, dtype=torch.int8)})
    with pytest.raises(
        StrictIDFileError, match=r"branches.pose.projection.weight is of type torch.int8, expected floating"
    ):
        load_strict_id(whole)
    with pytest.raises(StrictIDFileError, match="takes a hint of 0 channels"):
        load_strict_id(rewritten(file, **{HINT_KERNEL: torch.zeros(16)}))


def test_another_number_of_hint_channels_is_refused_with_both(file):
    rewritten(file, **{HINT_KERNEL: noise(16, 3, 3, 3, seed=1)})
    with pytest.raises(StrictIDFileError, match=r"takes a hint of 3 channels, a Strictly-ID ControlNet one of 4"):
        load_strict_id(file)


@pytest.mark.parametrize("name", ["base", "heads", "encoder", "std_norm", "gamma", "format_version"])
def test_a_file_that_does_not_say_what_it_was_trained_with_is_refused(name, file):
    with pytest.raises(StrictIDFileError, match=f"does not say all of what it was trained with.*{name}"):
        load_strict_id(rewritten(file, {name: None}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("std_norm", '"false"'),
        ("std_norm", "1"),
        ("gamma", "-5"),
        ("gamma", "true"),
        ("gamma", '"x"'),
        ("gamma", "NaN"),
        ("heads", "[0, 2]"),
        ("heads", "[3, 4]"),
        ("heads", '["2", 4]'),
        ("heads", "7"),
        ("encoder", json.dumps({**asdict(ENCODER), "hidden_size": 9})),
        ("encoder", json.dumps({**asdict(ENCODER), "image_size": "a"})),
    ],
)
def test_facts_that_are_none_are_refused(name, value, file):
    """A text "false" would count as true, and what does not fit would fail in the middle of a sampling."""
    with pytest.raises(StrictIDFileError, match="does not say all of what it was trained with"):
        load_strict_id(rewritten(file, {name: value}))


def test_a_newer_format_is_refused(file):
    with pytest.raises(StrictIDFileError, match="has format_version 2, this version of the pack reads 1"):
        load_strict_id(rewritten(file, {"format_version": "2"}))


def test_heads_that_are_more_than_the_places_are_refused(file):
    with pytest.raises(StrictIDFileError, match=r"pose.attentions.2.to_q.weight"):
        load_strict_id(rewritten(file, {"heads": json.dumps([2, 4, 4])}))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("branches.appearance.attentions.1.to_out.bias", None, r"to_out.bias for one is missing, expected \(16,\)"),
        ("branches.pose.more.weight", torch.zeros(2), r"branches.pose.more.weight for one is \(2,\), expected none"),
        (
            "branches.appearance.projection.weight",
            torch.zeros(12, 9),
            r"projection.weight for one is \(12, 9\), expected \(12, 10\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(key, value, said, file):
    with pytest.raises(StrictIDFileError, match=f"1 tensors of its branches do not fit, .*{said}"):
        load_strict_id(rewritten(file, **{key: value}))


def test_a_file_cut_short_and_a_pickle_are_refused(file):
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(StrictIDFileError, match="is no whole safetensors file"):
        load_strict_id(file)
    with pytest.raises(FileNotFoundError, match="no Strictly-ID ControlNet at"):
        load_strict_id(file.with_name("missing.safetensors"))


def test_pictures_of_another_encoder_are_refused_with_both_named(file):
    config = load_strict_id(file).config
    config.check_encoder(ENCODER, "pose")
    with pytest.raises(
        ValueError, match=r"pose was encoded by ViT-H/14.*, 224 px; these branches were trained with .*hidden 10.*32 px"
    ):
        config.check_encoder(VIT_H, "pose")


def test_pictures_of_which_patches_have_left_the_sequence_are_refused(file):
    """One less than the encoder has, and all of them; which are hidden does not matter."""
    config = load_strict_id(file).config
    patches = (ENCODER.image_size // ENCODER.patch_size) ** 2

    def tokens(*counts: int) -> ImageTokens:
        last = tuple(torch.zeros(1 + count, ENCODER.hidden_size) for count in counts)
        return ImageTokens(last, last, torch.zeros(len(counts), 1), torch.zeros(1, 1, ENCODER.hidden_size), ENCODER)

    config.check_tokens(tokens(patches, patches), "pose")
    with pytest.raises(
        ValueError, match=rf"pose has {patches - 1} of its encoder's {patches} patches .* mode zero and fit crop"
    ):
        config.check_tokens(tokens(patches, patches - 1), "pose")
