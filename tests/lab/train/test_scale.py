"""Scale, pose and appearance of training pictures: read from files, carried to the square, refused where they are unsure."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lab.train.data import DataError, seeded
from lab.train.image_files import open_dataset
from lab.train.scale import subject_rows

from .made_images import write_shards

SIZE = 16
PRODUCT = torch.zeros(40, 60, dtype=torch.bool)
PRODUCT[10:20, 5:9] = True


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ({"top": 3, "bottom": 30.5}, (3.0, 30.5)),
        ({"product_cm": 4, "subject_cm": 8, "center": 0}, (0.0, 20.0)),
        ({"product_cm": 4, "subject_cm": 8, "center": 1}, (10.0, 30.0)),
        ({"product_cm": 5.0, "subject_cm": 20.0, "center": 0.5}, (-5.0, 35.0)),
    ],
)
def test_rows_and_real_sizes(scale, expected):
    assert subject_rows(scale, PRODUCT, 40, "a.png") == expected


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (
            {"product_cm": 0, "subject_cm": 8, "center": 0},
            "the scale of a.png: product_cm is 0, expected a height above 0",
        ),
        (
            {"product_cm": 4, "subject_cm": 0, "center": 0},
            "the scale of a.png: subject_cm is 0, expected a height above 0",
        ),
        ({"top": 7, "bottom": 7}, r"goes from row 7 to 7, its picture from 0 to 40: expected 0 <= top < bottom <= 40"),
        ({"top": 7, "bottom": 41}, r"goes from row 7 to 41, its picture from 0 to 40"),
        ({"top": "7", "bottom": 30}, r"has top '7', expected a number"),
        ({"product_cm": 4, "subject_cm": True, "center": 0}, r"has subject_cm True, expected a number"),
        ({"product_cm": 4, "subject_cm": 8}, r"expected the keys top, bottom, or product_cm, subject_cm, center"),
        (0, r"the scale of a.png is 0, expected the keys"),
    ],
)
def test_a_scale_that_is_none_is_refused(scale, message):
    with pytest.raises(DataError, match=message):
        subject_rows(scale, PRODUCT, 40, "a.png")


def test_sizes_need_a_product_to_measure():
    sizes = {"product_cm": 4, "subject_cm": 8, "center": 0}
    with pytest.raises(DataError, match=r"is by sizes, and a.png has no mask to take the product's height from"):
        subject_rows(sizes, None, 40, "a.png")
    with pytest.raises(DataError, match=r"the scale of a.png: product_mask is empty: select the product"):
        subject_rows(sizes, torch.zeros(40, 60, dtype=torch.bool), 40, "a.png")


def write(folder, name="a", scale=None, size=(60, 40), pose=(20, 30), appearance=None):
    """A sample of (width, height); pose and appearance of sizes of their own."""
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(len(name)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(folder / f"{name}.png")
    Image.fromarray(PRODUCT.numpy().astype(np.uint8) * 255).save(folder / f"{name}.mask.png")
    about = {"caption": name} | ({} if scale is None else {"scale": scale})
    (folder / f"{name}.json").write_text(json.dumps(about))
    for kind, shape in (("pose", pose), ("appearance", appearance)):
        if shape is not None:
            Image.new("RGB", shape, "red" if kind == "pose" else "blue").save(folder / f"{name}.{kind}.png")
    return folder


def sample(folder, number=0):
    return open_dataset(folder, SIZE).sample(number, seeded(0, 0, "data"))


@pytest.mark.parametrize("shards", [False, True], ids=["folder", "shards"])
def test_they_lie_beside_the_picture(tmp_path, shards):
    folder = write(tmp_path / "images", scale={"top": 10, "bottom": 30}, appearance=(9, 9))
    found = sample(write_shards(folder, tmp_path / "shards") if shards else folder)
    assert found.subject == (4.0, 12.0)  # 40 rows become 16
    assert found.pose.image[:, 3, 3].tolist() == [1.0, 0.0, 0.0]
    assert found.appearance.image.shape == (3, SIZE, SIZE)
    assert found.appearance.image[:, 3, 3].tolist() == [0.0, 0.0, 1.0]
    assert len({found.key, found.pose.key, found.appearance.key}) == 3
    assert len(open_dataset(folder, SIZE)) == 1


def test_a_tall_pictures_rows_are_those_of_its_middle_square(tmp_path):
    folder = write(tmp_path / "images", scale={"top": 10, "bottom": 30})
    tall = np.zeros((80, 40, 3), np.uint8)
    Image.fromarray(tall).save(folder / "a.png")
    Image.fromarray(np.zeros((80, 40), np.uint8)).save(folder / "a.mask.png")
    found = sample(folder)  # 80 rows become 32, of which 8 to 24 are the square
    assert found.subject == (-4.0, 4.0)


def test_sizes_are_measured_on_the_whole_mask(tmp_path):
    found = sample(write(tmp_path / "images", scale={"product_cm": 4, "subject_cm": 8, "center": 1}))
    assert found.subject == (4.0, 12.0)


def put_subject(folder, name="a", size=(60, 40), rows=slice(10, 30)):
    """A subject's mask of (width, height)."""
    mask = np.zeros(size[::-1], np.uint8)
    mask[rows, 20:40] = 255
    Image.fromarray(mask).save(folder / f"{name}.subject.png")


