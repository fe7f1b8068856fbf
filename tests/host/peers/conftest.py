"""Tests against other packs that the host has in its custom_nodes. Nothing of them is part of this repository."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from headless.host.as_package import load_as_package
from headless.host.find import require_host

CUSTOM_NODES = require_host().path / "custom_nodes"
PEERS = {
    "ip_adapter_plus": (CUSTOM_NODES / "ComfyUI_IPAdapter_plus", "https://github.com/cubiq/ComfyUI_IPAdapter_plus"),
    "couple": (CUSTOM_NODES / "ComfyUI-ppm" / "src" / "attention_couple", "https://github.com/pamparamm/ComfyUI-ppm"),
    "upscaler": (CUSTOM_NODES / "ComfyUI_UltimateSDUpscale", "https://github.com/ssitu/ComfyUI_UltimateSDUpscale"),
    "advanced_control_net": (
        CUSTOM_NODES / "ComfyUI-Advanced-ControlNet",
        "https://github.com/Kosinkadink/ComfyUI-Advanced-ControlNet",
    ),
    "ic_light": (CUSTOM_NODES / "ComfyUI-IC-Light", "https://github.com/kijai/ComfyUI-IC-Light"),
    "tiled_diffusion": (
        CUSTOM_NODES / "ComfyUI-TiledDiffusion",
        "https://github.com/shiimizu/ComfyUI-TiledDiffusion",
    ),
}
MISSING = {name: source for name, (path, source) in PEERS.items() if not path.is_dir()}
TESTS = {
    "ip_adapter_plus": ("test_ip_adapter_plus.py", "test_from_ip_adapter_plus.py", "test_weight_types.py"),
    "couple": ("test_couple.py",),
    "upscaler": ("test_tiles.py",),
    "advanced_control_net": ("test_advanced_controlnet.py",),
    "ic_light": ("test_ic_light.py",),
    "tiled_diffusion": ("test_tiled_diffusion.py",),
}

collect_ignore = [file for name in MISSING for file in TESTS[name]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which comparisons did not run."""
    for name, source in MISSING.items():
        files = ", ".join(TESTS[name])
        terminalreporter.write_line(f"{files}: left out; clone {source} into the host's custom_nodes")


@pytest.fixture(scope="session")
def ip_adapter_plus() -> ModuleType:
    """The pack's module with its nodes."""
    load_as_package("peer_ip_adapter_plus", PEERS["ip_adapter_plus"][0])
    return importlib.import_module("peer_ip_adapter_plus.IPAdapterPlus")


@pytest.fixture(scope="session")
def unet_couple() -> ModuleType:
    """The attention patches of the couple pack; its nodes need a newer host than they themselves do."""
    load_as_package("peer_couple", PEERS["couple"][0])
    return importlib.import_module("peer_couple.unet_couple")


@pytest.fixture(scope="session")
def upscaler() -> type:
    """The upscaler's node that takes an upscale model or none; the pack's modules are not to be imported again."""
    nodes: dict[str, type] = load_as_package("peer_upscaler", PEERS["upscaler"][0]).NODE_CLASS_MAPPINGS
    return nodes["UltimateSDUpscaleCustomSample"]


@pytest.fixture(scope="session")
def tiled_diffusion() -> ModuleType:
    """The pack's module with its nodes; importing it replaces functions of the host's."""
    load_as_package("peer_tiled_diffusion", PEERS["tiled_diffusion"][0])
    return importlib.import_module("peer_tiled_diffusion.tiled_diffusion")


@pytest.fixture(scope="session")
def advanced_control_net() -> ModuleType:
    """The pack's package, with `control` and `nodes_main` in it."""
    load_as_package("peer_advanced_control_net", PEERS["advanced_control_net"][0])
    for name in ("control", "nodes_main"):
        importlib.import_module(f"peer_advanced_control_net.adv_control.{name}")
    return importlib.import_module("peer_advanced_control_net.adv_control")


@pytest.fixture(scope="session")
def ic_light() -> dict[str, type]:
    """The pack's nodes; it imports modules of the host's by themselves, as the host's server lets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(require_host().path / "comfy"))
        nodes: dict[str, type] = load_as_package("peer_ic_light", PEERS["ic_light"][0]).NODE_CLASS_MAPPINGS
    return nodes
