"""Loads the repository once as the package `pfv_mepa`, and leaves out the tests whose host or browser is not there.

The repository root must not come before the host on sys.path: its `nodes/` would shadow ComfyUI's own nodes.py. So tests of
the pack import `pfv_mepa.pfv_core` and `pfv_mepa.nodes`, whatever the checkout's folder is called. What is built on the core
(`headless`, `lab`) is imported by its own name, from the end of the path, and brings its own `pfv_core`: classes of the two
do not mix, tensors and files do.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
HOST_TESTS = "tests/host/"


sys.path.append(str(ROOT))

from headless.host.as_package import load_repository  # noqa: E402  (the path comes first)

load_repository()

from headless.host.find import HOW_TO_GET_HOST, find_host  # noqa: E402
from headless.host.find_chromium import HOW_TO_GET_CHROMIUM, find_chromium  # noqa: E402
from headless.host.torch_stand_ins import apply_where_needed  # noqa: E402  (needs the package)
from headless.run_tests import BROWSER_TESTS  # noqa: E402

apply_where_needed()  # before anything imports diffusers or transformers, which a torchvision that does not load breaks

# More than one thread spins for longer than these small tensors take, most of all on a busy machine.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

host = find_host()
collect_ignore = [] if host else ["host"]
collect_ignore += [] if host and find_chromium() else ["browser"]

# Files that take longest, from half a minute on: begun last, they would keep one core busy while the others wait. xdist keeps
# to this order with --no-loadscope-reorder alone, which headless/run_tests.py gives it.
LONGEST = (
    "test_compiled.py",
    "test_devices.py",
    "test_use.py",
    "test_workflows.py",
    "test_automatic.py",
    "test_open.py",
    "test_bad_days.py",
    "test_shown_again.py",
    "test_catalogue_workflows.py",
)

_host_tests_run: set[str] = set()


def pytest_report_header() -> str:
    """Say which ComfyUI the tests see."""
    return str(host or HOW_TO_GET_HOST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """What is imported by now is no garbage: of what a collection looks through, the host's own too, it is nearly all."""
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the tests under tests/host whose body ran."""
    if report.when == "call" and not report.skipped and report.nodeid.startswith(HOST_TESTS):
        _host_tests_run.add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say whether the tests saw a real ComfyUI."""
    if host is None:
        terminalreporter.write_line(f"the tests in tests/host and tests/browser were left out, {HOW_TO_GET_HOST}")
    elif find_chromium() is None:
        terminalreporter.write_line(f"the tests in tests/browser were left out, {HOW_TO_GET_CHROMIUM}")
    if terminalreporter.config.args != [BROWSER_TESTS]:
        terminalreporter.write_line(f"host tests run: {len(_host_tests_run)}")


@pytest.fixture(autouse=True)
def _numbers_below_normal_stay():
    """The commands in `lab` round them to zero for the process that they are; no test after one of theirs shall see that."""
    yield
    torch.set_flush_denormal(False)
