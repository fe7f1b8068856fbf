"""Runs every test: `python3 -m headless.run_tests [pytest's arguments]`, on a bare Python, from the repository root.

With a ComfyUI the tests in tests/host run inside it, and with a Chromium too those in tests/browser in its page; what is left
out is said at the end, with how to get what it needs.
"""

from __future__ import annotations

import os
import subprocess
import sys

from .environment import EnvironmentFailedError, python_for
from .find_chromium import find_chromium
from .find_host import HOW_TO_GET_HOST, PACK_ROOT, HostNotFoundError, find_host

MOST_WORKERS = 4  # each holds a ComfyUI of its own


def main(arguments: list[str]) -> int:
    """Find the host, find or make the environment, and run pytest in it; returns pytest's exit status."""
    host = find_host()
    print(host or HOW_TO_GET_HOST, flush=True)
    python = python_for(host, ["test", "browser"] if host and find_chromium() else ["test"])
    workers = ["-n", str(min(os.cpu_count() or 1, MOST_WORKERS)), "--dist", "loadfile"]  # files share costly fixtures
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}  # the tensors are tiny
    return subprocess.call([str(python), "-m", "pytest", *workers, *arguments], cwd=PACK_ROOT, env=os.environ | threads)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (EnvironmentFailedError, HostNotFoundError) as error:
        sys.exit(str(error))
