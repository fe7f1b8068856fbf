"""Runs every test: `python3 -m headless.run_tests [pytest's arguments]`, on a bare Python, from the repository root.

With a ComfyUI, the newest that is found, the tests in tests/host run inside it, and with a Chromium too those in
tests/browser in its page; what is left out is said at the end, with how to get what it needs. `headless.run_hosts` runs
those two on several hosts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .host.environment import EnvironmentFailedError, python_for
from .host.find import HOW_TO_GET_HOST, PACK_ROOT, Host, HostNotFoundError, find_host
from .host.find_chromium import find_chromium

MOST_WORKERS = 4  # each holds a ComfyUI of its own


def main(arguments: list[str]) -> int:
    """Find the host, find or make the environment, and run pytest in it; returns pytest's exit status."""
    host = find_host()
    print(host or HOW_TO_GET_HOST, flush=True)
    python = python_for(host, extras_for(host))
    return subprocess.call(pytest_command(python, arguments), cwd=PACK_ROOT, env=pytest_environ())


def extras_for(host: Host | None) -> list[str]:
    """What the tests need that can run here."""
    return ["test", "browser"] if host and find_chromium() else ["test"]


def pytest_command(python: Path, arguments: Sequence[str]) -> list[str]:
    """pytest on a few cores; the arguments come last, so that they can say otherwise."""
    workers = ["-n", str(min(os.cpu_count() or 1, MOST_WORKERS)), "--dist", "loadfile"]  # files share costly fixtures
    return [str(python), "-m", "pytest", *workers, *arguments]


def pytest_environ() -> dict[str, str]:
    """This process's environment, with one thread a worker where nothing else was asked for: the tensors are tiny."""
    return {"OMP_NUM_THREADS": "1"} | dict(os.environ)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (EnvironmentFailedError, HostNotFoundError) as error:
        sys.exit(str(error))
