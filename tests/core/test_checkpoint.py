"""checkpoint: adapter files, told apart by keys and shapes, and everything that is refused."""

from __future__ import annotations

import io
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pfv_mepa.pfv_core.adapter import checkpoint
from pfv_mepa.pfv_core.adapter.checkpoint import AdapterFileError, load_adapter, read_config, save_adapter
from pfv_mepa.pfv_core.adapter.model import Adapter, AdapterKind
from pfv_mepa.pfv_core.attention.unet_layout import SD15, SDXL
from pfv_mepa.pfv_core.reference.vit import VIT_H, EncoderSpec

from .adapter_layouts import PUBLIC, SD15_WIDTHS, SDXL_WIDTHS, TINY, nested, random_tensors, weightless_tensors
from .tiny_adapters import LAYERS, tiny_adapter, tiny_config
from .weights import noise

ENCODER = EncoderSpec(32, 8, 3, 16, 12)
NAMES = sorted(PUBLIC)
LINEAR = TINY["ip-adapter_sdxl_vit-h"].shapes()
PLUS = TINY["ip-adapter-plus_sdxl_vit-h"].shapes()
FITS = "This loader takes ip-adapter_sdxl_vit-h, ip-adapter-plus_sdxl_vit-h"


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(tensors, path, metadata)
    return path


def expected_base(name: str) -> str:
    return "sdxl" if "sdxl" in name else "sd15"


def expected_kind(name: str) -> AdapterKind:
    return AdapterKind.RESAMPLER if "plus" in name else AdapterKind.LINEAR


# Public layouts


@pytest.mark.parametrize("name", NAMES)
def test_public_layouts_load_with_every_weight_in_its_place(name, tmp_path):
    tensors = random_tensors(TINY[name].shapes())
    adapter = load_adapter(write(tmp_path / "renamed.safetensors", tensors))
    config = adapter.config
    assert (config.base, config.kind) == (expected_base(name), expected_kind(name))
    assert config.layers == (SDXL if config.base == "sdxl" else SD15)
    assert config.widths == TINY[name].widths
    state = adapter.state_dict()
    assert len(state) == len(tensors)
    for key, tensor in tensors.items():
        part, number, *rest = key.split(".")
        if part == "ip_adapter":
            key = f"ip_adapter.{rest[0]}.{(int(number) - 1) // 2}.weight"
        assert torch.equal(state[key], tensor), key
    assert not any(parameter.requires_grad for parameter in adapter.parameters())
    assert not adapter.training


@pytest.mark.parametrize("name", NAMES)
def test_public_layouts_at_their_true_sizes(name, monkeypatch):
    """Shapes alone: the tensors share one number each, so nothing of a file's size is in memory."""
    layout = PUBLIC[name]
    monkeypatch.setattr(checkpoint, "read_tensors", lambda _: (weightless_tensors(layout.shapes()), {}))
    adapter = load_adapter(Path("never-read"))
    config = adapter.config
    assert (config.base, config.kind) == (expected_base(name), expected_kind(name))
    assert (config.context_dim, config.encoder_width) == (layout.context_dim, layout.encoder_width)
    assert (config.num_tokens, config.latent_width) == (layout.num_tokens, layout.latent_width)
    assert (config.inner_width, config.depth, config.feedforward) == (
        (64 * layout.heads, 4, 4 * layout.latent_width) if "plus" in name else (0, 0, 0)
    )
    config.check_encoder(VIT_H)


@pytest.mark.parametrize(
    ("name", "megabytes"), [("ip-adapter_sdxl_vit-h", 698.4), ("ip-adapter-plus_sdxl_vit-h", 847.5)]
)
def test_the_written_down_shapes_add_up_to_the_published_file_sizes(name, megabytes):
    count = sum(torch.Size(shape).numel() for shape in PUBLIC[name].shapes().values())
    assert 2 * count / 1e6 == pytest.approx(megabytes, abs=0.1)


def test_sdxl_files_end_with_the_middle_block():
    """70 layers, 10 of 640 and 60 of 1280 channels; numbers 121 to 139 of a file are the middle's."""
    config = read_config(weightless_tensors(PUBLIC["ip-adapter_sdxl_vit-h"].shapes()), {})
    assert (config.widths.count(640), config.widths.count(1280)) == (10, 60)
    middle = [2 * index + 1 for index, layer in enumerate(config.layers) if layer.side == "middle"]
    assert middle == list(range(121, 140, 2))
    assert len(SDXL_WIDTHS) == 70
    assert len(SD15_WIDTHS) == 16


