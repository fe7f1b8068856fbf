"""The part of `make_ad` that needs packages: pictures in, two runs of `ad`, or of `demo_ad`, checked ads and a sheet out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pfv_core.figures import percent

from ..host.start import HostStartError
from ..make_ad import parser
from ..pictures.door import header, open_picture
from ..server.errors import ServerError
from .check_ad import embedded_prompt, same_workflow
from .contact_sheet import contact_sheet
from .engine import engine_of
from .made import Made
from .pictures import write_pictures
from .plan import TOLD, PlanError, next_steps, plan_ad, plan_workflow
from .workflow import nodes_of, the_node, title_of, without_pfv

FINDERS = ("PFVCutOut", "PFVReference", "PFVGround", "PFVProductDepth")  # nodes that say what they found


def main(options: argparse.Namespace) -> int:
    """Make the ads; returns 0 when the saved files keep their promises, else 1."""
    plan = plan_ad(options)
    print(plan, flush=True)
    workflow = plan_workflow(plan, options)
    pictures = write_pictures(plan, options, workflow, options.out / "inputs")
    workflows = {"ad.png": workflow}
    if (hides_nothing := without_pfv(workflow)) != workflow:
        workflows["ad_without_pfv.png"] = hides_nothing
    with engine_of(plan, options.out / "server.log") as engine:
        ads = [engine.run(variant, pictures, options.out / name) for name, variant in workflows.items()]
    kept = [report(ad) for ad in ads]
    if len(ads) > 1:
        print(f"without PFV {percent(changed_share(*(ad.file for ad in ads)))} of the pixels are others", flush=True)
    sheet = options.out / "contact_sheet.png"
    contact_sheet(pictures, *ads).save(sheet, optimize=True)
    print(f"contact sheet: {sheet}")
    print(next_steps(plan), flush=True)
    return 0 if all(kept) else 1


def report(ad: Made) -> bool:
    """Print what the saved file is; True when its product is exact and it carries the workflow that made it."""
    composite = ad.report(title_of(the_node(ad.workflow, "StrictIDComposite")))
    (counts,) = composite["ads"]
    width, height = header(ad.file.read_bytes(), str(ad.file)).size
    print(f"ad: {ad.file}, {width}x{height}")
    for said in (ad.said.get(title_of(node)) for name in FINDERS for node in nodes_of(ad.workflow, name)):
        if said:
            print(f"    {said}")
    embedded = embedded_prompt(ad.file)
    workflow_kept = embedded is not None and same_workflow(embedded, ad.workflow)
    print(
        f"    product: {counts['pixels_equal']} of {counts['pixels_checked']} opaque pixels are the photo's as it was placed"
        + (f"; {counts['pixels_left_out']} are left to the generated image" if counts.get("pixels_left_out") else "")
    )
    nodes = f"{len(embedded)} nodes" if embedded else "nothing"
    print(f"    workflow: {nodes} embedded in the file, {'as' if workflow_kept else 'NOT as'} it was run", flush=True)
    return workflow_kept and bool(composite["exact"])


def changed_share(ad: Path, other: Path) -> float:
    """Share (0..1) of the pixels in which two pictures of one size differ."""
    one, two = (open_picture(file.read_bytes(), str(file)).pixels[..., :3] for file in (ad, other))
    return float((one != two).any(axis=2).mean())


def with_options(message: str) -> str:
    """A node's message, and which options of this command do what it asks for."""
    if not any(word in message for word in ("paint", "ground_line", "mask_selects", *TOLD)):
        return message
    return (
        f"{message}\nHere --product-mask and --reference-mask name what is painted: a picture that is white there, so one that "
        "is the wrong way round, give it inverted; "
        "--whole-reference hides nothing, and --ground 0.66 says where the ground begins. --enclosed, --several-parts and "
        "--cut-off say of a product what the node's inputs of these names do"
    )


if __name__ == "__main__":
    try:
        sys.exit(main(parser().parse_args()))
    except (HostStartError, PlanError, ServerError, OSError, ValueError) as error:
        sys.exit(with_options(str(error)))
