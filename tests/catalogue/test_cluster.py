"""The same jobs over a Dask cluster on this machine: a scheduler, workers, each with a stub server of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack

import psutil
import pytest

from pfv_mepa.tests.catalogue.harness import (
    ENVIRONMENT,
    WORKFLOWS,
    StubProcess,
    assert_each_once,
    dask,
    free_port,
    num_lines,
    run,
    write_catalogue,
)

FORMATS = ("64x64", "96x64")
SEEDS = range(1, 6)
NUM_PRODUCTS = 3  # x 2 x 5 = 30 jobs


@pytest.fixture
def cluster(tmp_path):
    """Address of the scheduler, its processes, and three stub servers, one for each worker."""
    address = f"tcp://127.0.0.1:{(port := free_port())}"
    with ExitStack() as stack:
        processes = [stack.enter_context(dask("scheduler", "--port", str(port)))]
        servers = [
            stack.enter_context(StubProcess(tmp_path, {"fail_run": 0.1}, seconds=0.1, seed=seed)) for seed in range(3)
        ]
        for server in servers:
            options = (address, "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path / "dask"))
            processes.append(stack.enter_context(dask("worker", *options, PFV_CATALOGUE_SERVER=server.url)))
        yield address, processes, servers


def test_every_job_once_though_a_worker_dies(cluster, tmp_path):
    address, processes, servers = cluster
    catalogue = write_catalogue(tmp_path / "in", NUM_PRODUCTS, FORMATS, "1-5")
    out = tmp_path / "out"
    line = [sys.executable, "-m", "pfv_catalogue", str(catalogue), "--out", str(out), "--dask", address]
    line += ["--workflow", str(WORKFLOWS / "full.json"), "--attempts", "6"]
    with subprocess.Popen(line, env=ENVIRONMENT, cwd=os.sep, stderr=subprocess.PIPE, text=True) as command:
        while num_lines(out) < 10:
            assert command.poll() is None, command.stderr.read()
            time.sleep(0.02)
        for process in processes:  # nothing of the cluster listens beyond this machine
            found = psutil.Process(process.pid).net_connections()
            assert {one.laddr.ip for one in found if one.status == "LISTEN"} <= {"127.0.0.1"}
        processes[-1].kill()
        _, errors = command.communicate(timeout=120)
    assert command.returncode == 0, errors
    lines = assert_each_once(out, NUM_PRODUCTS, FORMATS, SEEDS)
    assert all(line["checks"]["product"]["passed"] for line in lines)
    assert len({line["server"] for line in lines}) >= 2
    begun = Counter(job for server in servers for job in server.runs())
    assert set(begun) == {line["job"][:32] for line in lines}
    again = run(line)
    assert again.returncode == 0
    assert "0 ads made, 30 were there" in again.stderr


def test_the_workers_start_script_is_a_shell_script_that_its_container_begins_with():
    """What it does is tested inside a host, `tests/host/test_catalogue_worker.py`; no container is built by a test."""
    folder = WORKFLOWS.parents[1] / "containers"
    script = folder / "catalogue-worker.sh"
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)
    assert (
        f'ENTRYPOINT ["/opt/ComfyUI/custom_nodes/pfv-mepa/containers/{script.name}"]'
        in (folder / "catalogue-worker.Containerfile").read_text()
    )
