"""Loads the repository once as the package `pfv_mepa`, and leaves out the host's tests where there is no host.

The repository root must not come before the host on sys.path: its `nodes/` would shadow ComfyUI's own nodes.py. So tests of
the pack import `pfv_mepa.pfv_core`, `pfv_mepa.nodes` and `pfv_mepa.headless`, whatever the checkout's folder is called. What
is built on the core (`pfv_diffusers`, `pfv_train`, `pfv_demo`, `pfv_eval`) is imported by its own name, from the end of the path,
and brings its own `pfv_core`: classes of the two do not mix, tensors and files do.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
HOST_TESTS = "tests/host/"


def _load_repository_as_package(name: str) -> None:
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]  # `python -m pytest` puts it there
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_load_repository_as_package("pfv_mepa")
sys.path.append(str(ROOT))

from pfv_mepa.headless.cpu_torch_stand_ins import apply_where_needed  # noqa: E402  (needs the package)
from pfv_mepa.headless.find_host import HOW_TO_GET_HOST, find_host  # noqa: E402

apply_where_needed()  # before anything imports diffusers or transformers, which a torchvision that does not load breaks

# More than one thread spins for longer than these small tensors take, most of all on a busy machine.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

host = find_host()
collect_ignore = [] if host else ["host"]

LONGEST = "test_leak.py"  # thousands of cases: begun last, it would keep one core busy while the others wait

_host_tests_run: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: item.path.name != LONGEST)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the tests under tests/host whose body ran."""
    if report.when == "call" and not report.skipped and report.nodeid.startswith(HOST_TESTS):
        _host_tests_run.add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say whether the tests saw a real ComfyUI."""
    if host is None:
        terminalreporter.write_line(f"the tests in tests/host were left out, {HOW_TO_GET_HOST}")
    terminalreporter.write_line(f"host tests run: {len(_host_tests_run)}")
