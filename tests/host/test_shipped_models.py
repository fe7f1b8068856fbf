"""The demo's trained files of the two neighbours: listed where they lie, loaded by the pack's nodes, run on the demo's model."""

from __future__ import annotations

import asyncio

import folder_paths
import nodes as host_nodes
import pytest
import torch

from lab.demo import stack
from lab.diffusers.refadgen import RefAdGen
from lab.diffusers.strict_id import save_strict_id_net, strict_id_from
from lab.diffusers.vision import ClipVisionEncoder
from pfv_core.research.strict_id_file import StrictIDConfig
from pfv_mepa.nodes import extension
from pfv_mepa.nodes.host import demo as host_demo
from pfv_mepa.nodes.host.files import list_beside_own
from pfv_mepa.nodes.research.fusion_nodes import RefAdGenLoad, RefAdGenMaskInput
from pfv_mepa.nodes.research.strict_id_nodes import StrictIDLoadControlNet
from pfv_mepa.tests.demo_weights import write_random_weights
from pfv_mepa.tests.host.sampling import outputs, right_half, sample
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning

FOLDERS = ("model_patches", "controlnet")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def models(weights, tmp_path_factory):
    """A folder with both files, as a training writes them."""
    folder = tmp_path_factory.mktemp("models")
    for name in FOLDERS:
        (folder / name).mkdir()
    RefAdGen(stack.load_model("unet", weights)).save(
        folder / "model_patches" / "demo_refadgen.safetensors", "demo", torch.float16, {}
    )
    spec = ClipVisionEncoder(stack.load_model("vision_encoder", weights)).spec
    net = strict_id_from(stack.load_model("controlnet", weights), spec, 0)
    config = StrictIDConfig("demo", net.branches.sizes, spec, True, 400.0)
    save_strict_id_net(folder / "controlnet" / "demo_strict_id.safetensors", net, config, torch.float16)
    return folder


@pytest.fixture(autouse=True)
def _host_lists_as_before():
    before = {name: list(folder_paths.get_folder_paths(name)) for name in FOLDERS}
    yield
    for name, paths in before.items():
        folder_paths.folder_names_and_paths[name][0][:] = paths


def test_the_nodes_load_what_the_host_lists(weights, models, monkeypatch):
    monkeypatch.setattr(extension, "MODELS", models)
    for _ in range(2):  # asked twice, it is there once
        asyncio.run(extension.PFVExtension().get_node_list())
    for name, file in zip(FOLDERS, ("demo_refadgen.safetensors", "demo_strict_id.safetensors"), strict=True):
        assert folder_paths.get_filename_list(name).count(file) == 1
        assert folder_paths.get_folder_paths(name)[-1] == str(models / name)
        assert folder_paths.get_folder_paths(name).count(str(models / name)) == 1
    model = host_demo.demo_model(weights)
    (reference,) = outputs(RefAdGenLoad, model=model, refadgen_name="demo_refadgen.safetensors")
    own = model.model.diffusion_model.state_dict()
    assert reference.model.diffusion_model.state_dict().keys() == own.keys()
    (masked,) = outputs(
        RefAdGenMaskInput, model=model, mask_input_name="demo_refadgen.safetensors", product_mask=right_half()
    )
    assert masked is not model
    (control_net,) = outputs(StrictIDLoadControlNet, control_net_name="demo_strict_id.safetensors")
    assert (control_net.config.base, control_net.config.sizes.context_dim) == ("demo", stack.CONTEXT_DIM)
    conditions = tiny_conditioning(model, seed=6), tiny_conditioning(model, seed=7)
    hint = torch.rand(1, 64, 64, 4, generator=torch.Generator().manual_seed(3))
    controlled = host_nodes.ControlNetApplyAdvanced().apply_controlnet(*conditions, control_net, hint, 1.0, 0.0, 1.0)
    plain, drawn = sample(model, *conditions, steps=1), sample(model, *controlled, steps=1)
    assert drawn.isfinite().all()
    assert (drawn - plain).norm() > 0.01 * plain.norm()


def test_a_folder_without_files_is_not_listed(tmp_path):
    before = {name: list(folder_paths.get_folder_paths(name)) for name in FOLDERS}
    (tmp_path / "controlnet").mkdir()
    (tmp_path / "model_patches").mkdir()
    (tmp_path / "model_patches" / "README.md").write_text("nothing yet")
    list_beside_own(tmp_path)
    list_beside_own(tmp_path / "gone")
    assert before == {name: list(folder_paths.get_folder_paths(name)) for name in FOLDERS}
