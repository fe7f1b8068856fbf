"""MEPA Load: the encoder that fits the adapter, told by tensors alone; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.clip_vision
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from pfv_mepa.nodes.host.encoder_files import FOLDER
from pfv_mepa.nodes.mepa.apply_nodes import MEPAAdapterLoader
from pfv_mepa.nodes.mepa.load_nodes import MEPALoad
from pfv_mepa.tests.host.sampling import image_prompt, outputs
from pfv_mepa.tests.host.test_dinov2 import CONFIG
from pfv_mepa.tests.support.tiny_stack import models
from pfv_mepa.tests.support.tiny_stack.host_pack.architectures import clip_vision_from_config, vision_config

TINY = "a ViT of 4 layers, hidden 64, projection 32"


def write(folder: Path, name: str, clip_vision) -> str:
    """A file as the host's loader reads it."""
    state = {key: value.contiguous().clone() for key, value in clip_vision.get_sd().items()}
    save_file(state, folder / name, {"format": "pt"})
    return name


def tiny_dinov2():
    clip_vision = clip_vision_from_config(CONFIG)
    models.randomize(clip_vision.model, seed=12)
    return clip_vision


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty models/clip_vision, and the host's loader with the tiny encoders among those it knows."""
    paths = folder_paths.folder_names_and_paths
    monkeypatch.setitem(paths, FOLDER, ([str(tmp_path)], folder_paths.supported_pt_extensions))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    released = comfy.clip_vision.load_clipvision_from_sd

    def load(sd, prefix="", convert_keys=False):
        if "vision_model.embeddings.class_embedding" in sd:
            width, layers = sd["vision_model.embeddings.class_embedding"].shape[0], 4
            encoder = clip_vision_from_config(vision_config(width, layers, sd["visual_projection.weight"].shape[0]))
        elif "embeddings.cls_token" in sd:
            encoder = clip_vision_from_config(CONFIG)
        else:
            return released(sd, prefix, convert_keys)
        encoder.load_sd(sd)
        return encoder

    monkeypatch.setattr(comfy.clip_vision, "load_clipvision_from_sd", load)
    return tmp_path


def load(adapter_file, encoder_name="automatic"):
    return MEPALoad.execute(adapter_file.name, encoder_name)


def test_automatic_takes_the_only_kind_that_fits_whatever_its_name(folder, plus_adapter_file, tiny_clip_vision):
    write(folder, "CLIP-ViT-H-14.safetensors", models.tiny_clip_vision(width=128))
    (folder / "below").mkdir()
    write(folder, "below/some.safetensors", tiny_clip_vision)
    save_file({"logit_scale": torch.ones(1)}, folder / "a_siglip.safetensors")
    (folder / "b.safetensors").write_bytes(b"cut short")
    result = load(plus_adapter_file)
    adapter, clip_vision = result.args
    assert adapter is outputs(MEPAAdapterLoader, adapter_name=plus_adapter_file.name)[0]
    name = str(Path("below") / "some.safetensors")
    assert result.ui["pfv_line"] == [f"resampler adapter for sdxl; {TINY} from {name}"]
    expected = image_prompt(tiny_clip_vision, plus_adapter_file)
    assert torch.equal(image_prompt(clip_vision, plus_adapter_file).positive, expected.positive)


def test_of_two_files_of_one_kind_the_first_by_name_is_taken(folder, plus_adapter_file, tiny_clip_vision):
    write(folder, "b.safetensors", tiny_clip_vision)
    write(folder, "a.safetensors", models.tiny_clip_vision(seed=9))
    result = load(plus_adapter_file)
    assert result.ui["pfv_line"][0].endswith(" from a.safetensors")


def test_a_linear_adapter_goes_by_the_embedding_and_not_by_the_tokens(folder, linear_adapter_file, plus_adapter_file):
    write(folder, "wide.safetensors", models.tiny_clip_vision(width=128))  # the same embedding, other tokens
    assert (
        load(linear_adapter_file).ui["pfv_line"][0].startswith("linear adapter for sdxl; a ViT of 4 layers, hidden 128")
    )
    with pytest.raises(ValueError, match="nothing in models/clip_vision fits"):
        load(plus_adapter_file)


def test_a_dinov2_is_found_too(folder, plus_adapter_file):
    write(folder, "dino.safetensors", tiny_dinov2())
    result = load(plus_adapter_file)
    assert result.ui["pfv_line"][0].endswith("a ViT of 3 layers, hidden 64, projection 64 from dino.safetensors")


def test_two_kinds_that_fit_are_told_apart_by_a_person(folder, plus_adapter_file, tiny_clip_vision):
    write(folder, "clip.safetensors", tiny_clip_vision)
    write(folder, "dino.safetensors", tiny_dinov2())
    message = (
        "automatic, but the adapter takes hidden states of 64 channels, and encoders of 2 kinds have that many: "
        f"clip.safetensors is {TINY}; dino.safetensors is a ViT of 3 layers, hidden 64, projection 64. Choose the one"
    )
    with pytest.raises(ValueError, match=message):
        load(plus_adapter_file)
    assert load(plus_adapter_file, "clip.safetensors").ui["pfv_line"][0].endswith("from clip.safetensors")


def test_where_nothing_fits_it_says_what_it_looked_at(folder, plus_adapter_file):
    with pytest.raises(ValueError, match=r"takes hidden states of 64 channels\. No file is there\. Put the adapter's"):
        load(plus_adapter_file)
    folder_paths.filename_list_cache.clear()
    write(folder, "vit_h.safetensors", models.tiny_clip_vision(width=128))
    save_file({"logit_scale": torch.ones(1)}, folder / "siglip.safetensors")
    (folder / "old.bin").write_bytes(b"pickle")
    message = (
        r"siglip\.safetensors is no CLIP or DINOv2 image encoder; vit_h\.safetensors is a ViT of 4 layers, hidden 128, "
        r"projection 32; old\.bin was not looked into, it is no \.safetensors file\. Put"
    )
    with pytest.raises(ValueError, match=message):
        load(plus_adapter_file)


def test_a_chosen_encoder_that_does_not_fit_is_refused(folder, plus_adapter_file):
    write(folder, "wide.safetensors", models.tiny_clip_vision(width=128))
    message = (
        r"wide\.safetensors is a ViT of 4 layers, hidden 128, projection 32, but the adapter takes hidden states of 64"
    )
    with pytest.raises(ValueError, match=message):
        load(plus_adapter_file, "wide.safetensors")
    save_file({"logit_scale": torch.ones(1)}, folder / "no.safetensors")
    with pytest.raises(ValueError, match=r"no\.safetensors holds no image encoder that this ComfyUI knows"):
        load(plus_adapter_file, "no.safetensors")
    with pytest.raises(FileNotFoundError):
        load(plus_adapter_file, "gone.safetensors")


def test_a_file_that_was_replaced_is_loaded_anew(folder, plus_adapter_file, tiny_clip_vision):
    name = write(folder, "a.safetensors", tiny_clip_vision)
    before = [MEPALoad.fingerprint_inputs(plus_adapter_file.name, choice) for choice in (name, "automatic")]
    json.dumps(before)
    (folder / "new.safetensors").write_bytes(b"x")
    folder_paths.filename_list_cache.clear()
    after = [MEPALoad.fingerprint_inputs(plus_adapter_file.name, choice) for choice in (name, "automatic")]
    assert after[0] == before[0]
    assert after[1] != before[1]
    write(folder, "a.safetensors", models.tiny_clip_vision(width=128))
    assert MEPALoad.fingerprint_inputs(plus_adapter_file.name, name) != before[0]
