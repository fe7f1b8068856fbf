"""Which jobs were seen and which are done: a table of SQLite, so that memory stays flat however long the catalogue is."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Literal

Claim = Literal["new", "done", "repeated"]


class JobIndex:
    """Job id -> how often it was made, whether that counts, and whether it was seen; written anew by every run.

    Args:
        file: in a folder that no other process writes to; None = in memory.
    """

    def __init__(self, file: Path | None) -> None:
        if file is not None:
            for old in (file, file.with_name(f"{file.name}-journal")):
                old.unlink(missing_ok=True)
        self._guard = threading.Lock()  # commits run in threads of their own
        self._table = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        # Worth nothing after the process has ended: no journal, no flushing to disk.
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute(
            "CREATE TABLE jobs (id BLOB PRIMARY KEY, times INTEGER, done INTEGER, seen INTEGER, gone INTEGER) WITHOUT ROWID"
        )

    def claim(self, job_id: str) -> Claim:
        """What is to be done with a job: `new` or, when it is marked as done, `done`; from the second time on `repeated`."""
        times, done, seen, gone = self._state(job_id)
        if seen:
            return "repeated"
        self._write(job_id, times, done, True, gone)
        return "done" if done else "new"

    def is_done(self, job_id: str) -> bool:
        """Whether a job is marked as done."""
        return self._state(job_id)[1]

    def is_gone(self, job_id: str) -> bool:
        """Whether a picture of a job's last making is gone."""
        return self._state(job_id)[3]

    def times(self, job_id: str) -> int:
        """How often a job was made."""
        return self._state(job_id)[0]

    def mark_made(self, job_id: str, counts: bool = True, gone: bool = False) -> None:
        """Remember that a job was made once more; `counts` says whether it is done with that."""
        times, _, seen, _ = self._state(job_id)
        self._write(job_id, times + 1, counts, seen, gone)

    def close(self) -> None:
        """Let go of the file."""
        self._table.close()

    def _state(self, job_id: str) -> tuple[int, bool, bool, bool]:
        """How often made, done, seen in this run, and gone."""
        with self._guard:
            query = "SELECT times, done, seen, gone FROM jobs WHERE id = ?"
            found = self._table.execute(query, (bytes.fromhex(job_id),)).fetchone()
        return (int(found[0]), bool(found[1]), bool(found[2]), bool(found[3])) if found else (0, False, False, False)

    def _write(self, job_id: str, times: int, done: bool, seen: bool, gone: bool) -> None:
        with self._guard:
            row = (bytes.fromhex(job_id), times, int(done), int(seen), int(gone))
            self._table.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?)", row)
