"""A second place for what was made: whole files only, again and again the same, and errors that say why."""

from __future__ import annotations

import base64
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from headless.catalogue.kept.mirror import PROBE, Mirror, MirrorError
from headless.catalogue.sources.safe_paths import UnsafePathError

MEMORY = {"memory": "fsspec"}


@pytest.fixture
def ad(tmp_path):
    file = tmp_path / "ad.png"
    file.write_bytes(b"an ad")
    return file


@pytest.fixture
def store():
    found = fsspec.filesystem("memory")
    found.pipe_file("/bucket/there", b"")
    yield found
    found.rm("/bucket", recursive=True)


@pytest.fixture(params=["file", "memory"])
def place(request, tmp_path, store):
    """A mirror, and how to look at what it holds."""
    if request.param == "memory":
        yield (
            Mirror("memory://bucket/ads/", MEMORY),
            lambda: {name.removeprefix("/bucket/ads/"): store.cat_file(name) for name in store.find("/bucket/ads")},
        )
    else:
        folder = tmp_path / "mirror ä"
        yield (
            Mirror(f"file://{folder}/"),
            lambda: {
                path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            },
        )


def test_a_file_is_there_as_it_was_sent_however_often(place, ad):
    mirror, held = place
    for _ in range(2):
        mirror.put("ads/blue cup_ä.png", ad)
        assert held() == {"ads/blue cup_ä.png": b"an ad"}


def test_a_file_takes_the_place_of_its_older_self(place, ad):
    mirror, held = place
    mirror.put("manifest.jsonl", ad)
    ad.write_bytes(b"longer than before")
    mirror.put("manifest.jsonl", ad)
    assert held() == {"manifest.jsonl": b"longer than before"}


def test_a_place_that_can_be_written_is_left_as_it_was(place):
    mirror, held = place
    mirror.check()
    mirror.check()
    assert held() == {}


def test_many_threads_write_at_once(place, ad):
    mirror, held = place
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: mirror.put(f"ads/{number}.png", ad), range(100)))
    assert held() == {f"ads/{number}.png": b"an ad" for number in range(100)}


def test_a_place_that_cannot_be_written_is_said_before_anything_runs(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(MirrorError, match=rf"taken/{PROBE} could not be written or looked at: "):
        Mirror(f"file://{tmp_path}/taken").check()


def test_who_may_write_need_not_be_allowed_to_remove(store, monkeypatch):
    def forbidden(*_):
        raise PermissionError("DeleteObject")

    monkeypatch.setattr(MemoryFileSystem, "rm_file", forbidden)
    Mirror("memory://bucket/ads", MEMORY).check()


def test_a_file_is_not_there_under_its_name_before_it_is_whole(tmp_path, ad, monkeypatch):
    seen = []
    put = LocalFileSystem.put_file

    def watched(self, source, target, **options):
        put(self, source, target, **options)
        seen.append(sorted(os.listdir(tmp_path / "mirror")))  # noqa: PTH208

    monkeypatch.setattr(LocalFileSystem, "put_file", watched)
    Mirror(f"file://{tmp_path}/mirror").put("ad.png", ad)
    ((name,),) = seen
    assert name.startswith(".")
    assert name.endswith(".part")


def test_what_arrives_short_is_an_error_and_leaves_nothing(tmp_path, ad, monkeypatch):
    mirror = Mirror(f"file://{tmp_path}/mirror")
    mirror.put("ad.png", ad)
    monkeypatch.setattr(LocalFileSystem, "put_file", lambda self, source, target, **_: self.pipe_file(target, b"an"))
    with pytest.raises(MirrorError, match="has 2 bytes there, 5 were sent: put it there again"):
        mirror.put("ad.png", ad)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "mirror").iterdir()] == [("ad.png", b"an ad")]


