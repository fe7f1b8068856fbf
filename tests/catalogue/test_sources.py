"""Files as sources: what changes their version, and how much is read; names that differ in their accents only."""

from __future__ import annotations

import os
import unicodedata

import pytest

from headless.catalogue.sources.safe_paths import MAX_NAME_BYTES, UnsafePathError, file_in, shown, slug
from headless.catalogue.sources.source import LocalFile, SourceError, stem

NFC, NFD = unicodedata.normalize("NFC", "Tä/Müsli é.png"), unicodedata.normalize("NFD", "Tä/Müsli é.png")


def made(folder, name, content=b"x"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_a_file_is_read_as_it_is(tmp_path):
    found = LocalFile(made(tmp_path, "a.png", b"abc"), "shop/a.png")
    assert (found.name, found.read()) == ("shop/a.png", b"abc")


def test_another_length_time_or_file_is_another_version(tmp_path):
    file = made(tmp_path, "a.png", b"abc")
    found = LocalFile(file, "a.png")
    versions = [found.version(), found.version()]
    os.utime(file, ns=(1, 1))
    versions.append(found.version())
    made(tmp_path, "b.png", b"xyz")
    os.utime(tmp_path / "b.png", ns=(1, 1))
    (tmp_path / "b.png").replace(file)  # as long, as old
    versions.append(found.version())
    file.write_bytes(b"abcd")
    os.utime(file, ns=(1, 1))
    versions.append(found.version())
    assert versions[0] == versions[1]
    assert len(set(versions)) == 4


def test_a_file_as_large_as_allowed_is_read_and_a_larger_one_is_not(tmp_path):
    file = made(tmp_path, "a.png", b"12345")
    assert LocalFile(file, "a.png", max_bytes=5).read() == b"12345"
    with pytest.raises(SourceError, match=r"'a\.png' has more than 4 bytes"):
        LocalFile(file, "a.png", max_bytes=4).read()


@pytest.mark.parametrize("what", ["read", "version"])
def test_a_file_that_is_gone_is_said_by_its_name_in_the_table(tmp_path, what):
    with pytest.raises(SourceError, match=r"^'shop/a\.png' cannot be read any more: No such file or directory$"):
        getattr(LocalFile(tmp_path / "a.png", "shop/a.png"), what)()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shop/cup.png", "cup"),
        ("https://host/a/cup.v2.png?...", "cup.v2"),
        ("https://host/a/cup?...", "cup"),
        ("s3://bucket/cup.png", "cup"),
    ],
)
def test_what_a_picture_is_called(name, expected):
    assert stem(name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shop/cup.png", "shop/cup.png"),
        ("https://host/cup.png", "https://host/cup.png"),
        ("https://host/cup.png?", "https://host/cup.png?"),
        ("https://host/cup.png?sig=SECRET", "https://host/cup.png?..."),
        ("https://host/cup.png#sig=SECRET", "https://host/cup.png#..."),
        ("host/cup.png?sig=SECRET#SECRET", "host/cup.png?..."),
        ("https://bob:SECRET@host/cup.png?sig=SECRET", "https://...@host/cup.png?..."),
        ("bob:SECRET@host/cup.png", "...@host/cup.png"),
        ("https://bob:SE/C@RET@host/cup.png", "https://...@host/cup.png"),
        ("https://bob:SE?CRET@host/cup.png", "https://..."),
        ("https://bob:SE#CRET@host/cup.png", "https://..."),
        ("https://host/cup.png?mail=bob@SECRET", "https://..."),
        ("https%3A%2F%2Fbob%3ASECRET%40host%2Fcup.png%3fsig=SECRET", "...@host%2Fcup.png%..."),
        ("SECRET@x://host", "...@x://host"),
        ("", ""),
    ],
)
def test_what_may_be_a_secret_is_not_shown_wherever_it_stands(text, expected):
    assert shown(text) == expected


def test_a_file_is_told_from_others_by_its_path(tmp_path):
    keys = {LocalFile(tmp_path / name, "cup.png").key for name in ("a.png", "b.png", "b.png")}
    assert len(keys) == 2
    assert all(len(key) == 64 for key in keys)


@pytest.mark.parametrize(("table", "disk"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_a_file_is_found_however_its_accents_are_written(tmp_path, table, disk):
    file = made(tmp_path, disk)
    assert file_in(tmp_path, table) == file.resolve()


def test_folder_and_file_may_be_written_in_two_ways(tmp_path):
    file = made(tmp_path, f"{NFC.split('/')[0]}/{NFD.split('/')[1]}")
    assert file_in(tmp_path, NFC) == file.resolve()


def test_a_name_that_is_there_as_it_stands_is_taken_though_there_is_another(tmp_path):
    made(tmp_path, NFC)
    decomposed = made(tmp_path, NFD)
    assert file_in(tmp_path, NFD) == decomposed.resolve()


def test_two_files_of_which_neither_is_written_as_in_the_table_are_refused(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "éé") for form in ("NFC", "NFD"))
    made(tmp_path, f"{composed}.png")
    made(tmp_path, f"{decomposed}.png")
    half = f"{composed[0]}{decomposed[:2]}.png"
    with pytest.raises(UnsafePathError, match="is there twice, with its accents written in two ways"):
        file_in(tmp_path, half)


def test_a_link_out_of_the_folder_is_refused_under_either_form(tmp_path):
    secret = made(tmp_path, "secret.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / unicodedata.normalize("NFD", "é.png")).symlink_to(secret)
    with pytest.raises(UnsafePathError, match="leads out of"):
        file_in(tmp_path / "in", unicodedata.normalize("NFC", "é.png"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("\U0001d49c" * 60, "\U0001d49c" * 30),  # four bytes each
        ("杯" * 60, "杯" * 40),
        ("x" * 119 + "é", "x" * 119),
        ("x" * 118 + "é", "x" * 118 + "é"),
        ("x" * 118 + "q\u0323", "x" * 118),  # q with a dot below: one letter of three bytes, of which two would fit
        ("नमस्ते", "नमस्ते"),  # its vowels are marks
        ("สวัสดี", "สวัสดี"),
        ("\u0627\u200c\u0628", "\u0627\u0628"),  # an invisible joiner
        ("a" + "\u0323" * 100, "ad"),  # no letter of which it would be a beginning
    ],
)
def test_a_name_is_cut_at_120_bytes_and_between_letters(name, expected):
    assert slug(name) == unicodedata.normalize("NFC", expected)
    assert len(slug(name).encode()) <= MAX_NAME_BYTES


@pytest.mark.parametrize("name", ["CON", "nul", "Com1", "LPT9", "COM²", "aux...", "nul "])
def test_a_device_of_windows_is_no_name(name):
    assert slug(name).startswith("ad-")


@pytest.mark.parametrize("name", ["CONE", "COM", "COM10", "nul-5", "lpt"])
def test_what_only_begins_like_a_device_stays(name):
    assert slug(name) == name
