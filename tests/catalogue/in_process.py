"""Stub servers and a run in the test's own event loop: nothing is killed, everything can be looked at."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from headless.catalogue.job.jobs import JobMaker
from headless.catalogue.job.pictures import PictureIndex
from headless.catalogue.kept.ledger import Ledger
from headless.catalogue.sources.places import Places
from headless.catalogue.table.columns import Columns
from headless.catalogue.table.rows import read_rows
from headless.catalogue.work.delivery import settings_of
from headless.catalogue.work.run import Limits, Reporter, Tally, Work, run_on_servers
from headless.catalogue.work.servers import Servers
from headless.catalogue.workflow.named_inputs import Workflow
from headless.host.find import PACK_ROOT
from headless.server.address import ServerAddress
from pfv_mepa.tests.catalogue.harness import KINDS, OWN
from pfv_mepa.tests.catalogue.stub_server import Stub

PATIENCE = {"lost_after": 1.0, "give_up_after": 5.0}
ATTEMPTS, JOB_TIMEOUT = 3, 60.0


class Heard(Reporter):
    """Remembers what a run says."""

    def __init__(self) -> None:
        self.bad_rows: list[str] = []
        self.given_up: list[str] = []
        self.said: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def bad_row(self, row) -> None:
        self.bad_rows.append(f"{row.line}: {row.reason}")

    def gave_up(self, ticket, reason) -> None:
        self.given_up.append(reason)

    def says(self, server, message) -> None:
        self.said.append(message)

    def progress(self, server, done, total) -> None:
        self.steps.append((done, total))


def stub(tmp_path: Path, seconds: float = 0.0, others: int = 0, kind: type[Stub] = Stub, **faults: float) -> Stub:
    """A stub that does not listen yet."""
    return kind(seconds, tmp_path / "runs.txt", faults, seed=0, others=others)


@contextlib.asynccontextmanager
async def listening(stubs: Sequence[Stub]) -> AsyncIterator[list[str]]:
    """Their addresses."""
    runners, workers, urls = [], [], []
    try:
        for one in stubs:
            runner = web.AppRunner(one.application(), access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
            runners.append(runner)
            workers.append(asyncio.create_task(one.work()))
        yield urls
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for runner in runners:
            await runner.cleanup()


def run(
    catalogue: Path, out: Path, stubs: Sequence[Stub], workflow: str = "full", **options: Any
) -> tuple[Tally, Heard]:
    """A whole run over stubs."""
    shipped = Workflow.read(PACK_ROOT / "workflows" / "api" / f"{workflow}.json", KINDS)
    columns = Columns(shipped, {})
    maker = JobMaker(shipped, columns, Places(catalogue.parent), PictureIndex(None), own=frozenset(OWN))
    settings = settings_of(shipped, options.pop("attempts", ATTEMPTS), options.pop("job_timeout", JOB_TIMEOUT))
    redo = frozenset(options.pop("redo", ()))
    copies = options.pop("copies", None)
    meanwhile = options.pop("meanwhile", None)
    heard = Heard()

    async def go(ledger: Ledger) -> Tally:
        async with listening(stubs) as urls:
            listed = [ServerAddress.parse(url) for url in urls]
            servers = Servers(listed)
            servers.now = lambda says=None: list(listed)
            task = asyncio.create_task(meanwhile(listed)) if meanwhile else None
            rows = partial(read_rows, catalogue, columns=columns)
            making = (lambda says: copies(ledger, says)) if copies else None
            work = Work(rows, maker, ledger, settings, Limits(**{**PATIENCE, **options}), making)
            try:
                return await run_on_servers(work, servers, heard)
            finally:
                if task:
                    task.cancel()

    with Ledger(out, redo) as ledger:
        return asyncio.run(go(ledger)), heard
