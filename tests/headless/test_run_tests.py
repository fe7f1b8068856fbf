"""Every test with one command: in the newest host, which it names, and with the extras that can be used here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headless import run_tests
from headless.host.find import HOW_TO_GET_HOST, PACK_ROOT, Host

NEWEST = Host(Path("/comfy/ComfyUI"), "the newest in /comfy", "0.33.0")


@pytest.fixture
def call(monkeypatch):
    """What pytest would have been started with: commands, folder and environment; no environment is made."""
    seen = {"commands": []}

    def start(command, **how):
        seen.update(how, command=command)
        seen["commands"].append(command)
        return 3 if len(seen["commands"]) == 1 else 0

    monkeypatch.setattr(run_tests, "python_for", lambda host, extras: seen.update(extras=extras) or Path("the/python"))
    monkeypatch.setattr(run_tests.subprocess, "call", start)
    return seen


def test_it_says_which_host_it_takes_and_hands_pytest_its_arguments(call, monkeypatch, capsys):
    monkeypatch.setattr(run_tests, "find_host", lambda: NEWEST)
    assert run_tests.main(["-k", "x"]) == 3
    assert capsys.readouterr().out == "ComfyUI 0.33.0 at /comfy/ComfyUI (the newest in /comfy)\n"
    assert call["command"][:3] == [str(Path("the/python")), "-m", "pytest"]
    assert call["command"][-2:] == ["-k", "x"]
    assert call["cwd"] == PACK_ROOT


def test_without_a_host_it_says_how_to_get_one_and_runs_the_others(call, monkeypatch, capsys):
    monkeypatch.setattr(run_tests, "find_host", lambda: None)
    monkeypatch.setattr(run_tests, "find_chromium", lambda: "/usr/bin/chromium")
    run_tests.main([])
    assert capsys.readouterr().out == f"{HOW_TO_GET_HOST}\n"
    assert call["extras"] == ["test"]


@pytest.mark.parametrize(("chromium", "extras"), [(None, ["test"]), ("/usr/bin/chromium", ["test", "browser"])])
def test_the_browsers_packages_are_wanted_only_where_there_is_one(chromium, extras, monkeypatch):
    monkeypatch.setattr(run_tests, "find_chromium", lambda: chromium)
    assert run_tests.extras_for(NEWEST) == extras


def test_everything_is_two_runs_so_that_no_process_drives_a_page_and_computes(call, monkeypatch):
    monkeypatch.setattr(run_tests, "find_host", lambda: NEWEST)
    monkeypatch.setattr(run_tests, "find_chromium", lambda: "/usr/bin/chromium")
    assert run_tests.main([]) == 3  # the first one failed, the second did not
    assert [command[-1] for command in call["commands"]] == ["--ignore=tests/browser", "tests/browser"]
    call["commands"].clear()
    run_tests.main(["tests/host"])
    assert [command[-1] for command in call["commands"]] == ["tests/host"]


@pytest.mark.parametrize(("asked", "given"), [(None, "1"), ("3", "3")])
def test_one_thread_a_worker_unless_another_number_is_asked_for(asked, given, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert run_tests.pytest_environ("compiled")["OMP_NUM_THREADS"] == given


def test_sources_are_compiled_once_and_not_beside_them(call, monkeypatch):
    monkeypatch.setattr(run_tests, "find_host", lambda: NEWEST)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    run_tests.main(["tests/core"])
    assert call["env"]["PYTHONDONTWRITEBYTECODE"] == ""
    assert not Path(call["env"]["PYTHONPYCACHEPREFIX"]).is_relative_to(PACK_ROOT)
    assert not Path(call["env"]["PYTHONPYCACHEPREFIX"]).exists()


def test_files_begin_in_the_order_that_conftest_gives_them(tmp_path):
    """The long ones first, though others have more tests: a pytest of its own, with the workers that every run has."""
    (tmp_path / "conftest.py").write_text(
        "def pytest_collection_modifyitems(items):\n    items.sort(key=lambda item: item.path.name != 'test_z_long.py')\n"
    )
    (tmp_path / "test_a_many.py").write_text("".join(f"def test_{number}():\n    pass\n" for number in range(9)))
    (tmp_path / "test_z_long.py").write_text("def test_long():\n    pass\n")
    command = run_tests.pytest_command(
        Path(sys.executable), ["-n", "1", "-v", "-p", "no:cacheprovider", "-c", os.devnull]
    )
    environ = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    result = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    passed = [line for line in result.stdout.splitlines() if "PASSED" in line]
    assert len(passed) == 10, result.stdout + result.stderr
    assert "test_z_long.py" in passed[0]


def test_a_test_that_crashes_ends_the_run(tmp_path):
    (tmp_path / "test_crash.py").write_text("import os\ndef test_it(): os.abort()\ndef test_next(): pass")
    for number in range(4):
        (tmp_path / f"test_{number}.py").write_text("def test_it(): pass")
    command = run_tests.pytest_command(Path(sys.executable), ["-p", "no:cacheprovider", "-n", "2", str(tmp_path)])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)  # it would wait for ever
    assert done.returncode != 0
    assert "crashed while running 'test_crash.py::test_it'" in done.stdout
