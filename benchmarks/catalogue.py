"""The catalogue command under faults, over more servers, and over many rows: `python -m benchmarks.catalogue WHAT`.

    faults    1,000 jobs over three servers, with every fault that the stub has, kills of the command and of a server,
              and a cut network; prints what came out and writes the ledger in short (--ledger FILE)
    scaling   the same jobs over one, two and three servers, in turn; medians
    memory    peak memory of the command for catalogues of growing length

The servers are the stub of tests/catalogue/stub_server.py: every run costs the same number of seconds and draws a flat
picture. So this measures the command and not ComfyUI.
"""

from __future__ import annotations

import argparse
import collections
import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from headless.catalogue.columns import Columns
from headless.catalogue.delivery import Delivery, manifest_line, settings_of
from headless.catalogue.jobs import JobMaker
from headless.catalogue.named_inputs import Workflow
from headless.catalogue.rows import Row, read_rows
from tests.catalogue import harness

FORMATS = ("64x64", "96x64", "64x96", "128x64")
SEEDS = range(1, 6)
NUM_PRODUCTS = 50  # x 4 formats x 5 seeds = 1,000
LEFT = 500  # jobs of a catalogue that a run which goes on still has to make
FAULTS = harness.SOFT_FAULTS | {"fail_run": 0.02}


def stubs(stack: ExitStack, folder: Path, count: int, **options: Any) -> list[harness.StubProcess]:
    """That many, running, each with its own sequence of faults."""
    return [stack.enter_context(harness.StubProcess(folder, seed=seed, **options)) for seed in range(count)]


def faults(folder: Path, ledger: Path | None) -> None:
    """Print what a run under faults left, and write its ledger in short."""
    catalogue = harness.write_catalogue(folder / "in", NUM_PRODUCTS, FORMATS, f"{SEEDS[0]}-{SEEDS[-1]}")
    out = folder / "out"
    with ExitStack() as stack:
        servers = stubs(stack, folder, 3, faults=FAULTS, seconds=0.1)
        line = harness.command(catalogue, out, [server.url for server in servers], "--lost-after", "5")
        started = time.monotonic()
        for done in (150, 300):  # the command is killed
            harness.run_and_kill(line, out, done)
            print(f"command killed with SIGKILL at {harness.num_lines(out)} lines")
        watcher = threading.Thread(target=trouble, args=(out, servers))
        watcher.start()
        result = harness.run(line, timeout=3600)
        watcher.join()
        print(result.stderr[-1500:])
        print(f"exit status {result.returncode}, {time.monotonic() - started:.0f} s in all")
        lines = harness.assert_each_once(out, NUM_PRODUCTS, FORMATS, SEEDS)
        begun = collections.Counter(job for server in servers for job in server.runs())
    passed = sum(line["checks"]["product"]["passed"] for line in lines)
    print(f"{len(lines)} jobs in the ledger, each product x format x seed once; product exact in {passed}")
    print(f"runs of one job: {dict(sorted(collections.Counter(begun.values()).items()))} (times it ran: jobs)")
    if ledger:
        write_short(lines, begun, [server.url for server in servers], ledger)


def trouble(out: Path, servers: list[harness.StubProcess]) -> None:
    """A server dies and comes back empty, then another's network is cut for longer than the command waits."""
    wait_for(out, 450)
    servers[0].kill()
    print(f"server 1 killed at {harness.num_lines(out)} lines", flush=True)
    wait_for(out, 600)
    servers[0].start()
    print(f"server 1 back, empty, at {harness.num_lines(out)} lines", flush=True)
    wait_for(out, 700)
    servers[1].fault(cut=1.0)
    print(f"network of server 2 cut at {harness.num_lines(out)} lines", flush=True)
    time.sleep(8)
    servers[1].fault(cut=0.0)
    print(f"network of server 2 back at {harness.num_lines(out)} lines", flush=True)


def wait_for(out: Path, count: int) -> None:
    """Until the manifest has so many lines."""
    while harness.num_lines(out) < count:
        time.sleep(0.02)


def write_short(lines: list[dict[str, Any]], begun: dict[str, int], urls: list[str], file: Path) -> None:
    """One short line for each job, in the order in which they were finished."""
    with file.open("w", newline="", encoding="utf-8") as content:
        table = csv.writer(content, lineterminator="\n")
        table.writerow(["name", "format", "seed", "job", "sha256", "server", "attempt", "runs", "product_exact"])
        for line in lines:
            size = "x".join(map(str, line["format"]))
            short = [line["job"][:16], line["files"][0]["sha256"][:16], urls.index(line["server"]) + 1]
            runs = begun[line["job"][:32]]
            exact = int(line["checks"]["product"]["passed"])
            table.writerow([line["name"], size, line["seed"], *short, line["attempt"], runs, exact])


