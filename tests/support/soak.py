"""One ComfyUI server under load and under faults: `python3 -m tests.support.soak`, on a bare Python, from the repository root.

With tiny random models of the real classes and layouts, over the HTTP API:

* runs: many workflows with changing prompts, references, regions, sizes and adapters. None may fail, and the server's
  memory may not grow after the first runs.
* interrupts: runs that are stopped at random moments of the sampling. The same workflow after it must give the same file.
* memory: runs in which memory runs out within attention. The host must report it as its own error, and go on.
* threads: several clients at once. Every job must come back, with its own result.

Memory is read on Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headless.host.environment import EnvironmentFailedError, python_for
from headless.host.find import PACK_ROOT, Host, HostNotFoundError, require_host
from headless.host.start import HostStartError, RunningHost, running_host
from headless.server.blocking import Client, saved_images
from headless.server.client import Prompt
from headless.server.errors import FailedError, LostError

from .soak_workflow import variation, workflow, write_references

TINY_STACK = Path(__file__).resolve().parent / "tiny_stack"
PACKS = (PACK_ROOT, TINY_STACK / "host_pack", TINY_STACK / "fault_pack")
WARM_RUNS = 10  # what a server allocates once, it has allocated by then
TOLERANCE = 64 << 20  # bytes that the median of the last runs may lie above that of the first after warming up
INTERRUPTED_STEPS = 6
ATTEMPTS = 8  # for each interrupt: a moment before or after the sampling does not count
LOST_AFTER = 60.0  # seconds of a request in vain


class SoakError(RuntimeError):
    """The server did what it must not; the message says what."""


@dataclass(frozen=True)
class Plan:
    """How much of each."""

    runs: int
    interrupts: int
    out_of_memory: int
    threads: int
    jobs: int


def main(arguments: Sequence[str]) -> int:
    """Find the host and its Python, start the server and load it."""
    options = parser().parse_args(arguments)
    host = require_host()
    python = python_for(host, ["test"])
    if Path(sys.executable) != python:
        return subprocess.call([str(python), "-m", "tests.support.soak", *arguments], cwd=PACK_ROOT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the server's too: the tensors are tiny
    plan = Plan(options.runs, options.interrupts, options.out_of_memory, options.threads, options.jobs)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        write_tiny_models(python, Path(folder) / "models")
        soak(host, python, Path(folder), plan, options.host_options)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(prog="python3 -m tests.support.soak", description=__doc__.split("\n", 1)[0])
    options.add_argument("--runs", type=int, default=300, help="workflows one after the other")
    options.add_argument("--interrupts", type=int, default=20, help="runs stopped while they sample")
    options.add_argument("--out-of-memory", type=int, default=3, help="runs whose memory runs out")
    options.add_argument("--threads", type=int, default=10, help="clients at once")
    options.add_argument("--jobs", type=int, default=3, help="workflows of each of them")
    options.add_argument(
        "host_options", nargs="*", metavar="OPTION", help="options of ComfyUI's main.py, after --, such as -- --novram"
    )
    return options


def write_tiny_models(python: Path, models_folder: Path) -> None:
    """The models' files; written by a process of its own, because that imports the host."""
    command = [str(python), "-m", "tests.support.tiny_stack.files", str(models_folder)]
    subprocess.run(command, cwd=PACK_ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def soak(host: Host, python: Path, base_directory: Path, plan: Plan, host_options: Sequence[str] = ()) -> list[str]:
    """Start a server, do everything of the plan, and return what was measured, a line each.

    Args:
        host: the ComfyUI.
        python: runs it.
        base_directory: the server's folder; `models` in it holds the tiny models.
        plan: how much.
        host_options: further options of ComfyUI's main.py.

    Raises:
        SoakError: a run failed that must not, or the reverse; memory grew; a file differs; a job was lost.
    """
    write_references(base_directory / "input")
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    with running_host(host, python, base_directory, PACKS, host_options) as server:
        report(f"server: {host}, torch {server.torch.version} {' '.join(host_options)}".rstrip())
        for phase, amount in (
            (_runs, plan.runs),
            (_interrupts, plan.interrupts),
            (_out_of_memory, plan.out_of_memory),
        ):
            if amount:
                report(_timed(phase, server, base_directory, amount))
        if plan.threads:
            report(_timed(_threads, server, base_directory, plan.threads, plan.jobs))
    return lines


def _timed(phase: Callable[..., str], server: RunningHost, folder: Path, *amounts: int) -> str:
    started = time.monotonic()
    with Client(server.url, lost_after=LOST_AFTER) as client:
        found = phase(server, client, folder / "fetched.png", *amounts)
    return f"{found} ({time.monotonic() - started:.0f} s)"


def _runs(server: RunningHost, client: Client, file: Path, amount: int) -> str:
    """Many workflows; memory after each."""
    resident = []
    for number in range(amount):
        _result(client, variation(number), file)
        resident.append(_resident_bytes(server.process.pid))
    said = f"runs: {amount} without an error"
    part = (amount - WARM_RUNS) // 4
    if part < 1:
        return said
    first, last = resident[WARM_RUNS : WARM_RUNS + part], resident[-part:]
    grown = statistics.median(last) - statistics.median(first)
    said += (
        f"; resident memory, median of {part} runs: {_mb(statistics.median(first))} from run {WARM_RUNS + 1}, "
        f"{_mb(statistics.median(last))} at the end, {_mb(max(resident))} at most; tolerated growth {_mb(TOLERANCE)}"
    )
    if grown > TOLERANCE:
        raise SoakError(f"the server's memory grows: {said}")
    return said


def _interrupts(server: RunningHost, client: Client, file: Path, amount: int) -> str:
    """Stop a run at a random moment of its sampling, then run the same workflow to its end. Two workflows take turns, so
    that the host has never the result of the one it is asked for."""
    del server
    draw = random.Random(0)
    prompts = [workflow(seed=seed, steps=INTERRUPTED_STEPS, region=(0, 0, 32, 64), text_share=0.3) for seed in (1, 2)]
    expected = [_result(client, prompt, file) for prompt in prompts]
    seconds = 0.0
    for number in range(-2, amount):
        if number >= 0:
            _interrupt_once(client, prompts[number % 2], draw, seconds)
        started = time.monotonic()
        if _result(client, prompts[number % 2], file) != expected[number % 2]:
            raise SoakError(f"after {max(number + 1, 0)} interrupts the same workflow gave another file")
        seconds = time.monotonic() - started  # the machine may have other things to do, too
    return f"interrupts: {amount} in mid-sampling, each followed by the same file as before, byte for byte"


def _interrupt_once(client: Client, prompt: Prompt, draw: random.Random, seconds: float) -> None:
    for attempt in range(ATTEMPTS):
        prompt_id = client.submit(prompt)
        time.sleep(draw.uniform(0.1, 0.9) * seconds * 0.8**attempt)
        client.cancel(prompt_id)
        try:
            client.wait(prompt_id)
        except FailedError as stopped:
            if stopped.exception_type != "interruption":
                raise
            if stopped.node_type == "KSampler":
                return
        except LostError:
            continue  # it was still in the queue, and left it
        client.run(workflow(seed=3))  # the host forgets what it has of the other one
    raise SoakError(f"no interrupt met the sampling in {ATTEMPTS} attempts of up to {seconds:.2f} s")


def _out_of_memory(server: RunningHost, client: Client, file: Path, amount: int) -> str:
    """A batch that memory does not suffice for, then the same without the batch."""
    del server
    small = workflow(rows=2, seed=4)  # positive and negative of one image
    large = workflow(rows=2, seed=4, batch=2)
    expected = _result(client, small, file)
    for _ in range(amount):
        try:
            client.run(large)
        except FailedError as failed:
            if failed.exception_type != "torch.OutOfMemoryError" or "TIPS" not in str(failed):
                raise SoakError(f"out of memory was reported as {failed}") from failed
        else:
            raise SoakError("memory did not run out where it was made to")
        if _result(client, small, file) != expected:
            raise SoakError("after memory ran out, the smaller workflow gave another file")
    return f"out of memory: {amount} times reported as the host's own error, the smaller run after it as before"


def _threads(server: RunningHost, client: Client, file: Path, amount: int, jobs: int) -> str:
    """Clients at once; a file carries the workflow it was made by, so a mix-up shows."""
    del client
    problems: list[str] = []
    done: list[int] = []

    def work(thread: int) -> None:
        seeds = [100_000 + thread * jobs + job for job in range(jobs)]
        try:
            with Client(server.url, lost_after=LOST_AFTER) as own:
                submitted = [own.submit(workflow(seed=seed, steps=1)) for seed in seeds]
                for seed, prompt_id in zip(seeds, submitted, strict=True):
                    outputs = own.wait(prompt_id)
                    (image,) = (image for image in saved_images(outputs) if image.type == "output")
                    content = own.download(image, file.with_name(f"{seed}.png")).read_bytes()
                    if f'"seed": {seed},'.encode() not in content:
                        problems.append(f"job {seed} came back with another job's picture")
                    done.append(seed)
        except Exception as error:  # noqa: BLE001, reported by the thread that waits
            problems.append(f"thread {thread}: {error}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(amount)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems or len(set(done)) != amount * jobs:
        raise SoakError(f"{len(set(done))} of {amount * jobs} jobs came back; {'; '.join(sorted(problems))}")
    return f"threads: {amount} clients at once, {amount * jobs} jobs, all back with their own pictures"


def _result(client: Client, prompt: Prompt, file: Path) -> bytes:
    """The first saved picture's file; it holds the workflow besides the pixels."""
    outputs = client.run(prompt)
    saved = [image for image in saved_images(outputs) if image.type == "output"]
    if not saved:
        raise SoakError(f"a run saved no picture: {outputs}")
    return client.download(saved[0], file).read_bytes()


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/statm")
    if status.is_file():
        return int(status.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    answer = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(answer.stdout) * 1024


def _mb(amount: float) -> str:
    return f"{amount / 2**20:.0f} MB"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (EnvironmentFailedError, HostNotFoundError, HostStartError, SoakError) as error:
        sys.exit(str(error))
