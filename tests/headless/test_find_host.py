"""ComfyUI is found by each of the three routes, in their order, and a wrong COMFYUI_PATH is no silent miss."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headless.host.find import HOW_TO_GET_HOST, PACK_ROOT, HostNotFoundError, find_host, find_hosts


def make_host(path: Path, version: str | None = "0.3.64") -> Path:
    (path / "comfy").mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (path / name).touch()
    if version is not None:
        (path / "comfyui_version.py").write_text(f'# generated\n__version__ = "{version}"\n')
    return path


def test_comfyui_path_comes_first(tmp_path):
    wanted = make_host(tmp_path / "wanted")
    make_host(tmp_path / "home" / "comfy" / "ComfyUI")
    host = find_host({"COMFYUI_PATH": str(wanted)}, tmp_path / "pack", tmp_path / "home")
    assert (host.path, host.version) == (wanted, "0.3.64")
    assert "COMFYUI_PATH" in str(host)


def test_pack_in_custom_nodes_comes_before_the_default_place(tmp_path):
    around = make_host(tmp_path / "around")
    make_host(tmp_path / "home" / "comfy" / "ComfyUI")
    assert find_host({}, around / "custom_nodes" / "pack", tmp_path / "home").path == around


def test_a_custom_nodes_folder_of_something_else_is_no_host(tmp_path):
    default = make_host(tmp_path / "home" / "comfy" / "ComfyUI")
    assert find_host({}, tmp_path / "custom_nodes" / "pack", tmp_path / "home").path == default


def test_default_place(tmp_path):
    default = make_host(tmp_path / "comfy" / "ComfyUI", version=None)
    host = find_host({}, tmp_path / "pack", tmp_path)
    assert (host.path, host.version) == (default, "unknown")


def test_of_several_in_the_default_place_the_newest_is_taken_and_it_says_so(tmp_path):
    """By its numbers, not its letters: 0.33 is newer than 0.3.64, and 0.3.100 than 0.3.64."""
    for name, version in {"ComfyUI": "0.3.64", "b": "0.33.0", "c": "0.4.0", "d": "0.3.100"}.items():
        make_host(tmp_path / "comfy" / name, version)
    host = find_host({}, tmp_path / "pack", tmp_path)
    assert host.path == tmp_path / "comfy" / "b"
    assert str(host) == f"ComfyUI 0.33.0 at {host.path} (the newest in {tmp_path / 'comfy'})"


def test_the_hosts_of_the_default_place_come_newest_first_and_unknown_ones_last(tmp_path):
    versions = {"a": None, "b": "0.3.60", "c": "0.33.0", "d": "1.0rc1", "e": "0.3.64-dev", "f": "nightly"}
    for name, version in versions.items():
        make_host(tmp_path / "comfy" / name, version)
    (tmp_path / "comfy" / "notes.txt").touch()
    (tmp_path / "comfy" / "no_host").mkdir()
    assert [host.path.name for host in find_hosts(tmp_path)] == ["d", "c", "e", "b", "a", "f"]


def test_an_only_host_is_taken_though_its_version_is_unknown(tmp_path):
    only = make_host(tmp_path / "comfy" / "own", version=None)
    assert [host.path for host in find_hosts(tmp_path)] == [only]
    assert find_host({}, tmp_path / "pack", tmp_path).path == only


def test_without_the_default_place_there_are_none(tmp_path):
    assert find_hosts(tmp_path) == []


def test_none_anywhere(tmp_path):
    assert find_host({}, tmp_path / "pack", tmp_path) is None


def test_empty_comfyui_path_counts_as_unset(tmp_path):
    assert find_host({"COMFYUI_PATH": ""}, tmp_path / "pack", tmp_path) is None


def test_wrong_comfyui_path_is_an_error_that_names_it(tmp_path):
    make_host(tmp_path / "comfy" / "ComfyUI")
    with pytest.raises(HostNotFoundError, match=r"COMFYUI_PATH is .*nowhere, but there is no main\.py"):
        find_host({"COMFYUI_PATH": str(tmp_path / "nowhere")}, tmp_path / "pack", tmp_path)


def test_the_advice_is_one_line_with_both_ways():
    assert "\n" not in HOW_TO_GET_HOST
    assert "COMFYUI_PATH" in HOW_TO_GET_HOST
    assert "git clone https://github.com/comfyanonymous/ComfyUI ~/comfy/ComfyUI" in HOW_TO_GET_HOST


def test_without_a_host_pytest_leaves_its_tests_out_and_says_so_once(tmp_path):
    """A pytest of its own without the options that this one was given, in a home folder without a host; of what is
    neither in tests/host nor in tests/browser it is shown little, for collecting all of it takes long."""
    ours = ("COMFYUI_PATH", "PYTEST_ADDOPTS")
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    environ |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    few = [f"--ignore-glob={PACK_ROOT}/tests/{others}" for others in ("[!hb]*", "headless/test_[!f]*")]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *few]
    result = subprocess.run(command, cwd=PACK_ROOT, env=environ, capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line for line in lines if "ComfyUI found" in line] == [
        f"the tests in tests/host and tests/browser were left out, {HOW_TO_GET_HOST}"
    ]
    assert "host tests run: 0" in lines
    assert [line for line in lines if line.startswith("tests/headless/test_find_host.py")]
    assert not [line for line in lines if line.startswith("tests/host/")]
