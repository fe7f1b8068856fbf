"""Every test with one command: in the newest host, which it names, and with the extras that can be used here."""

from __future__ import annotations

from pathlib import Path

import pytest

from headless import run_tests
from headless.host.find import HOW_TO_GET_HOST, PACK_ROOT, Host

NEWEST = Host(Path("/comfy/ComfyUI"), "the newest in /comfy", "0.33.0")


@pytest.fixture
def call(monkeypatch):
    """What pytest would have been started with: command, folder and environment; no environment is made."""
    seen = {}

    def start(command, **how):
        seen.update(how, command=command)
        return 3

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


@pytest.mark.parametrize(("asked", "given"), [(None, "1"), ("3", "3")])
def test_one_thread_a_worker_unless_another_number_is_asked_for(asked, given, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert run_tests.pytest_environ()["OMP_NUM_THREADS"] == given
