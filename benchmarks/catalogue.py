"""The catalogue command under faults, over more servers, and over many rows: `python -m benchmarks.catalogue WHAT`.

    faults    1,000 jobs over three servers, with every fault that the stub has, kills of the command and of a server,
              and a cut network; prints what came out and writes the ledger in short (--ledger FILE)
    busy      what share of the time each of one or many servers is at work, and what an ad costs the command
    memory    peak memory of the command for catalogues of growing length, with photographs of 12 megapixels

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

import numpy as np
from PIL import Image

from headless.catalogue.job.jobs import JobMaker
from headless.catalogue.job.pictures import PictureIndex
from headless.catalogue.sources.places import Places
from headless.catalogue.table.columns import Columns
from headless.catalogue.table.rows import Row, read_rows
from headless.catalogue.work.delivery import Delivery, manifest_line, settings_of
from headless.catalogue.workflow.named_inputs import Workflow
from tests.catalogue import harness

FORMATS = ("64x64", "96x64", "64x96", "128x64")
SEEDS = range(1, 6)
NUM_PRODUCTS = 50  # x 4 formats x 5 seeds = 1,000
LEFT = 500  # jobs of a catalogue that a run which goes on still has to make
NUM_PHOTOS, PHOTO_SIZE = 50, (4000, 3000)
FAULTS = harness.SOFT_FAULTS | {
    "fail_run": 0.02,
    "hang": 0.005,
    "odd_events": 0.05,
    "surrogate_error": 0.01,
    "missing_view": 0.02,
    "no_space": 0.01,
}


def stubs(stack: ExitStack, folder: Path, count: int, **options: Any) -> list[harness.StubProcess]:
    """That many, running, each with its own sequence of faults."""
    return [stack.enter_context(harness.StubProcess(folder, seed=seed, **options)) for seed in range(count)]


def faults(folder: Path, ledger: Path | None) -> None:
    """Print what a run under faults left, and write its ledger in short."""
    catalogue = harness.write_catalogue(folder / "in", NUM_PRODUCTS, FORMATS, f"{SEEDS[0]}-{SEEDS[-1]}")
    out = folder / "out"
    with ExitStack() as stack:
        servers = stubs(stack, folder, 3, faults=FAULTS, seconds=0.1)
        patience = ("--lost-after", "5", "--job-timeout", "4", "--attempts", "5")
        line = harness.command(catalogue, out, [server.url for server in servers], *patience)
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
    passed = sum(line["files"][0]["checks"]["product"]["passed"] for line in lines)
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
    wait_for(out, 800)
    servers[2].fault(login_page=302)
    print(f"server 3 wants a login at {harness.num_lines(out)} lines", flush=True)
    time.sleep(4)
    servers[2].fault(login_page=0, always_500="/view")
    print(f"server 3 is back, but answers 500 to /view, at {harness.num_lines(out)} lines", flush=True)
    time.sleep(4)
    servers[2].fault(always_500="")


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
            exact = int(line["files"][0]["checks"]["product"]["passed"])
            table.writerow([line["name"], size, line["seed"], *short, line["attempt"], runs, exact])


def busy(folder: Path, counts: list[int], seconds: float, size: str, each: int) -> None:
    """Print, for growing numbers of servers, what share of the time each was at work, and what the command used."""
    print(f"{each} ads of {size} a server, {seconds} s each\n")
    columns = (
        "servers",
        "ads",
        "seconds",
        "busy: least, median of the servers",
        "processor seconds of the command, an ad",
    )
    print(f"| {' | '.join(columns)} |\n|---|---|---|---|---|")
    for count in counts:
        print(busy_row(folder / f"{count}", count, seconds, size, each), flush=True)


def busy_row(folder: Path, count: int, seconds: float, size: str, each: int) -> str:
    """One line of the table."""
    catalogue = harness.write_catalogue(folder / "in", count, (size,), f"1-{each}")
    with ExitStack() as stack:
        servers = stubs(stack, folder, count, seconds=seconds)
        line = harness.command(catalogue, folder / "out", [server.url for server in servers])
        usage = used(line)
        found = [server.busy() for server in servers]
    num_ads = harness.num_lines(folder / "out")
    assert num_ads == count * each
    span = max(server["seconds"] for server in found)
    shares = sorted(server["busy"] / span for server in found)
    cpu = (usage.ru_utime + usage.ru_stime) / num_ads
    share = f"{shares[0]:.2f}, {statistics.median(shares):.2f}"
    return f"| {count} | {num_ads} | {span:.1f} | {share} | {cpu:.3f} |"


def used(line: list[str]) -> Any:
    """What a command used, as the system counts it."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(line, env=harness.ENVIRONMENT, cwd="/", stdout=errors, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        assert process.returncode == 0, errors.read()[-2000:].decode()
    return usage


