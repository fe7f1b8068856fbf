"""The ledger after a kill at every place where one can fall, and what it refuses."""

from __future__ import annotations

import errno
import json

import pytest

from headless.catalogue.job.jobs import IDENTITY
from headless.catalogue.kept.ledger import DryLedger, Ledger, LedgerError
from headless.server.errors import CannotWriteError

ONE, OTHER = "1" * 64, "2" * 64


def line(job_id, *names, passed=True):
    checks = {"product": {"passed": passed}}
    return {"job": job_id, "identity": IDENTITY, "files": [{"file": f"ads/{name}", "checks": checks} for name in names]}


def make(ledger, job_id, *names, passed=True):
    for name in names:
        ledger.partial(name).write_bytes(name.encode())
    ledger.commit(line(job_id, *names, passed=passed), list(names))


def test_a_committed_job_is_done_in_every_later_run(tmp_path):
    with Ledger(tmp_path) as ledger:
        assert ledger.claim(ONE) == "new"
        assert ledger.claim(ONE) == "repeated"
        make(ledger, ONE, "a.png", "a_2.png")
        assert ledger.claim(ONE) == "repeated"
    with Ledger(tmp_path) as ledger:
        assert ledger.claim(ONE) == "done"
        assert ledger.claim(ONE) == "repeated"
        assert ledger.claim(OTHER) == "new"
        assert (ledger.num_done, ledger.is_gone(ONE), ledger.num_recovered) == (1, False, 0)
    assert sorted(file.name for file in (tmp_path / "ads").iterdir()) == ["a.png", "a_2.png"]
    assert DryLedger(tmp_path).claim(ONE) == "done"


def test_a_job_is_committed_once(tmp_path):
    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png")
        with pytest.raises(LedgerError, match="is in the ledger already"):
            make(ledger, ONE, "b.png")
    assert (tmp_path / "manifest.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("torn", [b'{"job": "22', b"{", b"\0\0\0\0", b'{"job": "2222", "files": []}'])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png")
    manifest = tmp_path / "manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + torn)
    assert DryLedger(tmp_path).claim(OTHER) == "new"
    with Ledger(tmp_path) as ledger:
        assert ledger.claim(OTHER) == "new"
        make(ledger, OTHER, "b.png")
    lines = [json.loads(text) for text in manifest.read_text().splitlines()]
    assert [found["job"] for found in lines] == [ONE, OTHER]


def test_a_whole_last_line_without_its_newline_counts(tmp_path):
    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png")
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes().rstrip(b"\n"))
    with Ledger(tmp_path) as ledger:
        assert ledger.claim(ONE) == "done"
        make(ledger, OTHER, "b.png")
    assert len([json.loads(text) for text in manifest.read_text().splitlines()]) == 2


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png")
        make(ledger, OTHER, "b.png")
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_bytes(b"x" + manifest.read_bytes())
    with pytest.raises(LedgerError, match=r"manifest\.jsonl, line 1 is no line of a manifest"):
        Ledger(tmp_path)


def test_killed_between_the_line_and_the_picture(tmp_path, monkeypatch):
    """The line is the commitment: the next run puts the picture in its place."""

    class KilledError(BaseException):
        pass

    def kill(*arguments):
        raise KilledError

    with Ledger(tmp_path) as ledger, monkeypatch.context() as patched:
        patched.setattr("os.link", kill)
        with pytest.raises(KilledError):
            make(ledger, ONE, "a.png")
    assert not list((tmp_path / "ads").iterdir())
    with Ledger(tmp_path) as ledger:
        assert ledger.claim(ONE) == "done"
        assert ledger.num_recovered == 1
    assert (tmp_path / "ads" / "a.png").read_bytes() == b"a.png"


