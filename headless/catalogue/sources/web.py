"""Pictures over http and https: every hop allowed, every address checked, length and time bounded."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver
from fsspec.asyn import get_loop, iothread
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from yarl import URL

from .addresses import (
    WEB,
    Address,
    AddressError,
    AllowList,
    PublicResolver,
    check_literal,
    parsed,
)
from .safe_paths import shown
from .source import SourceError, check_length, not_empty

MAX_HOPS = 5  # redirections
ATTEMPTS = 3
LONGEST_PAUSE = 5.0  # seconds, between two attempts
CONNECT_SECONDS, SILENT_SECONDS, TOTAL_SECONDS = 15.0, 30.0, 300.0  # of one attempt
CONNECTIONS, CONNECTIONS_OF_A_HOST = 32, 8
BLOCK = 1 << 16  # bytes

_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be better a moment later
_NO_HEAD = (400, 401, 403, 405, 501)  # answers to HEAD that say nothing of GET: a signature is for one of them

Result = TypeVar("Result")


class _TryAgainError(Exception):
    """A failure that may be gone a moment later."""


class Web:
    """Reads addresses from any thread; the work is done in fsspec's own.

    Args:
        allowed: which may be read.
        private: whether addresses of an own network may be.
        max_bytes: of one picture.
        resolver: of names; None = the system's.
        seconds: for one attempt.
        pause: longest, between two attempts, in seconds.
    """

    def __init__(
        self,
        allowed: AllowList,
        private: bool,
        max_bytes: int,
        resolver: AbstractResolver | None = None,
        seconds: float = TOTAL_SECONDS,
        pause: float = LONGEST_PAUSE,
    ) -> None:
        self._allowed = allowed
        self._private = private
        self._max_bytes = max_bytes
        self._resolver = resolver
        self._timeout = aiohttp.ClientTimeout(
            total=seconds, sock_connect=min(CONNECT_SECONDS, seconds), sock_read=min(SILENT_SECONDS, seconds)
        )
        self._pause = pause
        self._sessions: list[aiohttp.ClientSession] = []  # the one, once it is there
        self.close = weakref.finalize(self, _close, self._sessions)

    def read(self, address: Address) -> bytes:
        """All of it.

        Raises:
            SourceError: it cannot be read, or is too large.
        """
        return _in_loop(self._tried(address, self._read))

    def version(self, address: Address) -> str:
        """What the server says of it without sending it; "" where it says nothing to go by.

        Raises:
            SourceError: it cannot be read.
        """
        return _in_loop(self._tried(address, self._version))

    async def _tried(self, address: Address, once: Callable[[Address], Awaitable[Result]]) -> Result:
        attempts = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=self._pause),
            retry=retry_if_exception_type(_TryAgainError),
        )

        async def attempt() -> Result:  # tenacity awaits what it sees to be a coroutine function
            return await once(address)

        try:
            return await attempts(attempt)
        except RetryError as error:
            reason = error.last_attempt.exception()
            raise SourceError(f"{address.name!r} {reason}, {ATTEMPTS} times") from reason

    async def _read(self, address: Address) -> bytes:
        async with self._answer(address, "GET") as answer:
            _check_status(address, answer.status)
            packed = answer.headers.get("Content-Encoding", "identity")
            if packed.lower() != "identity":
                raise SourceError(f"{address.name!r} is sent packed as {packed!r}: expected the picture as it is")
            check_length(address.name, answer.content_length or 0, self._max_bytes)
            found = bytearray()
            async for block in answer.content.iter_chunked(BLOCK):
                found += block
                check_length(address.name, len(found), self._max_bytes)
            return not_empty(address.name, bytes(found))

    async def _version(self, address: Address) -> str:
        async with self._answer(address, "HEAD") as answer:
            if answer.status not in _NO_HEAD:
                return _version_of(address, answer)
        async with self._answer(address, "GET") as answer:
            answer.close()  # the head is enough
            return _version_of(address, answer)

    @asynccontextmanager
    async def _answer(self, address: Address, method: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer at the end of all redirections.

        Raises:
            _TryAgainError: the connection failed.
            SourceError: for good.
        """
        try:
            async with await self._followed(address, method) as answer:
                yield answer
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise SourceError(f"{address.name!r} was not sent within {self._timeout.total:g} s") from error
        except (aiohttp.ClientSSLError, aiohttp.InvalidURL) as error:
            raise SourceError(f"{address.name!r} cannot be reached: {_reason(error)}") from error
        except aiohttp.ClientError as error:
            raise _TryAgainError(f"cannot be read: {_reason(error)}") from error

    async def _followed(self, address: Address, method: str) -> aiohttp.ClientResponse:
        hop = address
        for _ in range(MAX_HOPS + 1):
            answer = await self._asked(address, hop, method)
            if answer.status not in _REDIRECTS:
                return answer
            async with answer:
                hop = _next_hop(address, hop, answer.headers.get("Location", ""))
        raise SourceError(f"{address.name!r} is redirected more than {MAX_HOPS} times")

    async def _asked(self, address: Address, hop: Address, method: str) -> aiohttp.ClientResponse:
        try:
            self._allowed.check(hop)
            if hop.url is None or hop.scheme not in WEB:
                raise AddressError(f"{hop.name!r} is no address of the web")
            if not self._private:
                check_literal(hop.url)
            return await self._session().request(method, hop.url, allow_redirects=False)
        except AddressError as error:
            way = "" if hop is address else f" is redirected to {shown(hop.text)!r}"
            raise SourceError(f"{address.name!r}{way}: {error}") from error

    def _session(self) -> aiohttp.ClientSession:
        if not self._sessions:
            inner = self._resolver or aiohttp.ThreadedResolver()
            connector = aiohttp.TCPConnector(
                resolver=inner if self._private else PublicResolver(inner),
                use_dns_cache=False,  # connections are kept instead
                limit=CONNECTIONS,
                limit_per_host=CONNECTIONS_OF_A_HOST,
            )
            session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                auto_decompress=False,  # nothing grows after it was measured
                # Whoever names kinds of pictures is sent the one that is smallest, encoded anew.
                headers={"Accept-Encoding": "identity", "Accept": "*/*"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            self._sessions.append(session)
        return self._sessions[0]


def _next_hop(address: Address, hop: Address, location: str) -> Address:
    try:
        if not location or hop.url is None:
            raise AddressError("the server does not say where to")
        return parsed(str(hop.url.join(URL(location, encoded=True))))
    except AddressError as error:
        raise SourceError(f"{address.name!r} is redirected, but not to an address: {error}") from error
    except ValueError as error:  # whose words may repeat what came
        raise SourceError(f"{address.name!r} is redirected to {shown(location)!r}, which is no address") from error


def _check_status(address: Address, status: int) -> None:
    if status == 200:
        return
    if status in _PASSING:
        raise _TryAgainError(f"was answered with status {status}")
    if status in (404, 410):
        raise SourceError(f"{address.name!r} is not there (status {status})")
    if status in (401, 403):
        raise SourceError(
            f"{address.name!r} may not be read (status {status}): is it public, or has its signature run out?"
        )
    raise SourceError(f"{address.name!r} was answered with status {status}: expected 200 and the picture")


def _version_of(address: Address, answer: aiohttp.ClientResponse) -> str:
    """A strong ETag, or time and length: a weak one may stay the same while the bytes change."""
    _check_status(address, answer.status)
    tag = answer.headers.get("ETag", "")
    if tag.startswith('"'):
        return f"etag {tag}"
    changed, length = answer.headers.get("Last-Modified"), answer.headers.get("Content-Length")
    return f"{length} {changed}" if changed and length else ""


def _reason(error: Exception) -> str:
    """What went wrong, without the address, whose query may be a secret."""
    # Of a certificate there is no os_error before aiohttp 3.13.4.
    cause: Any = error.__cause__ if isinstance(error, aiohttp.ClientConnectorError) else None
    return f"{type(error).__name__} ({cause.strerror or cause})" if cause else type(error).__name__


def _in_loop(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run_coroutine_threadsafe(work, get_loop()).result()


def _close(sessions: list[aiohttp.ClientSession]) -> None:
    """Close what is open; nobody can read any more."""
    loop = get_loop()
    while sessions and loop.is_running():
        closing = asyncio.run_coroutine_threadsafe(sessions.pop().close(), loop)
        if threading.current_thread() is not iothread[0]:  # the collector may run this in the loop's own thread
            closing.result(timeout=5.0)
