"""The command line: `pfv-catalogue CATALOGUE --workflow WORKFLOW --server URL --out FOLDER`."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..server.address import ServerAddress, parse_headers
from ..server.errors import CannotWriteError
from . import __version__
from .job.jobs import NEEDED, Job, JobMaker, RowError
from .job.pictures import PictureIndex
from .kept.copies import Copies
from .kept.ledger import STATE, DryLedger, Ledger, LedgerError, Redo
from .kept.mirror import Mirror, MirrorError
from .progress import Bars, report, report_dry
from .sheet.page import check_sheet, write_sheet
from .sources.places import Places
from .table.columns import Columns, parse_aliases, parse_mapping
from .table.rows import CatalogueError, Row, read_rows
from .work.checks import unchecked
from .work.delivery import settings_of, workflow_text
from .work.run import Counting, Limits, NoServerError, Rows, Tally, Work, run_on_servers, tickets
from .work.servers import Answer, Servers, ask_all, wait_for_one
from .workflow.input_kinds import InputKinds
from .workflow.named_inputs import NamedInput, UnknownInputError, Workflow

SHOWN_WHEN_DRY = 10
DEFAULT_SERVER = "http://127.0.0.1:8188"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Exit(IntEnum):
    """What the command's exit status says."""

    ALL_WELL = 0
    SOMETHING_FAILED = 1  # bad rows, failed jobs, ads that are not as asked
    WRONG_USE = 2
    STOPPED = 3  # before the end: run it again to go on


class RedoChoice(str, Enum):
    """What is made again although the ledger has it."""

    MISSING = "missing"
    FAILED = "failed"
    EARLIER = "earlier"


@dataclass(frozen=True)
class Options:
    """What the command line says, read."""

    catalogue: Path
    workflow: Path
    out: Path
    servers: Servers
    places: Places
    mapping: dict[str, list[str]]
    aliases: dict[str, str]
    encoding: str | None
    formats: str
    seeds: str
    own: frozenset[str]
    redo: frozenset[Redo]
    attempts: int
    job_timeout: float
    limits: Limits
    mirror: Mirror | None


@dataclass(frozen=True)
class Catalogue:
    """The table, read against a workflow.

    Attributes:
        maker: makes its jobs.
        columns: which inputs its columns fill.
        rows: reads it from its beginning.
        total: jobs that it makes, where every row is good.
    """

    maker: JobMaker
    columns: Columns
    rows: Rows
    total: int


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pfv-catalogue {__version__}")
        raise typer.Exit


