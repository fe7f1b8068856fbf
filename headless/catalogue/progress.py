"""Bars while a run goes on, and the closing report."""

from __future__ import annotations

import re
import time
from collections import Counter
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

from .job.jobs import Job
from .kept.ledger import ADS, FAILURES, MANIFEST, Ledger
from .kept.lines import all_checks, passed
from .table.records import BadRow
from .work.job_queue import Ticket
from .work.run import Reporter, Tally

SHOWN_OF_A_KIND = 5  # messages that differ in numbers and names alone; all of them are in the failures' file


class Bars(Reporter):
    """One bar for the catalogue and one for each server, as a context manager; messages scroll above them.

    Where there is no terminal, a line a minute stands in for the bars.

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
        self._total, self._begun = total, time.monotonic()
        self._of_a_kind: Counter[str] = Counter()
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
        for like, count in self._of_a_kind.items():
            if count > SHOWN_OF_A_KIND:
                self._say(f"... and {count - SHOWN_OF_A_KIND} more like: {like}", "yellow")

    def bad_row(self, row: BadRow) -> None:
        """Say what is wrong with it."""
        self._say_some(row.reason, f"line {row.line}: {row.reason}", "yellow")

    def skipped(self, job: Job) -> None:
        """Count it as done."""
        self._bars.advance(self._all)

    def taken(self, server: str, ticket: Ticket) -> None:
        """Show what the server works at."""
        self._update(server, completed=0, total=None, now=escape(ticket.job.stem(ticket.job.size)))

    def progress(self, server: str, done: int, total: int) -> None:
        """Show the sampler's steps."""
        self._update(server, completed=done, total=total)

    def made(self, server: str, line: dict[str, Any]) -> None:
        """Count it; say when it is not as asked."""
        self._bars.advance(self._all)
        self._update(server, now="")
        if not passed(line):
            wrong = "; ".join(f"{kind}: {_why(check)}" for kind, check in all_checks(line) if not check["passed"])
            self._say_some(wrong, f"{line['files'][0]['file']} is not as asked: {wrong}", "red")

    def gave_up(self, ticket: Ticket, reason: str) -> None:
        """Count it as ended, and say why."""
        self._bars.advance(self._all)
        self._say_some(reason, f"line {ticket.job.line}, {ticket.job.name}: given up: {reason}", "red")

    def says(self, server: str, message: str) -> None:
        """Show it."""
        text = " ".join((message if message.startswith(server) else f"{server}: {message}").split())
        self._say_some(text, text, "yellow")

    def minute(self, tally: Tally) -> None:
        """A line, where no bar is seen."""
        if not self._console.is_terminal:
            self._say(_so_far(tally, self._total, time.monotonic() - self._begun), "")

    def _say_some(self, reason: str, text: str, style: str) -> None:
        """The first few of a kind; the rest are counted."""
        kind = re.sub(r"'[^']*'|\d+", "...", reason)
        self._of_a_kind[kind] += 1
        if self._of_a_kind[kind] <= SHOWN_OF_A_KIND:
            self._say(text, style)

    def _update(self, server: str, **values: Any) -> None:
        if server in self._servers:
            self._bars.update(self._servers[server], **values)

    def _say(self, text: str, style: str) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _why(check: dict[str, Any]) -> str:
    """One failed check, in words."""
    match check:
        case {"why": why}:
            return str(why)
        case {"expected": expected, "found": found}:
            return f"asked for {'x'.join(map(str, expected))}, got {'x'.join(map(str, found))}"
        case {"inside": inside, "exact": exact, "max_difference": difference}:
            return f"{inside - exact} of {inside} pixels are not the photo's, by up to {difference} of 255"
        case _:
            return "the node that puts it in says that it is not exact"


def _so_far(tally: Tally, total: int, seconds: float) -> str:
    """How far a run is, and about how long it will still take."""
    ended = tally.made + tally.earlier + tally.repeated + tally.failed
    left = (total - ended) * seconds / tally.made if tally.made else None
    rest = f", about {left / 60:.0f} min left" if left is not None else ""
    return f"{ended} of {total} jobs: {tally.made} made, {tally.earlier} were there, {tally.failed} failed{rest}"


def report(console: Console, tally: Tally, ledger: Ledger, sheet: Path | None) -> None:
    """What was made, what was not, and where it is."""
    pictures = f" ({tally.pictures} pictures)" if tally.pictures != tally.made else ""
    lines = [
        f"{tally.made} ads made{pictures}, {_earlier(tally)}, {tally.failed} failed, in {ledger.out / ADS}",
        f"{_rows(tally)}; {tally.repeated} jobs stand in the catalogue more than once",
        f"product checked in {tally.product_checked} of the {tally.pictures} pictures; {tally.not_as_asked} ads are not as asked",
        f"ledger: {ledger.out / MANIFEST}, {ledger.num_done} lines",
        *([f"contact sheet: {sheet}"] if sheet else []),
    ]
    if tally.not_copied:
        lines.append(f"{tally.not_copied} pictures are not copied: run the same command again")
    lines += [f"    {server}: {count}" for server, count in sorted(tally.by_server.items())]
    if tally.bad_rows or tally.failed:
        lines.append(f"what failed, and why: {ledger.out / FAILURES}")
    for line in lines:
        _plain(console, line)


def _earlier(tally: Tally) -> str:
    gone = f" ({tally.gone} of them without a picture that is not there any more: --redo missing)" if tally.gone else ""
    return f"{tally.earlier} were there{gone}"


def _rows(tally: Tally) -> str:
    return f"{tally.rows} rows, {tally.bad_rows} of them bad" if tally.rows else "no row below the header"


def report_dry(console: Console, tally: Tally, shown: list[Job], out: Path) -> None:
    """What a run would do."""
    for job in shown:
        _plain(console, f"would make {out / ADS / job.stem(job.size)}")
    if tally.made > len(shown):
        _plain(console, f"... and {tally.made - len(shown)} more")
    _plain(console, f"{tally.made} ads to make, {_earlier(tally)}; {_rows(tally)}")


def _plain(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
