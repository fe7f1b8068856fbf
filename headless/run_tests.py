"""Runs every test: `python3 -m headless.run_tests [pytest's arguments]`, on a bare Python, from the repository root.

With a ComfyUI, the newest that is found, the tests in tests/host run inside it, and with a Chromium too those in
tests/browser in its page; what is left out is said at the end, with how to get what it needs. `headless.run_hosts` runs
those two on several hosts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .host.environment import EnvironmentFailedError, python_for
from .host.find import HOW_TO_GET_HOST, PACK_ROOT, Host, HostNotFoundError, find_host
from .host.find_chromium import find_chromium

BROWSER_TESTS = "tests/browser"
MOST_WORKERS = 4  # each holds a ComfyUI of its own


def main(arguments: list[str]) -> int:
    """Find the host, find or make the environment, and run pytest in it; returns pytest's exit status."""
    host = find_host()
    print(host or HOW_TO_GET_HOST, flush=True)
    extras = extras_for(host)
    python = python_for(host, extras)
    commands = [pytest_command(python, part) for part in runs(arguments, extras)]
    with tempfile.TemporaryDirectory(prefix="compiled-") as compiled:
        environ = pytest_environ(compiled)
        return max(subprocess.call(command, cwd=PACK_ROOT, env=environ) for command in commands)


def runs(arguments: Sequence[str], extras: Sequence[str]) -> list[list[str]]:
    """The arguments of each run of pytest: everything is two, with the tests in the page by themselves.

    Playwright switches stacks in the process that drives it. In one that computed afterwards torch has crashed.
    """
    if arguments or "browser" not in extras:
        return [list(arguments)]
    return [[f"--ignore={BROWSER_TESTS}"], [BROWSER_TESTS]]


def extras_for(host: Host | None) -> list[str]:
    """What the tests need that can run here."""
    return ["test", "browser"] if host and find_chromium() else ["test"]


def pytest_command(python: Path, arguments: Sequence[str]) -> list[str]:
    """pytest on a few cores; the arguments come last, so that they can say otherwise."""
    workers = ["-n", str(min(os.cpu_count() or 1, MOST_WORKERS)), "--dist", "loadfile"]  # files share costly fixtures
    in_order = "--no-loadscope-reorder"  # that of tests/conftest.py: else the files of many tests come first, not the long ones
    at_a_crash = (
        "--max-worker-restart=0"  # the run ends, and has failed: with another worker in its place xdist waits for ever
    )
    return [str(python), "-m", "pytest", *workers, in_order, at_a_crash, *arguments]


def pytest_environ(compiled: str) -> dict[str, str]:
    """This process's environment, with one thread a worker where nothing else was asked for: the tensors are tiny.

    Every server that a test starts reads thousands of the host's sources: they are compiled once, into the folder `compiled`, and
    nothing is written beside them.
    """
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled}
    return {"OMP_NUM_THREADS": "1"} | dict(os.environ) | bytecode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (EnvironmentFailedError, HostNotFoundError) as error:
        sys.exit(str(error))
