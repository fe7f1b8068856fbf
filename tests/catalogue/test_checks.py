"""What is checked of an ad: size, and the product pixel by pixel where the workflow puts one in."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from PIL import Image

from headless.catalogue.job.jobs import JobMaker
from headless.catalogue.job.pictures import PictureError, PictureIndex
from headless.catalogue.kept.ledger import Ledger
from headless.catalogue.sources.places import Places
from headless.catalogue.table.columns import Columns
from headless.catalogue.table.rows import Row
from headless.catalogue.work.checks import check_ad, product_place, read_ad, unchecked
from headless.catalogue.work.delivery import Received, delivery_of, settings_of
from headless.catalogue.workflow.named_inputs import Workflow
from headless.host.find import PACK_ROOT
from pfv_mepa.tests.catalogue.harness import KINDS, OWN, draw_product

API = PACK_ROOT / "workflows" / "api"
FULL = Workflow.read(API / "full.json", KINDS)
SAVE = FULL.find("Save the ad.filename_prefix").node_id


def job_of(folder, fields, workflow=FULL):
    maker = JobMaker(workflow, Columns(workflow, {}), Places(folder), PictureIndex(None), own=frozenset(OWN))
    (found,) = maker.jobs_of(Row(2, fields))
    return found


@pytest.fixture
def job(tmp_path):
    draw_product(tmp_path / "cup.png", (64, 96), (200, 10, 10))
    return job_of(tmp_path, {"product": "cup.png", "formats": "64x96"})


def place_of(job, workflow=FULL, save=SAVE):
    return product_place(workflow, job.prompt(workflow, {}), save)


def checked(job, tmp_path, ad):
    file = tmp_path / "ad.png"
    ad.save(file)
    return check_ad(job, read_ad(file), place_of(job), {})


def ad_of(job):
    photo, alpha = next(iter(job.pictures.values())).pixels()
    ad = Image.new("RGB", (photo.shape[1], photo.shape[0]), (1, 2, 3))
    ad.paste(Image.fromarray(photo), mask=Image.fromarray(alpha))
    return ad


def all_passed(checks):
    return all(check["passed"] for check in checks.values())


def test_the_place_of_the_product_is_read_from_what_is_posted(job, tmp_path):
    place = place_of(job)
    assert (str(place.photo), place.erode) == ("Product photo.image", 2)
    eroded = job_of(tmp_path, {"product": "cup.png", "Product's own pixels.erode": "5"})
    assert place_of(eroded).erode == 5
    minimal = Workflow.read(API / "minimal.json", KINDS)
    draw_product(tmp_path / "r.png", (20, 20), (1, 2, 3))
    plain = job_of(tmp_path, {"reference": "r.png"}, minimal)
    assert place_of(plain, minimal, minimal.find("Save the ad.filename_prefix").node_id) is None


def test_the_photos_own_pixels_pass(job, tmp_path):
    checks = checked(job, tmp_path, ad_of(job))
    assert all_passed(checks)
    assert checks["product"]["exact"] == checks["product"]["inside"] > 500
    assert checks["product"]["max_difference"] == 0
    assert checks["size"] == {"passed": True, "expected": [64, 96], "found": [64, 96]}


def test_one_pixel_by_one_step_fails(job, tmp_path):
    ad = ad_of(job)
    red, green, blue = ad.getpixel((32, 48))
    ad.putpixel((32, 48), (red, green + 1, blue))
    product = checked(job, tmp_path, ad)["product"]
    assert not product["passed"]
    assert (product["inside"] - product["exact"], product["max_difference"]) == (1, 1)


def test_the_background_may_be_anything_the_rim_too(job, tmp_path):
    ad = ad_of(job)
    ad.putpixel((0, 0), (9, 9, 9))
    ad.putpixel((16, 48), (9, 9, 9))  # outermost pixel of the ellipse, taken off by the erosion
    assert all_passed(checked(job, tmp_path, ad))


def test_another_size_fails_both_checks(job, tmp_path):
    checks = checked(job, tmp_path, ad_of(job).resize((32, 48)))
    assert not checks["size"]["passed"]
    assert not checks["product"]["passed"]
    assert "expected one size" in checks["product"]["why"]


def test_nothing_of_the_product_in_it_is_no_pass(tmp_path):
    """An erosion that leaves nothing leaves nothing to be exact."""
    image = Image.new("RGBA", (64, 96), (1, 2, 3, 0))
    image.putpixel((5, 5), (1, 2, 3, 255))
    image.save(tmp_path / "dot.png")
    job = job_of(tmp_path, {"product": "dot.png", "formats": "64x96"})
    assert not checked(job, tmp_path, Image.new("RGB", (64, 96), (1, 2, 3)))["product"]["passed"]


def test_the_product_is_what_the_row_says_however_the_nodes_read_it(job, tmp_path):
    """A mask that is inverted on its way pastes the background: the row's product is not there."""
    nodes = copy.deepcopy(FULL.nodes)
    composite = next(node for node in nodes.values() if node["class_type"] == "StrictIDComposite")
    nodes["900"] = {"class_type": "InvertMask", "inputs": {"mask": composite["inputs"]["product_mask"]}}
    composite["inputs"]["product_mask"] = ["900", 0]
    place = place_of(job, Workflow(nodes, KINDS))
    assert str(place.photo) == "Product photo.image"
    photo, alpha = next(iter(job.pictures.values())).pixels()
    ad = Image.new("RGB", (64, 96), (1, 2, 3))
    ad.paste(Image.fromarray(photo), mask=Image.fromarray(255 - alpha))
    ad.save(tmp_path / "ad.png")
    assert not check_ad(job, read_ad(tmp_path / "ad.png"), place, {})["product"]["passed"]


