"""Writes the tiny models as the files people have: checkpoint, ControlNet, vision encoder, image-prompt adapters.

    python -m tests.support.tiny_stack.files MODELS_FOLDER   (with a Python that imports what ComfyUI needs)

The layouts are those of the released files; a server needs `host_pack` to load the checkpoint and the encoder.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headless.ad.model_files import ModelFiles

HEAD_DIM = 64  # what the host's loaders assume for SDXL


TINY_FILES = ModelFiles(
    checkpoint="tiny_random_sdxl.safetensors",
    controlnet="tiny_random_controlnet_depth_sdxl.safetensors",
    clip_vision="tiny_random_vit_h.safetensors",
    adapter="tiny_random_adapter_plus_sdxl_vit_h.safetensors",
)
TINY_LINEAR_ADAPTER = "tiny_random_adapter_sdxl_vit_h.safetensors"


def write_tiny_files(models_folder: Path) -> ModelFiles:
    """Write all of them below a models folder; needs the host in this process (`headless.host.boot`)."""
    from . import adapter_files, models

    model = models.tiny_model("sdxl", head_dim=HEAD_DIM)
    _write_checkpoint(models_folder / "checkpoints" / TINY_FILES.checkpoint, model)
    control_network = models.tiny_control_network(model)
    _write(models_folder / "controlnet" / TINY_FILES.controlnet, control_network.state_dict())
    _write(models_folder / "clip_vision" / TINY_FILES.clip_vision, models.tiny_clip_vision().get_sd())
    widths = adapter_files.cross_attention_widths(model.model.diffusion_model)
    adapter_files.write_plus_adapter(
        models_folder / "ipadapter" / TINY_FILES.adapter,
        widths,
        encoder_width=models.VISION_WIDTH,
        context_dim=models.CONTEXT_DIM,
    )
    adapter_files.write_linear_adapter(
        models_folder / "ipadapter" / TINY_LINEAR_ADAPTER,
        widths,
        image_embed_dim=models.VISION_PROJECTION,
        context_dim=models.CONTEXT_DIM,
    )
    return TINY_FILES


def _write_checkpoint(file: Path, model: Any) -> None:
    """MODEL, CLIP and VAE under the keys of a released SDXL checkpoint, by the host's own conversion."""
    from . import models

    layout = model.model.model_config
    unet = layout.process_unet_state_dict_for_saving(model.model.diffusion_model.state_dict())
    clip = layout.process_clip_state_dict_for_saving(models.tiny_clip().get_sd())
    vae = {f"first_stage_model.{key}": value for key, value in models.tiny_autoencoder().state_dict().items()}
    _write(file, unet | clip | vae)


def _write(file: Path, state_dict: dict[str, Any]) -> None:
    """Half precision, as such files are mostly shared."""
    import torch
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half() if value.dtype == torch.float32 else value for key, value in state_dict.items()}
    save_file({key: value.contiguous().clone() for key, value in halves.items()}, file)


def main(models_folder: Path) -> None:
    """Boot the host in this process and write the files."""
    from headless.host.boot import boot_host
    from headless.host.find import require_host

    with tempfile.TemporaryDirectory() as base_directory:
        boot_host(require_host().path, Path(base_directory))
        for kind, name in asdict(write_tiny_files(models_folder)).items():
            print(f"wrote {kind}: {name}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
