"""Copies to other places: each place gets everything once, whatever other places have."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from headless.catalogue.job.jobs import IDENTITY
from headless.catalogue.kept.copies import Copies
from headless.catalogue.kept.ledger import Ledger
from headless.catalogue.kept.mirror import Mirror


@pytest.fixture
def out(tmp_path):
    """An output folder with two finished ads."""
    with Ledger(tmp_path / "out") as ledger:
        for number in (1, 2):
            name = f"{number}.png"
            ledger.partial(name).write_bytes(name.encode())
            ledger.commit({"job": f"{number}" * 64, "identity": IDENTITY, "files": [{"file": f"ads/{name}"}]}, [name])
    return tmp_path / "out"


def copied(out, place):
    """What one run copies to a place."""
    put = []

    class Watched(Mirror):
        def put(self, name, file):
            put.append(name)
            super().put(name, file)

    async def work(ledger):
        copies = Copies(Watched(place.as_uri()), ledger, pytest.fail)
        copies.add_earlier()
        working = asyncio.create_task(copies.work())
        await copies.finish()
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        assert copies.num_left == 0

    with Ledger(out) as ledger:
        asyncio.run(work(ledger))
    return sorted(put)


def test_another_place_gets_everything_that_was_made_before(out, tmp_path):
    for place in (tmp_path / "one", tmp_path / "two"):
        assert copied(out, place) == ["1.png", "2.png"]
        assert sorted(file.name for file in place.iterdir()) == ["1.png", "2.png"]
    for place in (tmp_path / "one", tmp_path / "two"):
        assert copied(out, place) == []


def test_what_an_earlier_version_copied_without_naming_the_place_is_copied_once_more(out, tmp_path):
    (out / ".catalogue" / "copied.txt").write_text("1.png\n2.png\n")
    assert copied(out, tmp_path / "one") == ["1.png", "2.png"]
    assert copied(out, tmp_path / "one") == []
