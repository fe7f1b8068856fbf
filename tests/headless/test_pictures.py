"""The pictures of the full workflow: shipped ones, and the user's own in their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headless import make_ad
from headless.ad import photos, pictures
from headless.ad.model_files import ModelFiles
from headless.ad.plan import DEMO_SIZE, Plan, plan_workflow
from headless.ad.workflow import nodes_of
from pfv_demo import inputs as demo
from pfv_mepa.tests.support import made_pictures as made

SIZE = (192, 128)
SDXL = Plan(None, ModelFiles("c", "n", "v", "a"), "", SIZE)
DEMO = Plan(None, None, "", DEMO_SIZE)


def write(plan: Plan, folder: Path, *arguments: str) -> dict[str, Path]:
    options = make_ad.parser().parse_args(list(arguments))
    return pictures.write_pictures(plan, options, plan_workflow(plan, options), folder)


@pytest.fixture(scope="module", params=["sdxl", "demo"])
def plan(request) -> Plan:
    return {"sdxl": SDXL, "demo": DEMO}[request.param]


@pytest.fixture(scope="module")
def written(plan, tmp_path_factory) -> dict[str, Path]:
    """Files by their part in the workflow."""
    files = write(plan, tmp_path_factory.mktemp("pictures"))
    return {name.removeprefix(pictures.DEMO_PREFIX): file for name, file in files.items()}


def loaded_mask(file: Path) -> np.ndarray:
    """The MASK that ComfyUI's LoadImage gives: 1 where the file is transparent."""
    with Image.open(file) as image:
        return 1 - np.asarray(image.getchannel("A")) / 255


