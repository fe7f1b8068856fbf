"""Jobs waiting, for whichever server is free. A job that failed on one server goes to another where there is one."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..job.jobs import Job

MAX_LOSSES = 10  # times a job's server may go away under it: more is no accident
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a failed job is tried again: doubled each time, then varied


@dataclass
class Ticket:
    """A job and what became of it so far.

    Attributes:
        job: what is to be done.
        resume: server and prompt id of a post whose end nobody has seen: while that server lives, it alone takes the job.
            A server of another name than all there are may be one of them: each is asked.
        asked: servers that do not have such a post.
        attempts: runs that ended in failure.
        losses: times its server went away or forgot it.
        avoid: servers on which it failed or was rejected.
        rejected_by: servers that found it invalid.
        problems: what each failure said.
        mark: goes into the names under which the server saves, so that it saves anew.
        is_running: what was posted arrived, and its end was not seen.
        taken_up: what runs was posted by an earlier run of the command: its failure is not this one's.
    """

    job: Job
    resume: tuple[str, str] | None = None
    asked: set[str] = field(default_factory=set)
    attempts: int = 0
    losses: int = 0
    avoid: set[str] = field(default_factory=set)
    rejected_by: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    mark: str = ""
    taken_up: bool = False
    is_running: bool = False


class JobQueue:
    """A queue that a producer fills and lanes empty.

    Args:
        waiting_per_server: jobs that may wait for each; the producer waits beyond.
        patience: seconds for which a job that the others failed at waits for a server that is away.
    """

    def __init__(self, waiting_per_server: int, patience: float = 300.0) -> None:
        self._servers: set[str] = set()
        self._alive: set[str] = set()
        self._away_since: dict[str, float] = {}
        self._patience = patience
        self._waiting_per_server = waiting_per_server
        self._waiting: deque[Ticket] = deque()
        self._unfinished = 0  # put, and neither done nor given up
        self._closed = False
        self._changed = asyncio.Condition()
        self._abandoned: dict[str, list[str]] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self._is_over()

    @property
    def some_are_alive(self) -> bool:
        """Whether any server answers."""
        return bool(self._alive)

    async def add_server(self, server: str) -> None:
        """Say that a server's lane begins; it counts as alive until it is silent."""
        async with self._changed:
            self._servers.add(server)
            self._alive.add(server)
            self._away_since.pop(server, None)
            self._changed.notify_all()

    async def remove_server(self, server: str) -> None:
        """Say that a server gets no further jobs."""
        async with self._changed:
            self._servers.discard(server)
            self._alive.discard(server)
            self._away_since.pop(server, None)
            self._changed.notify_all()

    def has(self, server: str) -> bool:
        """Whether a server is to get jobs, now or when it answers again."""
        return server in self._servers

    async def look_again(self) -> None:
        """Let lanes that wait for a job see what time has changed."""
        async with self._changed:
            self._changed.notify_all()

    async def put(self, ticket: Ticket) -> None:
        """Add a job, when there is room."""
        async with self._changed:
            await self._changed.wait_for(self._has_room)
            self._waiting.append(ticket)
            self._unfinished += 1
            self._changed.notify_all()

    async def close(self) -> None:
        """Say that no more jobs come."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def wait_until_finished(self) -> None:
        """Wait until every job that will come has ended."""
        async with self._changed:
            await self._changed.wait_for(self._is_over)

    async def take(self, server: str, is_ahead: Callable[[], bool] = lambda: False) -> Ticket | None:
        """The next job for a server, or None when there is nothing more to do for it.

        Args:
            server: whose lane asks.
            is_ahead: whether that server has a job of ours already, so that this one would wait there. The last jobs are
                left to servers that have none.
        """
        async with self._changed:
            while True:
                if self._is_over() or server not in self._servers:
                    return None
                may_take = server in self._alive and not (is_ahead() and self._are_last())
                ticket = (
                    next((ticket for ticket in self._waiting if self._suits(ticket, server)), None)
                    if may_take
                    else None
                )
                if ticket is not None:
                    self._waiting.remove(ticket)
                    self._changed.notify_all()
                    return self._without_foreign_post(ticket, server)
                await self._changed.wait()

    async def put_back(self, ticket: Ticket) -> None:
        """Return a job, to be taken before others."""
        async with self._changed:
            self._waiting.appendleft(ticket)
            self._changed.notify_all()

    def put_back_later(self, ticket: Ticket) -> asyncio.Task[None]:
        """Return a job after a pause; it stays counted as unfinished meanwhile."""

        async def later() -> None:
            longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (ticket.attempts + ticket.losses - 1))
            await asyncio.sleep(random.uniform(0, longest))
            await self.put_back(ticket)

        return asyncio.create_task(later())

    async def finish(self) -> None:
        """Say that one job is done, or given up."""
        async with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    async def set_alive(self, server: str, alive: bool) -> None:
        """Say whether a server answers; of one that was taken away it changes nothing."""
        async with self._changed:
            if server not in self._servers:
                return
            if alive:
                self._alive.add(server)
                self._away_since.pop(server, None)
            else:
                self._alive.discard(server)
                self._away_since.setdefault(server, time.monotonic())
            self._changed.notify_all()

    def abandoned(self, server: str) -> list[str]:
        """Prompts on a server whose jobs went elsewhere while it was away; the lane removes those that it cancelled."""
        return self._abandoned.setdefault(server, [])

    def all_in(self, servers: set[str]) -> bool:
        """Whether every server is among `servers`; one that has been away for long counts no more."""
        return self._counted() <= servers

    def _counted(self) -> set[str]:
        now = time.monotonic()
        return {server for server in self._servers if now - self._away_since.get(server, now) <= self._patience}

    def is_stranger(self, ticket: Ticket) -> bool:
        """Whether a job was posted to a server that none of the lanes has by that name."""
        return ticket.resume is not None and ticket.resume[0] not in self._servers

    def _has_room(self) -> bool:
        return len(self._waiting) < self._waiting_per_server * max(1, len(self._servers))

    def _are_last(self) -> bool:
        return self._closed and len(self._waiting) < len(self._alive)

    def _is_over(self) -> bool:
        return self._closed and not self._unfinished

    def _without_foreign_post(self, ticket: Ticket, server: str) -> Ticket:
        """A job that was posted elsewhere is begun anew here; there it is cancelled as soon as that server is back."""
        if ticket.resume and ticket.resume[0] != server and not self.is_stranger(ticket):
            other, prompt_id = ticket.resume
            self._abandoned.setdefault(other, []).append(prompt_id)
            ticket.resume = None
        return ticket

    def _suits(self, ticket: Ticket, server: str) -> bool:
        if ticket.resume and ticket.resume[0] in self._alive:
            return ticket.resume[0] == server
        if self.is_stranger(ticket):
            return server not in ticket.asked or self.all_in(ticket.asked)
        return server not in ticket.avoid or self.all_in(ticket.avoid)
