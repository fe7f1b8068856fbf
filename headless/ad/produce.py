"""The part of `make_ad` that needs packages: pictures in, two runs of the full workflow, checked ads and a sheet out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..host.start import HostStartError
from ..make_ad import parser
from ..pictures.door import header, open_picture
from ..server.client import Prompt
from ..server.errors import ServerError
from .check_ad import embedded_prompt, measure_ad, same_workflow
from .contact_sheet import contact_sheet
from .engine import engine_of
from .pictures import Pictures, write_pictures
from .plan import PlanError, next_steps, plan_ad, plan_workflow
from .workflow import the_node, without_pfv


def main(options: argparse.Namespace) -> int:
    """Make the ads; returns 0 when the saved files keep their promises, else 1."""
    plan = plan_ad(options)
    print(plan, flush=True)
    workflow = plan_workflow(plan, options)
    pictures = write_pictures(plan, options, workflow, options.out / "inputs")
    workflows = {"ad.png": workflow, "ad_without_pfv.png": without_pfv(workflow)}
    with engine_of(plan, options.out / "server.log") as engine:
        ads = {name: engine.run(variant, pictures, options.out / name) for name, variant in workflows.items()}
    kept = [report(ads[name], pictures, variant) for name, variant in workflows.items()]
    print(f"without PFV {changed_share(*ads.values()):.0%} of the pixels are others", flush=True)
    sheet = options.out / "contact_sheet.png"
    contact_sheet(plan, workflow, pictures, *ads.values()).save(sheet, optimize=True)
    print(f"contact sheet: {sheet}")
    print(next_steps(plan), flush=True)
    return 0 if all(kept) else 1


def report(ad: Path, pictures: Pictures, workflow: Prompt) -> bool:
    """Print what the saved file is; True when it keeps both promises."""
    photo = pictures[the_node(workflow, "LoadImage", "Product photo")["inputs"]["image"]]
    erode = the_node(workflow, "StrictIDComposite")["inputs"]["erode"]
    exactness = measure_ad(ad, photo, erode)
    width, height = header(ad.read_bytes(), str(ad)).size
    print(f"ad: {ad}, {width}x{height}")
    embedded = embedded_prompt(ad)
    workflow_kept = embedded is not None and same_workflow(embedded, workflow)
    print(f"    product: {exactness.exact} of {exactness.inside} pixels in the mask eroded by {erode} are the photo's")
    print(f"        largest difference {exactness.max_difference}; outside it {exactness.changed_outside:.0%} are new")
    nodes = f"{len(embedded)} nodes" if embedded else "nothing"
    print(f"    workflow: {nodes} embedded in the file, {'as' if workflow_kept else 'NOT as'} it was run", flush=True)
    return workflow_kept and exactness.exact == exactness.inside > 0


def changed_share(ad: Path, other: Path) -> float:
    """Share (0..1) of the pixels in which two pictures of one size differ."""
    one, two = (open_picture(file.read_bytes(), str(file)).pixels[..., :3] for file in (ad, other))
    return float((one != two).any(axis=2).mean())


if __name__ == "__main__":
    try:
        sys.exit(main(parser().parse_args()))
    except (HostStartError, PlanError, ServerError, OSError, ValueError) as error:
        sys.exit(str(error))
