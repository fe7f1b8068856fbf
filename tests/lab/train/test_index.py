"""The index of a data set: written once, small, shared, and made anew where the data are not what they were."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time

import pytest
import torch
from safetensors import safe_open

from lab.train import stores
from lab.train.data import DataError, seeded
from lab.train.image_files import open_dataset
from lab.train.index import Index
from lab.train.shards import Shards

from .made_images import write_images, write_shards

SIZE = 16
LONG_AGO = 1_000_000_000  # seconds since 1970


def settle(place):
    """As if nothing had been touched for long: the times of what is only just made are no proof."""
    for folder, _, files in os.walk(place):
        for name in [folder, *(f"{folder}/{file}" for file in files)]:
            os.utime(name, (LONG_AGO, LONG_AGO))


@pytest.fixture(params=["folder", "shards"])
def place(request, tmp_path):
    images = write_images(tmp_path / "images")
    place = images if request.param == "folder" else write_shards(images, tmp_path / "shards")
    (place / ".pfv_index").mkdir()
    settle(place)
    return place


@pytest.fixture
def scans(monkeypatch):
    """How often samples were looked for."""
    counted = []
    for store in (stores.PictureFolder, Shards):
        scan = store.scan
        monkeypatch.setattr(store, "scan", lambda self, scan=scan: counted.append(self.place) or scan(self))
    return counted


def test_it_is_written_once_and_used_again(place, scans):
    first, second = open_dataset(place, SIZE), open_dataset(place, SIZE)
    assert len(scans) == 1
    assert (len(second), second.identity) == (5, first.identity)
    assert [file.name for file in (place / ".pfv_index").iterdir()] == [f"{place.name}.safetensors"]


def test_a_folder_for_it_that_is_made_does_not_make_it_stale(place, scans):
    """Those who start after the first one find it, though its own folder is new in the data's."""
    (place / ".pfv_index").rmdir()
    settle(place)
    open_dataset(place, SIZE)
    open_dataset(place, SIZE)
    assert len(scans) == 1


def test_one_folder_holds_the_indices_of_data_sets_of_one_name(tmp_path):
    places = [write_images(tmp_path / one / "images", count=count) for one, count in (("a", 3), ("b", 5))]
    opened = [open_dataset(place, SIZE, tmp_path / "indices") for place in places]
    assert [len(pickle.loads(pickle.dumps(dataset))) for dataset in opened] == [3, 5]
    assert opened[0].index.file != opened[1].index.file


def test_what_was_touched_just_now_is_looked_at_again(place, scans):
    """A change within the same tick of the clock would not show in its time."""
    for file in [place, *place.glob("*.tar")]:
        os.utime(file)
    open_dataset(place, SIZE)
    open_dataset(place, SIZE)
    assert len(scans) == 2


def test_a_folder_that_changed_is_indexed_anew(tmp_path, scans):
    images = write_images(tmp_path / "images")
    (images / "more").mkdir()
    settle(images)
    before = open_dataset(images, SIZE)
    write_images(images / "more", count=2)
    after = open_dataset(images, SIZE)
    assert (len(before), len(after), len(scans)) == (5, 7, 2)
    assert before.identity != after.identity
    (images / "more" / "image0.jpg").unlink()
    assert len(open_dataset(images, SIZE)) == 6
    shutil.rmtree(images / "more")
    assert open_dataset(images, SIZE).identity == before.identity


def test_shards_that_changed_are_indexed_anew(tmp_path, scans):
    tars = write_shards(write_images(tmp_path / "images"), tmp_path / "shards")
    settle(tars)
    assert len(open_dataset(tars, SIZE)) == 5
    (tars / "train-0002.tar").write_bytes((tars / "train-0004.tar").read_bytes())
    assert len(open_dataset(tars, SIZE)) == 4
    (tars / "train-0004.tar").unlink()
    settle(tars)
    shutil.copy(tars / "train-0000.tar", tars / "train-0006.tar")
    assert len(open_dataset(tars, SIZE)) == 5


def test_a_shard_more_is_noticed_where_the_others_are_as_they_were(tmp_path, scans):
    tars = write_shards(write_images(tmp_path / "images"), tmp_path / "shards")
    settle(tars)
    assert len(open_dataset(tars, SIZE)) == len(open_dataset(tars, SIZE)) == 5
    assert len(scans) == 1
    shutil.copy(tars / "train-0000.tar", tars / "train-0006.tar")
    assert len(open_dataset(tars, SIZE)) == 7


def test_a_change_of_content_alone_is_no_change_of_a_folder(tmp_path, scans):
    """The index holds names: pixels and captions are read when they are needed."""
    images = write_images(tmp_path / "images")
    (images / ".pfv_index").mkdir()
    settle(images)
    open_dataset(images, SIZE)
    (images / "image0.txt").write_text("another caption")
    assert open_dataset(images, SIZE).sample(0, seeded(0, 0, "data")).caption == "another caption"
    assert len(scans) == 1


