"""Files of the models with which ComfyUI cuts out, finds by name and estimates depth: true layout, random weights.

    python -m tests.support.automatic_models MODELS_FOLDER [--full]   (with a Python that imports what ComfyUI needs)

Keys, shapes and types are those that the host's own loaders detect; `--full` writes the released sizes (3 GB). What such a
model answers is arranged, so that a test knows it: the cut-out and what is found are what is darker than `DARK`, whatever
name is asked for. Everything before the last layers is random and is computed all the same.

Narrow files of the first two need `automatic_pack` in the process that loads them; that of depth needs nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .automatic_keys import sam_keys, text_keys

DARK = 0.6  # mean of the three channels, 0..1, below which something counts as found

TRUNK_GAIN = 1000.0  # brightness must outweigh the random channels
DETECTION_LOGIT = 2.0  # every query's: a probability of 0.88


@dataclass(frozen=True)
class AutomaticFiles:
    """Names of the files, each in its own folder below models/."""

    background_removal: str = "birefnet.safetensors"
    checkpoint: str = "sam3.1_multiplex_fp16.safetensors"
    geometry_estimation: str = "depth_anything_3_mono_large.safetensors"


AUTOMATIC_FILES = AutomaticFiles()  # as the host's own blueprints name them


def write_automatic_files(models_folder: Path, *, full: bool = False) -> AutomaticFiles:
    """Write all three below a models folder; needs a host that has these models in this process.

    Args:
        models_folder: where the host looks for models.
        full: False = narrow and shallow; True = the released sizes.
    """
    _write(models_folder / "background_removal" / AUTOMATIC_FILES.background_removal, birefnet(full).state_dict())
    _write(models_folder / "checkpoints" / AUTOMATIC_FILES.checkpoint, sam_checkpoint(full))
    _write(models_folder / "geometry_estimation" / AUTOMATIC_FILES.geometry_estimation, depth(full).state_dict())
    return AUTOMATIC_FILES


def birefnet(full: bool) -> Any:
    """The host's BiRefNet, whose answer is what is darker than `DARK`."""
    from comfy.background_removal.birefnet import BiRefNet

    from .automatic_pack.architectures import NarrowBiRefNet

    model = _random(BiRefNet if full else NarrowBiRefNet, 0)
    last, of_pixels = model.decoder.conv_out1[0], model.decoder.ipt_blk1
    first_of_pixels = last.in_channels - of_pixels.conv_out.out_channels
    _pass_on(of_pixels.conv1, {0: -1 / 3, 1: -1 / 3, 2: -1 / 3}, bias=DARK)
    _pass_on(of_pixels.conv_out, {0: 40.0})
    _pass_on(last, {first_of_pixels: 1.0})
    return model


def sam_checkpoint(full: bool) -> dict[str, Any]:
    """SAM 3.1 with its text encoder under the keys of the released checkpoint."""
    import comfy.ops
    from comfy.ldm.sam3.detector import SAM3Model
    from comfy.text_encoders import sam3_clip

    from .automatic_pack import architectures as narrow

    sizes = {} if full else narrow.narrow_sam_config(width=64, depth=1, d_model=32)
    model = _random(SAM3Model, 1, image_model="SAM31", **sizes)
    if not full:
        narrow.shorten(model)
    _find_what_is_dark(model)
    with narrow.text_sizes({} if full else narrow.narrow_text_config(width=64, depth=2)):
        text = _random(sam3_clip.SAM3ClipModel, 2, options={"custom_operations": comfy.ops.disable_weight_init})
    return sam_keys(model.state_dict()) | text_keys(text.transformer.text_model.state_dict())


