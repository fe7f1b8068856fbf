"""The host's own models at their released sizes, once: `python -m benchmarks.automatic`, from the repository root.

Writes BiRefNet, SAM 3.1 and Depth Anything 3 in the layout of the released files with random weights (2.9 GB; whatever lies in
the folder already is used), loads each through the host's own nodes, and gives each one picture, of which it says what came out.
Then both photographs go through all of them and this pack's nodes to an ad, in a server, with a tiny U-Net. Needs about 8 GB of
memory; random weights say nothing of how good a mask is, but what each model calls the thing is arranged, so that it is known.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headless.host.as_package import load_repository

from .full_size import memory

SIZE = (1024, 1536)  # height, width of the picture: a photograph as it is uploaded
PARTS = ("remove", "detect", "depth", "ad")


def main(folder: Path, parts: tuple[str, ...]) -> None:
    """Write, load, run, print."""
    load_repository()
    from headless.host.boot import boot_host
    from headless.host.find import require_host

    host = require_host()
    boot_host(host.path, folder)
    from pfv_mepa.tests.support.automatic_models import AUTOMATIC_FILES, write_automatic_files
    from pfv_mepa.tests.support.automatic_pack.architectures import register

    print(f"{host}; torch {torch.__version__}, {torch.get_num_threads()} thread(s); picture of {SIZE[1]}x{SIZE[0]}")
    started = time.perf_counter()
    if not (folder / "models" / "geometry_estimation" / AUTOMATIC_FILES.geometry_estimation).is_file():
        write_automatic_files(folder / "models", full=True)
        print(f"files written in {time.perf_counter() - started:.0f} s")
    for file in sorted((folder / "models").rglob("*.safetensors")):
        print(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB")
    register()  # what is not narrow goes on to the host's own; the operator that may be missing is needed
    for part in parts:
        {"remove": remove, "detect": detect, "depth": depth, "ad": ad}[part](folder)
        gc.collect()


def picture() -> tuple[torch.Tensor, torch.Tensor]:
    """IMAGE (1, H, W, 3): something dark on white; and where it is, (H, W) bool."""
    rows, columns = (torch.linspace(-1, 1, length) for length in SIZE)
    thing = (columns / 0.4) ** 2 + (rows[:, None] / 0.7) ** 2 < 1
    return torch.where(thing[..., None], 0.2, 0.95).expand(*SIZE, 3)[None].contiguous(), thing


@torch.inference_mode()
def remove(folder: Path) -> None:
    """RemoveBackground."""
    from comfy_extras.nodes_bg_removal import LoadBackgroundRemovalModel, RemoveBackground

    from pfv_mepa.tests.support.automatic_models import AUTOMATIC_FILES

    image, thing = picture()
    (model,) = timed("LoadBackgroundRemovalModel", LoadBackgroundRemovalModel, AUTOMATIC_FILES.background_removal)
    (mask,) = timed("RemoveBackground", RemoveBackground, model, image)
    print(described(mask), f"agreement with the thing {agreement(mask[0], thing):.3f}", flush=True)


@torch.inference_mode()
def detect(folder: Path) -> None:
    """SAM3_Detect with and without refinement, found and not found."""
    import nodes
    from comfy_extras.nodes_sam3 import SAM3_Detect

    from pfv_mepa.tests.support.automatic_models import AUTOMATIC_FILES

    image, thing = picture()
    loader, encoder = nodes.CheckpointLoaderSimple(), nodes.CLIPTextEncode()
    model, clip, _ = timed("CheckpointLoaderSimple", loader.load_checkpoint, AUTOMATIC_FILES.checkpoint)[:3]
    (conditioning,) = timed("CLIPTextEncode", encoder.encode, clip, "the bottle")
    for threshold, refinements in ((0.5, 0), (0.5, 2), (1.0, 0)):
        named = f"SAM3_Detect, threshold {threshold}, {refinements} refinements"
        inputs = (model, image, conditioning, None, None, None, threshold, refinements, False)
        mask, boxes = timed(named, SAM3_Detect, *inputs)
        print(described(mask), f"agreement with the thing {agreement(mask[0], thing):.3f}; boxes {boxes}", flush=True)


@torch.inference_mode()
def depth(folder: Path) -> None:
    """DA3Inference and its rendering."""
    from comfy_extras.nodes_depth_anything_3 import DA3Inference, DA3Render, LoadDA3Model

    from pfv_mepa.tests.support.automatic_models import AUTOMATIC_FILES

    image, _ = picture()
    (model,) = timed("LoadDA3Model", LoadDA3Model, AUTOMATIC_FILES.geometry_estimation, "default")
    (geometry,) = timed("DA3Inference at 504", DA3Inference, model, image, 504, "upper_bound_resize", {"mode": "mono"})
    output = {"output": "depth", "normalization": "v2_style", "apply_sky_clip": False}
    (rendered,) = timed("DA3Render", DA3Render, geometry, output)
    print(described(rendered), flush=True)


def ad(folder: Path) -> None:
    """The workflow of two photographs in a server."""
    from headless.host.find import PACK_ROOT, require_host
    from headless.host.start import running_host
    from headless.server.blocking import Client
    from pfv_mepa.tests.support.automatic_workflow import workflow, write_photographs
    from pfv_mepa.tests.support.tiny_stack.files import write_tiny_files

    write_tiny_files(folder / "models")
    write_photographs(folder / "input")
    support = PACK_ROOT / "tests" / "support"
    packs = [PACK_ROOT, support / "tiny_stack" / "host_pack", support / "automatic_pack"]
    with running_host(require_host(), Path(sys.executable), folder, packs) as server:
        started = time.perf_counter()
        outputs = Client(server.url).run(workflow())
        print(f"two photographs to an ad: {time.perf_counter() - started:.1f} s")
    for node, output in outputs.items():
        for line in output.get("pfv_line", ()):
            print(f"  {node}: {line}")


def timed(name: str, node: Any, *inputs: Any) -> Any:
    """The outputs of a node of the host."""
    run: Callable[..., Any] = getattr(node, "execute", node)
    started = time.perf_counter()
    result = run(*inputs)
    print(f"{name}: {time.perf_counter() - started:.1f} s, {memory()}", flush=True)
    return getattr(result, "args", result)


def described(tensor: torch.Tensor) -> str:
    """Shape, type and range."""
    values = f"{tensor.min():.3g} to {tensor.max():.3g}" if tensor.numel() else "empty"
    assert torch.isfinite(tensor).all()
    return f"  -> {tuple(tensor.shape)} {tensor.dtype}, {values};"


def agreement(mask: torch.Tensor, thing: torch.Tensor) -> float:
    """Intersection over union."""
    found = mask > 0.5
    return float((found & thing).sum() / (found | thing).sum())


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.automatic", description=__doc__)
    parser.add_argument("--folder", type=Path, help="a host's base folder, to keep the files in (temporary by default)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some of it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="automatic-") as temporary:
        main(options.folder or Path(temporary), tuple(options.only))
