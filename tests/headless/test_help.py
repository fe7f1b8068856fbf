"""Asked what it does, a command says it and does nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from headless.host.find import PACK_ROOT


@pytest.mark.parametrize("module", ["lab.demo.inputs", "tests.support.newest_frontend", "tools.draw_overview"])
def test_help_is_all_that_is_given(module, tmp_path):
    environ = os.environ | {"PYTHONPATH": str(PACK_ROOT), "PIP_NO_INDEX": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", module, "--help"]
    said = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("usage: ")
    assert not list(tmp_path.iterdir())
