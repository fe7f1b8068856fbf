"""Writes docs/neighbours.md and its pictures anew from a folder of the neighbours' measuring.

    python -m tools.write_neighbours FOLDER [--root FOLDER]

FOLDER is the `--out` of `lab.demo.evaluation.neighbour_refadgen`, `neighbour_strict_id` and `neighbours_together`; the page is
their pages, one after the other, and what one of them lacks it says; the readings that these are of become
docs/readings/neighbours.zip, which the next run begins with (`--begin`). The pictures are the first test scenes, as they come,
where the folder has those of every row.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from lab.demo.evaluation import neighbour_refadgen, neighbour_strict_id, neighbours_together
from lab.demo.evaluation.chunk import channels_first
from lab.demo.evaluation.neighbour_refadgen import Photo, ProductChunk
from lab.demo.evaluation.neighbour_strict_id import HEIGHTS, LEANS, CompanionChunk, Picture
from lab.demo.evaluation.neighbours import Plan, page
from lab.demo.evaluation.pairs import Scene
from lab.demo.evaluation.readings import pack
from lab.demo.splits import Split
from lab.demo.studio.beside import mannequin
from lab.files import save_text
from pfv_demo.sizes import IMAGE_SIZE

from .draw_ablations import Images, drawn, sheet, stored

ROOT = Path(__file__).resolve().parent.parent
PLANS = (neighbour_refadgen.PLAN, neighbour_strict_id.PLAN, neighbours_together.PLAN)
READINGS = "docs/readings/neighbours.zip"
SCENES, TILE = 4, 128
INTRODUCTION = """\
# The two neighbours on the demo models

RefAdGen and Strictly-ID, trained on the demo's scenes (`python -m lab.demo.train_refadgen`, `train_strict_id`), and measured on
scenes whose combinations of attributes no training on such scenes saw (U-Net and autoencoder began with weights that were
trained on flat drawings of all combinations). Written by `python -m tools.write_neighbours`. In brackets are 95 % intervals
over scenes, and over trainings where a row has several; in square brackets, of how many scenes a measure is, where it is not
defined on all. The scenes have ten held-out combinations of a product and ten of a wall: an interval is for more scenes of
these, for other combinations it would be wider, and of as many claims some hold by chance: what lies close to 0 is no proof. A
claim is told scene by scene and holds where there is *more*; "cannot be told apart" is no equality. Strengths are chosen on
scenes of other seeds and combinations.

The first test scenes, as they come:

![What RefAdGen and its rivals make of a packshot and a text](refadgen.jpg)

![What Strictly-ID makes of a product, a pose, a height and an appearance](strict_id.jpg)
"""

Results = dict[str, Any]


def text_of(found: dict[str, Results]) -> str:
    """The page; results by the names of the plans."""
    pages = [page(plan, found[plan.name]).replace("\n## ", "\n### ") for plan in PLANS if plan.name in found]
    return "\n".join([INTRODUCTION, *(f"#{one}" for one in pages)])


def draw(folder: Path, found: dict[str, Results], docs: Path) -> None:
    """The pictures of what was measured, where the folder has those of every column."""
    if neighbour_refadgen.PLAN.name in found:
        chunk = ProductChunk(Split.TEST, 0, SCENES)
        given = {
            "the product's photo": as_pixels(chunk.photos(Photo.PACKSHOT)),
            "the true picture": drawn(chunk.scenes),
        }
        rows = found[neighbour_refadgen.PLAN.name]["tables"]["unnamed"]["rows"]
        wanted = {row["label"]: f"{neighbour_refadgen.PLAN.name}/{row['made_as']}/*" for row in rows}
        made = stored(folder, wanted)
        if len(made) == len(wanted):
            sheet(given | made, SCENES, TILE).save(docs / "refadgen.jpg", quality=92)
    if neighbour_strict_id.PLAN.name in found:
        columns = strict_id_columns(folder, CompanionChunk(Split.TEST, 0, SCENES))
        if columns:
            sheet(columns, SCENES, TILE).save(docs / "strict_id.jpg", quality=92)


def strict_id_columns(folder: Path, chunk: CompanionChunk) -> dict[str, Images]:
    """What it is given, then its heights, its leans, and another picture's companion; nothing where one is not there."""
    titles = {
        "scale": [f"{height:g} high" for height in HEIGHTS],
        "pose_guided": [f"leaning by {lean:g}" for lean in LEANS],
        "guided": ["Strictly-ID with that"],
    }
    made = stored(folder, {way: f"{neighbour_strict_id.PLAN.name}/{way}/*" for way in titles})
    if len(made) < len(titles):
        return {}
    shown = {way: dict(zip(of_way, np.split(made[way], len(of_way)), strict=True)) for way, of_way in titles.items()}
    return {
        "the product": drawn([scene.alone() for scene in chunk.scenes]),
        "the pose": poses(chunk.scenes),
        "the appearance": as_pixels(channels_first(chunk.appearance(Picture.OWN).image)),
        **shown["scale"],
        **shown["pose_guided"],
        "another appearance": as_pixels(channels_first(chunk.appearance(Picture.ANOTHER).image)),
        **shown["guided"],
    }


def poses(scenes: list[Scene]) -> Images:
    """(N, H, W, 3): the mannequins of the scenes' companions."""
    companions = [scene.companion for scene in scenes if scene.companion is not None]
    return np.stack([(mannequin(one.lean, one.turn, IMAGE_SIZE) * 255).round().byte().numpy() for one in companions])


def as_pixels(image: Any) -> Images:
    """(N, 3, H, W) in 0..1 -> (N, H, W, 3)."""
    pixels: Images = (image.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return pixels


def found_in(folder: Path, plans: tuple[Plan, ...] = PLANS) -> dict[str, Results]:
    """The results of a folder by the names of their plans."""
    files = {plan.name: folder / f"{plan.name}.json" for plan in plans}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


def main(arguments: list[str] | None = None) -> None:
    """Write page, readings and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the neighbours' measuring")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository whose docs/ are written")
    options = parser.parse_args(arguments)
    found = found_in(options.folder)
    if not found:
        parser.error(f"{options.folder} has none of {', '.join(f'{plan.name}.json' for plan in PLANS)}: measure first")
    save_text(options.root / "docs" / "neighbours.md", text_of(found))
    pack(options.folder, options.root / READINGS, {one for results in found.values() for one in results["trained"]})
    draw(options.folder, found, options.root / "docs")
    print(f"wrote docs/neighbours.md, {READINGS} and its pictures in {options.root}")


if __name__ == "__main__":
    main()
