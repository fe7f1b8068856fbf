"""Runs the host and browser tests on several ComfyUIs, one after the other: a Markdown table on stdout, the rest on stderr.

    python3 -m headless.run_hosts [HOST_FOLDER...] [-- PYTEST_ARGUMENT...]

Without folders it takes every ComfyUI that lies in ~/comfy, with files among pytest's arguments those instead of tests/host
and tests/browser. Each host runs in its own environment, or in one that is made for its version in .venvs; its page is the
one that it brings. Exit status 1 if a test failed anywhere. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from .host.environment import EnvironmentFailedError, python_for
from .host.find import HOW_TO_GET_HOST, PACK_ROOT, UNKNOWN, Host, HostNotFoundError, find_hosts, host_at
from .run_tests import extras_for, pytest_command, pytest_environ

ENVIRONMENTS = PACK_ROOT / ".venvs"  # one folder for each version
KINDS = ("tests/host", "tests/browser")
PASSED, FAILED, SKIPPED = OUTCOMES = ("passed", "failed", "skipped")
WORST_FIRST = (FAILED, SKIPPED, PASSED)
FRONTEND_FOLDER = "PFV_MEPA_FRONTEND"  # would give every host the same page
STDERR = 2  # the file descriptor: stdout is the table's alone
NOTHING_COLLECTED = 5  # pytest's exit status

HEAD = (
    "| ComfyUI | frontend | host tests: passed | failed | skipped | browser tests: passed | failed | skipped | minutes |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Result:
    """What the tests did on one host.

    Attributes:
        version: ComfyUI's.
        frontend: the version of the page that it brings.
        outcomes: pytest's name of each test -> one of `OUTCOMES`.
        seconds: how long pytest ran.
        trouble: why there is no whole result, or "".
    """

    version: str
    frontend: str
    outcomes: dict[str, str]
    seconds: float
    trouble: str = ""

    @property
    def failed(self) -> list[str]:
        """Names of the tests that failed, of whatever kind."""
        return [test for test, outcome in self.outcomes.items() if outcome == FAILED]

    @property
    def good(self) -> bool:
        """Whether tests ran and none failed."""
        return not self.failed and not self.trouble

    def row(self) -> str:
        """Its line of the table."""
        counts = [count for kind in KINDS for count in self._counts(kind)]
        return f"| {' | '.join([self.version, self.frontend, *counts, f'{self.seconds / 60:.1f}'])} |"

    def _counts(self, kind: str) -> list[str]:
        found = [outcome for test, outcome in self.outcomes.items() if test.startswith(f"{kind}/")]
        return [str(found.count(outcome)) if found else "-" for outcome in OUTCOMES]

    def remarks(self) -> list[str]:
        """What went wrong, one line each."""
        return [f"{self.version}: {what}" for what in (*self.failed, *filter(None, [self.trouble]))]


def main(arguments: list[str]) -> int:
    """Run the tests on each host and print the table; returns the exit status."""
    if {"-h", "--help"} & {*arguments[: arguments.index("--") if "--" in arguments else None]}:
        print(__doc__)
        return 0
    folders, pytest_arguments = split_arguments(arguments)
    results = []
    for host in hosts_of(folders):
        _say(f"\n{host}")
        results.append(result_of(host, pytest_arguments))
        _say(f"{HEAD[0]}\n{results[-1].row()}")
    print(report(results), flush=True)
    return 0 if all(result.good for result in results) else 1


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Folders of hosts, and what stands after a `--`, which is pytest's.

    Raises:
        ValueError: an option stands before the `--`.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = list(arguments[:end])
    if options := [argument for argument in own if argument.startswith("-")]:
        raise ValueError(f"{options[0]} is no host's folder: put pytest's arguments after a --")
    return own, list(arguments[end + 1 :])


def hosts_of(folders: Sequence[str]) -> list[Host]:
    """The hosts in these folders, or every one in the default place.

    Raises:
        HostNotFoundError: there is none in one of the folders, or none at all.
    """
    hosts = [host_at(Path(folder), "the folder on the command line") for folder in folders] or find_hosts()
    if not hosts:
        raise HostNotFoundError(HOW_TO_GET_HOST)
    return hosts


def result_of(host: Host, pytest_arguments: Sequence[str]) -> Result:
    """Run pytest on one host, in the environment that fits it."""
    name = host.path.name if host.version == UNKNOWN else host.version
    try:
        python = python_for(host, extras_for(host), ENVIRONMENTS / name, running_will_do=False)
    except EnvironmentFailedError as error:
        return Result(host.version, "-", {}, 0, str(error))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder) / "report.xml"
        environ = pytest_environ(f"{folder}/compiled") | {"COMFYUI_PATH": str(host.path)}
        status = _run_pytest(python, environ, [*with_files(pytest_arguments), *_report_options(report_file)])
        outcomes = outcomes_in(report_file.read_text(encoding="utf-8")) if report_file.is_file() else {}
    seconds = time.monotonic() - started
    return Result(host.version, _frontend_version(python), outcomes, seconds, _trouble(status, outcomes))


def with_files(pytest_arguments: Sequence[str], folders: Sequence[str] = KINDS) -> list[str]:
    """pytest's arguments, with these folders of tests where they name no file or folder."""
    named = any((PACK_ROOT / argument.split("::")[0]).exists() for argument in pytest_arguments if argument)
    return [*pytest_arguments, *([] if named else folders)]


def _report_options(file: Path) -> list[str]:
    return ["-o", "junit_family=xunit1", f"--junitxml={file}"]  # this family has each test's file


def _run_pytest(python: Path, environ: dict[str, str], arguments: Sequence[str]) -> int:
    environ.pop(FRONTEND_FOLDER, None)
    return subprocess.call(pytest_command(python, arguments), cwd=PACK_ROOT, env=environ, stdout=STDERR)


def _trouble(status: int, outcomes: dict[str, str]) -> str:
    if not outcomes and status in (0, NOTHING_COLLECTED):
        return "no test ran"
    if status not in (0, 1) or (status == 1 and FAILED not in outcomes.values()):
        return f"pytest ended with status {status}, see what it said"
    return ""


def outcomes_in(report: str) -> dict[str, str]:
    """Of a junit report of pytest's: name of each test -> outcome; what fails twice, or after its end, has failed once."""
    outcomes: dict[str, str] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        file = case.get("file", "")
        name = f"{file}::{case.get('name')}" if case.get("classname") else file or str(case.get("name"))
        seen = (_outcome(case), outcomes.get(name, PASSED))
        outcomes[name] = next(outcome for outcome in WORST_FIRST if outcome in seen)
    return outcomes


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return FAILED
    return SKIPPED if case.find("skipped") is not None else PASSED


FIND_FRONTEND = "import importlib.metadata as m; print(m.version('comfyui-frontend-package'))"


def _frontend_version(python: Path) -> str:
    command = [str(python), "-c", FIND_FRONTEND]
    found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "-"


def report(results: Sequence[Result]) -> str:
    """The table, and below it what went wrong."""
    remarks = [f"- {remark}" for result in results for remark in result.remarks()]
    return "\n".join([*HEAD, *(result.row() for result in results), *([""] if remarks else []), *remarks])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (HostNotFoundError, ValueError) as error:
        sys.exit(str(error))
