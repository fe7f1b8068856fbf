"""`python -m lab.train.check` says what the trainer will find."""

from __future__ import annotations

import json
import re
import shutil

from PIL import Image

from lab.train.check import main

from .made_images import write_images, write_shards


def check(capsys, place, *options):
    """The lines, and the exit status."""
    status = 0
    try:
        main([str(place), "--image-size", "24", "--workers", "0", *options])
    except SystemExit as end:
        status = end.code
    return capsys.readouterr().out.splitlines(), status


def test_whatever_is_not_as_it_should_be_has_a_line(tmp_path, capsys):
    images = write_images(tmp_path / "images", count=7)
    (images / "image6.jpg").write_bytes(b"no image")
    (images / "image4.txt").write_text("")
    (images / "image3.mask.png").unlink()
    Image.new("L", (38, 28), 255).save(images / "image2.mask.png")
    Image.new("L", (39, 24), 0).save(images / "image1.mask.png")
    lines, status = check(capsys, images)
    assert status == 1
    assert lines[0].startswith(f"{images}: 7 images, ")
    assert lines[0].endswith(f", 24 px; its index is {images}/.pfv_index/images.safetensors")
    place = str(images)
    assert lines[1:] == [
        "6 of 7 samples can be used",
        "shortest sides: 20 to 36 px, cut to squares of 24 px",
        f"1 smaller than 24 px, which will be enlarged ({place}/image0.jpg)",
        f"1 with an empty caption ({place}/image4.jpg)",
        "1 without a mask, so that neither hide_kinds dataset nor a preset of RefAdGen or Strictly-ID can be used "
        f"({place}/image3.png)",
        "1 with a mask that selects nothing (white = product), which RefAdGen and Strictly-ID refuse "
        f"({place}/image1.png)",
        "1 with a mask that selects everything, which hide_kinds dataset refuses (white = product) "
        f"({place}/image2.jpg)",
        f"refused: {place}/image6.jpg cannot be read as an image (it is no JPEG, PNG, WEBP): replace or remove it, or "
        "train with broken_images skip",
    ]


def test_products_that_some_lack_are_named(tmp_path, capsys):
    images = write_images(tmp_path / "images", count=3)
    assert not [line for line in check(capsys, images)[0] if "product alone" in line]
    shutil.copy(images / "image1.png", images / "image1.product.png")
    lines, status = check(capsys, images)
    assert status == 0
    assert lines[-1] == (
        "2 without a picture of the product alone, so that no preset of RefAdGen can be used "
        f"({images}/image0.jpg, {images}/image2.jpg)"
    )


def test_poses_and_scales_that_some_lack_are_named(tmp_path, capsys):
    images = write_images(tmp_path / "images", count=3)
    shutil.copy(images / "image1.png", images / "image1.pose.png")
    about = {"caption": "one", "scale": {"top": 2, "bottom": 9}}
    (images / "image1.json").write_text(json.dumps(about))
    lines, status = check(capsys, images)
    assert status == 0
    assert lines[-2:] == [
        f"2 without a pose, so that no preset of Strictly-ID can be used ({images}/image0.jpg, {images}/image2.jpg)",
        "2 without a scale in their JSON and without a subject mask, so that no preset of Strictly-ID can be used "
        f"({images}/image0.jpg, {images}/image2.jpg)",
    ]
    (images / "image1.json").write_text(json.dumps(about | {"scale": {"top": 0, "bottom": 0}}))
    lines, status = check(capsys, images)
    assert status == 1
    assert f"refused: the scale of {images}/image1.png goes from row 0 to 0" in lines[-1]


def test_shards_that_are_whole_end_with_0(tmp_path, capsys):
    tars = write_shards(write_images(tmp_path / "images", count=3), tmp_path / "shards")
    lines, status = check(capsys, tars, "--index", str(tmp_path / "index"))
    assert status == 0
    assert re.search(rf"its index is {tmp_path}/index/shards-[0-9a-f]{{12}}\.safetensors$", lines[0])
    assert lines[1] == "3 of 3 samples can be used"


def test_what_cannot_be_opened_is_one_line(tmp_path, capsys):
    images = write_images(tmp_path / "images")
    (images / "image0.txt").unlink()
    assert check(capsys, images)[1].startswith("error: 1 of 5 images (image0.jpg)")
    shutil.rmtree(images)
    assert check(capsys, images)[1] == f"error: no folder of training images at {images}"
