"""What the pack adds to the host's start.

    python -m benchmarks.start NAME      times the import of one pack in this process; the figure runs it

The host is imported once; the pack's modules are forgotten and imported again for each timing. What else it brought in, it
brought in once, so the first time is told too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import peers
from .measure import Figure, Measured, absolute
from .workbench import Workbench

AT_MOST = 50.0  # ms
REPEATS = 9
HOW = (
    "Import of the pack and of all its node classes in a host that has imported its own nodes, processor time, bytecode "
    "written before. *New packages*: what it imported besides its own modules. *CUDA*: whether it touched it."
)


def run(bench: Workbench) -> list[Figure]:
    """One table."""
    figure = Figure("start", "Added to the host's start", HOW)
    names = ["ours"] + [peers.IP_ADAPTER_PLUS] * (bench.ip_adapter_plus is not None)
    for name in names:
        command = [sys.executable, "-m", "benchmarks.start", name]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT, env=environment(bench))
        imports: list[dict[str, Any]] = json.loads(answer.stdout.splitlines()[-1])
        seconds = [one["seconds"] for one in imports[1:]]  # the first writes the bytecode
        ours = name == "ours"
        figure.measured += [
            absolute("import of its own modules", name, seconds, AT_MOST if ours else None, unit="ms"),
            Measured("new packages", name, len(imports[0]["packages"]), unit="", at_most=0 if ours else None),
            Measured("CUDA initialised", name, int(imports[0]["cuda"]), unit="", at_most=0 if ours else None),
        ]
    return [figure]


def environment(bench: Workbench) -> dict[str, str]:
    """A process that may write bytecode, into a folder of its own."""
    without = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**without, "PYTHONPYCACHEPREFIX": str(bench.folder / "bytecode")}


_ROOT = Path(__file__).resolve().parent.parent


def main(name: str) -> None:
    """Import the host, then the pack in children; the last line is JSON."""
    from headless.host.as_package import load_repository

    load_repository()
    from headless.host.boot import boot_host
    from headless.host.find import require_host

    host = require_host().path
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        boot_host(host, Path(folder))
        import nodes  # noqa: F401  (the host's)

        print(json.dumps([_import(name, host) for _ in range(1 + REPEATS)]))


def _import(name: str, host: Path) -> dict[str, Any]:
    """Import a pack whose modules are not there; take them away again."""
    import torch

    before = set(sys.modules)
    started = time.process_time()
    if name == "ours":
        package = _import_ours()
    else:
        peers.ip_adapter_plus(host)
        package = "peer_ip_adapter_plus"
    seconds = time.process_time() - started
    new = set(sys.modules) - before
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        del sys.modules[module]
    packages = sorted({module.split(".")[0] for module in new} - {package})
    return {"seconds": seconds, "packages": packages, "cuda": torch.cuda.is_initialized()}


def _import_ours() -> str:
    """As the host does it: the package, its entry point, its list of nodes."""
    import asyncio

    from headless.host.as_package import REPOSITORY, load_repository

    async def nodes() -> None:
        extension = await load_repository().comfy_entrypoint()
        await extension.get_node_list()

    asyncio.run(nodes())
    return REPOSITORY


if __name__ == "__main__":
    main(sys.argv[1])