@pytest.mark.parametrize("shards", [False, True], ids=["folder", "shards"])
def test_a_scale_counts_beside_a_caption_of_its_own(tmp_path, shards):
    """A captioner has written name.txt: what name.json knows is not lost with its caption."""
    folder = write(tmp_path / "images", scale={"top": 10, "bottom": 30})
    (folder / "a.txt").write_text("another caption")
    found = sample(write_shards(folder, tmp_path / "shards") if shards else folder)
    assert (found.caption, found.subject) == ("another caption", (4.0, 12.0))
    (folder / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"the JSON file of .*a\.png is not readable"):
        sample(folder)


@pytest.mark.parametrize("shards", [False, True], ids=["folder", "shards"])
def test_a_subjects_mask_says_its_scale_where_nothing_else_does(tmp_path, shards):
    folder = write(tmp_path / "images")
    put_subject(folder)
    found = sample(write_shards(folder, tmp_path / "shards") if shards else folder)
    assert found.subject == (4.0, 12.0)  # 40 rows become 16
    assert found.subject_mask.shape == (SIZE, SIZE)
    assert found.subject_mask[4:12, 4:12].min() == 1.0  # 60 columns become 24, of which 4 to 20 are the square
    assert found.subject_mask.sum() == 64.0
    assert len(open_dataset(folder, SIZE)) == 1
    assert sample(write(folder, scale={"top": 0, "bottom": 20})).subject == (0.0, 8.0)


def test_a_subjects_mask_that_says_nothing_is_refused(tmp_path):
    folder = write(tmp_path / "images")
    put_subject(folder, rows=slice(0, 0))
    with pytest.raises(DataError, match=r"the subject mask of .*a.png selects nothing: is white the subject\?"):
        sample(folder)
    put_subject(folder, size=(60, 50))
    with pytest.raises(
        DataError, match=r"the subject mask of .*a.png is 50x60, the image is 40x60: give both the same"
    ):
        sample(folder)


def test_without_them_a_picture_is_what_it_was(tmp_path):
    found = sample(write(tmp_path / "images", pose=None))
    assert (found.subject, found.subject_mask, found.pose, found.appearance) == (None, None, None, None)


def test_a_mask_of_another_size_is_refused_with_both(tmp_path):
    folder = write(tmp_path / "images", size=(60, 50))
    with pytest.raises(DataError, match=r"the mask of .*a.png is 40x60, the image is 50x60: give both the same size"):
        sample(folder)


def test_pictures_without_a_pose_are_named(tmp_path):
    folder = write(tmp_path / "images")
    write(folder, "lone", pose=None)
    dataset = open_dataset(folder, SIZE)
    with pytest.raises(
        DataError, match=r"1 of the images \(lone.png\) in .* have no pose beside them \(name.pose.png\): add"
    ):
        dataset.require("pose", "pose", "add them")


def test_a_pose_that_is_no_picture_is_named(tmp_path):
    folder = write(tmp_path / "images")
    (folder / "a.pose.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"the pose of .*a.png cannot be read as an image"):
        sample(folder)
