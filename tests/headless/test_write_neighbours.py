"""docs/neighbours.md and its pictures from a folder of the neighbours' measuring."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from lab.demo import stack
from lab.demo.evaluation import measure_neighbours, neighbour_refadgen, neighbour_strict_id
from lab.demo.evaluation.neighbour_plan import Plan, Scenes
from lab.demo.evaluation.neighbour_store import Store
from lab.demo.evaluation.neighbours import summarize
from pfv_mepa.tools import draw_ablations, write_neighbours

SIZE, SCENES = 32, 20
README = "# T\n" + "".join(f"<!-- {mark} -->\nold {mark}\n<!-- /{mark} -->\n" for mark in ("refadgen", "strict_id"))
MADE = {
    neighbour_refadgen.PLAN.name: {
        "controlnet_unnamed_at_1": "none",
        "refadgen_whole_packshot_unnamed": "refadgen_whole_seed0-a",
    },
    neighbour_strict_id.PLAN.name: {
        "scale": "strict_id_no_balance_seed0-b",
        "pose_guided": "strict_id_no_balance_seed0-b",
        "guided": "strict_id_no_balance_seed0-b",
    },
}


def results(plan: Plan) -> dict:
    """Of a folder with nothing in it, and rows for what is shown."""
    store = Store(write_neighbours.ROOT / "nowhere", plan.name, {}, SCENES, plan.chosen_by)
    empty = summarize(plan, store, Scenes(SCENES, SCENES, SCENES))
    for table in empty["tables"].values():
        table["rows"] = [
            {"way": name, "made_as": name, "label": f"way {name}", "seeds": [0], "measures": {}}
            for name in MADE[plan.name]
        ]
    empty |= {"trained": sorted({*MADE[plan.name].values()} - {"none"})}
    empty |= {"settings": {"steps": 3, "precision": "float32"}, "scenes": SCENES, "development": SCENES}
    return json.loads(json.dumps(empty))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder and a repository's."""
    for module, name in ((stack, "IMAGE_SIZE"), (draw_ablations, "IMAGE_SIZE"), (write_neighbours, "IMAGE_SIZE")):
        monkeypatch.setattr(module, name, SIZE)
    folder, root = tmp_path / "run", tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text(README)
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    for plan in (neighbour_refadgen.PLAN, neighbour_strict_id.PLAN):
        (folder / "chunks").mkdir(parents=True, exist_ok=True)
        (folder / f"{plan.name}.json").write_text(json.dumps(results(plan)))
        for name, trained in MADE[plan.name].items():
            place = folder / "chunks" / plan.name / name / trained
            place.mkdir(parents=True)
            count = {"scale": 4, "pose_guided": 3}.get(name, 1) * SCENES
            shade = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
            np.savez(place / "test_00000.npz", image=np.broadcast_to(shade, (count, SIZE, SIZE, 3)))
            (place / "test_00000.json").write_text("{}")
    return folder, root


