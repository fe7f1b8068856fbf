"""Bars while a run goes on, and the closing report."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .checks import passed
from .job_queue import Ticket
from .jobs import Job
from .ledger import ADS, FAILURES, MANIFEST, Ledger
from .rows import BadRow
from .run import Reporter, Tally


class Bars(Reporter):
    """One bar for the catalogue and one for each server, as a context manager; messages scroll above them.

    Args:
        console: where.
        total: jobs of the catalogue.
        servers: their names.
    """

    def __init__(self, console: Console, total: int, servers: list[str]) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("catalogue", total=total, now="")
        self._servers: dict[str, TaskID] = {
            server: self._bars.add_task(escape(server), total=None, now="") for server in servers
        }

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def bad_row(self, row: BadRow) -> None:
        """Say what is wrong with it."""
        self._say(f"line {row.line}: {row.reason}", "yellow")

    def skipped(self, job: Job) -> None:
        """Count it as done."""
        self._bars.advance(self._all)

    def taken(self, server: str, ticket: Ticket) -> None:
        """Show what the server works at."""
        self._update(server, completed=0, total=None, now=escape(ticket.job.stem))

    def progress(self, server: str, done: int, total: int) -> None:
        """Show the sampler's steps."""
        self._update(server, completed=done, total=total)

    def made(self, server: str, line: dict[str, Any]) -> None:
        """Count it; say when it is not as asked."""
        self._bars.advance(self._all)
        self._update(server, now="")
        if not passed(line["checks"]):
            self._say(f"{line['files'][0]['file']} is not as asked: {line['checks']}", "red")

    def gave_up(self, ticket: Ticket, reason: str) -> None:
        """Count it as ended, and say why."""
        self._bars.advance(self._all)
        self._say(f"line {ticket.job.line}, {ticket.job.name}: given up: {reason}", "red")

    def says(self, server: str, message: str) -> None:
        """Show it."""
        self._say(f"{server}: {message}", "yellow")

    def _update(self, server: str, **values: Any) -> None:
        if server in self._servers:
            self._bars.update(self._servers[server], **values)

    def _say(self, text: str, style: str) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def report(console: Console, tally: Tally, ledger: Ledger) -> None:
    """What was made, what was not, and where it is."""
    lines = [
        f"{tally.made} ads made, {tally.earlier} were there, {tally.failed} failed, in {ledger.out / ADS}",
        f"{tally.rows} rows, {tally.bad_rows} of them bad; {tally.repeated} jobs stand in the catalogue more than once",
        f"product checked in {tally.product_checked} of the {tally.made} ads; {tally.not_as_asked} are not as asked",
        f"ledger: {ledger.out / MANIFEST}, {ledger.num_done} lines"
        + (f", {ledger.num_missing} of whose pictures are gone" if ledger.num_missing else ""),
    ]
    lines += [f"    {server}: {count}" for server, count in sorted(tally.by_server.items())]
    if tally.bad_rows or tally.failed:
        lines.append(f"what failed, and why: {ledger.out / FAILURES}")
    for line in lines:
        _plain(console, line)


def report_dry(console: Console, tally: Tally, shown: list[Job], out: Path) -> None:
    """What a run would do."""
    for job in shown:
        _plain(console, f"would make {out / ADS / job.stem}")
    if tally.made > len(shown):
        _plain(console, f"... and {tally.made - len(shown)} more")
    _plain(
        console, f"{tally.made} ads to make, {tally.earlier} are there; {tally.rows} rows, {tally.bad_rows} of them bad"
    )


def _plain(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
