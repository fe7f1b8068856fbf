"""One ComfyUI, asynchronously: its HTTP API for everything that counts, its websocket for when to look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .address import ServerAddress
from .errors import FailedError, LostError, RejectedError, StalledError, TimedOutError, safe_text
from .outcome import Finished, Saved, finished_of, rejection
from .refusal import VIEW, not_comfy

if TYPE_CHECKING:
    from .wire import Wire

__all__ = ["Finished", "Prompt", "Saved", "Server"]

Prompt = dict[str, dict[str, Any]]  # API format: node id -> {"class_type", "inputs", "_meta"?}

LOOK_EVERY = 5.0  # seconds between two looks at the history while the websocket says nothing
LOOK_EVERY_WITHOUT_SOCKET = 0.5
UPLOAD_FOLDER = "pfv_catalogue"
VERSIONS = {"comfyui": "comfyui_version", "torch": "pytorch_version", "python": "python_version"}


def _silent(prompt_id: str, done: int, total: int) -> None:
    del prompt_id, done, total


class Server:
    """Talks to one server, as an asynchronous context manager. Several prompts may be under way there at once.

    Args:
        address: where it is, and what leads to it.
        lost_after: seconds of trying one request in vain, after which the server counts as down.
        on_progress: called with the id of a prompt of ours, steps done and steps in all while it is sampled.
    """

    def __init__(
        self, address: ServerAddress, lost_after: float, on_progress: Callable[[str, int, int], None] = _silent
    ) -> None:
        self.address = address
        self.url = address.url
        self.lost_after = lost_after
        self._on_progress = on_progress
        self._client_id = uuid.uuid4().hex
        self._ours: set[str] = set()
        self._connected = False

    async def __aenter__(self) -> Server:
        from .wire import Wire  # aiohttp: not there on a bare Python, where this module is read for `Prompt`

        self._wire: Wire = Wire(self.address, self.lost_after)
        self._wire.open()
        self._news = asyncio.Event()
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.cancel()
        try:
            await asyncio.gather(self._listener, return_exceptions=True)
        finally:  # who leaves may be cancelled meanwhile
            await self._wire.close()

    async def versions(self) -> dict[str, str]:
        """What runs there.

        Raises:
            ServerDownError: it does not answer.
            NotComfyError: something else does.
        """
        answer = await self._wire.json("/system_stats")
        system = answer.get("system")
        if not isinstance(system, dict):
            raise not_comfy(self.url, f"/system_stats answered {_shown(answer)}")
        return {name: safe_text(system[key]) for name, key in VERSIONS.items() if key in system}

    async def object_info(self, node_class: str | None = None) -> dict[str, Any]:
        """Node class -> the server's description of it; of one class, or of all. Empty where it has none of that name."""
        return await self._wire.json("/object_info" + (f"/{quote(node_class, safe='')}" if node_class else ""))

    async def answers(self) -> bool:
        """Whether it answers at this moment; asked once, for at most 5 s."""
        return await self._wire.answers()

    async def queues(self) -> tuple[list[str], list[str]]:
        """Ids of running and waiting prompts, of all users, of one moment."""
        answer = await self._wire.json("/queue")
        try:
            running, pending = ([str(item[1]) for item in answer[part]] for part in ("queue_running", "queue_pending"))
        except (LookupError, TypeError) as error:
            raise not_comfy(self.url, f"/queue answered {_shown(answer)}") from error
        return running, pending

    async def upload(self, name: str, content: bytes, subfolder: str = UPLOAD_FOLDER, overwrite: bool = False) -> str:
        """Put an image into the server's input folder; returns what LoadImage calls it.

        Args:
            name: of the file there.
            content: its bytes.
            subfolder: of the input folder; "" for none.
            overwrite: take the place of another file of that name. Else the host keeps a file of that name and content
                as it is, and gives another name to other content.
        """
        from .wire import form_of

        if name != safe_text(name) or not name.isprintable():
            raise ValueError(f"{name!r} is no name for a file: expected printable characters")
        fields = {"type": "input", "subfolder": subfolder} | ({"overwrite": "true"} if overwrite else {})
        answer = await self._wire.upload("/upload/image", lambda: form_of(fields, name, content))
        stored, folder = answer.get("name"), answer.get("subfolder", "")
        if not isinstance(stored, str) or not stored or not isinstance(folder, str):
            raise FailedError(f"{self.url}/upload/image answered {_shown(answer)}: expected the name of the file")
        return f"{folder}/{stored}" if folder else stored

    async def submit(self, prompt: Prompt, prompt_id: str) -> None:
        """Queue a workflow under an id of ours, once: where an answer was lost, the server is asked what it has.

        Args:
            prompt: the workflow.
            prompt_id: a UUID, in lower case and with hyphens.

        Raises:
            RejectedError: some node is invalid. Where the host would run the valid rest, the prompt is taken out again.
        """
        body = {"prompt": prompt, "client_id": self._client_id, "prompt_id": prompt_id}
        self._ours.add(prompt_id)
        answer = await self._wire.post_once("/prompt", body, lambda: self.knows(prompt_id))
        await self._refuse_what_differs(answer, prompt_id)

    async def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs, or has ended there."""
        if await self._entry(prompt_id):
            return True
        running, pending = await self.queues()
        return prompt_id in running or prompt_id in pending or bool(await self._entry(prompt_id))

    async def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and interrupt it if it is the one that runs."""
        await self._wire.send("/queue", {"delete": [prompt_id]})
        running, _ = await self.queues()
        if prompt_id in running:
            await self._wire.send("/interrupt", {"prompt_id": prompt_id})

    async def finished(self, prompt_id: str, run_timeout: float | None = None) -> Finished:
        """Wait for the end of a run that saves images.

        Args:
            prompt_id: of the run.
            run_timeout: seconds that it may run, and that it may wait while neither what runs there nor what waits before it
                changes; behind runs of ours, which have their own, and in a queue that moves it waits on. No limit where None.

        Raises:
            FailedError: a node raised, somebody interrupted the run, or it saved no image.
            TimedOutError: it ran for too long, and was cancelled.
            StalledError: it waited for too long, and was taken out.
            LostError: the server knows nothing of it.
            ServerDownError: it does not answer any more.
        """
        finished = await self.ended(prompt_id, run_timeout)
        if not finished.images:
            raise FailedError("the run saved no image: the workflow needs a SaveImage node")
        return finished

    async def ended(self, prompt_id: str, run_timeout: float | None = None) -> Finished:
        """`finished`, for a run that may save nothing."""
        self._ours.add(prompt_id)
        try:
            return finished_of(await self._entry_at_the_end(prompt_id, run_timeout))
        finally:
            self._ours.discard(prompt_id)

    async def download(self, image: Saved, file: Path) -> None:
        """Write an image to `file`, byte for byte as the server has it; `file` is named by the caller alone.

        Raises:
            GoneError: the server has it no longer.
            CannotWriteError: `file` cannot be written.
        """
        query = {"filename": image.filename, "subfolder": image.subfolder, "type": image.type}
        await self._wire.download(VIEW, query, file)

    async def _refuse_what_differs(self, answer: dict[str, Any], prompt_id: str) -> None:
        given = answer.get("prompt_id", prompt_id)
        if answer.get("node_errors"):
            await self.cancel(str(given))
            raise rejection({"message": "some outputs are invalid"}, answer["node_errors"])
        if given != prompt_id:
            await self.cancel(str(given))
            raise RejectedError(
                f"{self.url} does not take prompt ids: it is too old, ComfyUI 0.3.60 or newer is expected"
            )

    async def _entry_at_the_end(self, prompt_id: str, run_timeout: float | None) -> dict[str, Any]:
        standing, since = None, 0.0
        while True:
            news = self._news  # of before the look, so that what comes during it counts
            if entry := await self._entry(prompt_id):
                return entry
            running, pending = await self.queues()
            if prompt_id not in running and prompt_id not in pending:
                return await self._entry_that_moved(prompt_id)
            if (now := self._standing(prompt_id, running, pending)) != standing:
                standing, since = now, time.monotonic()
            runs = prompt_id in running
            behind_ours = not runs and not self._ours.isdisjoint(running)
            deadline = math.inf if run_timeout is None or behind_ours else since + run_timeout
            if time.monotonic() >= deadline:
                return await self._stopped(prompt_id, run_timeout, runs)
            await self._wait_for(news, deadline)

    def _standing(self, prompt_id: str, running: list[str], pending: list[str]) -> tuple[frozenset[str], ...]:
        """What runs, what of it is ours still, and what waits before a prompt, ours aside: we take them out ourselves."""
        if prompt_id in running:
            return (frozenset([prompt_id]),)
        before = pending[: pending.index(prompt_id)]
        return frozenset(running), frozenset(self._ours.intersection(running)), frozenset(before) - self._ours

    async def _entry_that_moved(self, prompt_id: str) -> dict[str, Any]:
        """The host moves a prompt from its queue to its history in one step, but is asked for one after the other."""
        if entry := await self._entry(prompt_id):
            return entry
        raise LostError(f"{self.url} has prompt {prompt_id} neither in its queue nor in its history")

    async def _stopped(self, prompt_id: str, run_timeout: float | None, runs: bool) -> dict[str, Any]:
        """Cancel a prompt that runs, or waits; what it ended with where it was just over."""
        if entry := await self._entry(prompt_id):
            return entry
        await self.cancel(prompt_id)
        if not runs:
            raise StalledError(f"nothing moved for {run_timeout:g} s in the queue of {self.url}; the job was taken out")
        raise TimedOutError(f"the run took longer than {run_timeout:g} s on {self.url} and was cancelled")

    async def _wait_for(self, news: asyncio.Event, deadline: float) -> None:
        look_every = LOOK_EVERY if self._connected else LOOK_EVERY_WITHOUT_SOCKET
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(news.wait(), max(0.0, min(look_every, deadline - time.monotonic())))

    async def _entry(self, prompt_id: str) -> dict[str, Any]:
        """The prompt in the history; empty before its end."""
        entry = (await self._wire.json(f"/history/{quote(prompt_id, safe='')}")).get(prompt_id, {})
        if not isinstance(entry, dict):
            raise FailedError(f"the history of the run cannot be read: {_shown(entry)}")
        return entry

    async def _listen(self) -> None:
        """Keep the websocket open; what it misses, `ended` finds by looking."""
        from .wire import GONE, pauses

        tries = pauses(self._wire.longest_pause)
        while True:
            with contextlib.suppress(*GONE):
                async with self._wire.socket(self._client_id) as socket:
                    tries = pauses(self._wire.longest_pause)
                    self._is_connected(True)
                    async for message in socket:
                        if isinstance(message.data, str):
                            self._hear(message.data)
            self._is_connected(False)
            await asyncio.sleep(next(tries))

    def _is_connected(self, connected: bool) -> None:
        if self._connected or connected:
            self._tell()
        self._connected = connected

    def _tell(self) -> None:
        """Let everybody who waits look."""
        self._news.set()
        self._news = asyncio.Event()

    def _hear(self, text: str) -> None:
        """An event; what is none, or not of a prompt of ours, is passed over."""
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            return
        data = event.get("data") if isinstance(event, dict) else None
        if not isinstance(data, dict) or str(data.get("prompt_id")) not in self._ours:
            return
        kind, steps = event.get("type"), (_count(data.get("value")), _count(data.get("max")))
        if kind == "progress" and steps[0] is not None and steps[1]:
            self._on_progress(str(data["prompt_id"]), steps[0], steps[1])
        elif kind == "execution_start" or (kind == "executing" and data.get("node") is None):
            self._tell()


def _count(value: object) -> int | None:
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return max(int(value), 0)
    return None


def _shown(answer: object) -> str:
    return safe_text(str(answer)[:200])
