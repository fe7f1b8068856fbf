"""From downloaded images to a line of the manifest: the same for a server of one's own and for a cluster."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from . import __version__
from .checks import ProductPlace, SavedAd, check_ad, product_places
from .jobs import Job
from .ledger import ADS, Ledger
from .named_inputs import Workflow
from .pictures import EXTENSIONS


@dataclass(frozen=True)
class Settings:
    """What all jobs of a run share.

    Attributes:
        workflow: what is run.
        places: where it puts a product in.
        attempts: runs of one job before it is given up.
        versions: of this command and what checks its pictures.
        workflow_sha256: of the workflow as it was read.
    """

    workflow: Workflow
    places: list[ProductPlace]
    attempts: int
    versions: dict[str, str]
    workflow_sha256: str


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
        checks: kind -> result; those of a second image end in _2.
    """

    names: list[str]
    files: list[dict[str, Any]]
    checks: dict[str, Any]


def settings_of(workflow: Workflow, attempts: int) -> Settings:
    """The settings of a run."""
    digest = hashlib.sha256(json.dumps(workflow.nodes, sort_keys=True).encode()).hexdigest()
    versions = {"pfv_catalogue": __version__, "pillow": PIL.__version__}
    return Settings(workflow, product_places(workflow), attempts, versions, digest)


def delivery_of(
    job: Job, settings: Settings, ledger: Ledger, images: list[Received], texts: Mapping[str, list[str]]
) -> Delivery:
    """Check the images of a job and give them their names, still beside the ledger."""
    delivery = Delivery([], [], {})
    for number, image in enumerate(images, 1):
        mark = f"_{number}" if number > 1 else ""
        name = f"{job.stem}{mark}.{EXTENSIONS[image.ad.format]}"
        for kind, check in check_ad(job, image.raw, image.ad, settings.places, image.node_id, texts).items():
            delivery.checks[f"{kind}{mark}"] = check
        image.raw.replace(ledger.partial(name))
        delivery.names.append(name)
        size = {"size": list(image.ad.size), "bytes": image.ad.bytes}
        delivery.files.append({"file": f"{ADS}/{name}", **size, "sha256": image.ad.sha256})
    return delivery


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
        "name": job.name,
        "line": job.line,
        "format": list(job.size) if job.size else None,
        "seed": job.seed,
        "files": delivery.files,
        "inputs": _inputs(job),
        "checks": delivery.checks,
        **facts,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {**settings.versions, **versions},
        "workflow_sha256": settings.workflow_sha256,
    }


def _inputs(job: Job) -> dict[str, Any]:
    """What the row set, by name: values, and pictures by path and hash."""
    values: dict[str, Any] = {str(named): value for named, value in job.values.items()}
    for named, picture in job.pictures.items():
        values[str(named)] = {"file": picture.text, "sha256": picture.sha256}
        if picture.mask_sha256:
            values[str(named)] |= {"mask_sha256": picture.mask_sha256, "white": picture.white}
    return values
