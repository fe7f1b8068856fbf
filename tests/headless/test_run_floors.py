"""The tests that need no host, in the environment of the lowest versions; neither it nor pytest is begun here."""

from __future__ import annotations

import pytest

from headless import run_floors
from headless.host.find import PACK_ROOT

WITHOUT_HOST = ["tests", "--ignore=tests/host", "--ignore=tests/browser"]


@pytest.mark.parametrize(
    ("arguments", "tests"),
    [
        ([], WITHOUT_HOST),
        (["-k", "fit"], ["-k", "fit", *WITHOUT_HOST]),
        (["tests/core", "-k", "fit"], ["tests/core", "-k", "fit"]),
    ],
)
def test_pytest_runs_there(arguments, tests, monkeypatch):
    seen = {}
    monkeypatch.setattr(run_floors, "python_at_floors", lambda venv: venv / "python")
    monkeypatch.setattr(run_floors.subprocess, "call", lambda command, **how: seen.update(how, command=command) or 3)
    assert run_floors.main(arguments) == 3
    assert seen["command"][:3] == [str(PACK_ROOT / ".venvs" / "floors" / "python"), "-m", "pytest"]
    assert seen["command"][-len(tests) - 1 :] == ["-Wignore::DeprecationWarning", *tests]
    assert seen["cwd"] == PACK_ROOT
