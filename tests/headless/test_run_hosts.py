"""One row for each host, from pytest's own report; hosts, environments and pytest itself are stood in for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headless import run_hosts
from headless.host import find as find_host
from headless.host.environment import EnvironmentFailedError
from headless.host.find import Host, HostNotFoundError
from headless.run_hosts import (
    HEAD,
    Result,
    hosts_of,
    main,
    outcomes_in,
    report,
    result_of,
    split_arguments,
    with_files,
)

HOST_TEST = "tests/host/test_a.py"
BROWSER_TEST = "tests/browser/test_b.py"


def case(name: str, inside: str = "", file: str = HOST_TEST) -> str:
    return f'<testcase classname="tests.a" name="{name}" file="{file}" time="0.1">{inside}</testcase>'


def xml(*cases: str) -> str:
    return f"<?xml version='1.0'?><testsuites><testsuite name='pytest'>{''.join(cases)}</testsuite></testsuites>"


# --- pytest's report --------------------------------------------------------------------------------------------------


def test_each_outcome_is_read():
    found = outcomes_in(
        xml(
            case("passes"),
            case("fails", '<failure message="no">text</failure>'),
            case("cannot_begin", '<error message="no">text</error>'),
            case("is_left_out", '<skipped message="no" />'),
            case("passes", file=BROWSER_TEST),
        )
    )
    assert found == {
        f"{HOST_TEST}::passes": "passed",
        f"{HOST_TEST}::fails": "failed",
        f"{HOST_TEST}::cannot_begin": "failed",
        f"{HOST_TEST}::is_left_out": "skipped",
        f"{BROWSER_TEST}::passes": "passed",
    }


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_reported_twice_counts_once_with_its_worse_outcome(turned):
    """pytest writes a second entry for a test that fails after its end."""
    cases = [case("a"), case("a", "<error />")]
    assert outcomes_in(xml(*(reversed(cases) if turned else cases))) == {f"{HOST_TEST}::a": "failed"}


def test_a_file_that_cannot_be_imported_is_a_failure_of_its_kind():
    broken = f'<testcase classname="" name="tests.host.test_a" file="{HOST_TEST}"><error /></testcase>'
    assert outcomes_in(xml(broken)) == {HOST_TEST: "failed"}


def test_a_real_report_is_read(tmp_path):
    """Of a pytest of its own: the entries' names and families are pytest's to choose."""
    file = tmp_path / "tests" / "host" / "test_real.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import pytest\n\n"
        "@pytest.fixture\ndef late():\n    yield\n    assert False\n\n"
        "def test_good(): pass\n\ndef test_bad(): assert False\n\ndef test_late(late): pass\n\n"
        "@pytest.mark.skip(reason='')\ndef test_out(): pass\n"
    )
    file.with_name("test_broken.py").write_text("import no_such_module_anywhere\n")
    report_file = tmp_path / "report.xml"
    options = [*run_hosts._report_options(report_file), "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), *options, "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    name = "tests/host/test_real.py::test_"
    assert outcomes_in(report_file.read_text(encoding="utf-8")) == {
        f"{name}good": "passed",
        f"{name}bad": "failed",
        f"{name}late": "failed",
        f"{name}out": "skipped",
        "tests/host/test_broken.py": "failed",
    }


# --- the table --------------------------------------------------------------------------------------------------------


def outcomes(passed: int, failed: int, skipped: int, file: str) -> dict[str, str]:
    counts = {"passed": passed, "failed": failed, "skipped": skipped}
    return {f"{file}::{outcome}_{i}": outcome for outcome, count in counts.items() for i in range(count)}


def test_a_table_of_two_hosts_and_what_went_wrong_below_it():
    whole = outcomes(5, 0, 1, HOST_TEST) | outcomes(3, 0, 0, BROWSER_TEST)
    results = [
        Result("0.33.0", "1.49.6", whole, 90.0),
        Result("0.3.60", "1.26.13", outcomes(2, 1, 0, HOST_TEST), 30.0, "pytest ended with status 2"),
    ]
    assert report(results).splitlines() == [
        *HEAD,
        "| 0.33.0 | 1.49.6 | 5 | 0 | 1 | 3 | 0 | 0 | 1.5 |",
        "| 0.3.60 | 1.26.13 | 2 | 1 | 0 | - | - | - | 0.5 |",
        "",
        f"- 0.3.60: {HOST_TEST}::failed_0",
        "- 0.3.60: pytest ended with status 2",
    ]
    assert [result.good for result in results] == [True, False]


def test_every_line_of_the_table_has_as_many_columns():
    lines = report([Result("0.33.0", "1.49.6", {}, 0.0)]).splitlines()
    assert {line.count("|") for line in lines} == {10}


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "folders", "for_pytest"),
    [
        ([], [], []),
        (["a", "b"], ["a", "b"], []),
        (["a", "--", "-k", "x"], ["a"], ["-k", "x"]),
        (["--", "-x", "--", "y"], [], ["-x", "--", "y"]),
    ],
)
def test_folders_come_before_the_dashes_and_pytests_arguments_after(arguments, folders, for_pytest):
    assert split_arguments(arguments) == (folders, for_pytest)


def test_help_is_told(capsys):
    assert run_hosts.main(["--help"]) == 0
    assert "python3 -m headless.run_hosts [HOST_FOLDER...]" in capsys.readouterr().out


def test_an_option_before_the_dashes_is_refused():
    with pytest.raises(ValueError, match=r"-k is no host's folder: put pytest's arguments after a --"):
        split_arguments(["a", "-k", "x"])


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], ["tests/host", "tests/browser"]),
        (["-k", "install"], ["-k", "install", "tests/host", "tests/browser"]),
        (["tests/host/test_install.py::test_x", "-x"], ["tests/host/test_install.py::test_x", "-x"]),
    ],
)
def test_files_among_pytests_arguments_replace_the_folders(arguments, given):
    assert with_files(arguments) == given


def make_host(path: Path, version: str) -> Path:
    (path / "comfy").mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (path / name).touch()
    (path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return path


def test_hosts_are_taken_in_the_order_in_which_they_are_named(tmp_path):
    older, newer = make_host(tmp_path / "a", "0.3.60"), make_host(tmp_path / "b", "0.33.0")
    assert [host.path for host in hosts_of([str(older), str(newer)])] == [older, newer]


def test_without_folders_every_host_of_the_default_place_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(find_host.Path, "home", lambda: tmp_path)
    for version in ("0.3.60", "0.33.0"):
        make_host(tmp_path / "comfy" / f"ComfyUI-{version}", version)
    assert [host.version for host in hosts_of([])] == ["0.33.0", "0.3.60"]


def test_a_folder_without_a_host_is_named(tmp_path):
    with pytest.raises(
        HostNotFoundError, match=r"the folder on the command line is .*nowhere, but there is no main\.py"
    ):
        hosts_of([str(tmp_path / "nowhere")])


def test_no_host_at_all_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(find_host.Path, "home", lambda: tmp_path)
    with pytest.raises(HostNotFoundError, match="git clone"):
        hosts_of([])


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """Every (python, arguments, environment) that pytest would have been started with; it writes `calls.report`."""

    class Calls(list):
        report: str | None = xml(case("a"), case("b", file=BROWSER_TEST))
        status = 0

    seen = Calls()

    def call(command, *, cwd, env, **streams):
        seen.append((Path(command[0]), command[3:], env))
        (file,) = [word.removeprefix("--junitxml=") for word in command if word.startswith("--junitxml=")]
        if seen.report is not None:
            Path(file).write_text(seen.report, encoding="utf-8")
        return seen.status

    monkeypatch.setattr(run_hosts.subprocess, "call", call)
    monkeypatch.setattr(run_hosts, "python_for", lambda host, extras, venv, running_will_do: venv / "python")
    monkeypatch.setattr(run_hosts, "_frontend_version", lambda python: "1.49.6")
    return seen


def host_of(version: str, name: str = "ComfyUI") -> Host:
    return Host(Path("/hosts") / name, "the test", version)


def test_pytest_runs_in_the_hosts_environment_with_the_hosts_own_page(calls, monkeypatch):
    monkeypatch.setenv("PFV_MEPA_FRONTEND", "another page")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    result = result_of(host_of("0.33.0"), ["-k", "x"])
    ((python, arguments, environ),) = calls
    assert python == run_hosts.ENVIRONMENTS / "0.33.0" / "python"
    assert arguments[arguments.index("-k") :][:4] == ["-k", "x", "tests/host", "tests/browser"]
    assert environ["COMFYUI_PATH"] == str(host_of("0.33.0").path)
    assert environ["OMP_NUM_THREADS"] == "3"
    assert "PFV_MEPA_FRONTEND" not in environ
    assert result.good
    assert result.row().startswith("| 0.33.0 | 1.49.6 | 1 | 0 | 0 | 1 | 0 | 0 | ")


def test_an_unknown_version_has_an_environment_by_its_folders_name(calls):
    result_of(host_of("unknown", "old"), [])
    assert calls[0][0] == run_hosts.ENVIRONMENTS / "old" / "python"


@pytest.mark.parametrize(
    ("written", "status", "trouble"),
    [
        (None, 4, "pytest ended with status 4, see what it said"),
        (xml(case("a")), 3, "pytest ended with status 3, see what it said"),
        (xml(case("a")), 1, "pytest ended with status 1, see what it said"),
        (xml(), 5, "no test ran"),
        (None, 0, "no test ran"),
        (xml(case("a", "<failure />")), 1, ""),
        (xml(case("a")), 0, ""),
    ],
)
def test_a_pytest_that_does_not_come_to_its_end_is_no_good_result(calls, written, status, trouble):
    calls.report, calls.status = written, status
    result = result_of(host_of("0.33.0"), [])
    assert result.trouble == trouble
    assert result.good == (not trouble and not result.failed)


def test_a_host_without_an_environment_does_not_keep_the_others_from_running(calls, tmp_path, monkeypatch, capsys):
    def python_for(host, extras, venv, running_will_do):
        if host.version == "0.3.60":
            raise EnvironmentFailedError("installing torch failed")
        return venv / "python"

    monkeypatch.setattr(run_hosts, "python_for", python_for)
    folders = [str(make_host(tmp_path / version, version)) for version in ("0.3.60", "0.33.0")]
    assert main(folders) == 1
    rows = capsys.readouterr().out.splitlines()
    assert rows[2:] == [
        "| 0.3.60 | - | - | - | - | - | - | - | 0.0 |",
        "| 0.33.0 | 1.49.6 | 1 | 0 | 0 | 1 | 0 | 0 | 0.0 |",
        "",
        "- 0.3.60: installing torch failed",
    ]
    assert main(folders[1:]) == 0


def test_a_failed_test_on_one_host_is_the_commands_failure(calls, tmp_path, capsys):
    calls.report, calls.status = xml(case("a", "<failure />")), 1
    assert main([str(make_host(tmp_path / "host", "0.33.0"))]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"- 0.33.0: {HOST_TEST}::a"
