"""A request to a server and its tries, and the websocket. The only module that imports aiohttp."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp

from .address import ServerAddress
from .errors import CannotWriteError, FailedError, ServerDownError, ServerError, ServerFaultError, safe_text, shortened
from .refusal import SHOWN, Answer, is_html, not_comfy

SILENCE = 30.0  # seconds without a byte after which one try is given up
SHORTEST_SILENCE = 5.0  # however early a server is to count as down: a busy one takes seconds for an answer
LONGEST_ANSWER = 300.0  # seconds for the whole of an answer
LONGEST_TRANSFER = 1800.0  # seconds for a picture
PROBE = 5.0  # seconds for an answer to whether anybody is there
FIRST_PAUSE = 0.1  # longest seconds between the first two tries; it doubles
LONGEST_PAUSE = 10.0
MAX_FAULTS = 5  # answers with a fault of the server's own, then other requests decide whether it is down
HEARTBEAT = 15.0  # seconds; a websocket that does not answer a ping is closed
MAX_ANSWER = 64_000_000  # bytes of JSON
MAX_PICTURE = 512_000_000
MAX_REFUSAL = 100_000  # bytes that are read of an answer that is none
BLOCK = 1 << 18
QUEUE = "/queue"
OF_EVERY_COMFY = frozenset((QUEUE, "/system_stats", "/object_info"))  # what answers these otherwise is something else

Result = TypeVar("Result")
Reader = Callable[[aiohttp.ClientResponse], Awaitable[Result]]


class _TryAgainError(Exception):
    """No answer, half an answer, or one that says that the server itself is at fault."""

    def __init__(self, message: str, is_fault: bool = False) -> None:
        super().__init__(message)
        self.is_fault = is_fault


class _RedirectedError(Exception):
    """The request for the websocket was to be sent elsewhere."""


class Wire:
    """All talk with one server. It is opened within a running loop, and closed there.

    Args:
        address: where the server is.
        lost_after: seconds of trying one request in vain, after which the server counts as down.
    """

    def __init__(self, address: ServerAddress, lost_after: float) -> None:
        self._address = address
        self._lost_after = lost_after
        self._silence = min(SILENCE, max(lost_after, SHORTEST_SILENCE))
        self.longest_pause = min(LONGEST_PAUSE, max(lost_after / 4, FIRST_PAUSE))

    def open(self) -> None:
        """Make ready; nothing is sent yet."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_refuse_to_follow)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),  # the system's certificates, as of now
            trace_configs=[tracing],
        )

    async def close(self) -> None:
        """Let go of every connection."""
        await self._session.close()

    async def json(self, path: str, method: str = "GET", **options: Any) -> dict[str, Any]:
        """The object that a path answers; see `_asked` for errors."""
        return await self._asked(lambda: self._once(path, self._read_object(path), method, **options))

    async def send(self, path: str, body: dict[str, Any]) -> None:
        """Post JSON to a path whose answer says nothing."""
        await self._asked(lambda: self._once(path, _read_nothing, "POST", json=body))

    async def post_once(
        self, path: str, body: dict[str, Any], has_arrived: Callable[[], Awaitable[bool]]
    ) -> dict[str, Any]:
        """Post JSON that must not arrive twice: where an answer was lost, `has_arrived` says whether to post again."""
        tried = False

        async def post() -> dict[str, Any]:
            nonlocal tried
            if tried and await has_arrived():
                return {}
            tried = True
            return await self._once(path, self._read_object(path), "POST", json=body)

        return await self._asked(post)

    async def upload(self, path: str, form: Callable[[], aiohttp.FormData]) -> dict[str, Any]:
        """Post a form, which is made anew for every try."""
        read = self._read_object(path)
        return await self._asked(lambda: self._once(path, read, "POST", seconds=LONGEST_TRANSFER, data=form()))

    async def download(self, path: str, query: dict[str, str], file: Path) -> None:
        """Write what a path answers to a file of ours.

        Raises:
            CannotWriteError: our disk does not take it.
        """

        async def write(answer: aiohttp.ClientResponse) -> None:
            if answer.content_type == "text/html":  # the host sends no picture as that
                raise self._answer(path, answer, await _beginning(answer)).error()
            await _write(answer, file)

        await self._asked(lambda: self._once(path, write, seconds=LONGEST_TRANSFER, params=query))

    async def answers(self) -> bool:
        """Whether a ComfyUI answers at this moment: one try."""
        try:
            queue = await asyncio.wait_for(self._once(QUEUE, self._read_object(QUEUE)), PROBE)
        except (_TryAgainError, ServerError, asyncio.TimeoutError):
            return False
        return "queue_running" in queue

    @asynccontextmanager
    async def socket(self, client_id: str) -> AsyncIterator[Any]:
        """The websocket, with the headers and through the proxy of every request."""
        url = f"{self._address.url}/ws?clientId={client_id}"
        way = self._way()
        async with self._session.ws_connect(url, heartbeat=HEARTBEAT, max_msg_size=MAX_ANSWER, **way) as socket:
            yield socket

    async def _asked(self, request: Callable[[], Awaitable[Result]]) -> Result:
        """Try until it succeeds, with pauses that grow and vary.

        Raises:
            ServerDownError: for as long as the server may be silent, no try succeeded.
            ServerFaultError: this request fails by the server's own fault again and again, and others do not.
            NotComfyError, FailedError, RejectedError, CannotWriteError: trying again does not help.
        """
        begun, num_faults = time.monotonic(), 0
        for pause in pauses(self.longest_pause):
            try:
                return await request()
            except _TryAgainError as error:
                problem = error
            num_faults += problem.is_fault
            is_late = time.monotonic() + pause - begun > self._lost_after
            if num_faults and (is_late or num_faults >= MAX_FAULTS) and await self.answers():
                raise ServerFaultError(
                    f"{self._address.url} answers, but to this request not well in {num_faults} tries: {problem}"
                ) from problem
            if is_late:
                how = " well" if problem.is_fault else ""
                raise ServerDownError(f"{self._address.url} does not answer{how}: {problem}") from problem
            await asyncio.sleep(pause)
        raise AssertionError("pauses never end")

    async def _once(
        self,
        path: str,
        read: Reader[Result],
        method: str = "GET",
        seconds: float = LONGEST_ANSWER,
        **options: Any,
    ) -> Result:
        """One try. No redirection is followed: a server is where the user said, and nowhere else."""
        url = self._address.url + path
        options["timeout"] = aiohttp.ClientTimeout(total=seconds, sock_connect=self._silence, sock_read=self._silence)
        try:
            async with self._session.request(method, url, allow_redirects=False, **self._way(), **options) as answer:
                if answer.status >= 300:
                    refusal = self._answer(path, answer, await _beginning(answer))
                    raise _TryAgainError(refusal.said, is_fault=True) if refusal.is_fault else refusal.error()
                return await read(answer)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise self._no_answer(error) from error

    def _way(self) -> dict[str, Any]:
        """What leads there. The headers are no session's: aiohttp shows those of a session to the proxy of a TLS server."""
        return {"headers": dict(self._address.headers), "proxy": self._address.proxy}

    def _read_object(self, path: str) -> Reader[dict[str, Any]]:
        async def read(answer: aiohttp.ClientResponse) -> dict[str, Any]:
            text = (await _whole(answer)).decode(errors="replace")
            try:
                content = json.loads(text)
            except (ValueError, RecursionError) as error:
                if not is_html(text) and not _is_surely_whole(answer):
                    raise _TryAgainError(self._say(f"{path} answered what is no JSON: {error}")) from error
                raise self._answer(path, answer, text[:MAX_REFUSAL]).error() from error
            if not isinstance(content, dict):
                said = f"{path} answered {shortened(self._say(text[:MAX_REFUSAL]), SHOWN)}"
                raise not_comfy(self._address.url, said) if path in OF_EVERY_COMFY else FailedError(said)
            return content

        return read

    def _answer(self, path: str, answer: aiohttp.ClientResponse, text: str) -> Answer:
        location = answer.headers.get("Location", "") if 300 <= answer.status < 400 else ""
        return Answer(self._address.url, path, answer.status, self._say(text), self._say(location))

    def _no_answer(self, error: Exception) -> Exception:
        """What a failed connection means: mostly nothing but that nobody is there."""
        said = self._say(f"{type(error).__name__} {error}".strip())
        url = self._address.url
        if isinstance(error, aiohttp.ClientHttpProxyError):
            came = f"the proxy answered {error.status}"
            return _TryAgainError(came) if error.status >= 500 else not_comfy(url, came, "check --proxy")
        if isinstance(error, aiohttp.ClientSSLError) and not _is_torn(error):
            return not_comfy(url, said, "expected TLS with a certificate that this system trusts")
        if isinstance(error, aiohttp.ClientResponseError):
            return not_comfy(url, f"what came is no HTTP: {shortened(said, SHOWN)}")
        return _TryAgainError(said)

    def _say(self, text: str) -> str:
        return self._address.hide(safe_text(text))


