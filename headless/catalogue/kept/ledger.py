"""What is done. One process at a time writes it; it survives a kill at any moment.

    OUT/manifest.jsonl     one line for each finished job, never changed again: the ledger
    OUT/failures.jsonl     rows and jobs that failed in the last run
    OUT/ads/               the pictures, under names that are never reused
    OUT/workflows/         the workflows that made them
    OUT/.catalogue/        the lock, pictures that are not yet in the ledger, what was sent where, what was copied where

A picture is first written below .catalogue, then the line is added and flushed to disk, then the picture moves to its
place. A line is the commitment: what a kill leaves between the two last steps is finished by the next run.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, BinaryIO, Literal

from ...server.errors import CannotWriteError
from ..job.jobs import IDENTITY
from ..sources.safe_paths import UnsafePathError, check_relative
from ..sources.source import key_of
from .job_index import Claim, JobIndex
from .lines import passed

MANIFEST, FAILURES, ADS, WORKFLOWS, STATE = "manifest.jsonl", "failures.jsonl", "ads", "workflows", ".catalogue"
Redo = Literal["missing", "failed", "earlier"]


class LedgerError(RuntimeError):
    """The output folder cannot be used; the message says why and what to do."""


class Ledger:
    """The output folder of one run, as a context manager.

    Args:
        out: made where absent.
        redo: which finished jobs do not count: those of which a picture is missing, those that failed a check, those of an
            earlier version, which cannot be recognised.

    Attributes:
        num_done: lines of the ledger.
        num_recovered: pictures of an interrupted run that were put in their place.
        num_earlier: lines of an earlier version, whose jobs are known by something else: what they made is not recognised.

    Raises:
        LedgerError: another run works in it, its ledger is damaged in the middle, there are pictures without a ledger, or all
            of it is an earlier version's and nobody said that it is to be made again.
    """

    def __init__(self, out: Path, redo: frozenset[Redo] = frozenset()) -> None:
        self.out = out
        self.num_done = self.num_recovered = self.num_earlier = 0
        self._redo = redo
        self._writing = Lock()
        self._is_broken = False
        state = out / STATE
        for folder in (out, out / ADS, out / WORKFLOWS, state, state / "partial"):
            _make_own_folder(folder)
        for file in (
            out / MANIFEST,
            out / FAILURES,
            state / "sent.jsonl",
            state / "copied.txt",
            state / "lock.sqlite",
            state / "index.sqlite",
            state / "pictures.sqlite",
        ):
            if file.is_symlink():
                raise LedgerError(f"{file} is a link: this command writes to files of its own only")
        self._partial = state / "partial"
        with ExitStack() as stack:  # whatever is open when something is wrong is closed again
            stack.enter_context(closing(_locked(state / "lock.sqlite", out)))
            _check_not_lost(out)
            self._index = stack.enter_context(closing(JobIndex(state / "index.sqlite")))
            self._under_way = _open_entries(state / "sent.jsonl")
            self._manifest = stack.enter_context((out / MANIFEST).open("a+b"))
            self._read_manifest(out / MANIFEST)
            _check_kind(out, self.num_done, self.num_earlier, redo)
            self._sent = stack.enter_context(_rewritten(state / "sent.jsonl", self._under_way))
            self._copied = stack.enter_context((state / "copied.txt").open("a+b"))
            self._failures = stack.enter_context((out / FAILURES).open("wb"))
            self._opened = stack.pop_all()
        for left in self._partial.iterdir():
            left.unlink()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def claim(self, job_id: str) -> Claim:
        """What is to be done with a job: `new`, or `done` when the ledger has it; from the second time on `repeated`."""
        return self._index.claim(job_id)

    def under_way(self, job_id: str) -> tuple[str, str] | None:
        """Server and prompt id of a job that an earlier run had sent and not finished."""
        return self._under_way.get(job_id)

    def is_gone(self, job_id: str) -> bool:
        """Whether a picture of a job's last making is gone."""
        return self._index.is_gone(job_id)

    def times(self, job_id: str) -> int:
        """How often the ledger has a job."""
        return self._index.times(job_id)

    @property
    def picture_index(self) -> Path:
        """Where it is remembered which pictures were read."""
        return self.out / STATE / "pictures.sqlite"

    def put_workflow(self, name: str, text: str) -> None:
        """Leave a workflow beside the manifest, unless it is there."""
        file = self.out / name
        if not file.is_file():
            fresh = self._partial / file.name
            fresh.write_bytes(text.encode())
            fresh.replace(file)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line of the manifest as it is at this moment."""
        with (self.out / MANIFEST).open("rb") as manifest:
            for _, line, _, _ in _manifest_lines(manifest, self.out / MANIFEST):
                yield line

    def copied(self, place: str) -> set[str]:
        """Names of the pictures that were copied to a place; a line of an earlier version, which names none, counts for none."""
        beginning = f"{key_of(place)} ".encode()
        self._copied.seek(0)
        whole = (raw for raw in self._copied if raw.startswith(beginning) and raw.endswith(b"\n"))
        return {raw[len(beginning) : -1].decode() for raw in whole}

    def note_copied(self, place: str, name: str) -> None:
        """Remember that a picture was copied to a place, of which nothing can be read there."""
        with self._writing:
            self._copied.write(f"{key_of(place)} {name}\n".encode())
            self._copied.flush()

    def sent(self, job_id: str, server: str, prompt_id: str) -> None:
        """Note that a job is about to be posted: a later run will look for it there before it posts it anew."""
        self._note([job_id, server, prompt_id])

    def ended(self, job_id: str) -> None:
        """Note that nothing of a job is under way any more."""
        self._under_way.pop(job_id, None)
        self._note([job_id])

    def partial(self, name: str) -> Path:
        """Where a picture called `name` is written before it is in the ledger."""
        return self._partial / name

    def is_free(self, name: str) -> bool:
        """Whether no picture of that name lies in the folder of pictures."""
        return not os.path.lexists(self.out / ADS / name)

    def commit(self, line: Mapping[str, Any], names: list[str]) -> None:
        """Add a finished job: its line, then its pictures.

        Args:
            line: with `job`, its id, and `files`.
            names: of its pictures, each written at `partial(name)`.

        Raises:
            LedgerError: the job is in the ledger, or a picture of that name lies there already.
            CannotWriteError: the disk does not take it; from then on nothing is added.
        """
        job_id = line["job"]
        if self._index.is_done(job_id):
            raise LedgerError(f"job {job_id} is in the ledger already")
        for name in names:
            if not self.is_free(name):
                raise LedgerError(
                    f"{self.out / ADS / name} exists, but is not in {MANIFEST}: move it away and run this again"
                )
        try:
            for name in names:
                _flush_to_disk(self.partial(name))
            _flush_to_disk(self._partial)
            self._add(line)
            self._index.mark_made(job_id)
            for name in names:
                self._publish(name)
            self.ended(job_id)
        except (OSError, sqlite3.Error) as error:
            self._is_broken = True
            raise CannotWriteError(f"{self.out}: {error}") from error

    def failed(self, line: Mapping[str, Any]) -> None:
        """Add a row or a job to the failures of this run."""
        _append(self._failures, line)

    def _add(self, line: Mapping[str, Any]) -> None:
        """One line at a time, and none after one that was torn: it would be damage in the middle."""
        with self._writing:
            if self._is_broken:
                raise CannotWriteError(f"{self.out}: an earlier line could not be written")
            _append(self._manifest, line)
            os.fsync(self._manifest.fileno())
            self.num_done += 1

    def _note(self, entry: list[str]) -> None:
        self._sent.write(json.dumps(entry).encode() + b"\n")
        self._sent.flush()

    def _publish(self, name: str) -> None:
        """Move a picture to its place, never over another one."""
        partial, place = self.partial(name), self.out / ADS / name
        try:
            os.link(partial, place)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links; the lock keeps other runs away
            if not self.is_free(name):
                raise
            partial.rename(place)
        else:
            partial.unlink()

    def _read_manifest(self, file: Path) -> None:
        """Index every line and cut off a torn last one; after that, lines are added at the end."""
        end, is_whole = 0, True
        for number, line, line_end, has_newline in _manifest_lines(self._manifest, file):
            end, is_whole = line_end, has_newline
            self.num_done += 1
            if self._under_way.get(line["job"], ("", ""))[1] == line.get("prompt_id"):
                del self._under_way[line["job"]]  # it ended; a kill kept that from being noted
            self.num_earlier += line.get("identity") != IDENTITY
            is_gone = self._finish_publishing(file, number, line) > 0
            self._index.mark_made(line["job"], _counts(line, is_gone, self._redo), is_gone)
        self._manifest.truncate(end)
        if not is_whole:
            self._manifest.write(b"\n")
            self._manifest.flush()

    def _finish_publishing(self, manifest: Path, number: int, line: Mapping[str, Any]) -> int:
        """Put pictures in their place that a kill left beside it; returns how many are gone."""
        num_missing = 0
        for entry in line["files"]:
            name = str(entry["file"]).removeprefix(f"{ADS}/")
            try:
                check_relative(name)
            except UnsafePathError as error:
                raise LedgerError(f"{manifest}, line {number}: {error}") from error
            if "/" in name:
                raise LedgerError(f"{manifest}, line {number}: {name!r} is not in {ADS}/")
            if self.is_free(name) and self.partial(name).is_file():
                self._publish(name)
                self.num_recovered += 1
            elif not is_whole(self.out / ADS / name, entry):
                num_missing += 1
        return num_missing


class DryLedger:
    """What a run would skip, read without touching the output folder.

    Args:
        out: may be absent.
        redo: as `Ledger`'s.

    Raises:
        LedgerError: its ledger is damaged in the middle, or there are pictures without a ledger.
    """

    def __init__(self, out: Path, redo: frozenset[Redo] = frozenset()) -> None:
        self._index = JobIndex(None)
        _check_not_lost(out)
        num_done = num_earlier = 0
        file = out / MANIFEST
        if file.is_file():
            with file.open("rb") as manifest:
                for _, line, _, _ in _manifest_lines(manifest, file):
                    num_done, num_earlier = num_done + 1, num_earlier + (line.get("identity") != IDENTITY)
                    is_gone = not all(_is_there(out, entry) for entry in line["files"])
                    self._index.mark_made(line["job"], _counts(line, is_gone, redo), is_gone)
        _check_kind(out, num_done, num_earlier, redo)

    def claim(self, job_id: str) -> Claim:
        """As `Ledger.claim`."""
        return self._index.claim(job_id)

    def is_gone(self, job_id: str) -> bool:
        """As `Ledger.is_gone`."""
        return self._index.is_gone(job_id)

    def under_way(self, job_id: str) -> None:
        """Nothing: a dry run takes nothing up."""

    def failed(self, line: Mapping[str, Any]) -> None:
        """Nothing: a dry run writes no failures."""


def is_whole(file: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a picture is there, as long as the manifest says."""
    try:
        length = file.stat().st_size
    except OSError:
        return False
    return length == entry.get("bytes", length)


