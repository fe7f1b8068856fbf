"""The command and its servers as processes: killed, restarted, cut off; run again until everything is there, once.

The same with 1,000 jobs is `python -m benchmarks.catalogue faults`; docs/catalogue.md has what it printed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from pfv_mepa.tests.catalogue.harness import (
    SOFT_FAULTS,
    StubProcess,
    assert_each_once,
    command,
    manifest,
    num_lines,
    run,
    run_and_kill,
    write_catalogue,
)

FORMATS = ("64x64", "96x64")
SEEDS = range(1, 6)
NUM_PRODUCTS = 6  # x 2 x 5 = 60 jobs


@pytest.fixture
def servers(tmp_path):
    """Three, with faults that make them forget nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(StubProcess(tmp_path, SOFT_FAULTS, seconds=0.05, seed=seed)) for seed in range(3)]


@pytest.fixture
def catalogue(tmp_path):
    return write_catalogue(tmp_path / "in", NUM_PRODUCTS, FORMATS, "1-5")


def test_killed_twice_nothing_is_lost_and_nothing_runs_twice(catalogue, servers, tmp_path):
    out = tmp_path / "out"
    line = command(catalogue, out, [server.url for server in servers])
    for num_done in (10, 25):
        run_and_kill(line, out, num_done)
    result = run(line)
    assert result.returncode == 0, result.stderr
    lines = assert_each_once(out, NUM_PRODUCTS, FORMATS, SEEDS)
    assert all(line["files"][0]["checks"]["product"]["passed"] for line in lines)
    begun = Counter(job for server in servers for job in server.runs())
    assert set(begun.values()) == {1}, "what ran when the command was killed is taken up, not run again"
    assert len({line["server"] for line in lines}) == 3


def test_a_server_dies_and_another_is_cut_off(catalogue, servers, tmp_path):
    """The job of a dead server goes to another. Only such a job may have begun twice."""
    out = tmp_path / "out"
    trouble_lasts = 3.0  # seconds, longer than --lost-after
    line = command(catalogue, out, [server.url for server in servers], "--lost-after", "1")

    def trouble():
        while num_lines(out) < 10:
            time.sleep(0.01)
        servers[0].kill()
        servers[1].fault(cut=1.0)
        begun = time.monotonic()
        while num_lines(out) < 20 or time.monotonic() < begun + trouble_lasts:
            time.sleep(0.01)
        servers[0].start()
        servers[1].fault(cut=0.0)

    thread = threading.Thread(target=trouble)
    thread.start()
    result = run(line)
    thread.join()
    assert result.returncode == 0, result.stderr
    lines = assert_each_once(out, NUM_PRODUCTS, FORMATS, SEEDS)
    begun = Counter(job for server in servers for job in server.runs())
    again = {job for job, count in begun.items() if count > 1}
    assert again <= {line["job"][:32] for line in lines if line["attempt"] > 1}
    assert len(again) <= 8  # of 60: what two servers had, and what was sent when the answer was cut
    assert "it will be asked again" in result.stderr


def test_one_server_alone_is_cut_off_longer_than_the_command_waits(catalogue, tmp_path):
    """What runs there goes on running: it is taken up when the network is back, not run again."""
    out = tmp_path / "out"
    with StubProcess(tmp_path, seconds=0.05) as server:
        line = command(catalogue, out, [server.url], "--lost-after", "0.5", "--seeds", "1")

        def trouble():
            while num_lines(out) < 5:
                time.sleep(0.01)
            server.fault(cut=1.0)
            time.sleep(2.0)
            server.fault(cut=0.0)

        thread = threading.Thread(target=trouble)
        thread.start()
        result = run(line)
        thread.join()
        assert result.returncode == 0, result.stderr
        assert_each_once(out, NUM_PRODUCTS, FORMATS, SEEDS)
        assert set(Counter(server.runs()).values()) == {1}
    assert {line["server"] for line in manifest(out)} == {server.url}