def test_what_is_changed_after_a_composite_is_named_as_not_checked():
    nodes = copy.deepcopy(FULL.nodes)
    assert unchecked(FULL) == []
    nodes["900"] = {"class_type": "ImageScale", "inputs": {"image": nodes[SAVE]["inputs"]["images"]}}
    nodes[SAVE]["inputs"]["images"] = ["900", 0]
    assert unchecked(Workflow(nodes, KINDS)) == ["Save the ad"]
    assert unchecked(Workflow.read(API / "minimal.json", KINDS)) == []


def place_on_a_canvas(job):
    """What stands on the canvas is made on the server: no file here holds it."""
    nodes = copy.deepcopy(FULL.nodes)
    composite = next(node for node in nodes.values() if node["class_type"] == "StrictIDComposite")
    nodes["900"] = {"class_type": "PFVAdCanvas", "inputs": {"product": composite["inputs"]["product"]}}
    composite["inputs"] |= {"product": ["900", 0], "product_mask": ["900", 1]}
    place = place_of(job, Workflow(nodes, KINDS))
    assert place.photo is None
    return place


@pytest.mark.parametrize(
    ("kind", "options", "lossless"),
    [
        ("PNG", {}, True),
        ("JPEG", {"quality": 95}, False),
        ("WEBP", {"quality": 80}, False),
        ("WEBP", {"lossless": True}, True),
        ("WEBP", {"lossless": True, "exif": b"Exif"}, True),
        ("WEBP", {"quality": 80, "exif": b"Exif"}, False),
        ("WEBP", {"lossless": True, "save_all": True}, True),
        ("WEBP", {"quality": 80, "save_all": True}, False),
    ],
)
def test_what_a_node_counted_holds_of_a_file_that_has_its_pixels(job, tmp_path, kind, options, lossless):
    place = place_on_a_canvas(job)
    more = {"append_images": [Image.new("RGB", (64, 96), (9, 9, 9))]} if "save_all" in options else {}
    ad_of(job).save(tmp_path / "ad", kind, **options, **more)
    ad = read_ad(tmp_path / "ad")
    assert ad.is_lossless == lossless == bool((ad.pixels == np.asarray(ad_of(job))).all())
    report = {"exact": True, "ads": [{"pixels_checked": 5}]}
    product = check_ad(job, ad, place, {place.composite: [json.dumps(report)]})["product"]
    assert (product["passed"], product["ads"]) == (lossless, report["ads"])
    assert product.get("why", "").startswith("" if lossless else f"saved as a lossy {kind}, whose pixels are others")
    assert ("why" in product) != lossless


