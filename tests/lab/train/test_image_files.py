"""Image folders and shards, as training samples."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from lab.train.data import DataError, seeded
from lab.train.image_files import open_dataset

from .made_images import write_images, write_shards

SIZE = 16


def samples(dataset):
    return [dataset.sample(number, seeded(0, number, "data")) for number in range(len(dataset))]


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "images")


def test_folder(folder):
    found = samples(open_dataset(folder, SIZE))
    assert [sample.caption for sample in found] == [f"caption {number}" for number in range(5)]
    for number, sample in enumerate(found):
        assert sample.image.shape == (3, SIZE, SIZE)
        assert 0 <= float(sample.image.min()) < float(sample.image.max()) <= 1
        assert sample.original_size == (20 + 4 * number, 40 - number)
        assert sample.product_mask.shape == (SIZE, SIZE)
        assert len({sample.key for sample in found}) == 5


def test_crop_is_the_centre(tmp_path):
    """A wide image of three bands: the middle one stays, and the mask is cut alike."""
    values = np.zeros((SIZE, 3 * SIZE, 3), np.uint8)
    values[:, SIZE : 2 * SIZE] = 200
    mask = (values[..., 0] > 0).astype(np.uint8) * 255
    Image.fromarray(values).save(tmp_path / "wide.png")
    Image.fromarray(mask).save(tmp_path / "wide.mask.png")
    (tmp_path / "wide.txt").write_text("")
    sample = samples(open_dataset(tmp_path, SIZE))[0]
    assert torch.equal(sample.image, torch.full((3, SIZE, SIZE), 200 / 255))
    assert torch.equal(sample.product_mask, torch.ones(SIZE, SIZE))
    assert (sample.crop, sample.original_size, sample.caption) == ((0, SIZE), (SIZE, 3 * SIZE), "")


def test_transparent_is_white_and_rotation_is_undone(tmp_path):
    Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / "clear.txt").write_text("nothing")
    turned = Image.new("RGB", (2 * SIZE, SIZE))
    turned.paste("white", (0, 0, SIZE, SIZE))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    turned.save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "turned.txt").write_text("turned")
    clear, upright = samples(open_dataset(tmp_path, SIZE))
    assert float(clear.image.min()) == 1.0
    assert upright.original_size == (2 * SIZE, SIZE)


def test_shards_give_what_the_folder_gives(folder, tmp_path):
    from_folder = samples(open_dataset(folder, SIZE))
    from_shards = samples(open_dataset(write_shards(folder, tmp_path / "shards"), SIZE))
    for one, other in zip(from_folder, from_shards, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.product_mask, other.product_mask)
        assert (one.caption, one.key, one.original_size) == (other.caption, other.key, other.original_size)


def test_open_dataset_tells_apart(folder, tmp_path):
    tars = write_shards(folder, tmp_path / "shards")
    assert len(open_dataset(folder, SIZE)) == len(open_dataset(tars, SIZE)) == 5
    assert len(open_dataset(tars / "train-0000.tar", SIZE)) == 2


def test_key_follows_content_size_and_mask(folder):
    key = samples(open_dataset(folder, SIZE))[0].key
    assert samples(open_dataset(folder, SIZE))[0].key == key
    assert samples(open_dataset(folder, 2 * SIZE))[0].key != key
    (folder / "image0.mask.png").unlink()
    assert samples(open_dataset(folder, SIZE))[0].key != key


def test_missing_captions_are_named(folder):
    for number in (1, 3):
        (folder / f"image{number}.json").unlink()
    with pytest.raises(DataError, match=r"2 of 5 images \(image1.png, image3.png\).*have no caption"):
        open_dataset(folder, SIZE)


def test_many_missing_captions_are_counted(tmp_path):
    folder = write_images(tmp_path, 9)
    for file in [*folder.glob("*.txt"), *folder.glob("*.json")]:
        file.unlink()
    with pytest.raises(DataError, match=r"9 of 9 images \(image0.jpg, .*image4.jpg and 4 more\)"):
        open_dataset(folder, SIZE)


def test_missing_masks_are_named(folder):
    (folder / "image2.mask.png").unlink()
    with pytest.raises(DataError, match=r"1 of the images \(.*image2.jpg\).*have no mask"):
        open_dataset(folder, SIZE).require("mask", "mask", "add them")


def test_broken_image_is_named(folder):
    file = folder / "image1.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"image1.png cannot be read as an image"):
        samples(open_dataset(folder, SIZE))


def test_mask_of_another_size(folder):
    Image.new("L", (5, 5)).save(folder / "image0.mask.png")
    with pytest.raises(DataError, match=r"the mask of .*image0.jpg is 5x5, the image is 20x40"):
        samples(open_dataset(folder, SIZE))


@pytest.mark.parametrize(
    ("content", "found"), [('{"text": "x"}', "KeyError"), ('{"caption": 3}', "is 3, expected text"), ("{", "")]
)
def test_bad_caption(folder, content, found):
    (folder / "image1.json").write_text(content)
    with pytest.raises(DataError, match=f"the caption of .*image1.png.*{found}"):
        samples(open_dataset(folder, SIZE))


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of training images"):
        open_dataset(tmp_path / "none", SIZE)
    with pytest.raises(DataError, match="holds no image"):
        open_dataset(tmp_path, SIZE)
    with pytest.raises(FileNotFoundError, match="no shard at"):
        open_dataset(tmp_path / "none.tar", SIZE)


def test_two_images_of_one_name(folder):
    Image.new("RGB", (20, 20)).save(folder / "image1.webp")
    with pytest.raises(DataError, match=r"image1.png and image1.webp"):
        open_dataset(folder, SIZE)


@pytest.mark.parametrize("content", [b"no tar at all" * 100, b""])
def test_bad_shard(tmp_path, content):
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"bad.tar"):
        open_dataset(tmp_path / "bad.tar", SIZE)


def test_compressed_shard(tmp_path):
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    with pytest.raises(DataError, match=r"not a whole, uncompressed .tar"):
        open_dataset(tmp_path / "zipped.tar", SIZE)


@pytest.mark.parametrize(("into_it", "why"), [(600, "unexpected end of data"), (0, "its end is missing")])
def test_shard_cut_short_is_refused(tmp_path, into_it, why):
    """Cut inside a file, or between two, which tarfile takes for the end."""
    with tarfile.open(tmp_path / "cut.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("a.jpg", "a.txt", "b.jpg", "b.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1000
            archive.addfile(member, io.BytesIO(bytes(1000)))
    content = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: 2 * (512 + 1024) + into_it])
    with pytest.raises(DataError, match=rf"cut.tar is not a whole, uncompressed .tar \({why}"):
        open_dataset(tmp_path / "cut.tar", SIZE)


def test_files_of_a_sample_that_stand_apart_are_refused(folder, tmp_path):
    with tarfile.open(tmp_path / "apart.tar", "w") as archive:
        for pattern in ("*.jpg", "*.txt"):
            for file in sorted(folder.glob(pattern)):
                archive.add(file, file.name)
    with pytest.raises(DataError, match=r"the files of image0 stand apart.*tar --sort=name -cf apart.tar"):
        open_dataset(tmp_path / "apart.tar", SIZE)


def test_what_is_no_sample_in_a_shard_is_passed_over(folder, tmp_path):
    """Before the first sample, between two, and behind the last one."""
    with tarfile.open(tmp_path / "more.tar", "w") as archive:
        for name in (
            "a_readme.md",
            "image0.jpg",
            "image0.txt",
            "image0_more.json",
            "image2.jpg",
            "image2.txt",
            "zz.txt",
        ):
            content = (folder / name).read_bytes() if (folder / name).is_file() else b"{}"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = samples(open_dataset(tmp_path / "more.tar", SIZE))
    assert [sample.caption for sample in found] == ["caption 0", "caption 2"]
    assert [sample.name for sample in found] == ["more.tar/image0.jpg", "more.tar/image2.jpg"]


def with_products(folder):
    """Pictures of the products alone: the images with red and blue exchanged."""
    for file in [file for file in folder.iterdir() if file.suffix in (".jpg", ".png") and ".mask" not in file.name]:
        with Image.open(file) as image:
            Image.merge("RGB", image.split()[::-1]).save(folder / f"{file.stem}.product.png")
    return folder


def test_products_lie_beside_their_images_in_folders_and_shards(folder, tmp_path):
    """The same square of both, and a key of its own for what is made of the product."""
    plain = samples(open_dataset(folder, SIZE))
    found = samples(open_dataset(with_products(folder), SIZE))
    of_shards = samples(open_dataset(write_shards(folder, tmp_path / "shards"), SIZE))
    assert len(found) == len(plain) == 5
    assert all(sample.product is None and sample.product_key == "" for sample in plain)
    for sample, other, before in zip(found, of_shards, plain, strict=True):
        assert torch.equal(sample.image, before.image)
        assert sample.key == before.key
        assert torch.equal(sample.product, other.product)
        assert sample.product_key == other.product_key
    for sample in found[1::2]:  # the others are JPEGs, which are decoded smaller
        assert torch.equal(sample.product, sample.image.flip(0))
    assert len({key for sample in found for key in (sample.key, sample.product_key)}) == 10


def test_products_of_another_size_and_missing_ones_are_named(folder):
    with_products(folder)
    open_dataset(folder, SIZE).require("product", "product picture", "add them")
    Image.new("RGB", (5, 7)).save(folder / "image0.product.png")
    with pytest.raises(
        DataError, match=r"the product picture of .*image0.jpg is 7x5, the image is 20x40: give both the same"
    ):
        samples(open_dataset(folder, SIZE))
    (folder / "image0.product.png").unlink()
    with pytest.raises(DataError, match=r"1 of the images \(image0.jpg\) in .* have no product picture beside them"):
        open_dataset(folder, SIZE).require("product", "product picture", "add them")


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    images, elsewhere = write_images(tmp_path / "images"), write_images(tmp_path / "elsewhere")
    (images / "more").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(
        DataError, match=r"images/more is a link to a folder, which is not followed: put the folder itself"
    ):
        open_dataset(images, SIZE)
