"""The command line: `pfv-catalogue CATALOGUE --workflow WORKFLOW --server URL --out FOLDER`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .columns import Columns, parse_mapping
from .jobs import Job, JobMaker, RowError
from .ledger import DryLedger, Ledger, LedgerError
from .named_inputs import UnknownInputError, Workflow
from .progress import Bars, report, report_dry
from .rows import CatalogueError, Row, read_rows
from .run import Counting, NoServerError, Tally, run_on_servers, tickets
from .server import CannotWriteError, check_url

SHOWN_WHEN_DRY = 10
DEFAULT_SERVER = "http://127.0.0.1:8188"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Exit(IntEnum):
    """What the command's exit status says."""

    ALL_WELL = 0
    SOMETHING_FAILED = 1  # bad rows, failed jobs, ads that are not as asked
    WRONG_USE = 2
    STOPPED = 3  # before the end: run it again to go on


@app.command()
def main(
    catalogue: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV or JSONL, one product a row.")],
    workflow: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A workflow in ComfyUI's API form.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the ads and the manifest.")],
    server: Annotated[list[str] | None, typer.Option(help=f"A ComfyUI; repeat it. Default: {DEFAULT_SERVER}")] = None,
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, instead of servers.")] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of the pictures. Default: the catalogue's."),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=TITLE.INPUT", help="Which input a column fills; repeat it."),
    ] = None,
    formats: Annotated[str, typer.Option(help="Of rows that name none, as '1024x1024; 832x1216'.")] = "",
    seeds: Annotated[str, typer.Option(help="Of rows that name none, as '1; 2; 5-8'.")] = "",
    attempts: Annotated[int, typer.Option(min=1, help="Runs of one job before it is given up.")] = 3,
    lost_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds of silence after which a server's job goes to another.")
    ] = 60.0,
    give_up_after: Annotated[float, typer.Option(min=0, help="Seconds without any server after which to end.")] = 600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check every row, post nothing.")] = False,
) -> None:
    """Make ads for a whole catalogue. Stop it in any way and run it again: it goes on where it was."""
    console = Console(stderr=True)
    try:
        maker = _maker(workflow, inputs or catalogue.absolute().parent, mapping or [], formats, seeds)
        if server and dask:
            raise ValueError("--server and --dask: expected one of the two")
        urls = _distinct([check_url(url) for url in server or [DEFAULT_SERVER]])
        if dry_run:
            status = _dry_run(console, catalogue, maker, out)
        else:
            limits = {"attempts": attempts, "lost_after": lost_after, "give_up_after": give_up_after}
            status = _run(console, catalogue, maker, out, urls, dask, limits)
    except (CatalogueError, LedgerError, UnknownInputError, ValueError) as error:
        _complain(console, error)
        status = Exit.WRONG_USE
    except (NoServerError, CannotWriteError, OSError, asyncio.TimeoutError) as error:
        _complain(console, error)
        status = Exit.STOPPED
    except KeyboardInterrupt:
        _complain(console, "stopped; run the same command again to go on")
        status = Exit.STOPPED
    raise typer.Exit(status)


def _maker(workflow: Path, inputs: Path, mapping: Sequence[str], formats: str, seeds: str) -> JobMaker:
    shipped = Workflow.read(workflow)
    return JobMaker(shipped, Columns(shipped, parse_mapping(mapping)), inputs, formats, seeds)


def _run(
    console: Console,
    catalogue: Path,
    maker: JobMaker,
    out: Path,
    urls: list[str],
    dask: str | None,
    limits: dict[str, float],
) -> Exit:
    total = sum(_count(maker, row) for row in read_rows(catalogue) if isinstance(row, Row))
    with Ledger(out) as ledger:
        if ledger.num_recovered:
            console.print(f"{ledger.num_recovered} pictures of an interrupted run put in their place", highlight=False)
        with Bars(console, total, [] if dask else urls) as bars:
            tally = _tally(catalogue, maker, ledger, urls, dask, bars, limits)
        report(console, tally, ledger)
    return Exit.ALL_WELL if tally.all_well else Exit.SOMETHING_FAILED


def _tally(
    catalogue: Path,
    maker: JobMaker,
    ledger: Ledger,
    urls: list[str],
    dask: str | None,
    bars: Bars,
    limits: dict[str, float],
) -> Tally:
    attempts, lost_after, give_up_after = int(limits["attempts"]), limits["lost_after"], limits["give_up_after"]
    if dask is None:
        work = run_on_servers(catalogue, maker, ledger, urls, bars, attempts, lost_after, give_up_after)
        return asyncio.run(work)
    from .cluster import run_on_cluster  # Dask is optional

    return run_on_cluster(catalogue, maker, ledger, dask, bars, attempts)


def _count(maker: JobMaker, row: Row) -> int:
    try:
        return maker.count(row)
    except RowError:
        return 0  # said when the row's turn comes


def _dry_run(console: Console, catalogue: Path, maker: JobMaker, out: Path) -> Exit:
    counting = Counting(Bars(console, 0, []))
    shown: list[Job] = []
    for ticket in tickets(catalogue, maker, DryLedger(out), counting):
        counting.tally.made += 1
        if len(shown) < SHOWN_WHEN_DRY:
            shown.append(ticket.job)
    report_dry(console, counting.tally, shown, out)
    return Exit.ALL_WELL if counting.tally.all_well else Exit.SOMETHING_FAILED


def _distinct(urls: list[str]) -> list[str]:
    if len(set(urls)) < len(urls):
        raise ValueError(f"--server: one stands twice in {urls}")
    return urls


def _complain(console: Console, error: object) -> None:
    text = error.args[0] if isinstance(error, UnknownInputError) else error
    console.print(f"pfv-catalogue: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
