"""One server's share of the work: one job runs there, the next one waits behind it, finished ones are fetched meanwhile.

It takes less while others use the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential

from ...server.client import Finished, Saved, Server
from ...server.errors import (
    CannotWriteError,
    FailedError,
    GoneError,
    LostError,
    NotComfyError,
    RejectedError,
    ServerDownError,
    ServerError,
    ServerFaultError,
    StalledError,
)
from ..job.pictures import Picture, PictureError
from ..kept.copies import Copies
from ..kept.ledger import Ledger, LedgerError
from ..sources.source import SourceError
from ..workflow.named_inputs import NamedInput, Workflow, title_of
from .checks import SavedAd, read_ad
from .delivery import Delivery, Received, Settings, delivery_of, manifest_line
from .job_queue import MAX_LOSSES, JobQueue, Ticket

AHEAD = 2  # jobs of ours on a server: one runs, the next one waits, so that it never idles for us
AT_ONCE = 2  # of one server: finished jobs that are fetched and checked
REMEMBERED_UPLOADS = 4096  # names of pictures that a server has; others are sent again
DOWNLOAD_TRIES = 3
LOOK_AT_QUEUE_EVERY = 0.5  # seconds, while others use the server
LOOK_AT_REST_EVERY = 2.0
LONGEST_PROBE = 30.0
FAULTS_IN_A_ROW, LONGEST_REST = 5, 120.0  # seconds
REFUSALS = ("ValueError", "TypeError")  # a node's own words about its inputs
FIRST_GUESS = 1.0  # seconds a job takes, before one was timed


@dataclass
class Timings:
    """Seconds of each part of a job.

    Attributes:
        seconds: part -> seconds.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    async def timed(self, part: str, work: Awaitable[Any]) -> Any:
        """Wait for `work` and remember how long it took."""
        started = time.monotonic()
        try:
            return await work
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.monotonic() - started, 3)


class Slot:
    """A place on a server that is left once, whatever happens.

    Args:
        left: called then.
    """

    def __init__(self, left: Callable[[], None]) -> None:
        self._left: Callable[[], None] | None = left

    def leave(self) -> None:
        """Leave it; the second time nothing happens."""
        if self._left:
            self._left()
        self._left = None


class Watcher:
    """Hears what a lane does; every method may be left as it is."""

    def taken(self, server: str, ticket: Ticket) -> None:
        """A lane begins a job."""

    def made(self, server: str, line: dict[str, Any]) -> None:
        """A job is in the ledger."""

    def gave_up(self, ticket: Ticket, reason: str) -> None:
        """A job is given up."""

    def says(self, server: str, message: str) -> None:
        """A server went away, came back, or failed at a job that will be tried again."""