def tiles(file, columns: int) -> list[int]:
    """Grey of the middle of each column's first row."""
    with Image.open(file) as image:
        step = draw_ablations.MARGIN + write_neighbours.TILE
        bottom = image.height - write_neighbours.SCENES * step + write_neighbours.TILE // 2
        assert image.width == draw_ablations.MARGIN + columns * step
        return [image.convert("L").getpixel((column * step + step // 2, bottom)) for column in range(columns)]


def test_page_and_pictures_of_what_was_measured(run, capsys):
    folder, root = run
    write_neighbours.main([str(folder), "--root", str(root)])
    page = (root / "docs" / "neighbours.md").read_text(encoding="utf-8")
    titles = [line for line in page.splitlines() if line.startswith(("# ", "## "))]
    assert titles == [
        "# The two neighbours on the demo models",
        "## RefAdGen on the demo",
        "## Strictly-ID on the demo",
    ]
    assert "### Lambda" in page
    assert "| way refadgen_whole_packshot_unnamed | 1 |" in page
    for name in ("refadgen.jpg", "strict_id.jpg"):
        assert f"({name})" in page
    tiles(root / "docs" / "refadgen.jpg", 4)  # the photo, the true picture, and two that were made
    shown = tiles(root / "docs" / "strict_id.jpg", 3 + 4 + 3 + 2)
    assert shown[3:10] == pytest.approx([0, 20, 40, 60, 0, 20, 40], abs=4)  # a height, or a lean, after the other
    said = f"wrote docs/neighbours.md, {write_neighbours.READINGS}, refadgen.jpg, strict_id.jpg and the tables of README.md in"
    assert capsys.readouterr().out == f"{said} {root}\n"


@pytest.mark.parametrize(
    ("gone", "stays", "written"),
    [
        ("controlnet*/*/*.npz", "refadgen.jpg", "strict_id.jpg"),
        ("guided/*/*.npz", "strict_id.jpg", "refadgen.jpg"),
        ("neighbour_refadgen.json", "refadgen.jpg", "strict_id.jpg"),
        ("neighbour_strict_id.json", "strict_id.jpg", "refadgen.jpg"),
    ],
)
def test_a_picture_of_which_a_column_is_not_here_stays_as_it_is_and_is_named(run, capsys, gone, stays, written):
    folder, root = run
    for name in (stays, written):
        (root / "docs" / name).write_text("of the run before")
    for file in folder.rglob(gone):
        file.unlink()
    write_neighbours.main([str(folder), "--root", str(root)])
    assert (root / "docs" / stays).read_text() == "of the run before"
    tiles(root / "docs" / written, 4 if written == "refadgen.jpg" else 3 + 4 + 3 + 2)
    assert capsys.readouterr().out.splitlines() == [
        f"wrote docs/neighbours.md, {write_neighbours.READINGS}, {written} and the tables of README.md in {root}",
        f"left as it was: {stays}, of which {folder} has not every column",
    ]


def test_a_folder_without_what_is_kept_is_refused_before_anything_is_written(run, capsys):
    folder, root = run
    write_neighbours.main([str(folder), "--root", str(root)])
    with zipfile.ZipFile(root / write_neighbours.READINGS) as archive:
        assert {name.split("/")[1] for name in archive.namelist() if "/" in name} == {*MADE}
    before = {file: file.read_bytes() for file in root.rglob("*.*")}
    (folder / "neighbour_strict_id.json").unlink()
    with pytest.raises(SystemExit):
        write_neighbours.main([str(folder), "--root", str(root)])
    assert "has no neighbour_strict_id.json, and what docs/readings/neighbours.zip has" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in root.rglob("*.*")} == before


def test_a_folder_of_nothing_is_refused_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    with pytest.raises(SystemExit):
        write_neighbours.main([str(tmp_path), "--root", str(tmp_path)])
    assert "has none of neighbour_refadgen.json, neighbour_strict_id.json" in capsys.readouterr().err
    assert not list((tmp_path / "docs").iterdir())


def test_the_published_page_is_what_the_kept_readings_give(tmp_path):
    """Of the shipped weights and this studio: where one of them changes it is measured anew."""
    given = ["--begin", str(write_neighbours.ROOT / write_neighbours.READINGS), "--out", str(tmp_path)]
    given += ["--precision=bfloat16", "--pairs=40", "--report-only"]
    measure_neighbours.main([*given, "--development=20"])
    found = write_neighbours.found_in(tmp_path)
    published, readme = (
        (write_neighbours.ROOT / name).read_text(encoding="utf-8") for name in ("docs/neighbours.md", "README.md")
    )
    assert write_neighbours.text_of(found) == published
    assert write_neighbours.with_tables(readme, found) == readme


def test_the_readme_s_tables_are_of_rows_that_there_are():
    for table in write_neighbours.README_TABLES.values():
        assert set(table.columns) <= {*table.plan.measures}
        ways = {one.name: {way.name for way in one.ways} for one in table.plan.tables}
        assert all(way in ways[name] for row in table.rows.values() for name, way in row.items())
        there = {one.name: set(one.columns) for one in table.plan.tables}
        shown = {name for row in table.rows.values() for name in row}
        assert set(table.columns) <= set.union(*(there[name] for name in shown))


def test_a_readme_s_table_has_its_rows_figures_and_nothing_else_changes():
    measured = {"value": 0.5, "low": 0.4, "high": 0.6, "scenes": 40}
    plan = neighbour_strict_id.PLAN
    rows = {"paste": ["depth", "paste"], "scale": ["scale"]}
    tables = {
        name: {"rows": [{"way": way, "measures": dict.fromkeys(columns, measured)} for way in ways]}
        for (name, ways), columns in zip(rows.items(), (["overlap", "rim"], ["scale_slope"]), strict=True)
    }
    readme = write_neighbours.with_tables(README, {plan.name: {"tables": tables}})
    assert "<!-- refadgen -->\nold refadgen\n<!-- /refadgen -->" in readme  # nothing of it was measured
    shown = "0.500 (0.400 to 0.600)"
    assert f"| Strictly-ID | {shown} | {shown} | {shown} |" in readme
    assert f"| a depth ControlNet | {shown} | {shown} |  |" in readme
    assert "old strict_id" not in readme