def _is_there(out: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a picture is in its place, or beside it, from where a run puts it there."""
    name = str(entry["file"])
    return is_whole(out / name, entry) or is_whole(out / STATE / "partial" / name.removeprefix(f"{ADS}/"), entry)


def _counts(line: Mapping[str, Any], is_gone: bool, redo: frozenset[Redo]) -> bool:
    """Whether a job is done with a line of the manifest."""
    return not ("missing" in redo and is_gone) and not ("failed" in redo and not passed(line))


def _check_kind(out: Path, num_done: int, num_earlier: int, redo: frozenset[Redo]) -> None:
    """A folder of an earlier version is made again as a whole, so somebody must want that. Afterwards it is as any other."""
    if num_earlier and num_earlier == num_done and "earlier" not in redo:
        raise LedgerError(
            f"all {num_earlier} lines of {out / MANIFEST} are an earlier version's, which knew a job by other things: what they "
            "made is not recognised. Choose another --out, or say --redo earlier to make all of it again, beside it"
        )


def _check_not_lost(out: Path) -> None:
    """Everything would be made again, and nobody would know of what is there."""
    manifest, ads = out / MANIFEST, out / ADS
    if (manifest.is_file() and manifest.stat().st_size) or not ads.is_dir():
        return
    if number := sum(1 for _ in ads.iterdir()):
        raise LedgerError(
            f"{ads} holds {number} pictures, and {manifest} is {'empty' if manifest.is_file() else 'gone'}: put it back, "
            "or choose another --out; nothing was made"
        )


def _make_own_folder(folder: Path) -> None:
    if folder.is_symlink() and folder.name in (ADS, WORKFLOWS, STATE, "partial"):
        raise LedgerError(f"{folder} is a link: this command writes to folders of its own only")
    folder.mkdir(parents=True, exist_ok=True)


def _locked(file: Path, out: Path) -> sqlite3.Connection:
    """A lock that the system takes back when the process ends in whatever way."""
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise CannotWriteError(f"{file}: {error}") from error
        raise LedgerError(f"another run is writing to {out}: wait for it, or choose another --out ({error})") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{file} is no lock of this command ({error}): remove it") from error
    return connection


def _open_entries(file: Path) -> dict[str, tuple[str, str]]:
    """Jobs that were sent and did not end."""
    entries: dict[str, tuple[str, str]] = {}
    if not file.is_file():
        return entries
    with file.open("rb") as content:
        for raw in content:
            match _json(raw):
                case [str(job_id), str(server), str(prompt_id)]:
                    entries[job_id] = (server, prompt_id)
                case [str(job_id)]:
                    entries.pop(job_id, None)
    return entries  # a torn last line matches neither: its job was not posted yet, or had ended


def _rewritten(file: Path, entries: Mapping[str, tuple[str, str]]) -> BinaryIO:
    fresh = file.with_name(f"{file.name}.new")
    with fresh.open("wb") as content:
        for job_id, (server, prompt_id) in entries.items():
            content.write(json.dumps([job_id, server, prompt_id]).encode() + b"\n")
    _flush_to_disk(fresh)
    fresh.replace(file)
    return file.open("ab")


def _manifest_lines(manifest: BinaryIO, file: Path) -> Iterator[tuple[int, dict[str, Any], int, bool]]:
    """Number, content, end in bytes, and whether the newline is there, of each line; a torn last line is left out."""
    manifest.seek(0)
    number = end = 0
    while raw := manifest.readline():
        number += 1
        line = _parsed(raw)
        if line is None and manifest.read(1):
            raise LedgerError(f"{file}, line {number} is no line of a manifest: repair it, or choose another --out")
        if line is None:
            return  # torn by a kill: the job was not committed
        end += len(raw)
        yield number, line, end, raw.endswith(b"\n")


def _parsed(raw: bytes) -> dict[str, Any] | None:
    line = _json(raw)
    if not isinstance(line, dict) or not isinstance(line.get("files"), list):
        return None
    try:
        return line if len(bytes.fromhex(line.get("job", ""))) == 32 else None
    except (TypeError, ValueError):
        return None


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _append(file: BinaryIO, line: Mapping[str, Any]) -> None:
    # A lone surrogate, which some file system or node may have handed out, is written as JSON's escape of it.
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")
    file.flush()


def _flush_to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # a folder has no handle there that could be flushed
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