@pytest.mark.parametrize("prefix", ["ip_adapter", "adapter_modules"])
@pytest.mark.parametrize("name", ["ip-adapter_sd15", "ip-adapter-plus_sdxl_vit-h"])
def test_nested_pickles_and_the_communitys_prefix(name, prefix, tmp_path):
    tensors = random_tensors(TINY[name].shapes(), dtype=torch.float16)
    parts = nested(tensors)
    parts[prefix] = parts.pop("ip_adapter")
    torch.save(parts, tmp_path / "adapter.bin")
    renamed = {key.replace("ip_adapter.", f"{prefix}."): tensor for key, tensor in tensors.items()}
    from_pickle = load_adapter(tmp_path / "adapter.bin").state_dict()
    from_safetensors = load_adapter(write(tmp_path / "adapter.safetensors", renamed)).state_dict()
    assert from_pickle.keys() == from_safetensors.keys()
    for key, tensor in from_pickle.items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, from_safetensors[key])


def test_a_file_is_told_by_its_content_not_by_its_name(tmp_path):
    path = write(tmp_path / "ip-adapter-plus-face_sd15.safetensors", random_tensors(LINEAR))
    assert load_adapter(path).config.kind is AdapterKind.LINEAR


# Our own format


@pytest.mark.parametrize("kind", list(AdapterKind))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_our_own_format_comes_back_as_it_was(kind, dtype, tmp_path):
    adapter = tiny_adapter(kind, ENCODER).to(dtype)
    path = tmp_path / "own.safetensors"
    save_adapter(path, adapter, {"training_step": "1200", "encoder": "ViT-H/14", "gate": "output"})
    loaded = load_adapter(path)
    state = adapter.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    assert all(tensor.dtype == dtype for tensor in loaded.state_dict().values())
    assert (loaded.config.kind, loaded.config.base, loaded.config.layers) == (kind, "tiny", LAYERS)
    assert loaded.config.num_tokens == adapter.config.num_tokens
    metadata = dict(loaded.config.metadata)
    assert {"training_step": "1200", "encoder": "ViT-H/14", "gate": "output"}.items() <= metadata.items()
    assert (metadata["format"], metadata["format_version"], metadata["kind"]) == ("mepa", "1", kind.value)


def test_our_own_format_keeps_unread_metadata_through_a_second_save(tmp_path):
    adapter = tiny_adapter(AdapterKind.EQ3, ENCODER)
    save_adapter(tmp_path / "one.safetensors", adapter, {"author": "somebody", "format_version": "99"})
    save_adapter(tmp_path / "two.safetensors", load_adapter(tmp_path / "one.safetensors"), {"step": "2"})
    metadata = dict(load_adapter(tmp_path / "two.safetensors").config.metadata)
    assert (metadata["author"], metadata["step"], metadata["format_version"]) == ("somebody", "2", "1")