def scaling(folder: Path, rounds: int, seconds: float) -> None:
    """Print seconds and ratios for one, two and three servers, measured in turn."""
    catalogue = harness.write_catalogue(folder / "in", 10, FORMATS[:2], "1-3")
    times: dict[int, list[float]] = {1: [], 2: [], 3: []}
    with ExitStack() as stack:
        servers = stubs(stack, folder, 3, seconds=seconds)
        for number in range(rounds):
            for count in times:
                times[count].append(one_run(catalogue, folder / f"out_{number}_{count}", servers[:count]))
    alone = statistics.median(times[1])
    print(f"60 jobs, each {seconds} s of a stub server, {rounds} rounds, start of the command left out\n")
    print("| servers | seconds, median (each) | to one server |\n|---|---|---|")
    for count, found in times.items():
        each = ", ".join(f"{value:.2f}" for value in found)
        print(f"| {count} | {statistics.median(found):.2f} ({each}) | {alone / statistics.median(found):.2f} |")


def one_run(catalogue: Path, out: Path, servers: list[harness.StubProcess]) -> float:
    """Seconds from the first job's beginning to the last line."""
    result = harness.run(harness.command(catalogue, out, [server.url for server in servers]))
    assert result.returncode == 0, result.stderr
    first = harness.manifest(out)[0]
    manifest = out / "manifest.jsonl"
    begun = (out / "failures.jsonl").stat().st_mtime  # opened when the ledger is ready
    assert first["attempt"] == 1
    return manifest.stat().st_mtime - begun


def memory(folder: Path, counts: list[int], posted_up_to: int) -> None:
    """Print the command's peak memory for catalogues of growing length."""
    harness.draw_product(folder / "p.png", (64, 64), (10, 20, 30))
    print(f"| rows | dry run | going on: all but {LEFT} in the ledger | from nothing |\n|---|---|---|---|")
    with ExitStack() as stack:
        servers = stubs(stack, folder, 3, seconds=0)
        for count in counts:
            print(memory_row(folder, count, servers, count <= posted_up_to), flush=True)


def memory_row(folder: Path, count: int, servers: list[harness.StubProcess], from_nothing: bool) -> str:
    """One line of the table."""
    catalogue = folder / f"rows_{count}.jsonl"
    with catalogue.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = {"name": f"p{number}", "product": "p.png", "prompt": f"a cup, {number}", "seeds": [1]}
            file.write(json.dumps(row) + "\n")
    outs = [folder / f"{kind}_{count}" for kind in ("dry", "on", "new")]
    write_ledger(catalogue, outs[1], count - LEFT)
    lines = [harness.command(catalogue, out, [server.url for server in servers]) for out in outs]
    found = [peak([*lines[0], "--dry-run"]), peak(lines[1]), *([peak(lines[2])] if from_nothing else [])]
    assert all(harness.num_lines(out) == count for out in outs[1 : 2 + from_nothing])
    cells = [f"{value:.0f} MB" for value in found] + ([] if from_nothing else ["not run"])
    return f"| {count} | {' | '.join(cells)} |"


def write_ledger(catalogue: Path, out: Path, count: int) -> None:
    """A manifest as a run would have left it, of the first jobs of a catalogue; its pictures are absent."""
    workflow = Workflow.read(harness.WORKFLOWS / "full.json")
    maker = JobMaker(workflow, Columns(workflow, {}), catalogue.parent)
    out.mkdir()
    with (out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for row in itertools.islice(read_rows(catalogue), count):
            assert isinstance(row, Row)
            for job in maker.jobs_of(row):
                line = manifest_line(job, settings_of(workflow, 1), Delivery([], [], {}), {})
                manifest.write(json.dumps(line) + "\n")


def peak(line: list[str]) -> float:
    """Peak resident memory of a command in MB, as the system counts it."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(line, env=harness.ENVIRONMENT, cwd="/", stdout=errors, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        assert process.returncode == 0, errors.read()[-2000:].decode()
    return usage.ru_maxrss / 1024 if sys.platform == "linux" else usage.ru_maxrss / 1024**2


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalogue", description=__doc__)
    parser.add_argument("what", choices=("faults", "scaling", "memory"))
    parser.add_argument("--ledger", type=Path, help="faults: where the ledger in short is written")
    parser.add_argument("--rounds", type=int, default=3, help="scaling: how often each count is run")
    parser.add_argument("--seconds", type=float, default=0.5, help="scaling: cost of one job")
    parser.add_argument(
        "--posted", type=int, default=10_000, help="memory: longest catalogue that is made from nothing"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="memory: lengths")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="catalogue-") as folder:
        if options.what == "faults":
            faults(Path(folder), options.ledger)
        elif options.what == "scaling":
            scaling(Path(folder), options.rounds, options.seconds)
        else:
            memory(Path(folder), options.rows, options.posted)


if __name__ == "__main__":
    main()
