"""Boots ComfyUI in this process and gives the tests tiny models of its own classes.

The host's models, input, output, temp and user folders are a temporary folder, so a test may write there freely.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from headless.host.boot import boot_host
from headless.host.find import require_host

_base_directory = tempfile.TemporaryDirectory(prefix="host-tests-", ignore_cleanup_errors=True)
boot_host(require_host().path, Path(_base_directory.name))

import comfy.model_management  # noqa: E402  (the boot comes first)

import pfv_mepa.nodes.extension  # noqa: E402, F401  (needs the host; what it does to the nodes holds in every test)
from pfv_mepa.pfv_core import masks  # noqa: E402
from pfv_mepa.tests.host.beside import Pack  # noqa: E402
from pfv_mepa.tests.support.tiny_stack import adapter_files, models  # noqa: E402


@pytest.fixture(autouse=True)
def _forget_dropped_patchers():
    """A patcher dropped while its model lives on makes the host collect garbage at every load of every later test."""
    yield
    loaded = comfy.model_management.current_loaded_models
    loaded[:] = [entry for entry in loaded if not entry.is_dead()]


@pytest.fixture(scope="session")
def host_base_directory() -> Path:
    """The folder that stands in for the host's own; models/<kind>/ below it is where its loaders look."""
    return Path(_base_directory.name)


@pytest.fixture(scope="session")
def tiny_model():
    """MODEL with SDXL's full topology: 70 cross-attentions at widths 64 and 128, context width 64."""
    return models.tiny_model("sdxl")


@pytest.fixture(scope="session")
def tiny_model_of():
    """Function: name of a topology ("sdxl", "ssd1b", "vega", "koala700m", "koala1b", "sd15") -> MODEL, built once."""
    built = {}

    def model_of(topology: str):
        if topology not in built:
            built[topology] = models.tiny_model(topology)
        return built[topology]

    return model_of


@pytest.fixture(scope="session")
def tiny_clip():
    """CLIP whose context is 64 and whose pooled output is 40 wide, as the tiny SDXL models want."""
    return models.tiny_clip()


@pytest.fixture(scope="session")
def tiny_conditioning():
    """Function: MODEL -> CONDITIONING of its widths, without a text encoder."""
    return models.tiny_conditioning


@pytest.fixture(scope="session")
def tiny_vae():
    """VAE with 8x smaller 4-channel latents."""
    return models.tiny_vae()


@pytest.fixture(scope="session")
def tiny_clip_vision():
    """CLIP_VISION with ViT-H's geometry: 257 tokens of width 64, image_embeds of width 32."""
    return models.tiny_clip_vision()


@pytest.fixture(scope="session")
def tiny_controlnet(tiny_model):
    """CONTROL_NET that fits `tiny_model`."""
    return models.tiny_controlnet(tiny_model)


@pytest.fixture(scope="session")
def adapter_widths(tiny_model) -> list[int]:
    """Query widths of `tiny_model`'s 70 cross-attentions, in the order of the adapter files."""
    return adapter_files.cross_attention_widths(tiny_model.model.diffusion_model)


@pytest.fixture(scope="session")
def linear_adapter_file(host_base_directory, adapter_widths) -> Path:
    """A file of the linear kind that fits `tiny_model` and `tiny_clip_vision`, where the host looks for ipadapter."""
    return adapter_files.write_linear_adapter(
        host_base_directory / "models" / "ipadapter" / "tiny-linear.safetensors",
        adapter_widths,
        image_embed_dim=models.VISION_PROJECTION,
        context_dim=models.CONTEXT_DIM,
    )


@pytest.fixture(scope="session")
def plus_adapter_file(host_base_directory, adapter_widths) -> Path:
    """A file of the plus kind that fits `tiny_model` and `tiny_clip_vision`, where the host looks for ipadapter."""
    return adapter_files.write_plus_adapter(
        host_base_directory / "models" / "ipadapter" / "tiny-plus.safetensors",
        adapter_widths,
        encoder_width=models.VISION_WIDTH,
        context_dim=models.CONTEXT_DIM,
    )


@pytest.fixture(scope="session")
def model(tiny_model_of):
    """MODEL of SDXL's kind with few layers, which tests that sample a lot use."""
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def pack(host_base_directory, tiny_clip_vision, plus_adapter_file) -> Pack:
    """The pack's parts; what they hold goes with the module."""
    return Pack.of(host_base_directory, tiny_clip_vision, plus_adapter_file)


@pytest.fixture
def few_corners(monkeypatch):
    """A part of a picture may lie in a product all over, which a mask of a whole one does not."""
    monkeypatch.setattr(masks, "CORNERS", 4)
