"""The tiny files load through the host's own loaders, once it has been taught, and a server shows what it should."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

import comfy.clip_vision
import comfy.supported_models
import nodes
import pytest
import torch

from headless.ad.model_files import read_shapes
from headless.host.find import PACK_ROOT, require_host
from headless.host.start import HostStartError, probe_torch, running_host
from headless.server.blocking import Client
from pfv_mepa.tests.support.tiny_stack import models
from pfv_mepa.tests.support.tiny_stack.files import TINY_FILES, TINY_LINEAR_ADAPTER, write_tiny_files
from pfv_mepa.tests.support.tiny_stack.host_pack.architectures import TinySDXL, register

HOST_PACK = PACK_ROOT / "tests" / "support" / "tiny_stack" / "host_pack"


@pytest.fixture(scope="module")
def tiny_files(host_base_directory):
    """The files where the host looks for them."""
    return write_tiny_files(host_base_directory / "models")


@pytest.fixture
def taught():
    """The host's loaders know the tiny architectures during one test."""
    released, load_released = list(comfy.supported_models.models), comfy.clip_vision.load_clipvision_from_sd
    register()
    yield
    comfy.supported_models.models[:] = released
    comfy.clip_vision.load_clipvision_from_sd = load_released


def assert_same_weights(loaded, built):
    """Equal to half precision, in which the files are; only what the host adds itself may be missing from `built`."""
    loaded, built = loaded.state_dict(), built.state_dict()
    assert built.keys() <= loaded.keys()
    for name, tensor in built.items():
        assert torch.equal(loaded[name].half(), tensor.half()), name


def test_checkpoint(taught, tiny_files):
    model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint(tiny_files.checkpoint)[:3]
    assert_same_weights(model.model.diffusion_model, models.tiny_model("sdxl", head_dim=64).model.diffusion_model)
    assert_same_weights(vae.first_stage_model, models.tiny_autoencoder())
    context, extras = nodes.CLIPTextEncode().encode(clip, "a cup")[0][0]
    expected, expected_extras = nodes.CLIPTextEncode().encode(models.tiny_clip(), "a cup")[0][0]
    torch.testing.assert_close(context, expected, atol=0.02, rtol=0.02)  # the files are in half precision
    torch.testing.assert_close(extras["pooled_output"], expected_extras["pooled_output"], atol=0.02, rtol=0.02)


def test_clip_vision(taught, tiny_files):
    encoder = nodes.CLIPVisionLoader().load_clip(tiny_files.clip_vision)[0]
    built = models.tiny_clip_vision()
    assert_same_weights(encoder.model, built.model)
    image = torch.rand(1, 100, 160, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        loaded, expected = (model.encode_image(image).penultimate_hidden_states for model in (encoder, built))
    assert loaded.shape == (1, 257, models.VISION_WIDTH)
    torch.testing.assert_close(loaded, expected, atol=0.02, rtol=0.02)  # the files are in half precision


def test_controlnet_needs_no_teaching(tiny_files):
    control = nodes.ControlNetLoader().load_controlnet(tiny_files.controlnet)[0]
    built = models.tiny_control_network(models.tiny_model("sdxl", head_dim=64))
    assert_same_weights(control.control_model, built)


def test_untaught_loaders_refuse_the_others(tiny_files):
    with pytest.raises(RuntimeError, match="clip vision file is invalid"):
        nodes.CLIPVisionLoader().load_clip(tiny_files.clip_vision)
    with pytest.raises(RuntimeError, match="Could not detect model type"):
        nodes.CheckpointLoaderSimple().load_checkpoint(tiny_files.checkpoint)


@pytest.mark.parametrize("name", [TINY_FILES.adapter, TINY_LINEAR_ADAPTER])
def test_adapters_fit_the_tiny_model_layer_by_layer(tiny_files, host_base_directory, adapter_widths, name):
    shapes = read_shapes(host_base_directory / "models" / "ipadapter" / name)
    found = [shapes[f"ip_adapter.{2 * layer + 1}.to_k_ip.weight"] for layer in range(70)]
    assert found == [[width, models.CONTEXT_DIM] for width in adapter_widths]
    assert "ip_adapter.141.to_k_ip.weight" not in shapes


def test_the_released_width_is_not_taken_for_a_tiny_one():
    released = dict(comfy.supported_models.SDXL.unet_config)
    assert comfy.supported_models.SDXL.matches(released)
    assert not TinySDXL.matches(released)
    assert TinySDXL.matches(released | {"model_channels": 32, "context_dim": 64, "adm_in_channels": 1576})


def listing(host: Path) -> set[Path]:
    """What a careless server would add to: the checkout itself, and its custom nodes."""
    return {*host.iterdir(), *(host / "custom_nodes").iterdir()} - {host / "__pycache__"}


def test_a_server_has_the_packs_and_the_users_models_and_leaves_the_host_alone(tmp_path, tiny_files):
    """Its folders are its own, its custom nodes are those it was given, and it is gone after the block."""
    host = require_host()
    before = listing(host.path)
    mark = tmp_path / "models" / "checkpoints" / "in_the_servers_folder.safetensors"
    mark.parent.mkdir(parents=True)
    mark.touch()
    with running_host(host, Path(sys.executable), tmp_path, [PACK_ROOT, HOST_PACK]) as server:
        client = Client(server.url)
        for node in ("PFVMaskRebinarize", "MEPAApply", "StrictIDComposite"):
            assert client.object_info(node)["python_module"] == f"custom_nodes.{PACK_ROOT.name}"
        (checkpoints, *_) = client.object_info("CheckpointLoaderSimple")["input"]["required"]["ckpt_name"]
        assert mark.name in checkpoints
        (configs, *_) = client.object_info("CheckpointLoader")["input"]["required"]["config_name"]
        assert "v1-inference.yaml" in configs  # lies in the host's own models folder
    assert server.process.returncode is not None
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url, timeout=5)
    assert listing(host.path) == before


def test_a_server_that_cannot_start_says_why(tmp_path):
    starting = running_host(require_host(), Path(sys.executable), tmp_path, [], ["--no-such-option"])
    with pytest.raises(HostStartError, match=r"(?s)ended while starting:.*--no-such-option"), starting:
        pass


def test_the_probe_tells_what_this_python_is():
    probed = probe_torch(Path(sys.executable))
    assert probed.version == torch.__version__
    assert probed.accelerator == torch.cuda.is_available()
