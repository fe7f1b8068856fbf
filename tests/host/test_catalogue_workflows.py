"""Shipped workflows of every kind through the catalogue command, on a real server, twice, its output folder emptied between."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from headless.ad.pictures import DEMO_INPUTS
from headless.host.find import PACK_ROOT, require_host
from headless.host.start import running_host
from pfv_mepa.tests.catalogue.harness import command, manifest, run
from pfv_mepa.tests.demo_weights import copy_pack
from pfv_mepa.tests.host.test_workflows import AD_SIZE, noise, pictures, save, write_models_as_named

TINY_PACK = PACK_ROOT / "tests" / "support" / "tiny_stack" / "host_pack"
NUM_ADS = {"minimal": 1, "full": 1, "formats": 3, "ad": 1, "refadgen": 1, "strict_id": 1}
PASTES_NOTHING = ("minimal", "refadgen")
OF_NEIGHBOURS = {"refadgen": "demo_packshot.png", "strict_id": "demo_product_left.png"}  # their product photos
NAMES, SEED = ("cup", "mug"), 3  # two rows that differ in nothing else: the host has what the second one needs


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """This pack with random weights for the demo, and tiny models under the names that stand in the other workflows."""
    folder = tmp_path_factory.mktemp("server")
    write_models_as_named(folder / "models")
    for name, picture in (pictures() | {"product_depth.png": noise(2, AD_SIZE)}).items():  # as large as the product
        save(picture, folder / "input" / name)
    shutil.copytree(DEMO_INPUTS, folder / "input", dirs_exist_ok=True)
    pack = copy_pack(tmp_path_factory.mktemp("packs"))
    with running_host(require_host(), Path(sys.executable), folder, [pack, TINY_PACK]) as running:
        yield running.url, folder / "output"


@pytest.fixture(
    params=["full", "formats", "demo_minimal", "demo_formats", "demo_ad", "demo_refadgen", "demo_strict_id"]
)
def exported(request, tmp_path):
    """A shipped workflow as the page exports it: 1.0 becomes 1. Those of full size are made small."""
    name = request.param
    nodes = json.loads((PACK_ROOT / "workflows" / "api" / f"{name}.json").read_text(), parse_float=_as_a_page_writes)
    for node in nodes.values():
        if not name.startswith("demo_") and node["class_type"] == "PFVAdCanvas":
            sizes = {"1:1": (128, 128), "1080x1350": (112, 140), "1200x628": (172, 90)}
            width, height = sizes[node["inputs"]["format"]]
            size = {"custom_width": width, "custom_height": height, "sampling_scale": "1"}  # tiny: auto knows no family
            node["inputs"] |= {"format": "custom", **size}
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(nodes), encoding="utf-8")
    return file


def _as_a_page_writes(text):
    number = float(text)
    return int(number) if number.is_integer() else number


def table(folder, name):
    """A row with what the workflow takes, its pictures beside it."""
    folder.mkdir()
    kind = name.removeprefix("demo_")
    demo = name.startswith("demo_")
    row = {"prompt": "a red bottle", "seeds": SEED}
    if kind == "minimal":
        source = DEMO_INPUTS / "demo_reference.png"
        shutil.copy(source, folder / "reference.png")
        row |= {"reference": "reference.png", "Sampler.steps": 1}
    elif kind == "ad":  # photographs as they are: what is the product, and what of the reference is hidden, is found
        for column in ("product", "reference"):
            shutil.copy(DEMO_INPUTS / f"demo_{column}_photo.png", folder / f"{column}.png")
            row[column] = f"{column}.png"
    elif demo:
        shutil.copy(DEMO_INPUTS / OF_NEIGHBOURS.get(kind, "demo_product.png"), folder / "product.png")
        row["product"] = "product.png"
    else:
        save(pictures()["product.png"], folder / "product.png")
        row["product"] = "product.png"
    if kind in ("full", "ad", *OF_NEIGHBOURS):
        row["Sampler.steps"] = 1
    if kind == "formats":
        row |= {f"Sampler {shape}.steps": 1 for shape in ("1:1", "4:5", "1.91:1")}
    file = folder / "table.jsonl"
    file.write_text("".join(json.dumps({"name": called, **row}) + "\n" for called in NAMES), encoding="utf-8")
    return file


def test_all_ads_are_made_checked_and_counted_twice(server, exported, tmp_path):
    url, output = server
    name = exported.stem
    num_ads = NUM_ADS[name.removeprefix("demo_")]
    catalogue = table(tmp_path / "in", name)
    sizes = []
    for out in (tmp_path / "one", tmp_path / "two"):
        line = command(catalogue, out, [url])
        line[line.index("--workflow") + 1] = str(exported)
        result = run(line)
        assert result.returncode == 0, result.stderr
        lines = manifest(out)
        assert sorted(found["name"] for found in lines) == sorted(NAMES)
        assert "given up" not in result.stderr
        for found in lines:
            assert len(found["files"]) == num_ads
            assert len({file["title"] for file in found["files"]}) == num_ads
            assert set(found["seeds"].values()) == {found["seed"]} == {SEED}
            for file in found["files"]:
                with Image.open(out / file["file"]) as image:
                    assert list(image.size) == file["size"]
                assert f"_{file['size'][0]}x{file['size'][1]}_s{found['seed']}_" in file["file"]
                checks = file["checks"]
                assert ("product" in checks) == (name.removeprefix("demo_") not in PASTES_NOTHING)
                assert all(check["passed"] for check in checks.values()), checks
        sizes.append(Counter(tuple(file["size"]) for found in lines for file in found["files"]))
        assert set(json.loads((out / lines[0]["workflow"]).read_text())) == set(json.loads(exported.read_text()))
        for saved in output.rglob("*.png"):
            saved.unlink()
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) == num_ads
    assert {found["job"] for found in manifest(tmp_path / "one")} == {
        found["job"] for found in manifest(tmp_path / "two")
    }
