"""Writes docs/neighbours.md, its pictures and the README's tables of it anew from a folder of the neighbours' measuring.

    python -m tools.write_neighbours FOLDER [--root FOLDER]

FOLDER is the `--out` of `lab.demo.evaluation.measure_neighbours`, or of one of its three; the page is
their pages, one after the other, and what one of them lacks it says; the readings that these are of become
docs/readings/neighbours.zip, which the next run begins with (`--begin`). A folder without one of the three that are kept there is
refused. The pictures are the first test scenes, as they come; one of which the folder has not every column stays as it is.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lab.demo.evaluation import neighbour_refadgen, neighbour_strict_id
from lab.demo.evaluation.chunk import channels_first
from lab.demo.evaluation.claims import MARGIN
from lab.demo.evaluation.companion_chunk import CompanionChunk
from lab.demo.evaluation.markdown import markdown_table, number
from lab.demo.evaluation.measure_neighbours import PLANS
from lab.demo.evaluation.neighbour_plan import Plan
from lab.demo.evaluation.neighbour_refadgen import Photo, ProductChunk
from lab.demo.evaluation.neighbours import page
from lab.demo.evaluation.pairs import Scene
from lab.demo.evaluation.readings import RESULTS, pack
from lab.demo.evaluation.strict_id_ways import HEIGHTS, LEANS, Picture
from lab.demo.splits import Split
from lab.demo.studio.beside import mannequin
from pfv_demo.sizes import IMAGE_SIZE

from .draw_ablations import Images, drawn, save_sheet, stored
from .files import save_text
from .marked import between_marks

ROOT = Path(__file__).resolve().parent.parent
READINGS = "docs/readings/neighbours.zip"
PICTURES = ("refadgen.jpg", "strict_id.jpg")
SCENES, TILE = 4, 128
INTRODUCTION = """\
# The two neighbours on the demo models

RefAdGen and Strictly-ID, trained on the demo's scenes (`python -m lab.demo.train_refadgen`, `train_strict_id`), and measured
on scenes whose combinations of attributes no training on such scenes saw (U-Net and autoencoder began with weights that were
trained on flat drawings of all combinations). Measured by `python -m lab.demo.evaluation.measure_neighbours --models TRAINED
--out FOLDER {options}`, written by `python -m tools.write_neighbours`. In brackets are
95 % intervals over scenes, and over trainings where a row has several; in square brackets, of how many scenes a measure is,
where it is not defined on all. The scenes have ten held-out combinations of a product and ten of a wall, and nine looks of a
companion: an interval is the widest of those that take each scene as one draw, or all scenes of what a measure is read of. A
claim is told scene by scene and holds where there is *more* and its p, corrected for all claims of its part of the page
(Holm), is below 0.05, so that an interval alone may leave out 0; "cannot be told apart" is no equality. A difference of rates
counts as none, equal within the margin, where two one-sided tests at 5 % show it to be within {margin:g}. Strengths are chosen on
scenes of other seeds and combinations, with the first training.

The first test scenes, as they come:

![What RefAdGen and its rivals make of a packshot and a text](refadgen.jpg)