def test_what_arrives_short_in_a_bucket_is_an_error(store, ad, monkeypatch):
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda self, source, target, **_: self.pipe_file(target, b"an"))
    with pytest.raises(MirrorError, match=r"'memory://bucket/ads/ad\.png' has 2 bytes there, 5 were sent"):
        Mirror("memory://bucket/ads", MEMORY).put("ad.png", ad)


def google(content):
    return {"md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode()}


def azure(content):
    return {"content_settings": {"content_md5": bytearray(hashlib.md5(content).digest())}}


@pytest.mark.parametrize("said", [google, azure])
@pytest.mark.parametrize(("content", "is_right"), [(b"an ad", True), (b"an AD", False)])
def test_a_checksum_that_a_store_gives_is_compared(store, ad, monkeypatch, said, content, is_right):
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: {"size": 5, **said(content)})
    mirror = Mirror("memory://bucket/ads", MEMORY)
    if is_right:
        mirror.put("ad.png", ad)
    else:
        with pytest.raises(MirrorError, match=r"ad\.png' has another MD5 there than .*ad\.png: put it there again"):
            mirror.put("ad.png", ad)


@pytest.mark.parametrize(
    "said", [{"ETag": '"0123456789abcdef0123456789abcdef"'}, {"content_settings": {"content_md5": None}}]
)
def test_what_is_no_checksum_is_not_taken_for_one(store, ad, monkeypatch, said):
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: {"size": 5, **said})
    Mirror("memory://bucket/ads", MEMORY).put("ad.png", ad)


@pytest.mark.parametrize("name", ["../ad.png", "/ad.png", "a\\b.png", ""])
def test_a_name_leads_nowhere_else(place, ad, name):
    mirror, held = place
    with pytest.raises(UnsafePathError):
        mirror.put(name, ad)
    assert held() == {}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "/mnt/ads",
            r"'/mnt/ads': expected a place such as s3://bucket/prefix; known are s3://, gs://, az://, file://",
        ),
        ("https://host/ads", "'https://host/ads': expected a place such as"),
        ("file://ads", r"expected the whole path of a folder, as in file:///mnt/ads"),
        ("s3://", "names no host or bucket"),
        ("s3://bucket/../x", "must not contain"),
        ("az://container/ads?sig=secret", "expected a place without"),
        ("s3://key:secret@bucket", "must not hold a user or a password"),
        ("sftp://bob:secret@host/ads", r"'sftp://\.\.\.@host/ads': expected a place such as"),
        ("bob:secret@host/ads", r"'\.\.\.@host/ads': expected a place such as"),
        ("s3://bob:se#secret@bucket/ads", r"'s3://\.\.\.': expected a place without"),
        ("file://bob:secret@host/ads", r"'file://\.\.\.@host/ads': expected the whole path"),
    ],
)
def test_what_is_no_place_is_refused(url, message):
    with pytest.raises(MirrorError, match=message) as refused:
        Mirror(url)
    assert "secret" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch):
    def missing(scheme, **_):
        raise ImportError

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MirrorError, match=r"^s3:// needs the package s3fs: pip install s3fs$"):
        Mirror("s3://bucket/ads")


def test_a_store_that_fails_is_said_without_secrets(store, ad, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("503 at https://x/y?sig=secret")

    monkeypatch.setattr(MemoryFileSystem, "put_file", fails)
    monkeypatch.setattr(MemoryFileSystem, "info", fails)
    mirror = Mirror("memory://bucket/ads", MEMORY)
    with pytest.raises(MirrorError) as refused:
        mirror.put("ad.png", ad)
    assert str(refused.value) == (
        "memory://bucket/ads/ad.png could not be written or looked at: RuntimeError 503 at https://x/y?..."
    )


def test_a_file_that_is_gone_here_is_an_error(place, tmp_path):
    mirror, held = place
    with pytest.raises(MirrorError, match="FileNotFoundError"):
        mirror.put("ad.png", tmp_path / "gone.png")
    assert held() == {}
