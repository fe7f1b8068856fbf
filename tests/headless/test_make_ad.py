"""The command line, and what it starts: everything that happens before a package is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headless import make_ad
from headless.ad.plan import PlanError


@pytest.fixture
def calls(monkeypatch):
    """What would be installed and run: (host, extras), (command, environment)."""
    recorded = []

    def python_for(host, extras):
        recorded.append((host, extras))
        return Path(sys.executable)

    def call(command, cwd, env):
        recorded.append((command[1:], env["OMP_NUM_THREADS"]))
        return 3

    monkeypatch.setattr(make_ad, "python_for", python_for)
    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return recorded


def test_without_a_host_diffusers_is_installed_and_the_exit_status_handed_on(calls):
    arguments = ["--engine", "diffusers", "--seed", "5"]
    assert make_ad.main(arguments) == 3
    assert calls == [(None, ["diffusers"]), (["-m", "headless.ad.produce", *arguments], "1")]


def test_what_cannot_be_made_is_said_before_anything_is_installed(calls):
    with pytest.raises(PlanError, match="--size goes with SDXL"):
        make_ad.main(["--engine", "diffusers", "--size", "640x360"])
    assert calls == []


def test_a_bare_python_gets_as_far_as_the_plan():
    """Nothing but the standard library is imported before an environment is made."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'numpy', 'PIL', 'diffusers', 'scipy']))\n"
        "from headless import make_ad\n"
        "make_ad.plan_ad(make_ad.parser().parse_args(['--engine', 'diffusers']))"
    )
    root = Path(make_ad.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"], check=False
    )
    assert run.returncode == 0


def test_size_option():
    assert make_ad.parser().parse_args(["--size", "640x360"]).size == (640, 360)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            (["--size", size], f"'{size}' is no size: expected WIDTHxHEIGHT, both 64 pixels or more")
            for size in ("640", "63x360", "0x8", "80x80x80")
        ),
        *(
            (["--steps", steps], f"'{steps}' is no number of steps: expected 1 to 10000")
            for steps in ("0", "-3", "many", "20000")
        ),
        *(
            (["--ground", share], f"'{share}' is no share: expected 0.01")
            for share in ("0", "1", "1.2", "-0.1", "low", "nan")
        ),
        *((["--seed", seed], f"'{seed}' is no seed: expected") for seed in ("-1", "1.5", "18446744073709551616")),
        (["--prompt", " "], "it is empty: expected a sentence"),
        (["--out", __file__], "is a file: expected a folder"),
        (["--product", "nowhere.png"], "there is no file nowhere.png"),
        (["--engine", "another"], "invalid choice: 'another'"),
    ],
)
def test_a_wrong_option_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        make_ad.parser().parse_args(arguments)
    assert message in capsys.readouterr().err