def test_killed_before_the_line(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.partial("a.png").write_bytes(b"half")
    with Ledger(tmp_path) as ledger:
        assert ledger.claim(ONE) == "new"
        assert not ledger.partial("a.png").exists()


def test_what_was_sent_and_has_not_ended_is_known_to_the_next_run(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.sent(ONE, "http://a", "p1")
        ledger.sent(OTHER, "http://b", "p2")
        ledger.sent(OTHER, "http://a", "p3")
    with Ledger(tmp_path) as ledger:
        assert ledger.under_way(ONE) == ("http://a", "p1")
        assert ledger.under_way(OTHER) == ("http://a", "p3")
        ledger.ended(ONE)
        make(ledger, OTHER, "b.png")
    with (tmp_path / ".catalogue" / "sent.jsonl").open("ab") as torn:
        torn.write(b'["11')
    with Ledger(tmp_path) as ledger:
        assert ledger.under_way(ONE) is None
        assert ledger.under_way(OTHER) is None


def test_a_picture_that_lies_there_is_never_overwritten(tmp_path):
    with Ledger(tmp_path) as ledger:
        (tmp_path / "ads" / "a.png").write_bytes(b"mine")
        with pytest.raises(LedgerError, match=r"a\.png exists, but is not in manifest\.jsonl: move it away"):
            make(ledger, ONE, "a.png")
        assert ledger.claim(ONE) == "new"
    assert (tmp_path / "ads" / "a.png").read_bytes() == b"mine"
    assert not (tmp_path / "manifest.jsonl").read_bytes()


def test_without_hard_links_a_picture_is_moved(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise PermissionError("no hard links here")

    monkeypatch.setattr("os.link", unsupported)
    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png")
        assert not ledger.partial("a.png").exists()
    assert (tmp_path / "ads" / "a.png").read_bytes() == b"a.png"


def test_one_run_at_a_time(tmp_path):
    with Ledger(tmp_path), pytest.raises(LedgerError, match="another run is writing to"):
        Ledger(tmp_path)
    with Ledger(tmp_path):
        pass


def test_pictures_that_are_gone_are_counted_and_not_made_again(tmp_path):
    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png")
    (tmp_path / "ads" / "a.png").unlink()
    with Ledger(tmp_path) as ledger:
        assert ledger.claim(ONE) == "done"
        assert ledger.is_gone(ONE)


@pytest.mark.parametrize("redo", ["missing", "failed"])
def test_what_is_to_be_done_again_is_new_and_counted(tmp_path, redo):
    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png", passed=redo != "failed")
        make(ledger, OTHER, "b.png")
    if redo == "missing":
        (tmp_path / "ads" / "a.png").unlink()
    assert DryLedger(tmp_path).claim(ONE) == "done"
    assert DryLedger(tmp_path, frozenset([redo])).claim(ONE) == "new"
    with Ledger(tmp_path, frozenset([redo])) as ledger:
        assert (ledger.claim(ONE), ledger.claim(OTHER)) == ("new", "done")
        assert ledger.times(ONE) == 1
        make(ledger, ONE, "a_r2.png")
    with Ledger(tmp_path, frozenset([redo])) as ledger:  # the last line of a job counts
        assert (ledger.claim(ONE), ledger.times(ONE)) == ("done", 2)


def test_a_lost_manifest_is_said_before_anything_is_made_again(tmp_path):
    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png")
    (tmp_path / "manifest.jsonl").unlink()
    for look in (Ledger, DryLedger):
        with pytest.raises(LedgerError, match=r"holds 1 pictures, and .*manifest\.jsonl is gone: put it back"):
            look(tmp_path)
    (tmp_path / "manifest.jsonl").write_bytes(b"")
    with pytest.raises(LedgerError, match=r"manifest\.jsonl is empty"):
        Ledger(tmp_path)


def test_a_folder_of_an_earlier_version_is_made_again_only_where_somebody_says_so(tmp_path):
    earlier = {"job": ONE, "files": [], "checks": {"product": {"passed": False}, "size_2": {"passed": True}}}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(earlier) + "\n")
    for look in (Ledger, DryLedger):
        with pytest.raises(LedgerError, match=r"all 1 lines of .* are an earlier version's.*--redo earlier"):
            look(tmp_path)
    assert DryLedger(tmp_path, frozenset(["failed", "earlier"])).claim(ONE) == "new"
    with Ledger(tmp_path, frozenset(["earlier"])) as ledger:
        assert (ledger.num_earlier, ledger.claim(OTHER)) == (1, "new")
        make(ledger, OTHER, "b.png")
    with Ledger(tmp_path) as ledger:  # from then on it is as any other
        assert (ledger.num_earlier, ledger.num_done) == (1, 2)


def test_a_picture_of_another_length_is_gone(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.partial("a.png").write_bytes(b"abc")
        ledger.commit({**line(ONE), "files": [{"file": "ads/a.png", "bytes": 3}]}, ["a.png"])
    (tmp_path / "ads" / "a.png").write_bytes(b"")
    assert DryLedger(tmp_path).is_gone(ONE)
    with Ledger(tmp_path, frozenset(["missing"])) as ledger:
        assert (ledger.is_gone(ONE), ledger.claim(ONE)) == (True, "new")
        ledger.partial("a_r2.png").write_bytes(b"abc")
        ledger.commit({**line(ONE), "files": [{"file": "ads/a_r2.png", "bytes": 3}]}, ["a_r2.png"])
    with Ledger(tmp_path) as ledger:
        assert not ledger.is_gone(ONE)


def test_a_lock_that_is_none_is_named(tmp_path):
    with Ledger(tmp_path):
        pass
    (tmp_path / ".catalogue" / "lock.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(LedgerError, match=r"lock\.sqlite is no lock of this command .*: remove it"):
        Ledger(tmp_path)


def test_a_full_disk_ends_the_run_and_tears_nothing_that_a_later_line_follows(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Ledger(tmp_path) as ledger:
        make(ledger, ONE, "a.png")
        with monkeypatch.context() as patched:
            patched.setattr("headless.catalogue.kept.ledger._append", full)
            with pytest.raises(CannotWriteError, match="No space left on device"):
                make(ledger, OTHER, "b.png")
        with pytest.raises(CannotWriteError, match="an earlier line could not be written"):
            make(ledger, OTHER, "b.png")
    with Ledger(tmp_path) as ledger:
        assert (ledger.claim(ONE), ledger.claim(OTHER)) == ("done", "new")


def test_a_lone_surrogate_can_be_written_and_read(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.failed({"line": 2, "reason": "a\udc80b"})
        ledger.commit({**line(ONE), "name": "\udfff"}, [])
    assert json.loads((tmp_path / "failures.jsonl").read_text())["reason"] == "a\udc80b"
    with Ledger(tmp_path) as ledger:
        assert [found["name"] for found in ledger.lines()] == ["\udfff"]


def test_what_was_copied_where_is_known_to_the_next_run(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.note_copied("s3://bucket/one", "a.png")
        ledger.note_copied("s3://bucket/two", "b.png")
    copied = tmp_path / ".catalogue" / "copied.txt"
    assert "bucket" not in copied.read_text()
    with copied.open("a") as torn:
        torn.write(copied.read_text()[:-3])
    with Ledger(tmp_path) as ledger:
        assert ledger.copied("s3://bucket/one") == {"a.png"}
        assert ledger.copied("s3://bucket/two") == {"b.png"}
        assert ledger.copied("s3://bucket/three") == set()


def test_a_copy_of_an_earlier_version_which_named_no_place_counts_for_none(tmp_path):
    with Ledger(tmp_path):
        pass
    (tmp_path / ".catalogue" / "copied.txt").write_text("a.png\n")
    with Ledger(tmp_path) as ledger:
        assert ledger.copied("s3://bucket/one") == set()


@pytest.mark.parametrize("name", ["ads", ".catalogue", ".catalogue/partial", "manifest.jsonl", "failures.jsonl"])
def test_a_link_in_the_output_folder_is_refused(tmp_path, name):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    (out / ".catalogue").mkdir(parents=True)
    link = out / name
    if name == ".catalogue":
        link.rmdir()
    link.symlink_to(elsewhere if "jsonl" not in name else elsewhere / "file")
    with pytest.raises(LedgerError, match="is a link"):
        Ledger(out)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "sub/a.png", "a\\b.png"])
def test_a_manifest_that_names_another_folder_is_refused(tmp_path, name):
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line(ONE, name)) + "\n")
    with pytest.raises(LedgerError, match="line 1"):
        Ledger(tmp_path)


def test_the_failures_are_those_of_the_last_run(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.failed({"line": 2, "reason": "ä"})
    with Ledger(tmp_path) as ledger:
        ledger.failed({"line": 3, "reason": "b"})
    assert json.loads((tmp_path / "failures.jsonl").read_text(encoding="utf-8")) == {"line": 3, "reason": "b"}


def test_a_dry_look_leaves_no_trace(tmp_path):
    out = tmp_path / "out"
    assert DryLedger(out).claim(ONE) == "new"
    assert not out.exists()