![What Strictly-ID makes of a product, a pose, a height and an appearance](strict_id.jpg)
"""

Results = dict[str, Any]


@dataclass(frozen=True)
class ReadmeTable:
    """A table of the README's: of a plan, measures as columns, and by its label each row's way by the table that it is of."""

    plan: Plan
    columns: tuple[str, ...]
    rows: dict[str, dict[str, str]]


README_TABLES = {  # by the name of their marks
    "refadgen": ReadmeTable(
        neighbour_refadgen.PLAN,
        ("color", "shape", "body", "text"),
        {
            "a depth ControlNet, which gives the shape": {"unnamed": "controlnet_unnamed"},
            "with the fusion untrained, at its best strength": {"unnamed": "untrained_depth_unnamed"},
            "with an IP-Adapter instead, at its best strength": {"unnamed": "prompt_depth_unnamed"},
            "RefAdGen, without depth": {"unnamed": "refadgen_whole_packshot_unnamed"},
            "RefAdGen beside the depth ControlNet": {"unnamed": "refadgen_whole_packshot_depth_unnamed"},
        },
    ),
    "strict_id": ReadmeTable(
        neighbour_strict_id.PLAN,
        ("overlap", "rim", "scale_slope"),
        {
            "a depth ControlNet": {"paste": "depth"},
            "Strictly-ID": {"paste": "paste", "scale": "scale"},
            "the same scale map for all heights": {"scale": "scale_untold"},
            "the true picture, encoded and decoded": {"paste": "paste_decoded", "scale": "scale_decoded"},
        },
    ),
}


def text_of(found: dict[str, Results]) -> str:
    """The page; results by the names of the plans."""
    pages = [page(plan, found[plan.name]).replace("\n## ", "\n### ") for plan in PLANS if plan.name in found]
    of_all = [*found.values()]
    options = {"pairs": of_all[0]["scenes"], "development": max(one["development"] for one in of_all)}
    options |= {"precision": of_all[0]["settings"]["precision"]}
    told = " ".join(f"--{name} {value}" for name, value in options.items())
    return "\n".join([INTRODUCTION.format(options=told, margin=MARGIN), *(f"#{one}" for one in pages)])


def with_tables(readme: str, found: dict[str, Results]) -> str:
    """The README with the tables of what was found; those of what was not stay. MarkerError where it has no place for one."""
    for mark, table in README_TABLES.items():
        if table.plan.name in found:
            readme = between_marks(readme, mark, readme_table(table, found[table.plan.name]))
    return readme


def readme_table(table: ReadmeTable, results: Results) -> str:
    """In Markdown; a cell is empty where none of its tables has the measure."""

    def cell(ways: dict[str, str], measure: str) -> str:
        found = [
            row["measures"][measure]
            for name, way in ways.items()
            for row in results["tables"][name]["rows"]
            if row["way"] == way and measure in row["measures"]
        ]
        return number(found[0], asdict(table.plan.measures[measure])) if found else ""

    return markdown_table(
        ["", *(table.plan.measures[name].label for name in table.columns)],
        [[label, *(cell(ways, name) for name in table.columns)] for label, ways in table.rows.items()],
    )


def draw(folder: Path, found: dict[str, Results], docs: Path) -> list[str]:
    """Write the pictures of which the folder has every column, and return their names."""
    columns = zip(PICTURES, (refadgen_columns(folder, found), strict_id_columns(folder, found)), strict=True)
    whole = {name: of_picture for name, of_picture in columns if of_picture}
    for name, of_picture in whole.items():
        save_sheet(docs / name, of_picture, SCENES, TILE)
    return [*whole]


def refadgen_columns(folder: Path, found: dict[str, Results]) -> dict[str, Images]:
    """What it is given and should make, then what each row made; nothing where one is not there."""
    name = neighbour_refadgen.PLAN.name
    rows = found[name]["tables"]["unnamed"]["rows"] if name in found else []
    made = stored(folder, {row["label"]: f"{name}/{row['made_as']}/*" for row in rows})
    if not rows or len(made) < len(rows):
        return {}
    chunk = ProductChunk(Split.TEST, 0, SCENES)
    return {
        "the product's photo": as_pixels(chunk.photos(Photo.PACKSHOT)),
        "the true picture": drawn(chunk.scenes),
        **made,
    }


def strict_id_columns(folder: Path, found: dict[str, Results]) -> dict[str, Images]:
    """What it is given, then its heights, its leans, and another picture's companion; nothing where one is not there."""
    titles = {
        "scale": [f"{height:g} high" for height in HEIGHTS],
        "pose_guided": [f"leaning by {lean:g}" for lean in LEANS],
        "guided": ["Strictly-ID with that"],
    }
    name = neighbour_strict_id.PLAN.name
    made = stored(folder, {way: f"{name}/{way}/*" for way in titles})
    if name not in found or len(made) < len(titles):
        return {}
    chunk = CompanionChunk(Split.TEST, 0, SCENES)
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


def kept_in(readings: Path) -> set[str]:
    """Names of the plans of which a file has readings; none where there is no file."""
    if not readings.is_file():
        return set()
    with zipfile.ZipFile(readings) as archive:
        places = [PurePosixPath(name).parts for name in archive.namelist()]
    return {place[1] for place in places if place[0] == RESULTS}


def main(arguments: list[str] | None = None) -> None:
    """Write page, readings, pictures and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the neighbours' measuring")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="of the repository whose README.md and docs/ are written"
    )
    options = parser.parse_args(arguments)
    found, readings = found_in(options.folder), options.root / READINGS
    if not found:
        parser.error(f"{options.folder} has none of {', '.join(f'{plan.name}.json' for plan in PLANS)}: measure first")
    if lost := sorted(kept_in(readings) - {*found}):
        parser.error(
            f"{options.folder} has no {', '.join(f'{name}.json' for name in lost)}, and what {READINGS} has of it would be lost: "
            "run the commands of these names with --begin and that file; with --report-only they measure nothing"
        )
    readme = options.root / "README.md"
    new = with_tables(readme.read_text(encoding="utf-8"), found)  # refused before anything is written
    save_text(options.root / "docs" / "neighbours.md", text_of(found))
    pack(options.folder, readings, {one for results in found.values() for one in results["trained"]})
    pictures = draw(options.folder, found, options.root / "docs")
    save_text(readme, new)
    print(
        f"wrote {', '.join(['docs/neighbours.md', READINGS, *pictures])} and the tables of README.md in {options.root}"
    )
    if left := [name for name in PICTURES if name not in pictures]:
        print(f"left as it was: {', '.join(left)}, of which {options.folder} has not every column")


if __name__ == "__main__":
    main()