def test_our_own_file_has_the_public_key_names(tmp_path):
    save_adapter(tmp_path / "own.safetensors", tiny_adapter(AdapterKind.LINEAR, ENCODER))
    with safe_open(tmp_path / "own.safetensors", framework="pt") as file:
        keys = set(file.keys())
    numbers = {f"ip_adapter.{n}.{name}.weight" for n in (1, 3, 5) for name in ("to_k_ip", "to_v_ip")}
    assert keys == numbers | {f"image_proj.{name}" for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")}


def test_a_public_file_can_be_saved_as_our_own(tmp_path):
    public = load_adapter(write(tmp_path / "public.safetensors", random_tensors(PLUS)))
    save_adapter(tmp_path / "own.safetensors", public)
    own = load_adapter(tmp_path / "own.safetensors")
    assert own.config.layers == SDXL
    tokens = noise(1, 5, 10, seed=1)
    assert torch.equal(own.image_proj(tokens), public.image_proj(tokens))


# Refusals: what was found, and what fits


def key_values(count: int, width: int = 8, context_dim: int = 8) -> dict[str, tuple[int, ...]]:
    return {
        f"ip_adapter.{2 * layer + 1}.{name}.weight": (width, context_dim)
        for layer in range(count)
        for name in ("to_k_ip", "to_v_ip")
    }


LORA = {"ip_adapter.0.to_q_lora.down.weight": (4, 8), "ip_adapter.0.to_q_lora.up.weight": (8, 4)}
FOREIGN = {
    "FaceID": ({"image_proj.proj.0.weight": (8, 8), "image_proj.proj.2.weight": (8, 8)} | LORA, "a FaceID IP-Adapter"),
    "FaceID-plus": ({"image_proj.perceiver_resampler.proj_in.weight": (8, 8)}, "a FaceID-plus IP-Adapter"),
    "portrait": ({"image_proj.proj.0.weight": (8, 8), "image_proj.norm.weight": (8,)}, "a FaceID or face portrait"),
    "full face": ({"image_proj.proj.0.weight": (8, 8), "image_proj.proj.3.weight": (8,)}, "a full-face IP-Adapter"),
    "Flux": (
        {"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": (8, 8), "ip_adapter_proj_model.x": (1,)},
        "an adapter for Flux, which has no cross-attention",
    ),
    "SD3": ({"joint_blocks.0.attn.to_k.weight": (8, 8)}, "an adapter for SD3, which has no cross-attention"),
    "checkpoint": (
        {"model.diffusion_model.input_blocks.0.0.weight": (8, 4), "first_stage_model.x": (1,)},
        "a whole checkpoint, not an adapter",
    ),
    "LoRA": ({"lora_unet_down_blocks_1.lora_up.weight": (8, 4)}, "a LoRA: load it with a LoRA loader"),
    "diffusers LoRA": ({"unet.down_blocks.1.attn2.to_q.lora.up.weight": (8, 4)}, "a LoRA: load it with a LoRA loader"),
    "VAE": (
        {"decoder.conv_in.weight": (4, 4)},
        "has no image_proj weights; its keys begin with decoder.conv_in.weight",
    ),
    "nothing": ({"image_proj.proj.weight": (8, 8)}, "has no ip_adapter.<n>.to_k_ip weights for its layers"),
}


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_other_kinds_of_files_are_refused_by_name(name, tmp_path):
    shapes, message = FOREIGN[name]
    if name in ("FaceID", "FaceID-plus", "portrait", "full face"):
        shapes = shapes | key_values(70)
    with pytest.raises(AdapterFileError, match=message) as error:
        load_adapter(write(tmp_path / "x.safetensors", random_tensors(shapes)))
    assert FITS in str(error.value)


def test_an_adapter_for_bigg_is_read_and_takes_the_embedding_of_bigg():
    shapes = PUBLIC["ip-adapter_sdxl_vit-h"].shapes() | {"image_proj.proj.weight": (8192, 1280)}
    config = read_config(weightless_tensors(shapes), {})
    assert (config.kind, config.base, config.encoder_width) == (AdapterKind.LINEAR, "sdxl", 1280)


def test_kolors_is_refused_though_its_shapes_are_sdxls():
    public = PUBLIC["ip-adapter-plus_sdxl_vit-h"]
    kolors = type(public)(public.widths, 2048, 1024, 16, latent_width=2048, heads=32)
    with pytest.raises(AdapterFileError, match=r"an IP-Adapter for Kolors \(its latents have 2048 channels\)"):
        read_config(weightless_tensors(kolors.shapes()), {})


@pytest.mark.parametrize(("count", "found"), [(69, 69), (71, 71), (16, 16), (1, 1)])
def test_another_number_of_layers_is_refused_with_the_numbers(count, found):
    shapes = {key: shape for key, shape in LINEAR.items() if key.startswith("image_proj.")} | key_values(count)
    if count == 16:  # as many as SD1.5, but in widths that are not one for each level
        shapes["ip_adapter.1.to_k_ip.weight"] = (4, 8)
    message = f"the file has {found} cross-attention layers; SDXL has 70 and SD1.5 16"
    with pytest.raises(AdapterFileError, match=message):
        read_config(weightless_tensors(shapes), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ip_adapter.139.to_v_ip.weight": None}, "missing ip_adapter.139.to_v_ip.weight"),
        ({"ip_adapter.7.to_v_ip.weight": (9, 8)}, r"ip_adapter.7.to_v_ip.weight is \(9, 8\), expected \(4, 8\)"),
        ({"image_proj.norm_out.bias": None}, "missing image_proj.norm_out.bias"),
        ({"image_proj.layers.2.0.to_out.weight": (24, 12)}, r"to_out.weight is \(24, 12\), expected \(12, 128\)"),
        ({"image_proj.layers.0.0.to_q.bias": (128,)}, "unexpected image_proj.layers.0.0.to_q.bias"),
        (
            {f"image_proj.layers.{layer}.1.0.bias": None for layer in range(4)},
            "missing image_proj.layers.0.1.0.bias; .*; missing image_proj.layers.2.1.0.bias and 1 more",
        ),
        ({"image_proj.proj_in.weight": None}, "image projection is of no known kind .*image_proj.proj_in.weight"),
        ({"image_proj.latents": (16, 12)}, "image projection is of no known kind"),
        ({"image_proj.latents": None}, "image projection is of no known kind .*image_proj.proj.weight"),
        ({"ip_adapter.3.to_k_ip.weight": (4, 9)}, r"the layers take contexts of different widths \[8, 9\]"),
        ({"ip_adapter.3.to_k_ip.weight": None}, "no ip_adapter.<n>.to_k_ip weights for its layers"),
        ({"ip_adapter.3.to_k_ip.weight": (4,)}, "no ip_adapter.<n>.to_k_ip weights for its layers"),
    ],
)
def test_a_file_with_a_missing_surplus_or_wrong_tensor_is_refused_by_key(changes, message, tmp_path):
    shapes = {key: shape for key, shape in {**PLUS, **changes}.items() if shape is not None}
    with pytest.raises(AdapterFileError, match=message):
        load_adapter(write(tmp_path / "odd.safetensors", random_tensors(shapes)))


