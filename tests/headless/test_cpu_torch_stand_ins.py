"""The stand-ins stand in for what is missing, and for nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch

from headless.host import torch_stand_ins as stand_ins


@pytest.fixture
def forget(monkeypatch):
    """Function that removes a package from this process's modules; all of them come back after the test."""

    def forget_package(package: str) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)

    before = dict(sys.modules)
    yield forget_package
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


def probe_with(tmp_path, **packages: str) -> list[str]:
    """What `--probe` finds to stand in for, with these sources in place of the installed packages."""
    for name, source in packages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source)
    result = subprocess.run(
        [sys.executable, stand_ins.__file__, "--probe"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    probed = json.loads(result.stdout)
    assert probed["torch"] == torch.__version__
    return probed["stand_ins"]


def test_whole_packages_are_left_alone(tmp_path):
    assert probe_with(tmp_path, torchvision="", torchaudio="") == []


def test_operators_that_did_not_load(tmp_path):
    source = "import torch\n@torch.library.register_fake('torchvision::none_such')\ndef fake(x): return x\n"
    assert probe_with(tmp_path, torchvision=source, torchaudio="") == [
        "torchvision's compiled operators do not load: imported without them"
    ]


def test_a_library_that_does_not_load(tmp_path):
    source = "raise OSError('libtorchaudio.so: undefined symbol')"
    assert probe_with(tmp_path, torchvision="", torchaudio=source) == [
        "torchaudio does not load: an empty module stands in"
    ]


def test_an_absent_torchvision_imports_as_an_empty_package(monkeypatch, forget):
    forget("torchvision")
    monkeypatch.setattr(stand_ins, "find_spec", lambda name: None)
    assert stand_ins._whole_or_bare_torchvision() == "torchvision is absent: an empty module stands in"
    transforms = importlib.import_module("torchvision.transforms")
    assert transforms.__doc__.startswith("Empty stand-in")
    with pytest.raises(AttributeError, match="Compose"):
        _ = transforms.Compose


def test_an_empty_torchaudio_has_the_name_that_the_host_imports(monkeypatch, forget):
    forget("torchaudio")
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # import raises ModuleNotFoundError
    assert stand_ins._whole_or_empty_torchaudio() == "torchaudio is absent: an empty module stands in"
    from torchaudio.transforms import MelScale

    assert MelScale.__name__ == "MelScale"
    assert importlib.util.find_spec("torchaudio") is not None  # some packages ask before they import


def test_only_unknown_operators_of_that_package_are_skipped():
    register_fake = torch.library.register_fake
    with stand_ins._unknown_operators_skipped("torchvision") as skipped:
        decorate = torch.library.register_fake("torchvision::none_such")
        with pytest.raises(RuntimeError, match="none_such"):
            torch.library.register_fake("pfv_mepa_test::none_such")(lambda x: x)
    assert skipped == ["torchvision::none_such"]
    assert decorate(len) is len
    assert torch.library.register_fake is register_fake


def test_a_script_runs_as_if_called_alone(tmp_path):
    (tmp_path / "neighbour.py").write_text("value = 7")
    script = tmp_path / "script.py"
    script.write_text("import sys, neighbour\nprint(__name__, sys.argv[1:], neighbour.value)")
    command = [sys.executable, stand_ins.__file__, str(script), "--option", "x"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "__main__ ['--option', 'x'] 7"