@app.command()
def main(
    catalogue: Annotated[Path, typer.Argument(help="CSV, TSV, XLSX or JSONL, one product a row.")],
    workflow: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="A workflow in ComfyUI's API form.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the ads and the manifest.")],
    server: Annotated[list[str] | None, typer.Option(help=f"A ComfyUI; repeat it. Default: {DEFAULT_SERVER}")] = None,
    servers: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file of servers, one a line; read again while it runs."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VARIABLE", help="A header for every server, its value in that environment variable."
        ),
    ] = None,
    proxy: Annotated[str | None, typer.Option(help="Of all servers. Default: the environment's.")] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of the pictures. Default: the catalogue's."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="PLACE", help="Where pictures may be read besides, as https://HOST or s3://BUCKET."),
    ] = None,
    allow_private_network: Annotated[
        bool, typer.Option("--allow-private-network", help="Also read pictures from addresses of the own network.")
    ] = False,
    copy_to: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Copy every ad there too, as s3://BUCKET/FOLDER.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=TITLE.INPUT", help="Which input a column fills; repeat it."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=NAME", help="What the table calls one of our columns; repeat it."),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a CSV that is not UTF-8 or UTF-16, as cp1252.")] = None,
    formats: Annotated[str, typer.Option(help="Of rows that name none, as '1024x1024; 832x1216'.")] = "",
    seeds: Annotated[str, typer.Option(help="Of rows that name none, as '1; 2; 5-8'.")] = "",
    redo: Annotated[
        list[RedoChoice] | None,
        typer.Option(help="Make again what is gone from the folder, failed a check, or an earlier version made."),
    ] = None,
    own: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Rows may leave it out: product, reference, prompt, a depth; repeat it."),
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Runs of one job before it is given up.")] = 3,
    job_timeout: Annotated[
        float,
        typer.Option(min=1, help="Seconds that a run may take, or wait while nothing moves, before it is stopped."),
    ] = 3600.0,
    lost_after: Annotated[
        float, typer.Option(min=0.1, help="Seconds of silence after which a server's job goes to another.")
    ] = 60.0,
    give_up_after: Annotated[float, typer.Option(min=0, help="Seconds without any server after which to end.")] = 600.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the servers, check every row and picture; post and write nothing.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Make ads for a whole catalogue. Stop it in any way and run it again: it goes on where it was."""
    del version
    console = Console(stderr=True)
    try:
        headers = parse_headers(header or [], os.environ)
        named = server or ([] if servers else [DEFAULT_SERVER])
        addresses = [ServerAddress.parse(text, headers, proxy) for text in named]
        options = Options(
            catalogue,
            workflow,
            out,
            Servers(addresses, servers, headers, proxy),
            Places(inputs or catalogue.absolute().parent, allow or [], allow_private_network),
            parse_mapping(mapping or []),
            parse_aliases(column or []),
            encoding,
            formats,
            seeds,
            _own(own or []),
            frozenset(choice.value for choice in redo or []),
            attempts,
            job_timeout,
            Limits(lost_after, give_up_after),
            _mirror(copy_to),
        )
        status = _dry_run(console, options) if dry_run else _run(console, options)
    except (CatalogueError, LedgerError, UnknownInputError, ValueError) as error:
        _complain(console, error)
        status = Exit.WRONG_USE
    except (NoServerError, CannotWriteError, MirrorError, OSError, asyncio.TimeoutError) as error:
        _complain(console, error)
        status = Exit.STOPPED
    except sqlite3.Error as error:  # of the lock, or of what is only remembered
        _complain(console, f"{out / STATE}: {error}; is the disk full? Run the same command again to go on")
        status = Exit.STOPPED
    except KeyboardInterrupt:
        _complain(console, "stopped; run the same command again to go on")
        status = Exit.STOPPED
    raise typer.Exit(status)


def _run(console: Console, options: Options) -> Exit:
    _read(options, InputKinds(), PictureIndex(None))  # what can be said without a server is said before one is asked
    if options.mirror:
        options.mirror.check()
    check_sheet(options.out)
    with Ledger(options.out, options.redo) as ledger, closing(PictureIndex(ledger.picture_index)) as index:
        _say_what_was_found(console, ledger)
        answers = asyncio.run(wait_for_one(options.servers, options.limits.give_up_after, _teller(console)))
        catalogue = _read(options, _kinds_of(answers), index)
        _say_ignored(console, catalogue)
        workflow = catalogue.maker.workflow
        if not workflow.kinds.are_known:
            raise NoServerError("no server answered; run the same command again to go on")
        _say_answers(console, catalogue, answers)
        settings = settings_of(workflow, options.attempts, options.job_timeout)
        ledger.put_workflow(settings.workflow_file, workflow_text(workflow))
        copies = _copies(options.mirror, ledger)
        work = Work(catalogue.rows, catalogue.maker, ledger, settings, options.limits, copies)
        try:
            with Bars(console, catalogue.total, [answer.url for answer in answers]) as bars:
                tally = asyncio.run(run_on_servers(work, options.servers, bars))
        finally:
            sheet = _sheet(console, options.out)
        report(console, tally, ledger, sheet)
    return Exit.ALL_WELL if tally.all_well else Exit.SOMETHING_FAILED


def _dry_run(console: Console, options: Options) -> Exit:
    answers = asyncio.run(ask_all(options.servers.now()))
    ledger = DryLedger(options.out, options.redo)
    with closing(PictureIndex(None)) as index:
        catalogue = _read(options, _kinds_of(answers), index)
        _say_ignored(console, catalogue)
        all_can = _say_answers(console, catalogue, answers)
        with Bars(console, 0, []) as bars:
            tally, shown = _dry_tally(catalogue, ledger, Counting(bars))
    report_dry(console, tally, shown, options.out)
    return Exit.ALL_WELL if tally.all_well and all_can else Exit.SOMETHING_FAILED


def _dry_tally(catalogue: Catalogue, ledger: DryLedger, counting: Counting) -> tuple[Tally, list[Job]]:
    shown: list[Job] = []
    for ticket in tickets(catalogue.rows, catalogue.maker, ledger, counting):
        counting.tally.made += 1
        if len(shown) < SHOWN_WHEN_DRY:
            shown.append(ticket.job)
    return counting.tally, shown


def _read(options: Options, kinds: InputKinds, index: PictureIndex) -> Catalogue:
    """Read the workflow, check the table's header against it, once, and count its rows' jobs."""
    workflow = Workflow.read(options.workflow, kinds)
    columns = Columns(workflow, options.mapping, options.aliases)
    maker = JobMaker(workflow, columns, options.places, index, options.formats, options.seeds, options.own)
    if not workflow.savers:
        raise ValueError(f"{options.workflow} saves no picture: end it with a Save Image")
    rows = partial(read_rows, options.catalogue, columns=columns, encoding=options.encoding)
    total = sum(_count(maker, row) for row in rows() if isinstance(row, Row))
    return Catalogue(maker, columns, rows, total)


def _say_ignored(console: Console, catalogue: Catalogue) -> None:
    if ignored := catalogue.columns.ignored:
        _teller(console)(catalogue.columns.said_of_ignored(ignored))


def _kinds_of(answers: Sequence[Answer]) -> InputKinds:
    return InputKinds(*(answer.object_info for answer in answers if answer.object_info is not None))


def _say_answers(console: Console, catalogue: Catalogue, answers: Sequence[Answer]) -> bool:
    """Print what each server is and what it lacks; returns whether all can do the work."""
    workflow, filled = catalogue.maker.workflow, _first_filled(catalogue)
    for title in unchecked(workflow):
        _teller(console)(
            f"{title!r} saves what becomes of a composite's picture after it: its product will not be checked"
        )
    all_can = True
    for answer in answers:
        lacking: list[str] = []
        if answer.object_info is not None:
            lacking = workflow.lacks(InputKinds(answer.object_info), filled)
        all_can = all_can and not (lacking or answer.trouble)
        text = f"{answer}, without {'; '.join(lacking)}" if lacking else str(answer)
        style = "yellow" if lacking or answer.trouble else ""
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    return all_can


def _first_filled(catalogue: Catalogue) -> dict[NamedInput, Any]:
    """What the first good row fills: the workflow's own values there need not be on a server."""
    for row in catalogue.rows():
        if isinstance(row, Row):
            try:
                job = next(catalogue.maker.jobs_of(row))
            except RowError:
                continue
            return {**job.values, **dict.fromkeys(job.pictures, "")}
    return {}