def test_attention_width_that_is_no_whole_number_of_heads_is_refused(tmp_path):
    shapes = PLUS | {f"image_proj.layers.{i}.0.to_q.weight": (96, 12) for i in range(4)}
    shapes |= {f"image_proj.layers.{i}.0.to_kv.weight": (192, 12) for i in range(4)}
    shapes |= {f"image_proj.layers.{i}.0.to_out.weight": (12, 96) for i in range(4)}
    with pytest.raises(AdapterFileError, match="96"):
        load_adapter(write(tmp_path / "odd.safetensors", random_tensors(shapes)))


OWN = {"format": "mepa", "format_version": "1", "base": "tiny", "kind": "linear"}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {**OWN, "format_version": "2"},
            "a MEPA adapter of format version 2, this package reads 1: update the package",
        ),
        ({"format": "mepa"}, "a MEPA adapter of format version None, this package reads 1"),
        (OWN, r"metadata has no readable list of layers \('layers'\)"),
        ({**OWN, "layers": "not json"}, "metadata has no readable list of layers"),
        ({**OWN, "layers": '[["sideways", 1, 0, 0]]'}, "metadata has no readable list of layers"),
        ({**OWN, "layers": '[["input", 1, 0]]'}, "metadata has no readable list of layers"),
        ({**OWN, "layers": '[["input", 1, 0, 0]]'}, "metadata names 1 layers, it has weights for 70"),
    ],
)
def test_our_own_format_is_refused_where_its_metadata_does_not_hold(metadata, message, tmp_path):
    with pytest.raises(AdapterFileError, match=message):
        load_adapter(write(tmp_path / "own.safetensors", random_tensors(LINEAR), metadata))


# Damaged and unsafe files