def _find_what_is_dark(model: Any) -> None:
    """Brightness goes through the random trunk in channel 0, the limit in channel 1, to a mask that every query has."""
    detector, tracker = model.detector, model.tracker
    trunk, pyramid = detector.backbone["vision_backbone"].trunk, detector.backbone["vision_backbone"].convs[0]
    patch = trunk.patch_embed.proj.weight
    patch[:2] = 0
    patch[0] = TRUNK_GAIN / patch[0].numel()
    trunk.pos_embed[..., 1] = TRUNK_GAIN * DARK
    for block in trunk.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.mul_(0.01)
            layer.bias.mul_(0.01)
    _pass_on(pyramid.dconv_2x2_0, {0: -100.0, 1: 100.0})
    _pass_on(pyramid.dconv_2x2_1, {0: 1.0})
    head = detector.segmentation_head
    for layer in (pyramid.conv_1x1, pyramid.conv_3x3, head.pixel_decoder.conv_layers[1]):
        _pass_on(layer, {0: 1.0})
    _pass_on(head.instance_seg_head, {0: 1.0}, bias=-0.5)
    _constant(head.mask_predictor.mask_embed.layers[-1], 0.0)
    head.mask_predictor.mask_embed.layers[-1].bias[0] = 1
    scoring = detector.dot_prod_scoring
    for layer in (scoring.hs_proj, scoring.prompt_proj):
        _constant(layer, (DETECTION_LOGIT * scoring.scale) ** 0.5)
    for mlp in tracker.interactive_sam_mask_decoder.output_hypernetworks_mlps:
        _constant(mlp.layers[-1], 0.0)  # a refinement adds nothing to the mask


def depth(full: bool) -> Any:
    """The host's Depth Anything 3, the kind for one picture, without any sky in its answer."""
    from comfy.ldm.depth_anything_3.model import DepthAnything3Net

    small = {"backbone_name": "vits", "head_dim_in": 384, "head_features": 32, "head_out_channels": (16, 32, 64, 64)}
    layers = {} if full else {"out_layers": (5, 7, 9, 11)}
    model = _random(DepthAnything3Net, 3, **({} if full else small), **layers)
    _constant(model.head.scratch.sky_output_conv2[-1], 0.0)
    return model


def _random(model_class: Any, seed: int, options: Any = None, **arguments: Any) -> Any:
    """A model of the host in half precision, as such files are mostly shared."""
    import comfy.ops
    import torch

    from .tiny_stack.models import randomize

    how: dict[str, Any] = (
        {"operations": comfy.ops.disable_weight_init} if options is None else {"model_options": options}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for the buffers, which the host fills by itself
        return randomize(model_class(**arguments, **how, device="cpu", dtype=torch.float16), seed)


def _pass_on(layer: Any, taps: dict[int, float], bias: float = 0.0) -> None:
    """Output channel 0 of a convolution becomes a sum of some input channels at the same place, and nothing else."""
    from torch.nn import ConvTranspose2d

    grows = isinstance(layer, ConvTranspose2d)  # each pixel becomes several: all of them alike
    weight = layer.weight.transpose(0, 1) if grows else layer.weight
    weight[0] = 0
    height, width = weight.shape[2:]
    seen = weight[0] if grows else weight[0, :, height // 2, width // 2]
    for channel, value in taps.items():
        seen[channel] = value
    layer.bias[0] = bias


def _constant(layer: Any, value: float) -> None:
    layer.weight.zero_()
    layer.bias.fill_(value)


def _write(file: Path, state_dict: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state_dict.items()}, file)


def main(models_folder: Path, *, full: bool) -> None:
    """Boot the host in this process and write the files."""
    from headless.host.boot import boot_host
    from headless.host.find import require_host

    with tempfile.TemporaryDirectory() as base_directory:
        boot_host(require_host().path, Path(base_directory))
        write_automatic_files(models_folder, full=full)
    for file in sorted(models_folder.rglob("*.safetensors")):
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.support.automatic_models", description=__doc__)
    parser.add_argument("models_folder", type=Path)
    parser.add_argument("--full", action="store_true", help="the released sizes, about 3 GB")
    arguments = parser.parse_args()
    main(arguments.models_folder, full=arguments.full)
