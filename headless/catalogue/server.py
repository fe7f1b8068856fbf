"""One ComfyUI, asynchronously: its HTTP API for everything that counts, its websocket for when to look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from .named_inputs import Prompt

REQUEST_SECONDS = 30.0  # without a byte
LONGEST_PAUSE = 10.0  # between two tries of a request
HEARTBEAT = 15.0  # seconds; a websocket that does not answer a ping is closed
LOOK_EVERY = 5.0  # seconds between two looks at the history while the websocket says nothing
LOOK_EVERY_WITHOUT_SOCKET = 0.5
MAX_ANSWER = 64_000_000  # bytes of JSON
MAX_PICTURE = 512_000_000
UPLOAD_FOLDER = "pfv_catalogue"
OUTPUT = "output"

Result = TypeVar("Result")


class ServerDownError(RuntimeError):
    """The server did not answer for as long as was allowed."""


class RejectedError(RuntimeError):
    """The server found the workflow invalid; the message names each node and what is wrong with its inputs."""


class FailedError(RuntimeError):
    """The run ended without a picture: a node raised, somebody interrupted it, or nothing was saved."""


class LostError(RuntimeError):
    """The server knows nothing of a prompt that it had accepted: it was restarted, or the prompt was deleted."""


class CannotWriteError(RuntimeError):
    """The disk does not take a picture: full, or gone."""


class _TryAgainError(Exception):
    """No answer, half an answer, or an error of the server itself."""


@dataclass(frozen=True)
class Saved:
    """An image that a run left on the server, in the terms of its /view address."""

    node_id: str
    filename: str
    subfolder: str


@dataclass(frozen=True)
class Finished:
    """A run that ended well.

    Attributes:
        images: what it saved (no previews), in the order of its nodes.
        seconds: the server's own time from start to end; None where it did not say.
        texts: node id -> what the node showed as text.
    """

    images: list[Saved]
    seconds: float | None
    texts: dict[str, list[str]]


def check_url(url: str) -> str:
    """The address without a trailing slash.

    Raises:
        ValueError: it is not http://HOST:PORT or https://HOST.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is no server: expected an address such as http://127.0.0.1:8188")
    return url.rstrip("/")


