"""One server's share of the work: it takes the next job when it has finished one, and less while others use it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential

from .checks import SavedAd, read_ad
from .delivery import Delivery, Received, Settings, delivery_of, manifest_line
from .job_queue import MAX_LOSSES, JobQueue, Ticket
from .ledger import Ledger, LedgerError
from .named_inputs import NamedInput
from .pictures import Picture, PictureError
from .server import FailedError, Finished, LostError, RejectedError, Saved, Server, ServerDownError

REMEMBERED_UPLOADS = 4096  # names of pictures that a server has; others are sent again
DOWNLOAD_TRIES = 3
LOOK_AT_QUEUE_EVERY = 0.5  # seconds, while others use the server
LONGEST_PROBE = 30.0
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
    """

    def __init__(
        self,
        server: Server,
        queue: JobQueue,
        ledger: Ledger,
        settings: Settings,
        watcher: Watcher,
    ) -> None:
        self._server = server
        self._queue = queue
        self._ledger = ledger
        self._settings = settings
        self._watcher = watcher
        self._uploads: OrderedDict[str, str] = OrderedDict()
        self._versions: dict[str, str] = {}
        self._seconds_per_job = FIRST_GUESS
        self._later: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until there is nothing left, or the queue is stopped."""
        await self._begin()
        while not self._queue.has_stopped:
            try:
                await self._let_others_go_first()
            except (ServerDownError, FailedError) as error:
                await self._went_away(str(error))
                continue
            ticket = await self._queue.take(self._server.url)
            if ticket is None:
                return
            self._watcher.taken(self._server.url, ticket)
            await self._work(ticket)

    async def _work(self, ticket: Ticket) -> None:
        """One job, to whatever end."""
        url = self._server.url
        try:
            line = await self._make(ticket)
        except RejectedError as error:
            await self._rejected(ticket, str(error))
        except (FailedError, PictureError) as error:
            ticket.attempts += 1
            ticket.resume = None
            await self._failed(ticket, str(error), ticket.attempts >= self._settings.attempts)
        except LostError as error:
            ticket.losses += 1
            ticket.resume = None
            self._uploads.clear()  # a server that was restarted may have lost them
            await self._failed(ticket, str(error), ticket.losses >= MAX_LOSSES)
        except ServerDownError as error:
            ticket.losses += 1
            await self._queue.set_alive(url, False)
            await self._failed(ticket, str(error), ticket.losses >= MAX_LOSSES)
            await self._went_away(str(error))
        except LedgerError as error:
            await self._give_up(ticket, str(error))
        else:
            self._watcher.made(url, line)
            await self._queue.finish()

    async def _make(self, ticket: Ticket) -> dict[str, Any]:
        """Run a job and commit it; returns its line."""
        job, timings = ticket.job, Timings()
        started = time.monotonic()
        prompt_id = await self._posted(ticket, timings)
        finished: Finished = await timings.timed("run", self._server.finished(prompt_id))
        self._seconds_per_job = timings.seconds["run"]
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
        return line

    async def _posted(self, ticket: Ticket, timings: Timings) -> str:
        """The prompt id under which the job waits, runs, or has ended on the server."""
        job = ticket.job
        if ticket.resume:
            prompt_id = ticket.resume[1]
            self._server.watch(prompt_id)
            if await self._server.knows(prompt_id):
                return prompt_id
        uploaded, all_fresh = await timings.timed("upload", self._upload(job.pictures))
        prompt_id = str(uuid.uuid4())
        try:
            await timings.timed("post", self._post(ticket, uploaded, prompt_id))
        except RejectedError:
            if all_fresh:
                raise
            self._uploads.clear()  # the server may have lost a picture that it had
            uploaded, _ = await timings.timed("upload", self._upload(job.pictures))
            await timings.timed("post", self._post(ticket, uploaded, prompt_id))
        return prompt_id

    async def _post(self, ticket: Ticket, uploaded: dict[NamedInput, str], prompt_id: str) -> None:
        job = ticket.job
        self._ledger.sent(job.id, self._server.url, prompt_id)
        ticket.resume = (self._server.url, prompt_id)  # until an end is seen, it may have arrived
        self._server.watch(prompt_id)
        await self._server.submit(job.prompt(self._settings.workflow, uploaded), prompt_id)

    async def _upload(self, pictures: dict[NamedInput, Picture]) -> tuple[dict[NamedInput, str], bool]:
        """What the server calls each picture, and whether every one was sent just now."""
        names, all_fresh = {}, True
        for named, picture in pictures.items():
            key = picture.upload_name
            if key in self._uploads:
                self._uploads.move_to_end(key)
                all_fresh = False
            else:
                content = await asyncio.to_thread(picture.content)
                self._uploads[key] = await self._server.upload(key, content)
                if len(self._uploads) > REMEMBERED_UPLOADS:
                    self._uploads.popitem(last=False)
            names[named] = self._uploads[key]
        return names, all_fresh

    async def _fetch(self, ticket: Ticket, finished: Finished) -> Delivery:
        """Download and check every image."""
        received = []
        for number, image in enumerate(finished.images, 1):
            raw = self._ledger.partial(f"{ticket.job.id}.{number}")
            received.append(Received(image.node_id, raw, await self._whole(image, raw)))
        return await asyncio.to_thread(delivery_of, ticket.job, self._settings, self._ledger, received, finished.texts)

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
        if self._queue.all_alive_in(ticket.rejected_by):
            await self._give_up(ticket, reason)
        else:
            self._watcher.says(self._server.url, reason)
            await self._queue.put_back(ticket)

    async def _failed(self, ticket: Ticket, reason: str, is_last: bool) -> None:
        ticket.avoid.add(self._server.url)
        ticket.problems.append(f"{self._server.url}: {reason}")
        if ticket.resume is None:
            self._ledger.ended(ticket.job.id)
        if is_last:
            await self._give_up(ticket, reason)
            return
        self._watcher.says(self._server.url, f"{ticket.job.name}: {reason}; it will be tried again")
        task = self._queue.put_back_later(ticket)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

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
        running, pending = await self._server.queues()
        others = len(running) + len(pending)  # ours has ended
        deadline = time.monotonic() + others * self._seconds_per_job
        while others and time.monotonic() < deadline and not self._queue.has_stopped:
            await asyncio.sleep(min(LOOK_AT_QUEUE_EVERY, self._seconds_per_job))
            running, pending = await self._server.queues()
            others = len(running) + len(pending)

    async def _begin(self) -> None:
        try:
            self._versions = await self._server.versions()
        except (ServerDownError, FailedError) as error:
            await self._went_away(str(error))

    async def _went_away(self, reason: str) -> None:
        """Ask with growing pauses until it is back; then cancel what runs there for jobs that others have taken."""
        self._watcher.says(self._server.url, f"{reason}; it will be asked again")
        self._uploads.clear()
        await self._queue.set_alive(self._server.url, False)
        pause = wait_random_exponential(multiplier=0.2, max=LONGEST_PROBE)
        await AsyncRetrying(retry=retry_if_result(lambda is_back: not is_back), wait=pause)(self._is_back)
        self._watcher.says(self._server.url, "is back")
        await self._queue.set_alive(self._server.url, True)

    async def _is_back(self) -> bool:
        if not await self._server.answers():
            return False
        try:
            self._versions = await self._server.versions()
            abandoned = self._queue.abandoned(self._server.url)
            while abandoned:
                await self._server.cancel(abandoned[0])
                abandoned.pop(0)
        except (ServerDownError, FailedError):
            return False
        return True
