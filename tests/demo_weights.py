"""Files in the layout of the demo's weights with seeded random values, for tests that need no trained ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from headless.host.find import PACK_ROOT
from lab.demo import stack
from pfv_core.adapter.checkpoint import save_adapter
from pfv_core.adapter.model import Adapter, AdapterConfig, AdapterKind
from pfv_core.attention.unet_layout import unet_layers
from pfv_demo import sizes

LAYERS = unet_layers([(1, 1)], (1, 1), [(1, 1), (1, 1)])


def copy_pack(folder: Path) -> Path:
    """What of this pack a server loads, in `folder`/pfv-mepa, with random weights in the place of the trained ones."""
    pack = folder / "pfv-mepa"
    for name in ("nodes", "pfv_core", "pfv_demo", "web"):
        shutil.copytree(PACK_ROOT / name, pack / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(PACK_ROOT / "__init__.py", pack)
    write_random_weights(pack / "pfv_demo" / "weights")
    return pack


@torch.no_grad()
def write_random_weights(folder: Path) -> Path:
    """Every file of the demo; nothing is zero that training would make non-zero."""
    torch.manual_seed(0)
    unet = stack.new_unet()
    models = {
        "autoencoder": stack.UnshuffledAutoencoder(),
        "text_encoder": stack.new_text_encoder(),
        "vision_encoder": stack.new_vision_encoder(),
        "unet": unet,
        "controlnet": stack.new_controlnet(unet),
    }
    models["autoencoder"].mean.normal_()
    models["autoencoder"].deviation.uniform_(0.5, 2)
    for name, parameter in models["controlnet"].named_parameters():
        if name.startswith(("controlnet_", "conv_out")) and "blocks" not in name.split(".")[1:2]:
            parameter.normal_(std=0.05)
    for name, model in models.items():
        stack.save_weights(model, folder / f"{name}.safetensors", {})
    save_adapter(folder / sizes.ADAPTER_FILE, random_adapter())
    return folder


def random_adapter() -> Adapter:
    """An adapter of the paper's kind for the demo's U-Net, with eight tokens."""
    config = AdapterConfig(
        kind=AdapterKind.EQ3,
        base="demo",
        encoder_width=sizes.VISION["hidden_size"],
        latent_width=64,
        inner_width=0,
        depth=0,
        feedforward=0,
        num_tokens=8,
        context_dim=sizes.CONTEXT_DIM,
        layers=LAYERS,
        widths=(128,) * len(LAYERS),
    )
    adapter = Adapter(config)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return adapter