def pauses(longest: float) -> Iterator[float]:
    """Seconds to wait before each next try, without end: random, so that many clients do not come back at once."""
    limit = FIRST_PAUSE
    while True:
        yield random.uniform(0, min(limit, longest))
        limit = min(2 * limit, longest)


GONE = (aiohttp.ClientError, asyncio.TimeoutError, OSError, _RedirectedError)  # what ends a websocket


def form_of(fields: dict[str, str], name: str, content: bytes) -> aiohttp.FormData:
    """A form with one image; its name goes as it is, not percent-encoded, because the host would keep the percents."""
    form = aiohttp.FormData(fields, quote_fields=False)
    form.add_field("image", content, filename=name, content_type="application/octet-stream")
    return form


async def _refuse_to_follow(
    session: aiohttp.ClientSession, context: SimpleNamespace, redirect: aiohttp.TraceRequestRedirectParams
) -> None:
    """The websocket's request has no option for this, and would carry the headers to wherever it is sent."""
    del session, context
    raise _RedirectedError(f"a redirection from {redirect.url.path}")


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """Of an answer that is no success; it may be cut off anywhere."""
    content = bytearray()
    async for block in answer.content.iter_chunked(1 << 14):
        content += block
        if len(content) > MAX_REFUSAL:
            break
    return content.decode(errors="replace")


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for block in answer.content.iter_chunked(BLOCK):
        content += block
        if len(content) > MAX_ANSWER:
            raise FailedError(f"{answer.url.path} answered more than {MAX_ANSWER} bytes")
    return bytes(content)


async def _read_nothing(answer: aiohttp.ClientResponse) -> None:
    await answer.release()


def _is_surely_whole(answer: aiohttp.ClientResponse) -> bool:
    """Whether the protocol would have told of a missing end; an old proxy just hangs up."""
    return answer.content_length is not None or "chunked" in answer.headers.get("Transfer-Encoding", "")


async def _write(answer: aiohttp.ClientResponse, file: Path) -> None:
    """Errors of our disk are told apart from those of the network: both are OSError."""
    length = 0
    with _our_disk(file):
        content = file.open("wb")
    try:
        async for block in answer.content.iter_chunked(BLOCK):
            length += len(block)
            if length > MAX_PICTURE:
                raise FailedError(f"{answer.url.path} sent more than {MAX_PICTURE} bytes for one picture")
            with _our_disk(file):
                content.write(block)
    finally:
        with _our_disk(file):
            content.close()  # writes what is left


@contextmanager
def _our_disk(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWriteError(f"{file} cannot be written: {error.strerror or error}") from error


def _is_torn(error: aiohttp.ClientSSLError) -> bool:
    """Whether the connection ended within the handshake: that may be better the next time."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):  # without os_error before aiohttp 3.13.4
        return False
    return isinstance(error.os_error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError))
