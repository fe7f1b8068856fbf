"""A whole run: rows in, lanes at work, ledger out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...server.address import ServerAddress
from ...server.client import Server
from ..job.jobs import Job, JobMaker, RowError
from ..kept.copies import Copies
from ..kept.ledger import DryLedger, Ledger
from ..kept.lines import all_checks, passed
from ..table.records import BadRow
from ..table.rows import Row
from .delivery import Settings
from .job_queue import JobQueue, Ticket
from .lane import Lane, Watcher
from .servers import Servers

WAITING_PER_SERVER = 4  # jobs read ahead: enough that none waits for the disk, few enough that memory stays flat
LOOK_EVERY = 0.5
LONGEST_PATIENCE = 300.0  # seconds for which jobs that others failed at wait for a server that is away
LOOK_AT_SERVERS_EVERY = 1.0
MINUTE = 60.0

Rows = Callable[[], Iterator[Row | BadRow]]


class NoServerError(RuntimeError):
    """No server answered, or came to run anything, for too long; what is done is in the ledger, another run goes on."""


@dataclass(frozen=True)
class Limits:
    """How patient a run is.

    Attributes:
        lost_after: seconds of silence after which a server counts as down and its job goes to another.
        give_up_after: seconds without any server after which the run ends.
    """

    lost_after: float = 60.0
    give_up_after: float = 600.0


@dataclass
class Tally:
    """What a run did.

    Attributes:
        rows: read, bad ones too.
        bad_rows: reported.
        made: jobs added to the ledger by this run.
        pictures: that these jobs saved.
        earlier: jobs of this catalogue that were in the ledger.
        gone: of these, those of which a picture is not there any more.
        repeated: jobs that the catalogue has more than once.
        failed: jobs given up.
        product_checked: pictures whose product was compared with its photo.
        not_as_asked: jobs of which a picture failed a check.
        by_server: server -> jobs that it made.
        not_copied: pictures that are not at the other place yet.
    """

    rows: int = 0
    bad_rows: int = 0
    made: int = 0
    pictures: int = 0
    earlier: int = 0
    gone: int = 0
    repeated: int = 0
    failed: int = 0
    product_checked: int = 0
    not_as_asked: int = 0
    by_server: dict[str, int] = field(default_factory=dict)
    not_copied: int = 0

    @property
    def all_well(self) -> bool:
        """Whether every row became all of its ads, as asked."""
        return self.rows > 0 and not (self.bad_rows or self.failed or self.not_as_asked or self.not_copied or self.gone)


class Reporter(Watcher):
    """Hears what a run does; every method may be left as it is."""

    def bad_row(self, row: BadRow) -> None:
        """A row makes no job."""

    def skipped(self, job: Job) -> None:
        """A job is in the ledger, or stands in the catalogue twice."""

    def progress(self, server: str, done: int, total: int) -> None:
        """A server samples."""

    def minute(self, tally: Tally) -> None:
        """Another minute has passed."""


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
        self.tally.pictures += len(line["files"])
        self.tally.by_server[server] = self.tally.by_server.get(server, 0) + 1
        self.tally.product_checked += sum(kind.startswith("product") for kind, _ in all_checks(line))
        self.tally.not_as_asked += not passed(line)
        self._next.made(server, line)

    def gave_up(self, ticket: Ticket, reason: str) -> None:
        """Count and hand on."""
        self.tally.failed += 1
        self._next.gave_up(ticket, reason)

    def minute(self, tally: Tally) -> None:
        """Hand on."""
        self._next.minute(tally)


def tickets(rows: Rows, maker: JobMaker, ledger: Ledger | DryLedger, counting: Counting) -> Iterator[Ticket]:
    """What is left to do of a catalogue, one job at a time; bad rows are reported and left out."""
    for row in rows():
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
        counting.tally.gone += ledger.is_gone(job.id)
    else:
        counting.tally.repeated += 1
    counting.skipped(job)
    return None


@dataclass(frozen=True)
class Work:
    """What a run needs.

    Attributes:
        rows: reads the catalogue from its beginning.
        maker: turns rows into jobs.
        ledger: open.
        settings: of all jobs.
        limits: of the servers.
        copies: makes what copies finished pictures, told whom to tell; None = they stay where they are.
    """

    rows: Rows
    maker: JobMaker
    ledger: Ledger
    settings: Settings
    limits: Limits
    copies: Callable[[Callable[[str], None]], Copies] | None = None


async def run_on_servers(work: Work, servers: Servers, reporter: Reporter) -> Tally:
    """Make every ad of a catalogue that the ledger has not.

    Args:
        work: what there is to do.
        servers: who does it.
        reporter: told what happens.

    Raises:
        NoServerError: no server answered, or came to run anything, for `give_up_after`.
        OSError, CannotWriteError: the output folder cannot be written any more.
        CatalogueError: the catalogue as a whole cannot be read.
    """
    counting = Counting(reporter)
    queue = JobQueue(WAITING_PER_SERVER, min(LONGEST_PATIENCE, work.limits.give_up_after))
    copies = work.copies(lambda message: counting.says("copies", message)) if work.copies else None
    if copies:
        copies.add_earlier()
    tasks = [
        *([copies.work()] if copies else []),
        _keep_lanes(work, servers, queue, counting, copies),
        _produce(tickets(work.rows, work.maker, work.ledger, counting), queue),
        _watch_for_silence(queue, work.limits.give_up_after),
        _minutes(counting),
    ]
    try:
        await _until_finished(queue, [asyncio.create_task(one) for one in tasks], copies)
    finally:
        counting.tally.not_copied = copies.num_left if copies else 0
    return counting.tally


async def _keep_lanes(work: Work, servers: Servers, queue: JobQueue, counting: Counting, copies: Copies | None) -> None:
    """A lane for each server, as long as the server is wanted; servers may come and go."""
    lanes: dict[str, asyncio.Task[None]] = {}
    try:
        while True:
            wanted = {address.url: address for address in servers.now(lambda text: counting.says("servers", text))}
            for url in [url for url, lane in lanes.items() if lane.done()]:
                lanes.pop(url).result()
            for url in lanes.keys() - wanted.keys():
                await queue.remove_server(url)
            for url in [] if queue.is_over else wanted:
                if not queue.has(url):
                    await queue.add_server(url)  # a lane that was to end and has not yet goes on
                if url not in lanes:
                    lanes[url] = asyncio.create_task(_lane(wanted[url], work, queue, counting, copies))
            going = [lane for lane in lanes.values() if not lane.done()]
            if going:
                await asyncio.wait(going, timeout=LOOK_AT_SERVERS_EVERY, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(LOOK_EVERY)
    finally:
        for lane in lanes.values():
            lane.cancel()
        await asyncio.gather(*lanes.values(), return_exceptions=True)


async def _lane(address: ServerAddress, work: Work, queue: JobQueue, counting: Counting, copies: Copies | None) -> None:
    def progress(_: str, done: int, total: int) -> None:
        counting.progress(address.url, done, total)

    async with Server(address, work.limits.lost_after, progress) as server:
        await Lane(server, queue, work.ledger, work.settings, counting, copies).run()


async def _until_finished(queue: JobQueue, tasks: list[asyncio.Task[None]], copies: Copies | None) -> None:
    """Wait for the end of the queue and of the copies, or for the first task that raises; then stop all of them."""

    async def both() -> None:
        await queue.wait_until_finished()
        if copies:
            await copies.finish()

    over = asyncio.create_task(both())
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
        await queue.look_again()
        if queue.some_are_alive:
            last_answer = time.monotonic()
        elif time.monotonic() - last_answer > give_up_after:
            raise NoServerError(
                f"no server answered, or came to run anything, for {give_up_after:.0f} s; run the same command again to go on"
            )


async def _minutes(counting: Counting) -> None:
    while True:
        await asyncio.sleep(MINUTE)
        counting.minute(counting.tally)