class Lane:
    """The work of one server.

    Args:
        server: already entered.
        queue: where jobs come from.
        ledger: where they end.
        settings: shared by all lanes.
        watcher: told what happens.
        copies: where finished pictures go besides; None = nowhere.
    """

    def __init__(
        self,
        server: Server,
        queue: JobQueue,
        ledger: Ledger,
        settings: Settings,
        watcher: Watcher,
        copies: Copies | None = None,
    ) -> None:
        self._server = server
        self._queue = queue
        self._ledger = ledger
        self._settings = settings
        self._watcher = watcher
        self._copies = copies
        self._uploads: OrderedDict[str, str] = OrderedDict()
        self._versions: dict[str, str] = {}
        self._seconds_per_job = FIRST_GUESS
        self._ours: set[str] = set()  # prompts that wait or run there
        self._on_server = asyncio.Semaphore(AHEAD)
        self._num_on_server = 0
        self._fetching = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._later: set[asyncio.Task[None]] = set()
        self._probe: asyncio.Task[None] | None = None
        self._num_faults = self._num_stalls = 0
        self._uploading = asyncio.Lock()  # two jobs often share a picture

    async def run(self) -> None:
        """Work until there is nothing left, or the server is taken away.

        Raises:
            CannotWriteError, OSError: the output folder cannot be written any more.
        """
        self._over = asyncio.get_running_loop().create_future()
        self._start(self._take_jobs())
        try:
            await self._over
        finally:
            tasks = [*self._tasks, *([self._probe] if self._probe else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The lane is over with its last task, or with the first that raises."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._over.done():
            return
        if error:
            self._over.set_exception(error)
        elif not self._tasks:
            self._over.set_result(None)

    async def _take_jobs(self) -> None:
        await self._begin()
        while True:
            await self._on_server.acquire()
            ticket = await self._next()
            if ticket is None:
                return
            self._num_on_server += 1
            self._watcher.taken(self._server.url, ticket)
            self._start(self._work(ticket))

    async def _next(self) -> Ticket | None:
        while True:
            if self._probe:
                await self._probe
            try:
                await self._let_others_go_first()
            except ServerError as error:
                await self._went_away(str(error))
                continue
            return await self._queue.take(self._server.url, lambda: self._num_on_server > 0)

    async def _work(self, ticket: Ticket) -> None:
        """One job, to whatever end. Nothing that happens to one job ends the run, but that nothing can be written."""
        url = self._server.url
        slot = Slot(self._left_server)
        try:
            if await self._may_be_elsewhere(ticket):
                return
            line = await self._make(ticket, slot)
        except RejectedError as error:
            await self._rejected(ticket, str(error))
        except PictureError as error:
            await self._give_up(ticket, str(error))
        except ServerFaultError as error:
            await self._count_faults()
            if ticket.is_running:  # there, whatever its history answers: it is looked for again
                await self._lost(ticket, str(error))
                return
            self._count_attempt(ticket)
            await self._failed(ticket, str(error), ticket.attempts >= self._settings.attempts)
        except (FailedError, SourceError) as error:
            if isinstance(error, GoneError):  # the server's cache names a file that was deleted
                ticket.mark = f"_{uuid.uuid4().hex[:8]}"
            self._count_attempt(ticket)
            await self._failed(ticket, str(error), self._is_last(ticket, error))
        except StalledError as error:
            ticket.resume, ticket.taken_up, ticket.is_running = None, False, False
            await self._let_rest_as_it_stalled()
            await self._lost(ticket, str(error))
        except LostError as error:
            ticket.resume = None
            self._uploads.clear()  # a server that was restarted may have lost them
            await self._lost(ticket, str(error))
        except (ServerDownError, NotComfyError) as error:
            if isinstance(error, NotComfyError) and await self._server.answers():  # to all but this very request
                self._count_attempt(ticket)
                await self._failed(ticket, str(error), ticket.attempts >= self._settings.attempts)
                return
            await self._went_away(str(error))
            await self._lost(ticket, str(error))
        except LedgerError as error:
            await self._give_up(ticket, str(error))
        except (CannotWriteError, asyncio.CancelledError):
            raise
        except OSError as error:  # what a server or a source does has errors of its own: this is our disk
            raise CannotWriteError(f"{self._ledger.out}: {error}") from error
        except Exception as error:  # noqa: BLE001, said of the job: a fault of ours in one must not stop thousands
            self._count_attempt(ticket)
            reason = f"{type(error).__name__}: {error}"
            await self._failed(ticket, reason, ticket.attempts >= self._settings.attempts)
        else:
            self._num_faults = self._num_stalls = 0
            self._watcher.made(url, line)
            await self._queue.finish()
        finally:
            slot.leave()

    async def _make(self, ticket: Ticket, slot: Slot) -> dict[str, Any]:
        """Run a job and commit it; returns its line."""
        job, timings = ticket.job, Timings()
        started = time.monotonic()
        prompt_id = await self._posted(ticket, timings)
        try:
            self._ours.add(prompt_id)
            finished: Finished = await timings.timed(
                "run", self._server.finished(prompt_id, self._settings.job_timeout)
            )
        finally:
            self._ours.discard(prompt_id)
        ticket.is_running = False
        self._seconds_per_job = finished.seconds or timings.seconds["run"]
        _check_all_saved(self._settings.workflow, finished)
        async with self._fetching:  # where fetching is slower than making, the server waits
            slot.leave()
            delivery: Delivery = await timings.timed("fetch", self._fetch(ticket, finished))
        if finished.seconds is not None:
            timings.seconds["server"] = finished.seconds
        timings.seconds["total"] = round(time.monotonic() - started, 3)
        line = manifest_line(
            job,
            self._settings,
            delivery,
            self._versions,
            texts=finished.texts,
            server=self._server.url,
            prompt_id=prompt_id,
            attempt=ticket.attempts + ticket.losses + 1,
            seconds=timings.seconds,
        )
        await asyncio.to_thread(self._ledger.commit, line, delivery.names)
        if self._copies:
            self._copies.add(delivery.names)
        return line

    def _count_attempt(self, ticket: Ticket) -> None:
        """A run of ours has failed; of one that an earlier command had posted nothing is counted."""
        ticket.attempts += not ticket.taken_up
        ticket.taken_up = ticket.is_running = False
        ticket.resume = None

    def _left_server(self) -> None:
        self._num_on_server -= 1
        self._on_server.release()

    async def _posted(self, ticket: Ticket, timings: Timings) -> str:
        """The prompt id under which the job waits, runs, or has ended on the server."""
        job = ticket.job
        if ticket.resume and (found := await self._taken_up(ticket, ticket.resume[1])):
            return found
        uploaded = await timings.timed("upload", self._upload(job.pictures))
        prompt_id = str(uuid.uuid4())
        try:
            await timings.timed("post", self._post(ticket, uploaded, prompt_id))
        except RejectedError:
            if not job.pictures:
                raise
            self._uploads.clear()  # the server may have lost a picture that it had, even this moment
            uploaded = await timings.timed("upload", self._upload(job.pictures))
            await timings.timed("post", self._post(ticket, uploaded, prompt_id))
        return prompt_id

    async def _may_be_elsewhere(self, ticket: Ticket) -> bool:
        """Whether a job that was posted to a server of another name goes on to be looked for on the others."""
        if not self._queue.is_stranger(ticket) or await self._taken_up(
            ticket, ticket.resume[1] if ticket.resume else ""
        ):
            return False
        ticket.asked.add(self._server.url)
        if self._queue.all_in(ticket.asked):
            ticket.resume = None
            return False
        await self._queue.put_back(ticket)
        return True

    async def _taken_up(self, ticket: Ticket, prompt_id: str) -> str:
        """The id of an earlier post if the server has it, else nothing."""
        if await self._server.knows(prompt_id):
            ticket.resume = (self._server.url, prompt_id)
            ticket.taken_up = ticket.is_running = True
            return prompt_id
        return ""

    async def _post(self, ticket: Ticket, uploaded: dict[NamedInput, str], prompt_id: str) -> None:
        job = ticket.job
        self._ledger.sent(job.id, self._server.url, prompt_id)
        ticket.resume, ticket.is_running = (self._server.url, prompt_id), False  # it may have arrived, nobody knows
        self._ours.add(prompt_id)
        try:
            await self._server.submit(job.prompt(self._settings.workflow, uploaded, ticket.mark), prompt_id)
        except BaseException:
            self._ours.discard(prompt_id)
            raise
        ticket.is_running = True

    async def _upload(self, pictures: dict[NamedInput, Picture]) -> dict[NamedInput, str]:
        """What the server calls each picture; sent where it has not been."""
        names = {}
        async with self._uploading:
            for named, picture in pictures.items():
                key = picture.upload_name
                if key in self._uploads:
                    self._uploads.move_to_end(key)
                else:
                    content = await asyncio.to_thread(picture.content)
                    self._uploads[key] = await self._server.upload(key, content)
                names[named] = self._uploads[key]
            while len(self._uploads) > REMEMBERED_UPLOADS:
                self._uploads.popitem(last=False)
        return names

    async def _fetch(self, ticket: Ticket, finished: Finished) -> Delivery:
        """Download and check every image."""
        received = []
        # The history has them as they were run, which may be another order each time.
        place = {node_id: number for number, node_id in enumerate(self._settings.workflow.nodes)}
        images = sorted(finished.images, key=lambda image: place.get(image.node_id, len(place)))
        for number, image in enumerate(images, 1):
            raw = self._ledger.partial(f"{ticket.job.id}.{number}")
            received.append(Received(image.node_id, raw, await self._whole(image, raw)))
        job, times = ticket.job, self._ledger.times(ticket.job.id)
        return await asyncio.to_thread(delivery_of, job, self._settings, self._ledger, received, finished.texts, times)

    async def _whole(self, image: Saved, file: Path) -> SavedAd:
        """Download until what came can be decoded."""
        for tries_left in reversed(range(DOWNLOAD_TRIES)):
            await self._server.download(image, file)
            try:
                return await asyncio.to_thread(read_ad, file)
            except PictureError as error:
                if not tries_left:
                    raise FailedError(f"{image.filename} came {DOWNLOAD_TRIES} times, but: {error}") from error
        raise AssertionError("DOWNLOAD_TRIES is not positive")

    async def _rejected(self, ticket: Ticket, reason: str) -> None:
        """Another server may have the model or node that this one lacks; when all refuse, the job is at fault."""
        ticket.resume = None
        ticket.rejected_by.add(self._server.url)
        ticket.avoid.add(self._server.url)
        ticket.problems.append(f"{self._server.url}: {reason}")
        if self._queue.all_in(ticket.rejected_by):
            await self._give_up(ticket, reason)
        else:
            self._watcher.says(self._server.url, reason)
            await self._queue.put_back(ticket)

    async def _lost(self, ticket: Ticket, reason: str) -> None:
        """The server went away under a job, forgot it or did not come to it: not the job's fault, and no reason to avoid it."""
        ticket.losses += 1
        await self._again(ticket, reason, ticket.losses >= MAX_LOSSES)

    async def _failed(self, ticket: Ticket, reason: str, is_last: bool) -> None:
        ticket.avoid.add(self._server.url)
        await self._again(ticket, reason, is_last)

    async def _again(self, ticket: Ticket, reason: str, is_last: bool) -> None:
        ticket.problems.append(f"{self._server.url}: {reason}")
        if ticket.resume is None:
            self._ledger.ended(ticket.job.id)
        if is_last:
            await self._give_up(ticket, reason)
            return
        self._watcher.says(self._server.url, f"{ticket.job.name!r}: {reason}; it will be tried again")
        task = self._queue.put_back_later(ticket)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _is_last(self, ticket: Ticket, error: Exception) -> bool:
        """Whether a failed job is given up. What a node refuses it refuses again: each server is asked once."""
        refused = isinstance(error, FailedError) and error.exception_type in REFUSALS
        if refused and self._queue.all_in(ticket.avoid | {self._server.url}):
            return True
        return ticket.attempts >= self._settings.attempts

    async def _count_faults(self) -> None:
        """A server that answers request after request with errors of its own gets no job for a while, each time for longer."""
        self._num_faults += 1
        if self._num_faults >= FAULTS_IN_A_ROW and not self._is_away():
            seconds = min(LONGEST_REST, 2.0 ** (self._num_faults - FAULTS_IN_A_ROW + 1))
            await self._let_rest(f"{self._num_faults} errors of its own in a row", self._rest(seconds))

    async def _let_rest_as_it_stalled(self) -> None:
        """To try it again costs a job its time limit: it rests as long, then twice as long, unless it is seen to move.

        A server that rests is none that works: where there is no other, the run's patience ends.
        """
        if not self._is_away():
            self._num_stalls += 1
            seconds = (self._settings.job_timeout or 0.0) * 2.0 ** (self._num_stalls - 1)
            await self._let_rest("what waits there does not come to run", self._rest_until_it_moves(seconds))

    async def _let_rest(self, why: str, rest: Coroutine[Any, Any, None]) -> None:
        self._watcher.says(self._server.url, f"{why}; it gets no job for a while")
        self._probe = asyncio.create_task(rest)  # before anything is waited for: another job may end at the same moment
        await self._queue.set_alive(self._server.url, False)

    def _is_away(self) -> bool:
        """Whether it rests, or is asked until it is back."""
        return bool(self._probe and not self._probe.done())

    async def _rest(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._come_back()

    async def _rest_until_it_moves(self, seconds: float) -> None:
        """Rest until something else runs there, it is started anew or taken away, and for so many seconds at the most."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(ServerError):
            stuck, _ = running, _ = await self._server.queues()
            while running == stuck and time.monotonic() < deadline and self._queue.has(self._server.url):
                if not await self._server.answers():
                    break
                await asyncio.sleep(min(LOOK_AT_REST_EVERY, seconds))
                running, _ = await self._server.queues()
        await self._come_back()

    async def _give_up(self, ticket: Ticket, reason: str) -> None:
        job = ticket.job
        self._ledger.ended(job.id)
        self._ledger.failed(
            {"line": job.line, "name": job.name, "job": job.id, "reason": reason, "problems": ticket.problems}
        )
        self._watcher.gave_up(ticket, reason)
        await self._queue.finish()

    async def _let_others_go_first(self) -> None:
        """Hold back while other people's prompts are there, for as long as ours would wait behind them anyway.

        Meanwhile servers that are free take the jobs. After that it is our turn, even where others keep coming.
        """
        others = await self._num_others()
        deadline = time.monotonic() + others * self._seconds_per_job
        while others and time.monotonic() < deadline and not self._queue.is_over:
            await asyncio.sleep(min(LOOK_AT_QUEUE_EVERY, self._seconds_per_job))
            others = await self._num_others()

    async def _num_others(self) -> int:
        running, pending = await self._server.queues()
        return len({*running, *pending} - self._ours)

    async def _begin(self) -> None:
        try:
            self._versions = await self._server.versions()
        except ServerError as error:
            await self._went_away(str(error))

    async def _went_away(self, reason: str) -> None:
        """Give it no jobs, and ask until it is back."""
        if self._is_away():
            return
        self._watcher.says(self._server.url, f"{reason}; it will be asked again")
        self._uploads.clear()
        await self._queue.set_alive(self._server.url, False)
        self._probe = asyncio.create_task(self._come_back())

    async def _come_back(self) -> None:
        """Ask with growing pauses; then cancel what runs there for jobs that others have taken."""
        pause = wait_random_exponential(multiplier=0.2, max=LONGEST_PROBE)
        await AsyncRetrying(retry=retry_if_result(lambda is_back: not is_back), wait=pause)(self._is_back)
        if self._queue.has(self._server.url):
            self._watcher.says(self._server.url, "is back")
            await self._queue.set_alive(self._server.url, True)

    async def _is_back(self) -> bool:
        if not self._queue.has(self._server.url):
            return True  # nobody wants to know any more
        if not await self._server.answers():
            return False
        try:
            self._versions = await self._server.versions()
            abandoned = self._queue.abandoned(self._server.url)
            while abandoned:
                await self._server.cancel(abandoned[0])
                abandoned.pop(0)
        except ServerError:
            return False
        return True


def _check_all_saved(workflow: Workflow, finished: Finished) -> None:
    """Every node that saves images has saved one.

    Raises:
        FailedError: some have not: they were invalid there, or left out.
    """
    saved = {image.node_id for image in finished.images}
    wanted = [node_id for node_id in workflow.savers if "images" in workflow.nodes[node_id]["inputs"]]
    if silent := [title_of(workflow.nodes[node_id]) for node_id in wanted if node_id not in saved]:
        raise FailedError(f"the run saved nothing for {', '.join(map(repr, silent))}")
