"""The pack comes and goes: a host that it was installed in is as it was once its folder is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headless.host import torch_stand_ins as cpu_torch_stand_ins
from headless.host.find import PACK_ROOT, require_host
from pfv_mepa.tests.support.archive import unpack_archive

NOT_COPIED_OF_HOST = ("models", "input", "output", "temp", "user", "custom_nodes", "venv", "__pycache__")
OF_THE_HOST = ("user", "temp", "input", "output", "models")  # what every start of it makes, with or without packs


@pytest.fixture
def installed(tmp_path) -> Path:
    """A host of its own, with the registry's archive of the pack in its custom_nodes."""
    host = tmp_path / "ComfyUI"
    host.mkdir()
    for entry in require_host().path.iterdir():
        if entry.is_dir() and entry.name not in NOT_COPIED_OF_HOST and not entry.name.startswith((".", "tests")):
            shutil.copytree(entry, host / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif entry.is_file():
            shutil.copy(entry, host)
    (host / "models" / "ipadapter").mkdir(parents=True)
    unpack_archive(PACK_ROOT, host / "custom_nodes" / "pfv-mepa")
    return host


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of each file."""
    found = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): (file.stat().st_size, file.stat().st_mtime_ns) for file in found}


def test_install_and_remove_leave_the_host_as_it_was(installed):
    before = files(installed)
    command = [sys.executable, cpu_torch_stand_ins.__file__, str(installed / "main.py"), "--cpu", "--quick-test-for-ci"]
    options = ["--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    started = subprocess.run(
        [*command, *options], cwd=installed, env=environment, capture_output=True, text=True, check=False
    )
    log = started.stdout + started.stderr
    assert started.returncode == 0, log
    assert "custom_nodes/pfv-mepa" in log
    assert "IMPORT FAILED" not in log
    after = files(installed)
    assert {name: after.get(name) for name in before} == before  # the pack changes nothing of its own either
    assert {Path(name).parts[0] for name in set(after) - set(before)} <= set(OF_THE_HOST)
    assert not [name for name in set(after) - set(before) if Path(name).parts[0] in ("input", "output", "models")]
    shutil.rmtree(installed / "custom_nodes" / "pfv-mepa")
    assert not list((installed / "custom_nodes").iterdir())


def test_the_hosts_own_reader_of_pyproject_understands_it():
    from comfy_config import config_parser

    config = config_parser.extract_node_configuration(str(PACK_ROOT))
    assert config.project.name == config.tool_comfy.publisher_id == "pfv-mepa"
    assert config.project.version
    assert config.tool_comfy.display_name
    assert config.tool_comfy.web is None  # WEB_DIRECTORY says it; both would load each script twice
    assert config.project.license.file == "LICENSE"
    assert config.project.supported_comfyui_version == ">=0.3.60"
