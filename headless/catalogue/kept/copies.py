"""Finished pictures, copied to another place too. What is in the ledger is done; a copy that fails is made later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from .ledger import ADS, Ledger
from .mirror import Mirror, MirrorError

AT_ONCE = 4  # in threads of their own: a place that hangs holds up no server


class Copies:
    """What goes to one place, beside the work.

    Args:
        mirror: the place.
        ledger: knows what was copied there before.
        says: told what failed.
    """

    def __init__(self, mirror: Mirror, ledger: Ledger, says: Callable[[str], None]) -> None:
        self._mirror = mirror
        self._ledger = ledger
        self._says = says
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self._left: set[str] = set()
        self._told: set[str] = set()
        self._threads = ThreadPoolExecutor(AT_ONCE, "copies")

    @property
    def num_left(self) -> int:
        """Pictures that are not there yet."""
        return len(self._left) + self._waiting.qsize()

    def add(self, names: Iterable[str]) -> None:
        """Have pictures copied that lie in the folder of pictures."""
        for name in names:
            self._waiting.put_nowait(name)

    def add_earlier(self) -> None:
        """Have everything copied that is in the ledger and is not at this place yet, by whichever run it was made."""
        copied = self._ledger.copied(self._mirror.name)
        for line in self._ledger.lines():
            names = [str(entry["file"]).removeprefix(f"{ADS}/") for entry in line["files"]]
            self.add(name for name in names if name not in copied and (self._ledger.out / ADS / name).is_file())

    async def work(self) -> None:
        """Copy what comes, until cancelled."""
        try:
            await asyncio.gather(*(self._copy_what_comes() for _ in range(AT_ONCE)))
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def finish(self) -> None:
        """Wait until everything was copied or has failed; what failed is tried once more."""
        await self._waiting.join()
        again, self._left = sorted(self._left), set()
        self.add(again)
        await self._waiting.join()

    async def _copy_what_comes(self) -> None:
        while True:
            name = await self._waiting.get()
            try:
                await asyncio.get_running_loop().run_in_executor(self._threads, self._copy, name)
            except (MirrorError, OSError) as error:
                self._left.add(name)
                if name not in self._told:
                    self._says(f"{name!r} is made, but not copied: {error}; it will be tried again")
                self._told.add(name)
            finally:
                self._waiting.task_done()

    def _copy(self, name: str) -> None:
        self._mirror.put(name, self._ledger.out / ADS / name)
        self._ledger.note_copied(self._mirror.name, name)
