"""Finished pictures, copied to another place too. What is in the ledger is done; a copy that fails is made later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from .ledger import ADS, Ledger
from .mirror import Mirror, MirrorError


class Copies:
    """What goes to one place.

    Args:
        mirror: the place.
        ledger: knows what was copied before.
        says: told what failed.

    Attributes:
        left: names of pictures that are not there yet.
    """

    def __init__(self, mirror: Mirror, ledger: Ledger, says: Callable[[str], None]) -> None:
        self._mirror = mirror
        self._ledger = ledger
        self._says = says
        self.left: set[str] = set()

    async def copy(self, names: Iterable[str]) -> None:
        """Copy pictures that lie in the folder of pictures."""
        for name in names:
            try:
                await asyncio.to_thread(self._mirror.put, name, self._ledger.out / ADS / name)
            except MirrorError as error:
                if name not in self.left:
                    self._says(f"{name} is made, but not copied: {error}; it will be tried again")
                self.left.add(name)
            else:
                self._ledger.note_copied(name)
                self.left.discard(name)

    async def catch_up(self) -> None:
        """Copy everything in the ledger that was not copied, now or by an earlier run."""
        copied = self._ledger.copied()
        for line in self._ledger.lines():
            names = [str(entry["file"]).removeprefix(f"{ADS}/") for entry in line["files"]]
            await self.copy(name for name in names if name not in copied and (self._ledger.out / ADS / name).is_file())