class Server:
    """Talks to one server, as an asynchronous context manager.

    Args:
        url: its address.
        lost_after: seconds of silence after which it counts as down.
        on_progress: called with steps done and steps in all while a prompt that `finished` waits for is sampled.
    """

    def __init__(
        self, url: str, lost_after: float, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.url = check_url(url)
        self.lost_after = lost_after
        self._on_progress = on_progress
        self._pause = wait_random_exponential(multiplier=0.1, max=min(LONGEST_PAUSE, max(lost_after / 4, 0.1)))
        self._client_id = uuid.uuid4().hex
        self._watched = ""
        self._news = asyncio.Event()
        self._connected = False

    async def __aenter__(self) -> Server:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=REQUEST_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=True)
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listener
        await self._session.close()

    async def versions(self) -> dict[str, str]:
        """What runs there.

        Raises:
            ServerDownError: it does not answer.
        """
        system = (await self._json("/system_stats")).get("system", {})
        names = {"comfyui": "comfyui_version", "torch": "pytorch_version", "python": "python_version"}
        return {name: str(system[key]) for name, key in names.items() if key in system}

    async def answers(self) -> bool:
        """Whether it answers at this moment."""
        try:
            await self._once("GET", "/queue", _read_json)
        except (_TryAgainError, FailedError):
            return False
        return True

    async def queues(self) -> tuple[list[str], list[str]]:
        """Ids of running and waiting prompts, of all users."""
        answer = await self._json("/queue")
        try:
            running, pending = ([str(item[1]) for item in answer[part]] for part in ("queue_running", "queue_pending"))
        except (LookupError, TypeError) as error:
            raise FailedError(f"{self.url}/queue answered {str(answer)[:200]!r}: is this a ComfyUI?") from error
        return running, pending

    async def upload(self, name: str, content: bytes) -> str:
        """Put an image into the server's input folder; returns what LoadImage calls it.

        The host keeps a file of that name and content as it is, and gives another name to other content.
        """

        def form() -> aiohttp.FormData:
            data = aiohttp.FormData({"type": "input", "subfolder": UPLOAD_FOLDER})
            data.add_field("image", content, filename=name, content_type="application/octet-stream")
            return data

        answer = await self._retried(lambda: self._once("POST", "/upload/image", _read_json, data=form()))
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else str(answer["name"])

    async def submit(self, prompt: Prompt, prompt_id: str) -> None:
        """Queue a workflow under an id of ours, once: where an answer was lost, the server is asked what it has.

        Raises:
            RejectedError: some node is invalid. Where the host would run the valid rest, the prompt is taken out again.
        """
        body = {"prompt": prompt, "client_id": self._client_id, "prompt_id": prompt_id}
        tried = False

        async def post() -> Any:
            nonlocal tried
            if tried and await self.knows(prompt_id):
                return {}
            tried = True
            return await self._once("POST", "/prompt", _read_json, json=body)

        answer = await self._retried(post)
        if answer.get("node_errors"):
            await self.cancel(prompt_id)
            raise RejectedError(_rejection({"message": "some outputs are invalid"}, answer["node_errors"]))
        if answer.get("prompt_id", prompt_id) != prompt_id:
            await self.cancel(str(answer["prompt_id"]))
            raise RejectedError(
                f"{self.url} does not take prompt ids: it is too old, ComfyUI 0.3.60 or newer is expected"
            )

    async def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs, or has ended there."""
        if await self._entry(prompt_id):
            return True
        running, pending = await self.queues()
        return prompt_id in running or prompt_id in pending or bool(await self._entry(prompt_id))

    async def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and interrupt it if it is the one that runs."""
        await self._retried(lambda: self._once("POST", "/queue", _read_nothing, json={"delete": [prompt_id]}))
        running, _ = await self.queues()
        if prompt_id in running:
            body = {"prompt_id": prompt_id}
            await self._retried(lambda: self._once("POST", "/interrupt", _read_nothing, json=body))

    def watch(self, prompt_id: str) -> None:
        """Listen for news of a prompt from now on."""
        self._watched = prompt_id
        self._news.clear()

    async def finished(self, prompt_id: str) -> Finished:
        """Wait for the end of a run.

        Raises:
            FailedError: a node raised, somebody interrupted the run, or it saved no image.
            LostError: the server knows nothing of it.
            ServerDownError: it does not answer any more.
        """
        while not (entry := await self._entry(prompt_id)):
            running, pending = await self.queues()
            if prompt_id not in running and prompt_id not in pending:
                entry = await self._entry(prompt_id)  # it may have moved between the two questions
                if not entry:
                    raise LostError(f"{self.url} has forgotten prompt {prompt_id}")
                break
            self._news.clear()
            seconds = LOOK_EVERY if self._connected else LOOK_EVERY_WITHOUT_SOCKET
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)
        return _outcome(entry)

    async def download(self, image: Saved, file: Path) -> None:
        """Write an image to `file`, byte for byte as the server has it; `file` is named by the caller alone."""
        query = {"filename": image.filename, "subfolder": image.subfolder, "type": OUTPUT}

        async def write(answer: aiohttp.ClientResponse) -> None:
            length = 0
            with file.open("wb") as content:
                async for block in answer.content.iter_chunked(1 << 18):
                    length += len(block)
                    if length > MAX_PICTURE:
                        raise FailedError(f"{self.url} sent more than {MAX_PICTURE} bytes for one image")
                    try:
                        content.write(block)
                    except OSError as error:
                        raise CannotWriteError(f"{file}: {error}") from error

        await self._retried(lambda: self._once("GET", "/view", write, params=query))

    async def _entry(self, prompt_id: str) -> dict[str, Any]:
        answer = await self._json(f"/history/{prompt_id}")
        entry = answer.get(prompt_id) if isinstance(answer, dict) else None
        return entry if isinstance(entry, dict) else {}

    async def _json(self, path: str) -> Any:
        return await self._retried(lambda: self._once("GET", path, _read_json))

    async def _retried(self, request: Callable[[], Awaitable[Result]]) -> Result:
        """Try until it succeeds, with pauses that grow and vary, for as long as the server may be silent."""
        tries = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgainError),
            wait=self._pause,
            stop=stop_after_delay(self.lost_after),
            reraise=True,
        )

        async def attempt() -> Result:  # tenacity awaits what it sees to be a coroutine function
            return await request()

        try:
            return await tries(attempt)
        except _TryAgainError as error:
            raise ServerDownError(f"{self.url} does not answer: {error}") from error

    async def _once(
        self, method: str, path: str, read: Callable[[aiohttp.ClientResponse], Awaitable[Result]], **options: Any
    ) -> Result:
        # No redirection: a server is where the user said, and nowhere else.
        try:
            async with self._session.request(method, self.url + path, allow_redirects=False, **options) as answer:
                if answer.status >= 500:
                    raise _TryAgainError(f"{path} answered {answer.status}")
                if answer.status >= 300:
                    raise _refusal(path, answer.status, (await answer.content.read(100_000)).decode(errors="replace"))
                return await read(answer)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            raise _TryAgainError(f"{type(error).__name__} {error}".strip()) from error

    async def _listen(self) -> None:
        """Keep the websocket open; what it misses, `finished` finds by looking."""
        gone = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
        while True:
            again = AsyncRetrying(wait=self._pause, retry=retry_if_exception_type(gone))
            async with await again(self._socket) as socket:
                self._connected = True
                self._news.set()
                with contextlib.suppress(*gone):
                    async for message in socket:
                        if message.type == aiohttp.WSMsgType.TEXT:
                            self._hear(message.data)
                self._connected = False
                self._news.set()
            await asyncio.sleep(LOOK_EVERY_WITHOUT_SOCKET)

    async def _socket(self) -> Any:
        address = f"{self.url}/ws?clientId={self._client_id}"
        return await self._session.ws_connect(address, heartbeat=HEARTBEAT, max_msg_size=MAX_ANSWER)

    def _hear(self, text: str) -> None:
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            event = json.loads(text)
            kind, data = event.get("type"), event.get("data")
            if data.get("prompt_id") != self._watched:
                return
            if kind == "progress":
                self._on_progress(int(data["value"]), int(data["max"]))
            elif kind in ("execution_error", "execution_interrupted") or (kind == "executing" and data["node"] is None):
                self._news.set()