def _own(columns: Sequence[str]) -> frozenset[str]:
    if unknown := sorted(set(columns) - set(NEEDED)):
        raise ValueError(f"--own {unknown[0]}: expected one of {', '.join(NEEDED)}")
    return frozenset(columns)


def _sheet(console: Console, out: Path) -> Path | None:
    """The contact sheet; what ended the run, such as a full disk, may keep it from being written, and is said itself."""
    try:
        return write_sheet(out)
    except (OSError, LedgerError) as error:
        _teller(console)(f"no contact sheet: {error}")
        return None


def _mirror(place: str | None) -> Mirror | None:
    try:
        return Mirror(place) if place else None
    except MirrorError as error:
        raise ValueError(f"--copy-to: {error}") from error


def _copies(mirror: Mirror | None, ledger: Ledger) -> Any:
    return (lambda says: Copies(mirror, ledger, says)) if mirror else None


def _count(maker: JobMaker, row: Row) -> int:
    try:
        return maker.count(row)
    except RowError:
        return 0  # said when the row's turn comes


def _say_what_was_found(console: Console, ledger: Ledger) -> None:
    lines = []
    if ledger.num_recovered:
        lines.append(f"{ledger.num_recovered} pictures of an interrupted run put in their place")
    if ledger.num_earlier and ledger.num_earlier == ledger.num_done:
        lines.append(
            f"{ledger.num_earlier} lines of the ledger are an earlier version's; what they made is made again, beside it"
        )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _teller(console: Console) -> Any:
    return lambda text: console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _complain(console: Console, error: object) -> None:
    text = error.args[0] if isinstance(error, UnknownInputError) else error
    console.print(f"pfv-catalogue: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