@pytest.mark.parametrize("exact", [True, False])
def test_a_product_that_was_placed_on_a_canvas_is_checked_by_the_node(job, tmp_path, exact):
    place = place_on_a_canvas(job)
    file = tmp_path / "ad.png"
    ad_of(job).save(file)
    report = json.dumps({"exact": exact, "ads": [{"pixels_checked": 5}]})
    checks = check_ad(job, read_ad(file), place, {place.composite: ["no JSON", report]})
    assert checks["product"] == {"passed": exact, "by": "node", "ads": [{"pixels_checked": 5}]}
    silent = check_ad(job, read_ad(file), place, {})["product"]
    assert (silent["passed"], silent["why"][:34]) == (False, "StrictIDComposite gave no report: ")


@pytest.mark.parametrize("name", ["formats", "demo_formats"])
def test_every_format_of_a_workflow_has_a_place_of_its_own(tmp_path, name):
    workflow = Workflow.read(API / f"{name}.json", KINDS)
    draw_product(tmp_path / "cup.png", (64, 96), (200, 10, 10))
    prompt = job_of(tmp_path, {"product": "cup.png"}, workflow).prompt(workflow, {})
    saves = [node_id for node_id, node in prompt.items() if node["class_type"] == "SaveImage"]
    places = [product_place(workflow, prompt, node_id) for node_id in saves]
    assert len({place.composite for place in places}) == 3
    assert {place.photo for place in places} == {None}


@pytest.mark.parametrize("keep", [0, 50, 300])
def test_half_a_picture_is_none(job, tmp_path, keep):
    file = tmp_path / "ad.png"
    ad_of(job).save(file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(PictureError):
        read_ad(file)


def test_each_ad_of_a_workflow_has_its_own_composites_report(tmp_path):
    """Of three savers the second one's product is not exact: that of no other is told of it."""
    workflow = Workflow.read(API / "formats.json", KINDS)
    draw_product(tmp_path / "cup.png", (64, 96), (200, 10, 10))
    job = job_of(tmp_path, {"product": "cup.png"}, workflow)
    prompt = job.prompt(workflow, {})
    saves = [node_id for node_id, node in prompt.items() if node["class_type"] == "SaveImage"]
    received, texts = [], {}
    for number, node_id in enumerate(saves):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (8, 8 + number), (1, 2, 3)).save(file)
        received.append(Received(node_id, file, read_ad(file)))
        place = product_place(workflow, prompt, node_id)
        texts[place.composite] = [json.dumps({"exact": number != 1, "ads": []})]
    with Ledger(tmp_path / "out") as ledger:
        made = delivery_of(job, settings_of(workflow, 1), ledger, received, texts, 0)
    assert [one["checks"]["product"]["passed"] for one in made.files] == [True, False, True]


def test_a_mask_s_white_is_the_product_where_the_row_says_so(tmp_path):
    """A photo and a painted mask of its own: what is compared is what the mask marks, not what lies around it."""
    photo = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "cup.png")
    mask = np.zeros((96, 64), np.uint8)
    mask[30:70, 20:44] = 255
    Image.fromarray(mask).save(tmp_path / "cup.mask.png")
    job = job_of(tmp_path, {"product": "cup.png", "product_mask": "cup.mask.png"})
    place = place_of(job)
    for changed, passed in ((None, True), ((40, 30), False), ((5, 5), True)):
        ad = np.full((96, 64, 3), 7, np.uint8)
        ad[mask > 0] = photo[mask > 0]
        if changed:
            ad[changed] = 255 - photo[changed]
        Image.fromarray(ad).save(tmp_path / "ad.png")
        found = check_ad(job, read_ad(tmp_path / "ad.png"), place, {})["product"]
        assert (found["by"], found["passed"]) == ("file", passed), (changed, found)
