"""A picture of the catalogue is decoded once, is what was hashed or an error, and is remembered from run to run."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from headless.catalogue.job import pictures
from headless.catalogue.job.pictures import Kept, PictureError, PictureIndex, open_ad, read_picture
from headless.catalogue.sources.addresses import parsed
from headless.catalogue.sources.source import LocalFile, SourceError
from headless.pictures.door import encode_png, open_picture
from pfv_mepa.tests.support import made_pictures as made

HEIGHT, WIDTH = 10, 20


@dataclass
class Memory:
    """A source that counts how often it is read."""

    name: str
    bytes: bytes
    written: str = "1"
    reads: int = field(default=0)

    @property
    def key(self) -> str:
        return self.name

    def version(self) -> str:
        return self.written

    def read(self) -> bytes:
        self.reads += 1
        return self.bytes


def colours(seed: int = 0, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels)).astype(np.uint8)


def mark() -> np.ndarray:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:8, 5:15] = 255
    values[2, 5:15] = 100
    return values


def photo(name: str = "shop/cup.png", seed: int = 0) -> Memory:
    return Memory(name, made.png(colours(seed), 8, made.COLOUR))


def mask(name: str = "shop/cup_mask.png") -> Memory:
    return Memory(name, made.png(mark(), 8, made.GREY))


@pytest.fixture
def index():
    index = PictureIndex(None)
    yield index
    index.close()


def sent(picture: pictures.Picture) -> np.ndarray:
    return open_picture(picture.content(), "sent").pixels


@pytest.mark.parametrize(("white", "alpha"), [("opaque", mark()), ("transparent", 255 - mark())])
def test_a_mask_becomes_the_alpha_of_what_is_uploaded(index, white, alpha):
    picture = read_picture(photo(), mask(), white, index)
    rgb, found = picture.pixels()
    assert np.array_equal(rgb, colours())
    assert np.array_equal(found, alpha)
    assert np.array_equal(sent(picture), np.dstack([colours(), alpha]))
    assert (picture.size, picture.name, picture.converted) == ((WIDTH, HEIGHT), "shop/cup.png", ())
    assert (picture.num_opaque, picture.num_transparent) == ((alpha == 255).sum(), (alpha == 0).sum())
    assert not picture.is_opaque


def test_a_picture_without_a_mask_keeps_its_own_alpha_and_an_opaque_one_says_so(index):
    values = colours(channels=4)
    cut_out = read_picture(Memory("a.png", made.png(values, 8, made.COLOUR_ALPHA)), None, "opaque", index)
    assert np.array_equal(sent(cut_out), values)
    assert not cut_out.is_opaque
    plain = read_picture(photo(), None, "opaque", index)
    assert plain.is_opaque
    assert plain.content()[25] == made.COLOUR  # no alpha at all: the host hands out no mask


def test_the_hash_is_of_the_pixels_that_are_uploaded(index):
    picture = read_picture(photo(), mask(), "opaque", index)
    expected = hashlib.sha256(b"20x10" + np.dstack([colours(), mark()]).tobytes()).hexdigest()
    assert picture.sha256 == expected
    assert picture.upload_name == f"{expected[:40]}.png"
    deep = Memory("deep.png", made.png(colours().astype(int) * 257, 16, made.COLOUR))
    assert read_picture(deep, mask(), "opaque", index).sha256 == expected
    others = [(photo("b.png", 1), mask(), "opaque"), (photo(), None, "opaque"), (photo(), mask(), "transparent")]
    assert expected not in {read_picture(*other, index).sha256 for other in others}


def test_what_was_converted_of_the_picture_and_of_its_mask_is_said(index):
    deep = Memory("deep.png", made.png(colours(channels=4).astype(int) * 257, 16, made.COLOUR_ALPHA))
    deep_mask = Memory("deep_mask.png", made.png(mark().astype(int) * 257, 16, made.GREY))
    assert read_picture(deep, deep_mask, "opaque", index).converted == (
        "16-bit values scaled to 8",
        "its own transparency gave way to the mask",
        "the mask: 16-bit values scaled to 8",
    )


@pytest.mark.parametrize(
    ("source", "its_mask", "message"),
    [
        (Memory("a.gif", b"GIF89a"), None, r"'a\.gif' is a GIF, expected JPEG, PNG"),
        (
            photo(),
            Memory("m.png", made.png(mark().T, 8, made.GREY)),
            r"'m\.png' is 10x20, its picture 'shop/cup\.png' 20x10",
        ),
        (photo(), Memory("m.png", made.png(mark() * 0, 8, made.GREY)), "marks 0 of 200 pixels, nothing"),
        (photo(), Memory("m.png", made.png(colours(channels=4), 8, made.COLOUR_ALPHA)), "has transparency"),
    ],
)
def test_what_cannot_be_used_is_named_and_not_remembered(index, source, its_mask, message):
    for _ in range(2):
        with pytest.raises(PictureError, match=message):
            read_picture(source, its_mask, "opaque", index)


# --- once ------------------------------------------------------------------------------------------------------------------


def test_many_jobs_decode_a_picture_once(index):
    source, its_mask = photo(), mask()
    for _ in range(5):
        picture = read_picture(source, its_mask, "opaque", index)
        picture.pixels()
        picture.content()
    assert (source.reads, its_mask.reads) == (1, 1)


def test_a_second_run_decodes_nothing_until_a_picture_is_sent(tmp_path):
    found = []
    for reads in (1, 0):
        index, source, its_mask = PictureIndex(tmp_path / "index"), photo(), mask()
        picture = read_picture(source, its_mask, "opaque", index)
        assert (source.reads, its_mask.reads) == (reads, reads)
        found.append(picture)
        index.close()
    assert found[0] == found[1]
    assert (
        (found[0].num_opaque, found[0].num_transparent) == (found[1].num_opaque, found[1].num_transparent) == (50, 140)
    )
    assert np.array_equal(sent(found[1]), np.dstack([colours(), mark()]))


@pytest.mark.parametrize("changed", ["name", "version", "mask name", "mask version", "white", "decoder"])
def test_whatever_may_change_the_pixels_is_read_anew(index, changed, monkeypatch):
    read_picture(photo(), mask(), "opaque", index)
    source, its_mask, white = photo(), mask(), "opaque"
    if changed == "name":
        source.name = "other.png"
    elif changed == "version":
        source.written = "2"
    elif changed == "mask name":
        its_mask.name = "other.png"
    elif changed == "mask version":
        its_mask.written = "2"
    elif changed == "white":
        white = "transparent"
    else:
        monkeypatch.setattr(pictures, "decoded_by", lambda: ("pillow 1000",))
    read_picture(source, its_mask, white, index)
    assert source.reads == 1


@dataclass
class OfTheWeb:
    """At an address, on a server that says of all its files that they are of one version."""

    text: str
    bytes: bytes

    @property
    def name(self) -> str:
        return parsed(self.text).name

    @property
    def key(self) -> str:
        return parsed(self.text).key

    def version(self) -> str:
        return "4711 Thu, 26 Nov 2026 02:00:00 GMT"

    def read(self) -> bytes:
        return self.bytes


@pytest.mark.parametrize("masked", [False, True])
def test_addresses_that_differ_in_their_query_alone_are_two_pictures(index, masked):
    place, found = "https://pim.example.com/media", []
    for number in (1, 2):
        values = (
            made.png(np.roll(mark(), number), 8, made.GREY) if masked else made.png(colours(number), 8, made.COLOUR)
        )
        source = OfTheWeb(f"{place}?id={number}", values)
        found.append(read_picture(photo() if masked else source, source if masked else None, "opaque", index))
    assert found[0].sha256 != found[1].sha256
    if masked:
        assert np.array_equal(sent(found[1])[..., 3], np.roll(mark(), 2))
    else:
        assert np.array_equal(sent(found[1])[..., :3], colours(2))


def test_nothing_of_an_address_can_be_read_in_the_index(tmp_path):
    index = PictureIndex(tmp_path / "index")
    read_picture(OfTheWeb("https://pim.example.com/cup.png?sig=SECRET", photo().bytes), None, "opaque", index)
    index.close()
    for text in (b"SECRET", b"pim.example.com"):
        assert text not in (tmp_path / "index").read_bytes()


def test_an_index_that_grew_too_large_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MOST_REMEMBERED", 3)
    for number, is_known in [(0, False), (1, True), (2, True), (3, True), (0, False)]:
        index, source = PictureIndex(tmp_path / "index"), photo("0.png")
        read_picture(source, None, "opaque", index)
        assert (source.reads == 0) is is_known
        read_picture(photo(f"{number}.png"), None, "opaque", index)
        index.close()


def test_a_source_of_unknown_version_is_read_every_time(index):
    source = photo()
    source.written = ""
    for reads in (1, 2):
        picture = read_picture(source, None, "opaque", index)
        assert source.reads == reads
    picture.pixels()
    assert source.reads == 2
    picture.content()
    assert source.reads == 3
    unknown_mask = mask()
    unknown_mask.written = ""
    for reads in (1, 2):
        read_picture(photo(), unknown_mask, "opaque", index)
        assert unknown_mask.reads == reads


@pytest.mark.parametrize("content", [b"", b"no table" * 1000, "cut"])
def test_a_broken_index_is_begun_anew(tmp_path, content):
    file = tmp_path / "index"
    index = PictureIndex(file)
    for number in range(200):
        read_picture(photo(f"{number}.png"), None, "opaque", index)
    index.close()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    index, source = PictureIndex(file), photo()
    read_picture(source, None, "opaque", index)
    index.close()
    index, source = PictureIndex(file), photo()
    read_picture(source, None, "opaque", index)
    assert source.reads == 0
    index.close()


# --- what was hashed, or an error -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["picture", "mask"])
def test_a_file_that_changed_after_it_was_hashed_is_not_uploaded(index, which):
    source, its_mask = photo(), mask()
    picture = read_picture(source, its_mask, "opaque", index)
    if which == "picture":
        source.bytes, source.written = photo(seed=1).bytes, "2"
    else:
        its_mask.bytes, its_mask.written = made.png(255 - mark(), 8, made.GREY), "2"
    with pytest.raises(PictureError, match=r"'shop/cup\.png' or its mask changed while the command ran: run it again"):
        picture.content()
    assert np.array_equal(picture.pixels()[0], colours())  # what was hashed is still at hand


def test_a_file_that_was_written_again_with_the_same_pixels_is_uploaded(index):
    source = photo()
    picture = read_picture(source, None, "opaque", index)
    source.bytes, source.written = made.png(colours(), 8, made.COLOUR, tEXt=b"Comment\0other bytes"), "2"
    assert np.array_equal(sent(picture)[..., :3], colours())


def test_an_index_that_is_wrong_is_found_out_before_the_upload(tmp_path):
    index = PictureIndex(tmp_path / "index")
    read_picture(photo(), None, "opaque", index)
    index.close()
    index = PictureIndex(tmp_path / "index")
    other = photo(seed=1)  # of the same name and version
    picture = read_picture(other, None, "opaque", index)
    for use in (picture.content, picture.pixels):
        with pytest.raises(PictureError, match="changed while the command ran"):
            use()
    index.close()


def test_what_was_remembered_wrongly_is_read_anew_by_the_next_run(tmp_path):
    index = PictureIndex(tmp_path / "index")
    read_picture(photo(), None, "opaque", index)
    index.close()
    index = PictureIndex(tmp_path / "index")
    with pytest.raises(PictureError, match="run it again"):
        read_picture(photo(seed=1), None, "opaque", index).content()
    index.close()
    index = PictureIndex(tmp_path / "index")
    assert np.array_equal(sent(read_picture(photo(seed=1), None, "opaque", index))[..., :3], colours(1))
    index.close()


def test_a_file_that_is_gone_is_an_error(index):
    class Gone(Memory):
        def read(self) -> bytes:
            raise SourceError("'a.png' cannot be read any more")

    source = Gone("a.png", b"")
    with pytest.raises(SourceError, match="cannot be read any more"):
        read_picture(source, None, "opaque", index)


# --- held ------------------------------------------------------------------------------------------------------------------


def test_what_is_held_has_a_bound_and_what_is_used_stays():
    kept = Kept(most=3 * 400)
    names = [f"{number:x}" * 64 for number in range(5)]
    for name in names[:3]:
        kept.put(name, np.zeros((10, 10, 4), np.uint8))
    assert kept.get(names[0]) is not None
    kept.put(names[3], np.zeros((10, 10, 4), np.uint8))
    assert [kept.get(name) is not None for name in names] == [True, False, True, True, False]
    kept.put(names[4], np.zeros((10, 31, 4), np.uint8))
    assert [kept.get(name) is not None for name in names] == [False] * 5


def test_threads_that_need_one_picture_decode_it_once(tmp_path):
    index = PictureIndex(tmp_path / "index")
    read_picture(photo(), None, "opaque", index)
    index.close()
    index, source = PictureIndex(tmp_path / "index"), photo()
    picture = read_picture(source, None, "opaque", index)
    threads = [threading.Thread(target=picture.pixels) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.reads == 1
    index.close()


def test_threads_may_read_pictures_into_one_index(tmp_path):
    index, found = PictureIndex(tmp_path / "index"), {}

    def read(number: int) -> None:
        for name in range(30):
            found[number, name] = read_picture(photo(f"{name}.png", seed=name), mask(), "opaque", index).sha256

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 180
    assert all(found[number, name] == found[0, name] for number, name in found)
    index.close()


# --- ads -------------------------------------------------------------------------------------------------------------------


def test_an_ad_is_its_kind_and_its_colours():
    kind, found = open_ad(encode_png(colours(channels=4)), "ad.png")
    assert kind == "PNG"
    assert np.array_equal(found, colours(channels=4)[..., :3])
    with pytest.raises(PictureError, match=r"ad\.png is a TIFF file, expected an ad as PNG, JPEG, WEBP"):
        open_ad(b"II*\0", "ad.png")


def test_many_servers_are_sent_what_was_encoded_once(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    Image.linear_gradient("L").convert("RGBA").save(file)
    calls = []
    encode = pictures.encode_png
    monkeypatch.setattr(pictures, "encode_png", lambda pixels: calls.append(1) or encode(pixels))
    index = PictureIndex(None)
    picture = read_picture(LocalFile(file, "a.png"), None, "opaque", index)
    with ThreadPoolExecutor(8) as pool:
        contents = set(pool.map(lambda _: picture.content(), range(32)))
    assert (len(contents), len(calls)) == (1, 1)
    assert read_picture(LocalFile(file, "a.png"), None, "opaque", index).content() in contents
    assert len(calls) == 1
