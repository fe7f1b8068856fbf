"""docs/ablations.md, its pictures and the README's tables from a run's folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from pfv_mepa.lab.demo.evaluation.readings import unpack
from pfv_mepa.tools import draw_ablations, write_ablations
from pfv_mepa.tools.marked import MarkerError
from pfv_mepa.tools.write_ablations import with_tables

README = "# Title\n<!-- measured -->\nold\n<!-- /measured -->\nprose\n"
SIZE = 16


def row(condition: str, family: str, label: str = "", **measures: float) -> dict:
    values = {name: {"value": value, "low": value, "high": value} for name, value in measures.items()}
    return {"condition": condition, "family": family, "label": label or condition, "seeds": [0], "measures": values}


SURROUNDINGS = {"wall_reference": 0.7, "pattern_reference": 0.6, "table_reference": 0.5}

RESULTS = {
    "settings": {
        "seeds": [0],
        "adapters": ["eq3_c16_seed0-abc", "ipadapter_c16_seed0-abc", "resampler_c16_seed0-abc"],
        "sampler": "DDIM",
        "precision": "float32",
        "guidance": "3",
        "development": 40,
        "margin": 0.03,
    },
    "judge": {},
    "goals": [],
    "comparisons": [],
    "measures": {
        name: {"label": name, "better": "higher", "digits": 1 if name == "ring_plain" else 3}
        for name in (
            "all_text",
            "sharpness",
            "foreign_shape",
            "foreign_object",
            "all_three",
            "halo_plain",
            "ring_plain",
        )
    },
    "experiments": {
        name: {"title": name, "about": "", "pairs": 20, "columns": [], "sweeps": [], "missing": [], "rows": rows}
        for name, rows in {
            "text": [row("ceiling", "", sharpness=0.66), row("text", "", all_text=0.95, sharpness=0.6)],
            "pfv": [
                row(f"image_{view}", "eq3_c16", foreign_shape=value, wall_reference=0.9, pattern_reference=0.8)
                for view, value in (("visible", 0.6), ("dropped", 0.2), ("oracle", 0.21))
            ],
            "mepa": [
                row("conflict_output_1_scale_6", "ipadapter_c16", "masked, scale 6", all_three=0.59),
                row("conflict_output_0", "eq3_c16", "MEPA, scale 1", all_three=0.99),
            ],
            "no_conflict": [row("agreeing_output_1_scale_2", "ipadapter_c16", "masked, scale 2", all_three=0.98)],
            "ad": [
                row("ad_decoded", "", "true", halo_plain=0.013, ring_plain=24.4),
                row("ad_dropped_masked", "eq3_c16", "both", halo_plain=0.088, ring_plain=18.3, **SURROUNDINGS),
            ],
        }.items()
    },
}
for measure in SURROUNDINGS:
    RESULTS["measures"][measure] = {"label": measure, "better": "higher", "digits": 3}


MADE = (
    ("conflict_output_0", "eq3_c16"),
    ("conflict_output_1_scale_6", "ipadapter_c16"),
    ("ad_dropped_masked", "eq3_c16"),
    *((f"image_{view}", family) for view in ("visible", "dropped") for family in ("eq3_c16", "resampler_c16")),
)


@pytest.fixture
def run(tmp_path):
    """A run's folder and a repository's."""
    folder, root = tmp_path / "run", tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "README.md").write_text(README)
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "run.json").write_text("{}")
    for number, (condition, family) in enumerate(MADE):
        place = folder / "chunks" / condition / f"{family}_seed0-abc"
        place.mkdir(parents=True)
        image = np.full((2, SIZE, SIZE, 3), 20 * number + 50, np.uint8)
        np.savez(place / "test_00000.npz", image=image)
        (place / "test_00000.json").write_text("{}")
    return folder, root


def test_the_tables_take_the_place_between_their_markers_and_nothing_else():
    lines = with_tables(README, RESULTS).splitlines()
    assert lines[:2] == ["# Title", "<!-- measured -->"]
    assert lines[-2:] == ["<!-- /measured -->", "prose"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:-2] if line]
    assert rows[:4] == [
        [
            "product, table and wall right in one picture, where",
            "the text names another wall",
            "the text leaves the wall to the reference",
        ],
        ["---", "---", "---"],
        ["masked", "0.590", "0.980"],
        ["MEPA", "0.990", "n/a"],
    ]
    cells = {name: values for name, *values in rows}
    assert cells["the reference's foreign product is copied"] == ["visible", "hidden by PFV", "never there"]
    assert cells["by the paper's compression, its shape"] == ["0.600", "0.200", "0.210"]
    assert cells["by the same, trained with dropped tokens"] == ["n/a"] * 3
    assert cells["an ad before a plain wall"][-2:] == ["the true ad, encoded and decoded", "the same in another light"]
    assert cells["dB in the ring around its product"] == ["18.3", "n/a", "n/a", "n/a", "24.4", "n/a"]
    assert cells["the text alone sets product, shape, wall, pattern and table, all five"] == ["0.950"]
    assert cells["sharpness of its pictures"] == ["0.600"]
    assert cells["sharpness of the true pictures, encoded and decoded"] == ["0.660"]
    assert cells["an ad's wall has the reference's colour; its pattern; its table"] == ["0.700; 0.600; 0.500"]
    assert cells["the same with guidance"] == ["n/a; n/a"]
    assert with_tables(with_tables(README, RESULTS), RESULTS) == with_tables(README, RESULTS)


def test_one_command_writes_page_pictures_and_table(run, monkeypatch):
    monkeypatch.setattr(draw_ablations, "IMAGE_SIZE", SIZE)  # of the scenes beside the run's pictures
    folder, root = run
    write_ablations.main([str(folder), "--root", str(root)])
    page = (root / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert page.startswith("# What the demo models show")
    assert "![" in page
    for name in ("ablations.jpg", "ablations_ad.jpg"):
        assert f"({name})" in page
        assert (root / "docs" / name).is_file()
    assert "| masked | 0.590 | 0.980 |" in (root / "README.md").read_text(encoding="utf-8")
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    write_ablations.main([str(folder), "--root", str(root)])
    assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("gone", [MADE[1], MADE[-1]], ids=["a row's", "beside the rows"])
def test_the_readings_are_kept_and_another_machine_s_pictures_are_not_drawn_over(run, monkeypatch, capsys, gone):
    monkeypatch.setattr(draw_ablations, "IMAGE_SIZE", SIZE)
    folder, root = run
    (root / "docs" / "ablations.jpg").write_text("of the run before")
    condition, family = gone
    place = folder / "chunks" / condition / f"{family}_seed0-abc"
    shutil.copytree(place, place.with_name(f"{family}_seed0-old"))  # of a training whose readings do not count
    (place / "test_00000.npz").unlink()
    write_ablations.main([str(folder), "--root", str(root)])
    assert (root / "docs" / "ablations.jpg").read_text() == "of the run before"
    assert "ablations_ad.jpg and the tables" in capsys.readouterr().out
    unpack(root / write_ablations.READINGS, root / "again")
    stored = sorted(file.relative_to(folder) for file in (folder / "chunks").rglob("*-abc/*.json"))
    assert sorted(file.relative_to(root / "again") for file in (root / "again").rglob("*.*")) == stored


@pytest.mark.parametrize(("readme", "number"), [("# Title\n", 0), (README + README, 2)])
def test_a_readme_without_one_place_for_the_table_is_refused_before_anything_is_written(run, readme, number):
    folder, root = run
    (root / "README.md").write_text(readme)
    with pytest.raises(MarkerError, match=f"the document has {number} places between"):
        write_ablations.main([str(folder), "--root", str(root)])
    assert not list((root / "docs").iterdir())


def test_a_sheet_has_a_column_for_each_title_and_a_row_for_each_pair():
    columns = {"one": np.full((3, SIZE, SIZE, 3), 200, np.uint8), "two": np.zeros((3, SIZE, SIZE, 3), np.uint8)}
    sheet = draw_ablations.sheet(columns, rows=2, tile=2 * SIZE)
    margin, tile = draw_ablations.MARGIN, 2 * SIZE
    assert sheet.width == margin + 2 * (tile + margin)
    bottom = sheet.height - margin - tile // 2
    middle = margin + tile // 2
    assert isinstance(sheet, Image.Image)
    assert sheet.getpixel((middle, bottom)) == (200, 200, 200)
    assert sheet.getpixel((middle + tile + margin, bottom)) == (0, 0, 0)
    assert sheet.getpixel((margin // 2, bottom)) == draw_ablations.PAPER