def memory(folder: Path, counts: list[int]) -> None:
    """Print the command's peak memory for catalogues of growing length, over photographs of 12 megapixels."""
    for number in range(NUM_PHOTOS):
        photograph(folder / f"photo_{number}.jpg", number)
    print(f"{NUM_PHOTOS} references of {PHOTO_SIZE[0]}x{PHOTO_SIZE[1]}, which the rows take in turn; ads of 64x64\n")
    print(f"| rows | dry run | going on: all but {LEFT} in the ledger | seconds |\n|---|---|---|---|")
    with ExitStack() as stack:
        servers = stubs(stack, folder, 3, seconds=0)
        for count in counts:
            print(memory_row(folder, count, servers), flush=True)


def photograph(file: Path, number: int) -> None:
    """A picture as large as a phone's, with something in every part of it, drawn in little memory: a child begins with ours."""
    width, height = PHOTO_SIZE
    small = np.random.default_rng(number).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    Image.fromarray(small).resize(PHOTO_SIZE, Image.Resampling.BILINEAR).save(file, quality=90)


def memory_row(folder: Path, count: int, servers: list[harness.StubProcess]) -> str:
    """One line of the table."""
    catalogue = folder / f"rows_{count}.jsonl"
    with catalogue.open("w", encoding="utf-8") as file:
        for number in range(count):
            photo = f"photo_{number % NUM_PHOTOS}.jpg"
            row = {
                "name": f"p{number}",
                "reference": photo,
                "prompt": f"a cup, {number}",
                "seeds": [1],
                "formats": "64x64",
            }
            file.write(json.dumps(row) + "\n")
    outs = [folder / f"{kind}_{count}" for kind in ("dry", "on")]
    write_ledger(catalogue, outs[1], count - LEFT)
    urls = [server.url for server in servers]
    lines = [harness.command(catalogue, out, urls, workflow="minimal") for out in outs]
    found = [peak([*lines[0], "--dry-run"])]
    started = time.monotonic()
    found.append(peak(lines[1]))
    seconds = time.monotonic() - started
    assert harness.num_lines(outs[1]) == count
    return f"| {count:,} | {found[0]:.0f} MB | {found[1]:.0f} MB | {seconds:.0f} |"


def write_ledger(catalogue: Path, out: Path, count: int) -> None:
    """A manifest as a run would have left it, of the first jobs of a catalogue; its pictures are absent."""
    workflow = Workflow.read(harness.WORKFLOWS / "minimal.json", harness.KINDS)
    maker = JobMaker(workflow, Columns(workflow, {}), Places(catalogue.parent), PictureIndex(None))
    out.mkdir()
    with (out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for row in itertools.islice(read_rows(catalogue), count):
            assert isinstance(row, Row)
            for job in maker.jobs_of(row):
                line = manifest_line(job, settings_of(workflow, 1), Delivery([], []), {})
                manifest.write(json.dumps(line) + "\n")


def peak(line: list[str]) -> float:
    """Peak resident memory of a command in MB."""
    resident = used(line).ru_maxrss
    return float(resident / 1024 if sys.platform == "linux" else resident / 1024**2)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalogue", description=__doc__)
    parser.add_argument("what", choices=("faults", "busy", "memory"))
    parser.add_argument("--ledger", type=Path, help="faults: where the ledger in short is written")
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 2, 3], help="busy: how many")
    parser.add_argument("--seconds", type=float, default=0.5, help="busy: cost of one ad")
    parser.add_argument("--size", default="1024x1024", help="busy: of an ad")
    parser.add_argument("--each", type=int, default=40, help="busy: ads of each server")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="memory: lengths")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="catalogue-") as folder:
        if options.what == "faults":
            faults(Path(folder), options.ledger)
        elif options.what == "busy":
            busy(Path(folder), options.servers, options.seconds, options.size, options.each)
        else:
            memory(Path(folder), options.rows)


if __name__ == "__main__":
    main()
