"""The part of `make_ad` that needs packages: photographs in, a running server, the full workflow, a checked ad out."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import astuple, fields
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw

from . import photos
from .check_ad import embedded_prompt, measure_exactness, same_workflow
from .client import ApiError, Client, ExecutionFailedError, Prompt, saved_images
from .find_host import PACK_ROOT, Host, require_host
from .make_ad import parser
from .model_files import KINDS, ModelFiles, find_model_files
from .photos import Photo, Size
from .start_host import HostStartError, RunningHost, running_host
from .tiny_stack.files import TINY_FILES
from .workflow import load_prompt, set_inputs, the_node

WORKFLOW = PACK_ROOT / "workflows" / "api" / "full.json"
TINY_HOST_PACK = Path(__file__).resolve().parent / "tiny_stack" / "host_pack"
TINY_STEPS = 8  # more steps make other noise

TABLE_EDGE = 0.45  # the table region begins this far down the ad


def main(options: argparse.Namespace) -> int:
    """Make the ad; returns 0 when the saved file keeps its promises, else 1."""
    host = require_host()
    chosen = choose_models(host, options)
    inputs = write_inputs(options.out / "inputs", options.size)
    with tempfile.TemporaryDirectory(prefix="make-ad-") as folder:
        base_directory = Path(folder)
        packs = [PACK_ROOT]
        if chosen is None:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the child processes: threads cost more than they bring
            _write_tiny_files(base_directory / "models")
            packs.append(TINY_HOST_PACK)
        log_file = options.out / "server.log"
        with running_host(host, Path(sys.executable), base_directory, packs, log_file=log_file) as server:
            _say_what_runs(server)
            prompt = prepare_prompt(chosen or TINY_FILES, options, tiny=chosen is None)
            ad = run_workflow(server, prompt, inputs, options.out / "ad.png")
    return 0 if report(ad, inputs, prompt) else 1


def choose_models(host: Host, options: argparse.Namespace) -> ModelFiles | None:
    """The real model files, or None for the tiny ones; says which and why."""
    named = {field.name: getattr(options, field.name) for field in fields(ModelFiles)}
    named = {field: name for field, name in named.items() if name}
    if options.tiny:
        _say_tiny("as asked for")
        return None
    found = find_model_files(host.path / "models") | named
    missing = [kind.description for kind in KINDS if kind.field not in found]
    if not missing:
        files = ModelFiles(**found)
        print(f"models: {', '.join(astuple(files))}", flush=True)
        return files
    if named:
        raise ApiError(f"not found in {host.path / 'models'}: {', '.join(missing)}; name all four files, or none")
    _say_tiny(f"{host.path / 'models'} has not {', nor '.join(missing)}")
    return None


def _say_tiny(reason: str) -> None:
    print(f"models: tiny ones with random weights, written for this run ({reason})")
    print("        so the picture will be noise around an exact product; everything else is the real thing", flush=True)


def write_inputs(folder: Path, size: Size) -> dict[str, Path]:
    """Write what the workflow's LoadImage nodes read, under the names that stand in it; returns them by name."""
    product, background, table = photos.coffee(size), photos.rocket(size), photos.flower(size)
    for use, photo in (("product", product), ("background reference", background), ("table reference", table)):
        print(f"{use}: {photo.name}, marked: {photo.marked_as}; depth: {photo.depth_from}; {photo.credit}", flush=True)
    images = {
        "product.png": _cut_out(product),
        "product_depth.png": product.depth,
        "reference_background.png": _painted(background.image, background.marked),
        "reference_background_depth.png": background.depth,
        "reference_table.png": _painted(table.image, table.marked),
        **_regions(product),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        if image is None:
            raise ValueError(f"{name}: this photograph comes without a depth")
        image.save(folder / name)
    print(f"inputs: {len(images)} images of {size[0]}x{size[1]} in {folder}", flush=True)
    return {name: folder / name for name in images}


def _regions(product: Photo) -> dict[str, Image.Image]:
    """Where each reference rules: above and below the table's edge, the product left free for the prompt."""
    width, height = product.image.size
    table = Image.new("L", (width, height))
    ImageDraw.Draw(table).rectangle((0, round(TABLE_EDGE * height), width, height), fill=255)
    around_product = ImageChops.invert(product.marked)
    regions = {"region_background.png": ImageChops.invert(table), "region_table.png": table}
    return {
        name: _painted(product.image, ImageChops.multiply(region, around_product)) for name, region in regions.items()
    }


def _cut_out(photo: Photo) -> Image.Image:
    """The photograph, opaque inside the mark only: ComfyUI's mask of it is 1 on the background."""
    image = photo.image.copy()
    image.putalpha(photo.marked)
    return image


def _painted(image: Image.Image, painted: Image.Image) -> Image.Image:
    """The image as ComfyUI's mask editor saves it, transparent where it was painted: its mask is 1 there."""
    image = image.copy()
    image.putalpha(ImageChops.invert(painted))
    return image


def _write_tiny_files(models_folder: Path) -> None:
    """In a process of its own: it imports the host, whose top-level modules have names like `nodes` and `utils`."""
    command = [sys.executable, "-m", "headless.tiny_stack.files", str(models_folder)]
    subprocess.run(command, cwd=PACK_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def _say_what_runs(server: RunningHost) -> None:
    where = "an accelerator" if server.torch.accelerator else "the CPU"
    print(f"server: {server.url}, torch {server.torch.version} on {where}")
    for stand_in in server.torch.stand_ins:
        print(f"        {stand_in}")
    sys.stdout.flush()


def prepare_prompt(models: ModelFiles, options: argparse.Namespace, tiny: bool) -> Prompt:
    """The full workflow with the chosen models and the command line's settings."""
    prompt = load_prompt(WORKFLOW)
    set_inputs(the_node(prompt, "CheckpointLoaderSimple"), ckpt_name=models.checkpoint)
    set_inputs(the_node(prompt, "ControlNetLoader"), control_net_name=models.controlnet)
    set_inputs(the_node(prompt, "CLIPVisionLoader"), clip_name=models.clip_vision)
    set_inputs(the_node(prompt, "MEPAAdapterLoader"), adapter_name=models.adapter)
    sampler = the_node(prompt, "KSampler")
    if options.steps or tiny:
        set_inputs(sampler, steps=options.steps or TINY_STEPS)
    if options.seed is not None:
        set_inputs(sampler, seed=options.seed)
    if options.prompt is not None:
        set_inputs(the_node(prompt, "CLIPTextEncode", "Prompt"), text=options.prompt)
    return prompt


def run_workflow(server: RunningHost, prompt: Prompt, inputs: dict[str, Path], ad: Path) -> Path:
    """Upload the inputs, run, and fetch the saved image."""
    client = Client(server.url, report=lambda line: print(f"workflow: {line}", flush=True))
    for name, file in inputs.items():
        client.upload_image(file, name)
    outputs = client.run(prompt)
    return client.download(saved_images(outputs)[0], ad)


def report(ad: Path, inputs: dict[str, Path], prompt: Prompt) -> bool:
    """Print what the saved file is; True when it keeps both promises."""
    with Image.open(ad) as image, Image.open(inputs["product.png"]) as product:
        erode = the_node(prompt, "StrictIDComposite")["inputs"]["erode"]
        exactness = measure_exactness(image, product, product.getchannel("A"), erode)
        print(f"ad: {ad}, {image.width}x{image.height}")
    embedded = embedded_prompt(ad)
    workflow_kept = embedded is not None and same_workflow(embedded, prompt)
    print(f"    product: {exactness.exact} of {exactness.inside} pixels in the mask eroded by {erode} are the photo's")
    print(f"        largest difference {exactness.max_difference}; outside it {exactness.changed_outside:.0%} are new")
    nodes = f"{len(embedded)} nodes" if embedded else "nothing"
    print(f"    workflow: {nodes} embedded in the file, {'as' if workflow_kept else 'NOT as'} it was run", flush=True)
    return workflow_kept and exactness.exact == exactness.inside > 0


if __name__ == "__main__":
    try:
        sys.exit(main(parser().parse_args()))
    except (ApiError, ExecutionFailedError, HostStartError) as error:
        sys.exit(str(error))
