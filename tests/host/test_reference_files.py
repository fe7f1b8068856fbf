"""PFV Save Reference and PFV Load Reference in the host: the same image prompt, and nothing else than what was asked for."""

from __future__ import annotations

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from pfv_mepa.nodes.host.vit import HostVit
from pfv_mepa.nodes.mepa.apply_nodes import MEPAAdapterLoader, PFVTokenCompress
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.nodes.reference.file_nodes import PFVLoadReference, PFVSaveReference
from pfv_mepa.nodes.reference.folder import FOLDER, register_folder
from pfv_mepa.tests.host.sampling import outputs, painted, reference
from pfv_mepa.tests.support.tiny_stack import models

PFVLoadReference.GET_SCHEMA()  # the host reads every schema when it loads the pack; this one's makes the folders known


def masked(clip_vision, image, mask=None, fit="pad", threshold=0.0):
    inputs = {"fit": fit, "threshold": threshold, "mask": painted() if mask is None else mask}
    return outputs(PFVMaskRebinarize, clip_vision=clip_vision, reference=image, **inputs)[0]


def encode(clip_vision, image, patch_mask, mode="drop"):
    return outputs(PFVImageEncode, clip_vision=clip_vision, reference=image, patch_mask=patch_mask, mode=mode)


def load(file, mode="as_saved", **asked):
    return outputs(PFVLoadReference, file=file, mode=mode, **asked)


@pytest.fixture(scope="module")
def image():
    return reference(batch=2, seed=3)


@pytest.fixture(scope="module")
def patch_mask(tiny_clip_vision, image):
    return masked(tiny_clip_vision, image)


@pytest.fixture(scope="module")
def saved(tiny_clip_vision, image, patch_mask):
    """Tokens, CLIP vision output and the file's name."""
    tokens, output = encode(tiny_clip_vision, image, patch_mask)
    same, file = outputs(PFVSaveReference, image_tokens=tokens, name="cup 日本")
    assert same is tokens
    return tokens, output, file


def test_a_loaded_reference_is_the_encoded_one(saved, plus_adapter_file, linear_adapter_file, host_base_directory):
    tokens, output, file = saved
    assert (host_base_directory / "output" / FOLDER / file).is_file()
    assert file == f"cup 日本_{tokens.origin.key[:16]}.safetensors"
    loaded, loaded_output = load(file)
    for name in ("last_hidden_state", "penultimate_hidden_states", "image_embeds"):
        assert torch.equal(loaded_output[name], output[name]), name
    for adapter_file in (plus_adapter_file, linear_adapter_file):
        (adapter,) = outputs(MEPAAdapterLoader, adapter_name=adapter_file.name)
        prompts = [
            outputs(PFVTokenCompress, image_tokens=each, adapter=adapter, method="adapter", num_tokens=0)[0]
            for each in (tokens, loaded)
        ]
        assert torch.equal(prompts[0].positive, prompts[1].positive)
        assert torch.equal(prompts[0].negative, prompts[1].negative)


def test_loading_needs_no_encoder(saved, monkeypatch):
    monkeypatch.setattr(HostVit, "run_blocks", None)
    load(saved[2])


def test_everything_that_was_asked_for_and_is_right(tiny_clip_vision, image, patch_mask, saved):
    load(saved[2], "drop", clip_vision=tiny_clip_vision, reference=image, patch_mask=patch_mask)
    hidden = image.clone()
    hidden[painted().expand(2, -1, -1) > 0.5] = float("nan")  # hidden pixels are no part of a reference
    load(saved[2], "drop", reference=hidden, patch_mask=patch_mask)


def test_everything_that_was_asked_for_and_is_not(tiny_clip_vision, image, patch_mask, saved):
    file = saved[2]
    with pytest.raises(ValueError, match="with mode drop, asked for zero: choose the file that was made"):
        load(file, "zero")
    with pytest.raises(ValueError, match="by another encoder"):
        load(file, clip_vision=models.tiny_clip_vision(seed=9))
    with pytest.raises(ValueError, match="of another picture"):
        load(file, reference=image.flip(0), patch_mask=patch_mask)
    with pytest.raises(ValueError, match="with another mask"):
        load(file, reference=image, patch_mask=masked(tiny_clip_vision, image, 1 - painted()))
    with pytest.raises(ValueError, match="was encoded with fit pad, asked for crop:"):
        load(file, reference=image, patch_mask=masked(tiny_clip_vision, image, fit="crop"))
    with pytest.raises(ValueError, match=r"was encoded with threshold 0\.0, asked for 0\.5:"):
        load(file, patch_mask=masked(tiny_clip_vision, image, threshold=0.5))
    with pytest.raises(ValueError, match="mode is 'hide', expected one of"):
        load(file, "hide")
    with pytest.raises(ValueError, match="reference is connected without patch_mask"):
        load(file, reference=image)


def test_the_same_reference_is_written_once_and_a_damaged_file_again(saved, host_base_directory):
    tokens, _, file = saved
    path = host_base_directory / "output" / FOLDER / file
    before = path.stat()
    outputs(PFVSaveReference, image_tokens=tokens, name="cup 日本")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    fingerprint = PFVLoadReference.fingerprint_inputs(file=file, mode="drop")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load(file)
    assert PFVLoadReference.fingerprint_inputs(file=file, mode="drop") != fingerprint
    outputs(PFVSaveReference, image_tokens=tokens, name="cup 日本")
    load(file)


@pytest.mark.parametrize(
    "name",
    ["", "../up", "a/b", "a\\b", "/etc/x", ".hidden", "C:x", "con", "nul.txt", "a\x00b", "x" * 101, " a", "a?"],
)
def test_names_that_could_mean_another_place(saved, name):
    with pytest.raises(ValueError, match="expected 1 to 100 characters of a plain file name"):
        outputs(PFVSaveReference, image_tokens=saved[0], name=name)


def test_files_outside_the_folders_are_not_read(saved, tmp_path):
    save_file({"secret": torch.ones(1)}, tmp_path / "secret.safetensors")
    with pytest.raises(FileNotFoundError):
        load(f"../../../../../../..{tmp_path}/secret.safetensors")


def test_a_file_of_something_else(host_base_directory, plus_adapter_file):
    folder = host_base_directory / "input" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter.safetensors").write_bytes(plus_adapter_file.read_bytes())
    with pytest.raises(ValueError, match=r"adapter\.safetensors is no saved reference"):
        load("adapter.safetensors")


def test_tokens_of_unknown_origin_are_not_saved(saved):
    tokens = saved[0]
    unknown = type(tokens).__base__(
        tokens.last, tokens.penultimate, tokens.image_embeds, tokens.uncond_penultimate, tokens.encoder
    )
    with pytest.raises(ValueError, match="do not say what they were made of"):
        outputs(PFVSaveReference, image_tokens=unknown, name="cup")


def test_the_users_own_folder_comes_first(tmp_path, monkeypatch, saved):
    """As extra_model_paths.yaml sets it before any pack is loaded: workers that share a folder share what lies in it."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(tmp_path)], set()))
    register_folder()
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    assert paths[0] == str(tmp_path)
    assert len(paths) == len(set(paths)) == 4
    assert extensions == {".safetensors"}
    _, file = outputs(PFVSaveReference, image_tokens=saved[0], name="shared")
    assert [entry.name for entry in tmp_path.iterdir()] == [file]
    assert file in folder_paths.get_filename_list(FOLDER)
    load(file)
