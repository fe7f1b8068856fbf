"""A whole run: rows in, lanes at work, ledger out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import passed
from .delivery import settings_of
from .job_queue import JobQueue, Ticket
from .jobs import Job, JobMaker, RowError
from .lane import Lane, Watcher
from .ledger import DryLedger, Ledger
from .rows import BadRow, read_rows
from .server import Server

WAITING_PER_SERVER = 4  # jobs read ahead: enough that none waits for the disk, few enough that memory stays flat
LOOK_EVERY = 0.5


class NoServerError(RuntimeError):
    """No server answered for too long; what is done is in the ledger, another run goes on."""


@dataclass
class Tally:
    """What a run did.

    Attributes:
        rows: read, bad ones too.
        bad_rows: reported.
        made: jobs added to the ledger by this run.
        earlier: jobs of this catalogue that were in the ledger.
        repeated: jobs that the catalogue has more than once.
        failed: jobs given up.
        product_checked: ads whose product was compared with its photo.
        not_as_asked: ads that failed a check.
        by_server: server -> jobs that it made.
    """

    rows: int = 0
    bad_rows: int = 0
    made: int = 0
    earlier: int = 0
    repeated: int = 0
    failed: int = 0
    product_checked: int = 0
    not_as_asked: int = 0
    by_server: dict[str, int] = field(default_factory=dict)

    @property
    def all_well(self) -> bool:
        """Whether every row became all of its ads, as asked."""
        return not (self.bad_rows or self.failed or self.not_as_asked)


class Reporter(Watcher):
    """Hears what a run does; every method may be left as it is."""

    def bad_row(self, row: BadRow) -> None:
        """A row makes no job."""

    def skipped(self, job: Job) -> None:
        """A job is in the ledger, or stands in the catalogue twice."""

    def progress(self, server: str, done: int, total: int) -> None:
        """A server samples."""


class Counting(Reporter):
    """Counts for the tally, and hands on.

    Args:
        reporter: told the same.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.tally = Tally()
        self._next = reporter

    def bad_row(self, row: BadRow) -> None:
        """Count and hand on."""
        self.tally.bad_rows += 1
        self._next.bad_row(row)

    def skipped(self, job: Job) -> None:
        """Hand on; the row reader counts."""
        self._next.skipped(job)

    def progress(self, server: str, done: int, total: int) -> None:
        """Hand on."""
        self._next.progress(server, done, total)

    def taken(self, server: str, ticket: Ticket) -> None:
        """Hand on."""
        self._next.taken(server, ticket)

    def says(self, server: str, message: str) -> None:
        """Hand on."""
        self._next.says(server, message)

    def made(self, server: str, line: dict[str, Any]) -> None:
        """Count and hand on."""
        self.tally.made += 1
        self.tally.by_server[server] = self.tally.by_server.get(server, 0) + 1
        self.tally.product_checked += any(kind.startswith("product") for kind in line["checks"])
        self.tally.not_as_asked += not passed(line["checks"])
        self._next.made(server, line)

    def gave_up(self, ticket: Ticket, reason: str) -> None:
        """Count and hand on."""
        self.tally.failed += 1
        self._next.gave_up(ticket, reason)


def tickets(catalogue: Path, maker: JobMaker, ledger: Ledger | DryLedger, counting: Counting) -> Iterator[Ticket]:
    """What is left to do of a catalogue, one job at a time; bad rows are reported and left out."""
    for row in read_rows(catalogue):
        counting.tally.rows += 1
        if isinstance(row, BadRow):
            _report(row, ledger, counting)
            continue
        try:
            for job in maker.jobs_of(row):
                ticket = _ticket(job, ledger, counting)
                if ticket:
                    yield ticket
        except RowError as error:
            _report(BadRow(row.line, str(error)), ledger, counting)


def _report(row: BadRow, ledger: Ledger | DryLedger, counting: Counting) -> None:
    ledger.failed({"line": row.line, "reason": row.reason})
    counting.bad_row(row)


def _ticket(job: Job, ledger: Ledger | DryLedger, counting: Counting) -> Ticket | None:
    claim = ledger.claim(job.id)
    if claim == "new":
        return Ticket(job, resume=ledger.under_way(job.id))
    if claim == "done":
        counting.tally.earlier += 1
    else:
        counting.tally.repeated += 1
    counting.skipped(job)
    return None


async def run_on_servers(
    catalogue: Path,
    maker: JobMaker,
    ledger: Ledger,
    servers: Sequence[str],
    reporter: Reporter,
    attempts: int = 3,
    lost_after: float = 60.0,
    give_up_after: float = 600.0,
) -> Tally:
    """Make every ad of a catalogue that the ledger has not.

    Args:
        catalogue: CSV or JSONL.
        maker: turns rows into jobs.
        ledger: open.
        servers: addresses, each once.
        reporter: told what happens.
        attempts: runs of one job before it is given up.
        lost_after: seconds of silence after which a server counts as down and its job goes to another.
        give_up_after: seconds without any server after which the run ends.

    Raises:
        NoServerError: no server answered for `give_up_after`.
        OSError, CannotWriteError: the output folder cannot be written any more.
        CatalogueError: the catalogue as a whole cannot be read.
    """
    counting = Counting(reporter)
    queue = JobQueue(list(servers), WAITING_PER_SERVER * len(servers))
    settings = settings_of(maker.workflow, attempts)
    async with AsyncExitStack() as stack:
        lanes = []
        for url in servers:
            progress = _progress_of(url, counting)
            server = await stack.enter_async_context(Server(url, lost_after, progress))
            lanes.append(Lane(server, queue, ledger, settings, counting).run())
        work = [
            _produce(tickets(catalogue, maker, ledger, counting), queue),
            *lanes,
            _watch_for_silence(queue, give_up_after),
        ]
        await _until_finished(queue, [asyncio.create_task(one) for one in work])
    return counting.tally


def _progress_of(url: str, counting: Counting) -> Any:
    return lambda done, total: counting.progress(url, done, total)


async def _until_finished(queue: JobQueue, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the end of the queue, or for the first task that raises; then stop all of them."""
    over = asyncio.create_task(queue.wait_until_finished())
    try:
        pending: set[asyncio.Task[None]] = {*tasks, over}
        while not over.done():
            ended, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
    finally:
        for task in (*tasks, over):
            task.cancel()
        await asyncio.gather(*tasks, over, return_exceptions=True)


async def _produce(source: Iterator[Ticket], queue: JobQueue) -> None:
    """Read rows in a thread, only as fast as jobs are taken."""
    while (ticket := await asyncio.to_thread(next, source, None)) is not None:
        await queue.put(ticket)
    await queue.close()


async def _watch_for_silence(queue: JobQueue, give_up_after: float) -> None:
    last_answer = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_EVERY)
        if queue.some_are_alive:
            last_answer = time.monotonic()
        elif time.monotonic() - last_answer > give_up_after:
            raise NoServerError(f"no server answered for {give_up_after:.0f} s; run the same command again to go on")