async def _read_json(answer: aiohttp.ClientResponse) -> Any:
    content = bytearray()
    async for block in answer.content.iter_chunked(1 << 16):
        content += block
        if len(content) > MAX_ANSWER:
            raise FailedError(f"an answer has more than {MAX_ANSWER} bytes")
    return json.loads(content)


async def _read_nothing(answer: aiohttp.ClientResponse) -> None:
    await answer.release()


def _refusal(path: str, status: int, text: str) -> RejectedError | FailedError:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and "node_errors" in answer:
        return RejectedError(_rejection(answer.get("error", ""), answer["node_errors"]))
    return FailedError(f"{path} answered {status}: {text.strip()[:300]}")


def _rejection(error: Any, node_errors: Any) -> str:
    """One line for the whole and one for each complaint about a node."""
    summary = f"{error.get('message')} {error.get('details', '')}".strip() if isinstance(error, dict) else str(error)
    lines = [
        f"node {node_id} ({found.get('class_type')}): {complaint.get('message')}: {complaint.get('details')}"
        for node_id, found in (node_errors or {}).items()
        for complaint in found.get("errors", [])
    ]
    return "\n".join([f"the server rejected the workflow: {summary}", *lines])


def _outcome(entry: Mapping[str, Any]) -> Finished:
    try:
        times = {}
        for event, details in (entry.get("status") or {}).get("messages", []):
            times[event] = details.get("timestamp")
            if event == "execution_error":
                raise FailedError(
                    f"node {details['node_id']} ({details['node_type']}) failed with {details['exception_type']}: "
                    f"{details['exception_message'].strip()}"
                )
            if event == "execution_interrupted":
                raise FailedError(f"the run was interrupted at node {details.get('node_id')}")
        images = [
            Saved(str(node_id), str(image["filename"]), str(image.get("subfolder", "")))
            for node_id, output in entry["outputs"].items()
            for image in output.get("images", [])
            if image.get("type") == OUTPUT
        ]
        texts = {
            str(node_id): [str(text) for text in output["text"]]
            for node_id, output in entry["outputs"].items()
            if isinstance(output.get("text"), list)
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise FailedError(f"the history of the run cannot be read: {error!r}") from error
    if not images:
        raise FailedError("the run saved no image: the workflow needs a SaveImage node")
    return Finished(images, _seconds(times.get("execution_start"), times.get("execution_success")), texts)


def _seconds(start: Any, end: Any) -> float | None:
    both = isinstance(start, int | float) and isinstance(end, int | float)
    return round((end - start) / 1000, 3) if both else None