def test_a_truncated_safetensors_file_is_refused_with_its_size(tmp_path):
    whole = write(tmp_path / "whole.safetensors", random_tensors(LINEAR)).read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 100, 4, 0):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(whole[:length])
        with pytest.raises(AdapterFileError, match=rf"cut.safetensors is not a whole .*\({length} bytes\)"):
            load_adapter(cut)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def as_zip(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_old_pickle(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)  # what torch wrote before its zip files


@pytest.mark.parametrize("serialise", [as_zip, as_old_pickle])
@pytest.mark.parametrize("hidden_in", ["image_proj", "alone"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(serialise, hidden_in, tmp_path):
    marker = tmp_path / "it-ran"
    content = nested(random_tensors(LINEAR)) | {hidden_in: Payload(marker)}
    data = serialise(content if hidden_in == "image_proj" else Payload(marker))
    for name in ("evil.bin", "evil.pt", "evil.ckpt"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(AdapterFileError, match=f"{name} is a pickle that holds more than tensors, or is damaged"):
            load_adapter(tmp_path / name)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # it would have run


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_pickle_is_refused(zipped, tmp_path):
    buffer = io.BytesIO()
    torch.save(nested(random_tensors(LINEAR)), buffer, _use_new_zipfile_serialization=zipped)
    data = buffer.getvalue()
    for length in [*range(0, 400, 7), len(data) // 3, len(data) - 1]:
        (tmp_path / "cut.bin").write_bytes(data[:length])
        with pytest.raises(AdapterFileError, match=r"cut.bin is a pickle that holds more than tensors, or is damaged"):
            load_adapter(tmp_path / "cut.bin")


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Not found</html>", b"version https://git-lfs", b"\x80\x02"])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_a_web_page_or_a_pointer_in_place_of_a_file_is_refused(content, suffix, tmp_path):
    (tmp_path / f"page.{suffix}").write_bytes(content)
    with pytest.raises(AdapterFileError, match=f"page.{suffix} is"):
        load_adapter(tmp_path / f"page.{suffix}")


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.bin")
    with pytest.raises(AdapterFileError, match="the file holds a list, expected named tensors"):
        load_adapter(tmp_path / "list.bin")


def test_no_file_is_said_with_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no adapter file at .*missing.safetensors"):
        load_adapter(tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError, match="no adapter file at"):
        load_adapter(tmp_path)


def test_loading_initialises_nothing(tmp_path, monkeypatch):
    """140 layers that are filled with random numbers and thrown away cost seconds at SDXL's size."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a real layer was initialised")

    path = write(tmp_path / "x.safetensors", random_tensors(LINEAR))
    real = torch.Tensor.uniform_
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda t, *a, **k: t if t.is_meta else refuse())
    adapter = load_adapter(path)
    monkeypatch.setattr(torch.Tensor, "uniform_", real)
    assert isinstance(adapter, Adapter)
    assert not any(parameter.is_meta for parameter in adapter.parameters())


# Facts and odd content


def stripped(path: Path) -> Path:
    """As a tool leaves it that keeps no metadata."""
    return write(path.with_name("stripped.safetensors"), load_file(path))


def test_a_tokens_adapter_without_its_metadata_is_refused(tmp_path):
    """Its weights are those of a linear one of a single token, which would give other tokens."""
    encoder = EncoderSpec(32, 8, 3, 16, 16)  # whose pooled embedding is as wide as its tokens, as a DINOv2's
    config = replace(tiny_config(AdapterKind.TOKENS, encoder), layers=SD15, widths=SD15_WIDTHS, base="sd15")
    save_adapter(tmp_path / "own.safetensors", Adapter(config))
    assert load_adapter(tmp_path / "own.safetensors").config.kind is AdapterKind.TOKENS
    with pytest.raises(AdapterFileError, match="projects an image to 1 token and does not say what it is"):
        load_adapter(stripped(tmp_path / "own.safetensors"))


def test_our_own_resampler_may_be_as_wide_as_kolors(tmp_path):
    """Only a file that does not say what it is is taken for one of Kolors."""
    config = replace(tiny_config(AdapterKind.RESAMPLER, ENCODER), latent_width=2048)
    save_adapter(tmp_path / "own.safetensors", Adapter(config))
    assert load_adapter(tmp_path / "own.safetensors").config == replace(
        config, metadata=load_adapter(tmp_path / "own.safetensors").config.metadata
    )


@pytest.mark.parametrize("count", ["0", "-3", "99999999999", "many"])
def test_a_number_of_tokens_that_cannot_be_is_refused(count, tmp_path):
    save_adapter(tmp_path / "own.safetensors", tiny_adapter(AdapterKind.TOKENS, ENCODER))
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        metadata = {**file.metadata(), "num_tokens": count}
    write(tmp_path / "odd.safetensors", load_file(tmp_path / "own.safetensors"), metadata)
    with pytest.raises(AdapterFileError, match="of no known kind"):
        load_adapter(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(dtype, tmp_path):
    tensors = random_tensors(TINY["ip-adapter_sd15"].shapes())
    key = "ip_adapter.1.to_k_ip.weight"
    write(tmp_path / "odd.safetensors", {**tensors, key: tensors[key].to(dtype)})
    with pytest.raises(AdapterFileError, match=f"{key} is of type {dtype}, expected floating point"):
        load_adapter(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"image_proj.proj.weight": torch.zeros(())},
        {"image_proj.norm.weight": torch.zeros(())},
        {"image_proj.norm.weight": torch.zeros(0)},
    ],
)
def test_shapes_of_another_rank_are_refused(changes, tmp_path):
    write(tmp_path / "odd.safetensors", {**random_tensors(TINY["ip-adapter_sd15"].shapes()), **changes})
    with pytest.raises(AdapterFileError):
        load_adapter(tmp_path / "odd.safetensors")


def test_layers_by_even_numbers_are_refused(tmp_path):
    """The public layout counts 1, 3, 5; others are another layout, whose order nobody knows."""
    tensors = random_tensors(TINY["ip-adapter_sd15"].shapes())
    pattern = re.compile(r"ip_adapter\.(\d+)\.")
    even = {pattern.sub(lambda found: f"ip_adapter.{int(found[1]) + 1}.", key): value for key, value in tensors.items()}
    write(tmp_path / "even.safetensors", even)
    with pytest.raises(AdapterFileError, match=r"has no ip_adapter.<n>.to_k_ip weights for its layers"):
        load_adapter(tmp_path / "even.safetensors")
