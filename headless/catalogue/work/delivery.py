"""From downloaded images to a line of the manifest."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from .. import __version__
from ..job.jobs import IDENTITY, Job
from ..job.pictures import EXTENSIONS
from ..kept.ledger import ADS, WORKFLOWS, Ledger
from ..workflow.named_inputs import Workflow
from .checks import SavedAd, check_ad, product_place, saved_by


@dataclass(frozen=True)
class Settings:
    """What all jobs of a run share.

    Attributes:
        workflow: what is run.
        attempts: runs of one job before it is given up.
        job_timeout: seconds that a run may take; None = for ever.
        versions: of this command and what checks its pictures.
        workflow_file: the workflow's copy, relative to the output folder.
    """

    workflow: Workflow
    attempts: int
    job_timeout: float | None
    versions: dict[str, str]
    workflow_file: str


@dataclass(frozen=True)
class Received:
    """A downloaded image.

    Attributes:
        node_id: of the node that saved it.
        raw: where it lies.
        ad: what it is.
    """

    node_id: str
    raw: Path
    ad: SavedAd


@dataclass(frozen=True)
class Delivery:
    """Images with their names and what was checked of them.

    Attributes:
        names: of the files.
        files: their entries in the manifest.
    """

    names: list[str]
    files: list[dict[str, Any]]


def settings_of(workflow: Workflow, attempts: int, job_timeout: float | None = None) -> Settings:
    """The settings of a run."""
    versions = {"pfv_catalogue": __version__, "pillow": PIL.__version__}
    return Settings(workflow, attempts, job_timeout, versions, f"{WORKFLOWS}/{workflow_sha256(workflow)[:16]}.json")


def workflow_text(workflow: Workflow) -> str:
    """A workflow as it lies beside the manifest."""
    return json.dumps(workflow.nodes, indent=1, ensure_ascii=True)


def workflow_sha256(workflow: Workflow) -> str:
    """Of `workflow_text`."""
    return hashlib.sha256(workflow_text(workflow).encode()).hexdigest()


def delivery_of(
    job: Job, settings: Settings, ledger: Ledger, images: list[Received], texts: Mapping[str, list[str]], times: int
) -> Delivery:
    """Check the images of a job and give them their names, still beside the ledger.

    Args:
        job: what was asked for.
        settings: of the run.
        ledger: where the files go.
        images: in the order of the nodes that saved them.
        texts: what nodes showed.
        times: how often the ledger has the job already.
    """
    prompt = job.prompt(settings.workflow, {})
    delivery = Delivery([], [])
    for image in images:
        place = product_place(settings.workflow, prompt, image.node_id) if image.node_id in prompt else None
        name = _name(job, image.ad, times, delivery.names)
        image.raw.replace(ledger.partial(name))
        delivery.names.append(name)
        facts = {"size": list(image.ad.size), "bytes": image.ad.bytes, "sha256": image.ad.sha256}
        checks = check_ad(job, image.ad, place, texts)
        title = saved_by(prompt, image.node_id)
        delivery.files.append({"file": f"{ADS}/{name}", **facts, "title": title, "checks": checks})
    return delivery


def _name(job: Job, ad: SavedAd, times: int, taken: list[str]) -> str:
    """A file's name: with its own format, a mark where the job was made before, and a number where it is not the first."""
    again = f"_r{times + 1}" if times else ""
    beginning, end = f"{job.stem(ad.size)}{again}", f".{EXTENSIONS[ad.format]}"
    number, name = 1, f"{beginning}{end}"
    while name in taken:
        number += 1
        name = f"{beginning}_{number}{end}"
    return name


def manifest_line(
    job: Job, settings: Settings, delivery: Delivery, versions: dict[str, str], **facts: Any
) -> dict[str, Any]:
    """What the manifest says of a job.

    Args:
        job: what was asked for.
        settings: of the run.
        delivery: what came.
        versions: of the server.
        facts: server, prompt_id, attempt, seconds, texts.
    """
    return {
        "job": job.id,
        "identity": IDENTITY,
        "name": job.name,
        "line": job.line,
        "format": list(job.size) if job.size else None,
        "seed": job.seed,
        "seeds": job.seeds(settings.workflow),
        "files": delivery.files,
        "inputs": _inputs(job),
        **facts,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {**settings.versions, **versions},
        "workflow": settings.workflow_file,
    }


def _inputs(job: Job) -> dict[str, Any]:
    """What the row set, by name: values, and pictures by path and by the hash of their pixels."""
    values: dict[str, Any] = {str(named): value for named, value in job.values.items()}
    for named, picture in job.pictures.items():
        entry: dict[str, Any] = {"file": picture.name, "sha256": picture.sha256}
        if picture.converted:
            entry["converted"] = list(picture.converted)
        if picture.mask:
            entry |= {"mask": picture.mask.name, "white": picture.white}
        values[str(named)] = entry
    return values
