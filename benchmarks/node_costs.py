"""What the nodes around the model cost as pictures grow: `python -m benchmarks.node_costs [--sides 1024,2048,4096]`.

Every node that works on pictures or masks, with the host, on square inputs of each side; each side in a process of its own.
Time is processor time of one thread, the lesser of two runs after one at 512 px. Memory is the most that the process held at once
above what it held before the run (VmHWM, set back before each run; Linux only), results included. Prints a table: time and
memory of each side, and how often the cost of one pixel at the largest side is that at the smallest. Below it stands what grows
faster than the pixels. The image encoder is a tiny one of random weights, so PFV Image Encode shows the fitting alone.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SIDES = (1024, 2048, 4096)
WARM_UP_SIDE = 512
RUNS = 2
FASTER = 2.0  # times per pixel, from the smallest to the largest side: what caches alone can make of it
LEAST_SECONDS, LEAST_MB = 0.1, 32  # at the largest side; below them nothing is felt
Case = Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """One run of a node: seconds of processor time and MB above what was held before."""

    seconds: float
    megabytes: float


def main() -> None:
    """Measure every side and print; or, as a child, measure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=lambda text: tuple(map(int, text.split(","))), default=SIDES)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # the side of a child
    options = parser.parse_args()
    if options.only is not None:
        print(json.dumps({name: asdict(cost) for name, cost in costs_at(options.only).items()}))
        return
    print(table({side: in_a_process(side, "benchmarks.node_costs") for side in options.sides}))


def table(costs: Mapping[int, Mapping[str, Cost]]) -> str:
    """Costs by side and case as a Markdown table, and what grows faster than the pixels."""
    small, large = min(costs), max(costs)
    head = ["node", *(f"{side}²" for side in costs), "time per pixel", "memory per pixel"]
    lines = [_row(head), _row(["---"] * len(head))]
    faster = []
    for name in costs[large]:
        cells = [f"{costs[side][name].seconds:.2f} s, {costs[side][name].megabytes:.0f} MB" for side in costs]
        growth = growth_per_pixel(costs[small][name], costs[large][name], small, large)
        lines.append(_row([name, *cells, *(f"x {number:.1f}" if number else "" for number in growth)]))
        if any(number and number > FASTER for number in growth):
            faster.append(name)
    said = f"grow faster than the pixels (more than {FASTER:g} times per pixel): {', '.join(faster) or 'none'}"
    return "\n".join([*lines, "", said])


def growth_per_pixel(small: Cost, large: Cost, small_side: int, large_side: int) -> tuple[float | None, float | None]:
    """How often the time and the memory of a pixel of the larger picture are those of the smaller; None where not felt."""
    pixels = (large_side / small_side) ** 2
    seconds = large.seconds / max(small.seconds, 1e-3) / pixels if large.seconds >= LEAST_SECONDS else None
    memory = large.megabytes / max(small.megabytes, 1.0) / pixels if large.megabytes >= LEAST_MB else None
    return seconds, memory


def costs_at(side: int) -> dict[str, Cost]:
    """Every case at one side, in this process."""
    from headless.host.as_package import load_repository

    load_repository()
    import torch

    from headless.host.boot import boot_host
    from headless.host.find import require_host

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="node-costs-") as folder, torch.inference_mode():
        boot_host(require_host().path, Path(folder))
        for case in cases(WARM_UP_SIDE).values():
            case()
        return {name: cost_of(case) for name, case in cases(side).items()}


