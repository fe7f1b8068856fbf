"""A stub of ComfyUI, or a few routes, that listen in the test's own event loop; and what was asked of them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from headless.server.address import ServerAddress
from headless.server.client import Server
from pfv_mepa.tests.catalogue.stub_server import Stub

PROMPT = {
    "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 96, "height": 64, "batch_size": 1}},
    "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "pfv_catalogue/ad", "images": ["1", 0]}},
}
LOST_AFTER = 1.0


def made_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody trusts, and its key."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl to make a certificate with")
    files = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    return files


def stub(tmp_path: Path, seconds: float = 0.0, header: str = "", prefix: str = "", **faults: float | str) -> Stub:
    """A stub that does not listen yet."""
    return Stub(seconds, tmp_path / "runs.txt", faults, seed=0, others=0, header=header, prefix=prefix)


@contextlib.asynccontextmanager
async def listening(application: web.Application, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Its address, without a prefix."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"http{'s' if context else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def working(one: Stub, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of a stub that listens and works, with its prefix."""
    worker = asyncio.create_task(one.work())
    try:
        async with listening(one.application(), context) as url:
            yield url + one.prefix
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


def routes(**answers: Any) -> web.Application:
    """An application of a few paths: METHOD_path_path -> what a request gets, made anew by calling it with the request."""
    app = web.Application()
    for name, answer in answers.items():
        method, _, path = name.partition("_")
        handler = answer if callable(answer) else _answering(answer)
        app.router.add_route(method, "/" + path.replace("_", "/").replace("system/stats", "system_stats"), handler)
    return app


def _answering(answer: object) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response(answer)

    return handle


def new_id() -> str:
    return str(uuid.uuid4())


def talk(
    application: web.Application | Stub, work: Callable[[Server], Any], lost_after: float = LOST_AFTER, **options: Any
) -> Any:
    """What some work with a server comes to.

    Args:
        application: listens meanwhile.
        work: gets the client, entered; a coroutine function.
        lost_after: of the client.
        options: of the client.
    """

    async def go() -> Any:
        serving = working(application) if isinstance(application, Stub) else listening(application)
        async with serving as url, Server(ServerAddress.parse(url), lost_after, **options) as server:
            return await work(server)

    return asyncio.run(go())
