"""Image folders and shards, and which sample a step sees."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from lab.train.data import DataError, Order, check_length, image_folder, open_dataset, positions, seeded, shards

SIZE = 16


def write_images(folder, count=5, masks=True):
    """Images of several sizes and formats; the captions of odd ones are JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"image{number}"
        values = np.random.default_rng(number).integers(0, 256, (20 + 4 * number, 40 - number, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{name}{'.png' if number % 2 else '.jpg'}")
        if number % 2:
            (folder / f"{name}.json").write_text(json.dumps({"caption": f"caption {number}"}))
        else:
            (folder / f"{name}.txt").write_text(f" caption {number}\n")
        if masks:
            mask = np.zeros(values.shape[:2], np.uint8)
            mask[: 10 + number] = 255
            Image.fromarray(mask).save(folder / f"{name}.mask.png")
    return folder


def write_shards(folder, target, per_shard=2):
    """The folder's files as webdataset shards."""
    target.mkdir()
    stems = sorted({file.name.split(".")[0] for file in folder.iterdir()})
    for number in range(0, len(stems), per_shard):
        with tarfile.open(target / f"train-{number:04d}.tar", "w") as archive:
            for stem in stems[number : number + per_shard]:
                for file in sorted(folder.glob(f"{stem}.*")):
                    archive.add(file, file.name)
    return target


def samples(dataset):
    return [dataset.sample(number, seeded(0, number, "data")) for number in range(len(dataset))]


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / "images")


def test_folder(folder):
    found = samples(image_folder(folder, SIZE))
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
    sample = samples(image_folder(tmp_path, SIZE))[0]
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
    clear, upright = samples(image_folder(tmp_path, SIZE))
    assert float(clear.image.min()) == 1.0
    assert upright.original_size == (2 * SIZE, SIZE)


def test_shards_give_what_the_folder_gives(folder, tmp_path):
    from_folder = samples(image_folder(folder, SIZE))
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
    key = samples(image_folder(folder, SIZE))[0].key
    assert samples(image_folder(folder, SIZE))[0].key == key
    assert samples(image_folder(folder, 2 * SIZE))[0].key != key
    (folder / "image0.mask.png").unlink()
    assert samples(image_folder(folder, SIZE))[0].key != key


def test_missing_captions_are_named(folder):
    for number in (1, 3):
        (folder / f"image{number}.json").unlink()
    with pytest.raises(DataError, match=r"2 of 5 images \(image1.png, image3.png\).*have no caption"):
        image_folder(folder, SIZE)


def test_many_missing_captions_are_counted(tmp_path):
    folder = write_images(tmp_path, 9)
    for file in [*folder.glob("*.txt"), *folder.glob("*.json")]:
        file.unlink()
    with pytest.raises(DataError, match=r"9 of 9 images \(image0.jpg, .*image4.jpg and 4 more\)"):
        image_folder(folder, SIZE)


def test_missing_masks_are_named(folder):
    (folder / "image2.mask.png").unlink()
    with pytest.raises(DataError, match=r"1 of the images \(.*image2.jpg\).*have no mask"):
        image_folder(folder, SIZE).require_masks()


def test_broken_image_is_named(folder):
    file = folder / "image1.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"image1.png cannot be read as an image"):
        samples(image_folder(folder, SIZE))


def test_mask_of_another_size(folder):
    Image.new("L", (5, 5)).save(folder / "image0.mask.png")
    with pytest.raises(DataError, match=r"the mask of .*image0.jpg is 5x5, the image is 20x40"):
        samples(image_folder(folder, SIZE))


@pytest.mark.parametrize(
    ("content", "found"), [('{"text": "x"}', "KeyError"), ('{"caption": 3}', "is 3, expected text"), ("{", "")]
)
def test_bad_caption(folder, content, found):
    (folder / "image1.json").write_text(content)
    with pytest.raises(DataError, match=f"the caption of .*image1.png.*{found}"):
        samples(image_folder(folder, SIZE))


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of training images"):
        image_folder(tmp_path / "none", SIZE)
    with pytest.raises(DataError, match="holds no image"):
        image_folder(tmp_path, SIZE)
    with pytest.raises(FileNotFoundError, match="no shard at"):
        shards([tmp_path / "none.tar"], SIZE)


def test_two_images_of_one_name(folder):
    Image.new("RGB", (20, 20)).save(folder / "image1.webp")
    with pytest.raises(DataError, match=r"image1.png and image1.webp"):
        image_folder(folder, SIZE)


@pytest.mark.parametrize("content", [b"no tar at all" * 100, b""])
def test_bad_shard(tmp_path, content):
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"bad.tar"):
        shards([tmp_path / "bad.tar"], SIZE)


def test_compressed_shard(tmp_path):
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    with pytest.raises(DataError, match=r"not a whole, uncompressed .tar"):
        shards([tmp_path / "zipped.tar"], SIZE)


def test_shard_cut_short(folder, tmp_path):
    """Cut inside an image: the index stands, the image says what is wrong."""
    tar = write_shards(folder, tmp_path / "shards", 5) / "train-0000.tar"
    whole = shards([tar], SIZE)
    last = whole.entries[-1].image
    tar.write_bytes(tar.read_bytes()[: last.offset + last.size // 2])
    with pytest.raises(DataError):
        samples(shards([tar], SIZE))


def test_every_epoch_has_every_sample_once():
    order = Order(7, seed=3)
    epochs = [[order.index(position) for position in range(7 * epoch, 7 * epoch + 7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_has_no_memory():
    order = Order(7, seed=3)
    forwards = [order.index(position) for position in range(30)]
    assert forwards[::-1] == [order.index(position) for position in range(29, -1, -1)]
    assert forwards != [Order(7, seed=4).index(position) for position in range(30)]


def test_processes_share_a_step():
    """Two processes with batches of 3 take together what one with a batch of 6 takes."""
    together = [list(positions(step, 6)) for step in range(4)]
    shared = [[*positions(step, 3, 0, 2), *positions(step, 3, 1, 2)] for step in range(4)]
    assert together == shared


def test_too_small():
    check_length(8, 4, 2)
    with pytest.raises(
        DataError, match=r"the dataset has 7 samples, a batch takes 4 on each of 2 processes.*to 3 or less"
    ):
        check_length(7, 4, 2)


def test_purposes_do_not_disturb_each_other():
    numbers = [torch.rand(3, generator=seeded(*key)) for key in ((0, 1, "a"), (0, 1, "b"), (0, 2, "a"), (1, 1, "a"))]
    assert len({tuple(number.tolist()) for number in numbers}) == 4