def cases(side: int) -> dict[str, Case]:
    """Name -> a run of a node on a square of this side. The product is a disk of 0.4 of the side, the hidden part a box."""
    import torch

    from pfv_mepa.nodes.ad.canvas_nodes import PFVAdCanvas, PFVAdCanvasFinish, PFVAdCanvasPlace
    from pfv_mepa.nodes.ad.compose_nodes import PFVDepthCompose
    from pfv_mepa.nodes.ad.product_nodes import StrictIDComposite
    from pfv_mepa.nodes.mepa.region_nodes import MEPARegionBuilder, MEPARegionFromMask, MEPARegionShape
    from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
    from pfv_mepa.nodes.research.scale_nodes import PFVScaleMap
    from pfv_mepa.tests.support.tiny_stack.models import tiny_clip_vision

    place = torch.arange(side)
    disk = (((place[:, None] - side / 2) ** 2 + (place - side / 2) ** 2) < (0.4 * side) ** 2).float()[None]
    hidden = torch.zeros(1, side, side)
    hidden[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    photo, other = (torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    encoder = tiny_clip_vision()
    product: dict[str, Any] = {"product_mask": disk, "product_mask_selects": "product"}
    composite = {"generated": other, "product": photo, **product}
    size = {
        "format": "custom",
        "custom_width": min(side, 8192),
        "custom_height": min(side, 8192),
        "sampling_scale": "1",
    }
    layout = {"position": "center", "scale_by": "fit", "share": 0.9, "margin": 0.0, "x": 0.5, "y": 0.5, "backdrop": 0.0}
    canvas = size | layout | {f"safe_{edge}": 0.0 for edge in ("left", "top", "right", "bottom")}
    placed: Any = PFVAdCanvas.execute(photo, **product, **canvas, region_rim=0)
    plan = placed.args[3]
    mask: Any = PFVMaskRebinarize.execute(encoder, photo, "pad", 0.0, hidden)
    shape = {"width": side, "height": side, "x1": 0.1, "y1": 0.2, "x2": 0.9, "y2": 0.7}
    scale = {"height_from": "ratio", "product_cm": 1.0, "subject_cm": 1.0, "height_ratio": 0.5, "center": 0.0}
    number = iter(range(1 << 20))

    def encode() -> object:
        other[0, 0, 0, 0] = next(number) / (1 << 20)  # what was encoded before is not encoded again
        return PFVImageEncode.execute(encoder, other, mask.args[0], "drop")

    rim, shadow = "beyond_mask", {"shadow_strength": 0.5}
    return {
        "PFV Mask Re-binarize": lambda: PFVMaskRebinarize.execute(encoder, photo, "pad", 0.0, hidden),
        "PFV Image Encode": encode,
        "PFV Depth Compose": lambda: PFVDepthCompose.execute(
            photo, **product, reference_depth=other, fill="surroundings", hidden_mask=hidden
        ),
        "Strict-ID Composite": lambda: StrictIDComposite.execute(**composite, erode=2, feather=4),
        "..., erode 64": lambda: StrictIDComposite.execute(**composite, erode=64, feather=4),
        "..., erode 64, feather 64": lambda: StrictIDComposite.execute(**composite, erode=64, feather=64),
        "..., beyond_mask": lambda: StrictIDComposite.execute(**composite, erode=2, feather=16, rim=rim),
        "..., shadow of 16": lambda: StrictIDComposite.execute(**composite, erode=2, feather=4, **shadow),
        "..., shadow of 256": lambda: StrictIDComposite.execute(
            **composite, erode=2, feather=4, **shadow, shadow_size=256
        ),
        "PFV Ad Canvas": lambda: PFVAdCanvas.execute(photo, **product, **canvas, region_rim=0),
        "..., region_rim 64": lambda: PFVAdCanvas.execute(photo, **product, **canvas, region_rim=64),
        "PFV Ad Canvas Place": lambda: PFVAdCanvasPlace.execute(other, plan, 0.0),
        "PFV Ad Canvas Finish": lambda: PFVAdCanvasFinish.execute(placed.args[0], plan),
        "MEPA Region Shape": lambda: MEPARegionShape.execute(**shape, shape="ellipse", softness=0.1),
        "MEPA Region From Mask": lambda: MEPARegionFromMask.execute(disk, "product", 16, 16, True),
        "..., grow -64, softness 256": lambda: MEPARegionFromMask.execute(disk, "product", -64, 256, True),
        "MEPA Region Builder": lambda: MEPARegionBuilder.execute(disk, "partition", hidden, image=photo),
        "PFV Scale Map": lambda: PFVScaleMap.execute(photo, **product, **scale),
    }


def cost_of(case: Case) -> Cost:
    """The lesser of a few runs."""
    return min((_one_run(case) for _ in range(RUNS)), key=lambda cost: cost.seconds)


def _one_run(case: Case) -> Cost:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs freed is given back, so that this one has to ask for its own
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
    before, started = _status("VmRSS"), time.process_time()
    result = case()
    seconds = time.process_time() - started
    peak = _status("VmHWM")
    del result
    return Cost(seconds, max(peak - before, 0) / 1024)


def _status(name: str) -> int:
    """A figure of /proc/self/status, kB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def in_a_process(side: int, module: str) -> dict[str, Cost]:
    """Every case of a module at one side; the module prints its costs as JSON when it is told `--only SIDE`."""
    command = [sys.executable, "-m", module, "--only", str(side)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    return {name: Cost(**cost) for name, cost in found.items()}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