def loaded(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def test_they_are_what_the_workflow_loads(plan, tmp_path):
    files = write(plan, tmp_path)
    workflow = plan_workflow(plan, make_ad.parser().parse_args([]))
    assert {node["inputs"]["image"] for node in nodes_of(workflow, "LoadImage")} == set(files)
    for file in files.values():
        with Image.open(file) as image:
            assert image.size == plan.size


def test_a_photographs_mask_is_its_background_and_it_is_whole(tmp_path):
    files = write(SDXL, tmp_path)
    photo = photos.coffee(SIZE)
    assert np.array_equal(loaded_mask(files["product.png"]), np.asarray(photo.marked) == 0)
    assert np.array_equal(loaded(files["product.png"]), np.asarray(photo.image))
    hidden = np.asarray(photos.rocket(SIZE).marked) > 0
    assert np.array_equal(loaded_mask(files["reference_background.png"]) == 1, hidden)


def test_the_regions_share_the_ad_and_leave_the_product_free(written):
    background = loaded_mask(written["region_background.png"]) == 1
    table = loaded_mask(written["region_table.png"]) == 1
    product = loaded_mask(written["product.png"]) < 1
    assert (background.astype(int) + table + product == 1).all()
    assert background[0].all()
    assert table[-1].all()


def test_the_shipped_scenes_are_what_is_drawn():
    assert {file.name for file in demo.FOLDER.glob("*.png")} == set(demo.demo_inputs())
    for name, drawn in demo.demo_inputs().items():
        with Image.open(demo.FOLDER / name) as shipped:
            assert shipped.mode == drawn.mode
            difference = np.abs(np.asarray(shipped, int) - np.asarray(drawn, int))
        assert difference.max() <= 1, name  # of rounding


def test_what_is_painted_in_a_scene_covers_somebody_elses_product_and_little_more():
    covered = demo.render([demo.BACKGROUND_REFERENCE], demo.IMAGE_SIZE).product[0].numpy() > 0
    painted = loaded_mask(demo.FOLDER / "demo_reference_background.png") == 1
    assert (painted >= covered).all()
    assert painted.sum() < 1.6 * covered.sum()


# --- the user's own -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path) -> Path:
    """Folder with a wide picture, red where it is marked, the mark as a mask, and both as one file with alpha."""
    red = np.zeros((64, 100, 3), np.uint8) + 90
    mark = np.zeros((64, 100), np.uint8)
    mark[16:56, 40:60] = 255
    red[mark > 0] = (200, 0, 0)
    Image.fromarray(red).save(tmp_path / "picture.png")
    Image.fromarray(mark).save(tmp_path / "mask.png")
    Image.fromarray(np.dstack([red, mark])).save(tmp_path / "opaque_mark.png")
    Image.fromarray(np.dstack([red, 255 - mark])).save(tmp_path / "transparent_mark.png")
    return tmp_path


@pytest.mark.parametrize(
    "given", [("--product", "opaque_mark.png"), ("--product", "picture.png", "--product-mask", "mask.png")]
)
def test_an_own_product_brings_its_depth_and_its_regions(own, tmp_path, given):
    files = write(DEMO, tmp_path / "out", *(str(own / word) if word.endswith("png") else word for word in given))
    product = loaded_mask(files["demo_product.png"]) == 0
    assert product[40:100, 50:75].all()  # 64 px of height became 128, the sides were cut
    assert not product[:30].any()
    red = loaded(files["demo_product.png"])
    assert (red[45:95, 55:70] == (200, 0, 0)).all()
    regions = [loaded_mask(files[f"demo_region_{part}.png"]) == 1 for part in ("background", "table")]
    assert (product.astype(int) + regions[0] + regions[1] == 1).all()
    with Image.open(files["demo_product_depth.png"]) as depth:
        assert np.array_equal(np.asarray(depth) > 0, product)
    for name in ("demo_reference_background.png", "demo_reference_table.png"):
        assert files[name].read_bytes()
        assert np.array_equal(loaded(files[name]), loaded(demo.FOLDER / name))


@pytest.mark.parametrize(
    "given", [("--reference", "transparent_mark.png"), ("--reference", "picture.png", "--reference-mask", "mask.png")]
)
def test_an_own_reference_is_both_references(own, tmp_path, given):
    files = write(DEMO, tmp_path / "out", *(str(own / word) if word.endswith("png") else word for word in given))
    for name in ("demo_reference_background.png", "demo_reference_table.png"):
        hidden = loaded_mask(files[name]) == 1
        assert hidden[45:95, 55:70].all()
        assert not hidden[:, :30].any()
    with Image.open(files["demo_reference_background_depth.png"]) as depth:
        rows = np.asarray(depth, int)[:, 0]
    table = loaded_mask(demo.FOLDER / "demo_region_table.png")[:, 0] == 1
    assert np.ptp(rows[~table]) == 0
    assert (np.diff(rows[table]) > 0).all()
    assert rows[table].min() > rows[~table].max()


def test_an_own_product_of_any_kind_is_what_its_file_says(own, tmp_path, capsys):
    """Sixteen bits are scaled, a photo that lies on its side is turned, and what was done is said."""
    with Image.open(own / "opaque_mark.png") as image:
        values = np.asarray(image).astype(int)
    (own / "deep.png").write_bytes(made.png(np.rot90(values) * 257, 16, made.COLOUR_ALPHA, eXIf=made.exif(6)[6:]))
    files = [
        write(DEMO, tmp_path / f"out_{name}", "--product", str(own / name)) for name in ("opaque_mark.png", "deep.png")
    ]
    for name in ("demo_product.png", "demo_product_depth.png", "demo_region_table.png"):
        assert files[0][name].read_bytes() == files[1][name].read_bytes()
    assert f"{own / 'deep.png'}: 16-bit values scaled to 8; turned upright\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--product", "picture.png"), "picture.png has no transparency: name a mask with --product-mask"),
        (("--reference", "picture.png"), "picture.png has no transparency: name a mask with --reference-mask"),
        (("--product", "broken.png"), "broken.png is no picture of a known kind, expected JPEG, PNG"),
        (("--product", "cut_short.png"), "cut_short.png is a PNG file that cannot be decoded"),
        (
            ("--product", "picture.png", "--product-mask", "small.png"),
            r"the mask .*small.png is 10x10, its picture .*picture.png 100x64: give both one size",
        ),
        (
            ("--reference", "picture.png", "--reference-mask", "black.png"),
            "black.png of .*picture.png marks 0 of 6400 pixels, nothing",
        ),
        (
            ("--product", "picture.png", "--product-mask", "dark_cut_out.png"),
            "dark_cut_out.png has transparency: 800 of its",
        ),
        (("--product", "mark_at_the_side.png"), "marks nothing or everything of what the ad shows of it"),
    ],
)
def test_what_cannot_be_used_is_named(own, tmp_path, given, message):
    (own / "broken.png").write_bytes(b"no picture")
    (own / "cut_short.png").write_bytes((own / "picture.png").read_bytes()[:100])
    Image.new("L", (10, 10)).save(own / "small.png")
    Image.new("L", (100, 64)).save(own / "black.png")
    dark = np.zeros((64, 100, 4), np.uint8)
    dark[16:56, 40:60, 3] = 255
    Image.fromarray(dark).save(own / "dark_cut_out.png")
    Image.fromarray(np.roll(dark, 42, axis=1)).save(own / "mark_at_the_side.png")
    with pytest.raises(ValueError, match=message):
        write(DEMO, tmp_path / "out", *(str(own / word) if word.endswith("png") else word for word in given))