def test_identity_is_of_names_and_not_of_the_place(tmp_path):
    images = write_images(tmp_path / "images")
    moved = shutil.copytree(images, tmp_path / "moved")
    assert open_dataset(images, SIZE).identity == open_dataset(moved, SIZE).identity
    assert open_dataset(images, SIZE).identity != open_dataset(images, 2 * SIZE).identity
    (moved / "image0.jpg").rename(moved / "image00.jpg")
    (moved / "image0.txt").rename(moved / "image00.txt")
    assert open_dataset(images, SIZE).identity != open_dataset(moved, SIZE).identity


def test_a_worker_gets_names_and_reads_the_same(place):
    """However many images there are."""
    dataset = open_dataset(place, SIZE)
    carried = pickle.dumps(dataset)
    assert len(carried) < 1000
    again = pickle.loads(carried)
    for number in range(5):
        one, other = (one.sample(number, seeded(0, number, "data")) for one in (dataset, again))
        assert (one.name, one.key, one.caption) == (other.name, other.key, other.caption)
        assert torch.equal(one.image, other.image)


def test_it_holds_8_bytes_an_image_and_names_for_folders(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(500):
        for suffix in (".jpg", ".txt"):
            (images / f"{number:08d}{suffix}").touch()
    dataset = open_dataset(images, SIZE)
    with safe_open(dataset.index.file, "np") as content:
        assert content.get_slice("bounds").get_shape() == [501]
        assert content.get_slice("bounds").get_dtype() == "I64"
        assert content.get_slice("names").get_shape() == [500 * len("00000000.jpg")]
    assert dataset.index.name(499) == "00000499.jpg"
    assert len(pickle.dumps(dataset)) < 1000


def test_a_worker_whose_index_became_another_says_so(place):
    carried = pickle.dumps(open_dataset(place, SIZE))
    for file in [*place.glob("image0.*"), *place.glob("train-0000.tar")]:
        file.unlink()
    open_dataset(place, SIZE)
    with pytest.raises(DataError, match="is not the index that this run began with: the data set changed, start again"):
        pickle.loads(carried)


def test_who_has_it_open_goes_on_with_what_it_was(place):
    """Another run may write it anew at any time."""
    dataset = open_dataset(place, SIZE)
    expected = [dataset.index.bounds(number) for number in range(5)]
    file = dataset.index.file
    shutil.copy(file, file.with_name("copy"))
    file.with_name("copy").replace(file)
    assert [dataset.index.bounds(number) for number in range(5)] == expected


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_one_is_made_anew(place, damage):
    dataset = open_dataset(place, SIZE)
    content = dataset.index.file.read_bytes()
    dataset.index.file.write_bytes(content[:-9] if damage is None else damage)
    assert open_dataset(place, SIZE).identity == dataset.identity
    with pytest.raises(DataError, match="is no index of a data set"):
        Index(place / "none.safetensors")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks with threads, which these processes do not use
def test_processes_that_begin_at_once_all_have_a_whole_one(place):
    start = time.monotonic() + 0.1
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            time.sleep(max(0.0, start - time.monotonic()))
            try:
                found = [open_dataset(place, SIZE).identity for _ in range(3)]
            except BaseException:  # noqa: BLE001  (a child must not run the tests that follow)
                os._exit(2)
            os._exit(len({*found}) - 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert len(open_dataset(place, SIZE)) == 5


def test_another_folder_for_it(place, tmp_path):
    (place / ".pfv_index").rmdir()
    dataset = open_dataset(place, SIZE, tmp_path / "indices" / "deep")
    assert dataset.index.file.parent == tmp_path / "indices" / "deep"
    assert dataset.index.file.name.startswith(f"{place.name}-")
    assert not (place / ".pfv_index").exists()


def test_a_place_that_cannot_be_written_is_said(place, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"index of the data cannot be written at .*file.*another folder for it .--index"
    ):
        open_dataset(place, SIZE, tmp_path / "file")


def test_a_caption_that_went_away_is_said(tmp_path):
    images = write_images(tmp_path / "images")
    dataset = open_dataset(images, SIZE)
    (images / "image0.txt").unlink()
    with pytest.raises(DataError, match=r"image0.jpg has no caption any more"):
        dataset.sample(0, seeded(0, 0, "data"))


def test_a_shard_that_went_away_is_said(tmp_path):
    tars = write_shards(write_images(tmp_path / "images"), tmp_path / "shards")
    dataset = open_dataset(tars, SIZE)
    (tars / "train-0002.tar").unlink()
    assert dataset.sample(0, seeded(0, 0, "data")).caption == "caption 0"
    with pytest.raises(DataError, match=r"sample 2 in .*train-0002.tar cannot be read"):
        dataset.sample(2, seeded(0, 0, "data"))


def test_json_and_text_in_one_folder_keep_to_their_images(tmp_path):
    """Where there are both, the text is the caption."""
    images = write_images(tmp_path / "images", count=1)
    (images / "image0.json").write_text(json.dumps({"caption": "of the JSON"}))
    assert open_dataset(images, SIZE).sample(0, seeded(0, 0, "data")).caption == "caption 0"
