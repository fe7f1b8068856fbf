"""Masks of packshots, found without a model: written where they are sure, and never over one that is there."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lab.train.cut_out import main

SIDE = 64


def packshot(fill=(180, 60, 40), box=(20, 16, 44, 54)):
    image = Image.new("RGB", (SIDE, SIDE), (240, 238, 235))
    image.paste(fill, box)
    return image


def test_a_packshot_gets_its_mask_and_what_is_unsure_gets_none(tmp_path, capsys):
    packshot().save(tmp_path / "sure.png")
    Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / "empty.png")
    packshot(box=(0, 16, 28, 54)).save(tmp_path / "cut.png")
    main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 masks written, 2 left"
    assert [line.split(":")[1].strip() for line in lines[:2]] == [f"{tmp_path}/cut.png", f"{tmp_path}/empty.png"]
    assert sorted(file.name for file in tmp_path.glob("*.mask.png")) == ["sure.mask.png"]
    mask = np.asarray(Image.open(tmp_path / "sure.mask.png"))
    truth = np.zeros((SIDE, SIDE), bool)
    truth[16:54, 20:44] = True
    assert mask.shape == (SIDE, SIDE)
    assert ((mask > 127) & truth).sum() / ((mask > 127) | truth).sum() > 0.97


def test_transparency_is_the_mask_and_a_mask_that_is_there_stays(tmp_path, capsys):
    cut_out = packshot().convert("RGBA")
    alpha = Image.new("L", (SIDE, SIDE))
    alpha.paste(200, (10, 10, 50, 50))
    cut_out.putalpha(alpha)
    cut_out.save(tmp_path / "clear.png")
    packshot().save(tmp_path / "done.png")
    (tmp_path / "done.mask.png").write_bytes(b"by hand")
    main([str(tmp_path)])
    assert capsys.readouterr().out == "1 masks written, 0 left\n"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "clear.mask.png")), np.asarray(alpha))
    assert (tmp_path / "done.mask.png").read_bytes() == b"by hand"


def test_a_mask_makes_an_ad_a_triplet(tmp_path, capsys):
    """The product alone is the ad where its mask is white, grey where it is black, both where it is soft; what is there stays."""
    packshot().save(tmp_path / "sure.png")
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (20, 16, 44, 54))
    mask.paste(51, (0, 0, 4, 4))
    for name in ("painted", "done"):
        packshot().save(tmp_path / f"{name}.png")
        mask.save(tmp_path / f"{name}.mask.png")
    (tmp_path / "done.product.png").write_bytes(b"by hand")
    main([str(tmp_path), "--products"])
    assert capsys.readouterr().out.splitlines() == ["1 masks written, 0 left", "2 products written, 0 left"]
    product = np.asarray(Image.open(tmp_path / "painted.product.png"))
    inside = np.asarray(mask) == 255
    assert (product[inside] == (180, 60, 40)).all()
    assert (product[60, 60] == (128, 128, 128)).all()
    assert (product[1, 1] == (150, 150, 149)).all()  # a fifth of the picture's 240, 238, 235
    assert (tmp_path / "done.product.png").read_bytes() == b"by hand"
    assert (tmp_path / "sure.product.png").is_file()


def test_masks_that_cannot_say_where_the_product_is_make_none(tmp_path, capsys):
    packshot().save(tmp_path / "small.png")
    packshot().save(tmp_path / "black.png")
    Image.new("L", (SIDE, SIDE // 2), 255).save(tmp_path / "small.mask.png")
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "black.mask.png")
    main([str(tmp_path), "--products"])
    assert capsys.readouterr().out.splitlines() == [
        "0 masks written, 0 left",
        f"left: {tmp_path}/black.png: the mask of {tmp_path}/black.png selects nothing: white is the product",
        f"left: {tmp_path}/small.png: the mask of {tmp_path}/small.png is 32x64, the image is 64x64: give both the same size",
        "0 products written, 2 left",
    ]
    assert not list(tmp_path.glob("*.product.png"))
