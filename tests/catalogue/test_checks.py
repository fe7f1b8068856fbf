"""What is checked of an ad: size, and the product pixel by pixel where the workflow puts one in."""

from __future__ import annotations

import copy
import io
import json

import pytest
from PIL import Image

from headless.catalogue.checks import check_ad, passed, product_places, read_ad
from headless.catalogue.columns import Columns
from headless.catalogue.jobs import JobMaker
from headless.catalogue.named_inputs import Workflow
from headless.catalogue.pictures import PictureError, read_picture
from headless.catalogue.rows import Row
from headless.host.find import PACK_ROOT
from pfv_mepa.tests.catalogue.harness import draw_product

FULL = Workflow.read(PACK_ROOT / "workflows" / "api" / "full.json")
SAVE = FULL.find("Save the ad.filename_prefix").node_id


@pytest.fixture
def job(tmp_path):
    draw_product(tmp_path / "cup.png", (64, 96), (200, 10, 10))
    (found,) = JobMaker(FULL, Columns(FULL, {}), tmp_path).jobs_of(Row(2, {"product": "cup.png", "formats": "64x96"}))
    return found


def checked(job, tmp_path, ad):
    file = tmp_path / "ad.png"
    ad.save(file)
    return check_ad(job, file, read_ad(file), product_places(FULL), SAVE, {})


def ad_of(job):
    photo, alpha = next(iter(job.pictures.values())).product()
    ad = Image.new("RGB", photo.size, (1, 2, 3))
    ad.paste(photo, mask=alpha)
    return ad


def test_the_place_of_the_product_is_read_from_the_workflow():
    (place,) = product_places(FULL)
    assert (place.save, str(place.photo), place.opaque, place.erode) == (SAVE, "Product photo.image", True, 2)
    assert product_places(Workflow.read(PACK_ROOT / "workflows" / "api" / "minimal.json")) == []


def test_the_photos_own_pixels_pass(job, tmp_path):
    checks = checked(job, tmp_path, ad_of(job))
    assert passed(checks)
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
    assert passed(checked(job, tmp_path, ad))


def test_another_size_fails_both_checks(job, tmp_path):
    checks = checked(job, tmp_path, ad_of(job).resize((32, 48)))
    assert not checks["size"]["passed"]
    assert checks["product"] == {
        "passed": False,
        "by": "file",
        "why": "ad is (32, 48), photo (64, 96), product_mask (64, 96): expected one size",
    }


def test_nothing_of_the_product_in_it_is_no_pass(tmp_path):
    """An erosion that leaves nothing leaves nothing to be exact."""
    Image.new("RGBA", (64, 96), (1, 2, 3, 0)).save(tmp_path / "empty.png")
    row = Row(2, {"product": "empty.png", "formats": "64x96"})
    (job,) = JobMaker(FULL, Columns(FULL, {}), tmp_path).jobs_of(row)
    assert not checked(job, tmp_path, Image.new("RGB", (64, 96)))["product"]["passed"]


@pytest.mark.parametrize("exact", [True, False])
def test_a_product_that_was_placed_on_a_canvas_is_checked_by_the_node(job, tmp_path, exact):
    """What stands on the canvas is made on the server: no file here holds it."""
    canvas = copy.deepcopy(FULL.nodes)
    composite = next(node for node in canvas.values() if node["class_type"] == "StrictIDComposite")
    canvas["900"] = {"class_type": "PFVAdCanvas", "inputs": {"product": composite["inputs"]["product"]}}
    composite["inputs"] |= {"product": ["900", 0], "product_mask": ["900", 1]}
    (place,) = places = product_places(Workflow(canvas))
    assert place.photo is None
    file = tmp_path / "ad.png"
    ad_of(job).save(file)
    report = json.dumps({"exact": exact, "ads": [{"pixels_checked": 5}]})
    checks = check_ad(job, file, read_ad(file), places, SAVE, {place.composite: [report]})
    assert checks["product"] == {"passed": exact, "by": "node", "ads": [{"pixels_checked": 5}]}
    assert passed(checks) == exact
    assert "product" not in check_ad(job, file, read_ad(file), places, SAVE, {})


@pytest.mark.parametrize("keep", [0, 50, 300])
def test_half_a_picture_is_none(job, tmp_path, keep):
    file = tmp_path / "ad.png"
    ad_of(job).save(file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(PictureError):
        read_ad(file)


@pytest.mark.parametrize(
    "content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + bytes(100), b"\x80\x04\x95cos\nsystem\n"]
)
def test_only_three_formats_are_ever_opened(tmp_path, content):
    file = tmp_path / "x.png"
    file.write_bytes(content)
    with pytest.raises(PictureError, match="cannot be read as PNG, JPEG, WEBP"):
        read_picture(file, "x.png")


def test_a_bomb_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (12, 12)).save(tmp_path / "bomb.png")
    with pytest.raises(PictureError, match="exceeds limit of 100 pixels"):
        read_picture(tmp_path / "bomb.png", "bomb.png")


def test_a_camera_that_was_turned(tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    picture = read_picture(tmp_path / "turned.jpg", "turned.jpg")
    assert picture.size == (10, 20)
    assert picture.product()[0].size == (10, 20)


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_that_marks_nothing_or_everything(tmp_path, value):
    draw_product(tmp_path / "a.png", (20, 10), (1, 1, 1))
    Image.new("L", (20, 10), value).save(tmp_path / "m.png")
    picture = read_picture(tmp_path / "a.png", "a.png", tmp_path / "m.png")
    with pytest.raises(PictureError, match="marks nothing or everything: white is what counts"):
        picture.content()


def test_upload_names_follow_the_content(tmp_path):
    draw_product(tmp_path / "a.png", (20, 10), (1, 1, 1))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    mask = Image.new("L", (20, 10))
    mask.paste(255, (0, 0, 5, 5))
    mask.save(tmp_path / "m.png")
    plain, same = (read_picture(tmp_path / name, name) for name in ("a.png", "b.png"))
    cut, hidden = (
        read_picture(tmp_path / "a.png", "a", tmp_path / "m.png", white) for white in ("opaque", "transparent")
    )
    assert plain.upload_name == same.upload_name
    assert len({picture.upload_name for picture in (plain, cut, hidden)}) == 3
    with Image.open(io.BytesIO(hidden.content())) as joined:
        assert joined.getchannel("A").getpixel((0, 0)) == 0
