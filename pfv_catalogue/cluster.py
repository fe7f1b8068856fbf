"""The same jobs as tasks of a Dask cluster, in which every worker has a ComfyUI of its own.

Dask does what it is good at: it spreads the tasks, gives the task of a dead worker to another, and repeats what failed. The
ledger stays here, with the command. A worker needs this package and the address of its ComfyUI in PFV_CATALOGUE_SERVER;
pictures travel with the tasks, so no folder is shared.

Scheduler and workers speak Dask's own protocol, which pickles: a cluster belongs into a network of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed import Client, Future, as_completed

from .checks import read_ad
from .delivery import Received, Settings, delivery_of, manifest_line, settings_of
from .job_queue import Ticket
from .jobs import Job, JobMaker
from .ledger import Ledger, LedgerError
from .run import Counting, Reporter, Tally, tickets
from .server import FailedError, Server

SERVER_VARIABLE = "PFV_CATALOGUE_SERVER"
DEFAULT_SERVER = "http://127.0.0.1:8188"
LOST_AFTER = 120.0  # seconds of silence after which a worker reports its ComfyUI as down
TASKS_PER_WORKER = 2  # one that runs and one that waits: its pictures are there already
WAIT_FOR_WORKERS = 60  # seconds


def run_on_cluster(
    catalogue: Path, maker: JobMaker, ledger: Ledger, scheduler: str, reporter: Reporter, attempts: int = 3
) -> Tally:
    """Make every ad of a catalogue that the ledger has not.

    Args:
        catalogue: CSV or JSONL.
        maker: turns rows into jobs.
        ledger: open.
        scheduler: its address, such as tcp://127.0.0.1:8786.
        reporter: told what happens.
        attempts: runs of one job before it is given up.

    Raises:
        OSError: no scheduler answers there, or no worker comes.
        CatalogueError: the catalogue as a whole cannot be read.
    """
    counting = Counting(reporter)
    settings = settings_of(maker.workflow, attempts)
    with Client(scheduler, set_as_default=False, timeout=WAIT_FOR_WORKERS) as client:
        client.wait_for_workers(1, timeout=WAIT_FOR_WORKERS)
        for future, ticket in _ended(client, tickets(catalogue, maker, ledger, counting), settings):
            _deliver(future, ticket, settings, ledger, counting)
            future.release()
    return counting.tally


def make_ad(task: dict[str, Any]) -> dict[str, Any]:
    """One job, on a worker.

    Args:
        task: `prompt`, with a picture's name where a picture belongs; `pictures`, name -> bytes; `places`, name -> the
            inputs (node id, input) that take it; `prompt_id`.

    Returns:
        `images`, each [node id, bytes]; `server`, `versions`, `seconds`, `texts`, `prompt_id`.
    """
    return asyncio.run(_make_ad(task, os.environ.get(SERVER_VARIABLE, DEFAULT_SERVER)))


async def _make_ad(task: dict[str, Any], url: str) -> dict[str, Any]:
    async with Server(url, LOST_AFTER) as server:
        prompt_id, finished = await _run(server, task)
        images = []
        with tempfile.TemporaryDirectory(prefix="pfv-catalogue-") as folder:
            for image in finished.images:
                file = Path(folder) / "image"
                await server.download(image, file)
                read_ad(file)  # half a picture is a failure here, where Dask repeats the task
                images.append([image.node_id, file.read_bytes()])
        facts = {"server": url, "versions": await server.versions(), "texts": finished.texts, "prompt_id": prompt_id}
        return {"images": images, "seconds": {"server": finished.seconds}, **facts}


async def _run(server: Server, task: dict[str, Any]) -> tuple[str, Any]:
    """Take up what an interrupted command had posted to this very server; else post."""
    prompt_id = task["prompt_id"]
    if await server.knows(prompt_id):
        with contextlib.suppress(FailedError):
            server.watch(prompt_id)
            return prompt_id, await server.finished(prompt_id)
        prompt_id = str(uuid.uuid4())
    for name, content in task["pictures"].items():
        uploaded = await server.upload(name, content)
        for node_id, input_name in task["places"][name]:
            task["prompt"][node_id]["inputs"][input_name] = uploaded
    server.watch(prompt_id)
    await server.submit(task["prompt"], prompt_id)
    return prompt_id, await server.finished(prompt_id)


def _ended(client: Client, source: Iterator[Ticket], settings: Settings) -> Iterator[tuple[Future[Any], Ticket]]:
    """Every job's future when it has ended; only so many are out as the workers can use."""
    out: dict[str, Ticket] = {}
    ended = as_completed(loop=client.loop)
    more = True
    while more or out:
        while more and len(out) < TASKS_PER_WORKER * max(1, sum(client.nthreads().values())):
            ticket = next(source, None)
            if ticket is None:
                more = False
                break
            future = _submitted(client, ticket.job, settings)
            out[str(future.key)] = ticket
            ended.add(future)
        if out:
            future = next(ended)
            yield future, out.pop(str(future.key))


def _submitted(client: Client, job: Job, settings: Settings) -> Future[Any]:
    pictures = {picture.upload_name: picture.content() for picture in job.pictures.values()}
    places: dict[str, list[tuple[str, str]]] = {}
    for named, picture in job.pictures.items():
        places.setdefault(picture.upload_name, []).append((named.node_id, named.name))
    names = {named: picture.upload_name for named, picture in job.pictures.items()}
    task = {
        "prompt": job.prompt(settings.workflow, names),
        "pictures": pictures,
        "places": places,
        "prompt_id": str(uuid.UUID(job.id[:32])),
    }
    return client.submit(make_ad, task, key=f"ad-{job.id}", retries=settings.attempts - 1, pure=False)


def _deliver(future: Future[Any], ticket: Ticket, settings: Settings, ledger: Ledger, counting: Counting) -> None:
    error = future.exception()  # what make_ad raised, or Dask's own: a task under which workers died
    try:
        if error is None:
            result = future.result()
            line, names = _line(result, ticket.job, settings, ledger)
            ledger.commit(line, names)
            counting.made(result["server"], line)
            return
    except LedgerError as found:
        error = found
    job = ticket.job
    ledger.failed({"line": job.line, "name": job.name, "job": job.id, "reason": str(error), "problems": []})
    counting.gave_up(ticket, str(error))


def _line(result: dict[str, Any], job: Job, settings: Settings, ledger: Ledger) -> tuple[dict[str, Any], list[str]]:
    received = []
    for number, (node_id, content) in enumerate(result["images"], 1):
        raw = ledger.partial(f"{job.id}.{number}")
        raw.write_bytes(content)
        received.append(Received(node_id, raw, read_ad(raw)))
    delivery = delivery_of(job, settings, ledger, received, result["texts"])
    facts = {name: result[name] for name in ("texts", "server", "prompt_id", "seconds")}
    line = manifest_line(job, settings, delivery, result["versions"], attempt=None, **facts)
    return line, delivery.names
