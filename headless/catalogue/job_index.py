"""Which jobs were seen and which are done: a table of SQLite, so that memory stays flat however long the catalogue is."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Literal

Claim = Literal["new", "done", "repeated"]


class JobIndex:
    """Job id -> done or not, written anew by every run.

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
        self._table.execute("CREATE TABLE jobs (id BLOB PRIMARY KEY, done INTEGER, seen INTEGER) WITHOUT ROWID")

    def claim(self, job_id: str) -> Claim:
        """What is to be done with a job: `new` or, when it is marked as done, `done`; from the second time on `repeated`."""
        done, seen = self._state(job_id)
        if seen:
            return "repeated"
        self._write(job_id, done, seen=True)
        return "done" if done else "new"

    def is_done(self, job_id: str) -> bool:
        """Whether a job is marked as done."""
        return self._state(job_id)[0]

    def mark_done(self, job_id: str) -> None:
        """Remember that a job is done."""
        _, seen = self._state(job_id)
        self._write(job_id, True, seen)

    def close(self) -> None:
        """Let go of the file."""
        self._table.close()

    def _state(self, job_id: str) -> tuple[bool, bool]:
        """Done, and seen in this run."""
        with self._guard:
            found = self._table.execute("SELECT done, seen FROM jobs WHERE id = ?", (bytes.fromhex(job_id),)).fetchone()
        return (bool(found[0]), bool(found[1])) if found else (False, False)

    def _write(self, job_id: str, done: bool, seen: bool) -> None:
        with self._guard:
            row = (bytes.fromhex(job_id), int(done), int(seen))
            self._table.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", row)
