"""The servers of a run: named on the command line, or in a file that is read again meanwhile; and asked once before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...server.address import ServerAddress, read_servers
from ...server.client import Server
from ...server.errors import ServerError

ANSWER_SECONDS = 5.0  # a server that takes longer to say what it is counts as silent when it is asked at first
REFUSED_SECONDS = 0.5  # for which it is tried again where nobody listens
ASK_AGAIN_EVERY = 2.0


class Servers:
    """Who works.

    Args:
        named: addresses, each once.
        file: further ones, a line each; None = no file.
        headers: for those of the file.
        proxy: for those of the file.

    Raises:
        ValueError: one stands twice, or the file cannot be read.
    """

    def __init__(
        self,
        named: Sequence[ServerAddress],
        file: Path | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
    ) -> None:
        urls = [address.url for address in named]
        if repeated := sorted({url for url in urls if urls.count(url) > 1}):
            raise ValueError(f"--server: {repeated[0]} stands twice")
        self._named = list(named)
        self._file, self._headers, self._proxy = file, dict(headers or {}), proxy
        self._trouble = ""
        self._listed = self._read()

    def now(self, says: Callable[[str], None] = lambda text: None) -> list[ServerAddress]:
        """Those that work at this moment, each once; a file that cannot be read leaves them as they were.

        Args:
            says: told once what is wrong with the file.
        """
        try:
            self._listed = self._read()
            self._trouble = ""
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                says(f"{error}; the servers stay as they were")
            self._trouble = str(error)
        return list({address.url: address for address in (*self._named, *self._listed)}.values())

    def _read(self) -> list[ServerAddress]:
        return read_servers(self._file, self._headers, self._proxy) if self._file else []


@dataclass(frozen=True)
class Answer:
    """What a server said when it was asked at first.

    Attributes:
        url: of the server.
        versions: what runs there; empty where it did not answer.
        object_info: its nodes; None where it did not answer.
        trouble: why not, or "".
    """

    url: str
    versions: dict[str, str]
    object_info: dict[str, Any] | None
    trouble: str = ""

    def __str__(self) -> str:
        if self.trouble:
            return self.trouble if self.trouble.startswith(self.url) else f"{self.url}: {self.trouble}"
        return f"{self.url}: ComfyUI {self.versions.get('comfyui', 'of unknown version')}"


async def ask_all(addresses: Sequence[ServerAddress]) -> list[Answer]:
    """Ask every server once, at the same time, what it is."""
    return list(await asyncio.gather(*(_ask(address) for address in addresses)))


async def wait_for_one(servers: Servers, give_up_after: float, says: Callable[[str], None]) -> list[Answer]:
    """Ask until at least one server answers.

    Args:
        servers: who is asked.
        give_up_after: seconds.
        says: told at once what those that are silent said, and that others are waited for.

    Returns:
        The answers of the last round; none of them is of use where all were silent to the end.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + give_up_after
    told: set[str] = set()
    while True:
        answers = await ask_all(servers.now(says))
        for answer in answers:
            if answer.trouble and str(answer) not in told:
                says(str(answer))
                told.add(str(answer))
        if any(answer.object_info is not None for answer in answers) or loop.time() > deadline:
            return answers
        if "waiting" not in told:
            says(f"no server answers; waiting for one, for at most {give_up_after:.0f} s (--give-up-after)")
            told.add("waiting")
        await asyncio.sleep(min(ASK_AGAIN_EVERY, max(0.1, give_up_after / 4)))


async def _ask(address: ServerAddress) -> Answer:
    try:
        async with Server(address, REFUSED_SECONDS) as server:
            both = asyncio.gather(server.versions(), server.object_info())
            versions, object_info = await asyncio.wait_for(both, ANSWER_SECONDS)
    except ServerError as error:
        return Answer(address.url, {}, None, str(error))
    except asyncio.TimeoutError:
        return Answer(address.url, {}, None, f"does not answer within {ANSWER_SECONDS:.0f} s")
    return Answer(address.url, versions, object_info)
