"""An environment that serves is used untouched; what is missing goes into one that sees it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from headless.host import environment
from headless.host.environment import EnvironmentFailedError, floors, python_at_floors, python_for
from headless.host.find import Host

PACKAGE = "pfv_mepa_only_in_this_test"


def write_wheel(folder: Path, version: str = "1.0") -> Path:
    """A wheel with one empty module, so that an installation needs no index."""
    info = f"{PACKAGE}-{version}.dist-info"
    wheel = folder / f"{PACKAGE}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{PACKAGE}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def make_host(path: Path, *requirements: str) -> Host:
    path.mkdir()
    (path / "requirements.txt").write_text("\n".join(requirements))
    return Host(path, "the test", "0.3.64")


def test_the_running_interpreter_serves_when_it_has_everything(tmp_path):
    assert python_for(None, [], tmp_path / "venv") == Path(sys.executable)
    assert not (tmp_path / "venv").exists()


def test_the_hosts_own_environment_comes_next(tmp_path, monkeypatch):
    host = make_host(tmp_path / "host", "torch", "no-such-package>=1")
    own = environment._python_in(host.path / "venv")
    own.parent.mkdir(parents=True)
    own.touch()
    monkeypatch.setattr(environment, "_missing", lambda python, names: [] if python == own else ["no-such-package"])
    assert python_for(host, [], tmp_path / "venv") == own


@pytest.fixture(scope="module")
def venv(tmp_path_factory) -> Path:
    """Where an environment is made, once for those tests that need one."""
    return tmp_path_factory.mktemp("made") / "venv"


@pytest.fixture
def require(tmp_path, monkeypatch):
    """Function: wheel, or another requirement -> it is all that the only extra, "extra", consists of."""

    def require_one(wanted: Path | str) -> None:
        line = wanted if isinstance(wanted, str) else f"{PACKAGE} @ {wanted.as_uri()}"
        (tmp_path / "requirements").mkdir()
        (tmp_path / "requirements" / "extra.txt").write_text(f"{line}  # a local file\n")
        monkeypatch.setattr(environment, "REQUIREMENTS", tmp_path / "requirements")
        monkeypatch.setattr(environment, "EXTRAS", ("extra",))

    return require_one


def test_what_an_environment_lacks_is_installed_beside_it(tmp_path, venv, require, capsys):
    """The running interpreter has the core but not the extra: it stays as it is, and a second call installs nothing."""
    require(write_wheel(tmp_path))

    python = python_for(None, ["extra"], venv)

    assert python == environment._python_in(venv)
    imports = f"import {PACKAGE}, torch, sys; print({PACKAGE}.__file__, torch.__file__)"
    run = subprocess.run([str(python), "-c", imports], capture_output=True, text=True, check=True)
    ours, theirs = run.stdout.split()
    assert Path(ours).is_relative_to(venv)
    assert not Path(theirs).is_relative_to(venv)
    assert environment._missing(Path(sys.executable), [PACKAGE]) == [PACKAGE]
    assert "installed extra 'extra'" in capsys.readouterr().err

    assert python_for(None, ["extra"], venv) == python
    assert capsys.readouterr().err == ""


def test_a_failed_installation_says_what_and_why(tmp_path, venv, require):
    require(tmp_path / f"{PACKAGE}-2.0-py3-none-any.whl")  # there is no such file
    with pytest.raises(EnvironmentFailedError, match=r"(?s)installing extra 'extra' failed .*-2\.0-py3"):
        python_for(None, ["extra"], venv)


def test_the_lowest_version_is_installed_where_a_higher_one_is_offered_and_torch_stays(
    tmp_path, venv, require, monkeypatch
):
    for version in ("1.0", "1.5", "2.0"):
        write_wheel(tmp_path, version)
    require(f"{PACKAGE}>=1.5")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    python = python_at_floors(venv)

    found = f"import importlib.metadata, torch; print(importlib.metadata.version({PACKAGE!r}), torch.__file__)"
    version, torch_file = subprocess.run(
        [str(python), "-c", found], capture_output=True, text=True, check=True
    ).stdout.split()
    assert version == "1.5"
    assert not Path(torch_file).is_relative_to(venv)


def test_a_running_interpreter_without_torch_lends_none(tmp_path, monkeypatch):
    """The environment gets its own, before all else."""
    installed = []
    monkeypatch.setattr(environment, "_missing", lambda python, names: list(names))
    monkeypatch.setattr(environment, "_create_where_needed", lambda venv, base: {"base": str(base)})
    monkeypatch.setattr(environment, "_install", lambda venv, stamp, steps: installed.extend([stamp["base"], *steps]))
    python_at_floors(tmp_path)
    assert installed[0] == "None"
    assert [step.arguments for step in installed[1:]] == [(environment.TORCH,), tuple(floors())]


def test_every_requirement_has_one_lower_bound():
    """Two of one name could not be installed together, and what has none would come in today's version."""
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", floor) for floor in floors())
    names = [floor.partition("==")[0] for floor in floors()]
    assert len(names) == len(set(names))
    assert {"diffusers", "numpy", "typer"} <= set(names)


def test_an_environment_made_by_somebody_else_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_missing", lambda python, names: list(names))
    (tmp_path / "venv").mkdir()
    with pytest.raises(EnvironmentFailedError, match="exists and was not made by this command"):
        python_for(None, [], tmp_path / "venv")


def test_unknown_extra(tmp_path):
    with pytest.raises(EnvironmentFailedError, match=r"unknown extras \['tests'\]: expected some of .*'test'"):
        python_for(None, ["tests"], tmp_path / "venv")


def test_beside_a_cpu_torch_nothing_that_asks_for_another_torch_brings_its_dependencies(tmp_path):
    host = make_host(
        tmp_path / "host", "torch", "torchvision", "torchaudio", "kornia>=0.7.1", "spandrel", "aiohttp>=3.11"
    )
    plain, without_dependencies = environment._host_steps(host, registry_packages_fit=False)
    assert plain.arguments == ("numpy", "safetensors", "pillow", "aiohttp>=3.11", "requests")
    assert without_dependencies.arguments == ("--no-deps", "torchvision==0.28.0", "kornia", "kornia_rs", "spandrel")


def test_beside_a_whole_torch_the_hosts_list_is_taken_as_it_is(tmp_path):
    host = make_host(tmp_path / "host", "torch", "torchvision", "torchaudio", "# a comment", "spandrel")
    (everything,) = environment._host_steps(host, registry_packages_fit=True)
    assert everything.arguments[3:] == ("torch", "torchvision", "torchaudio", "spandrel", "requests")


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("Pillow", "pillow"),
        ("av>=14.2.0", "av"),
        ("kornia_rs", "kornia-rs"),
        ("pydantic~=2.0", "pydantic"),
        ("a @ file:b", "a"),
    ],
)
def test_names_of_requirements(requirement, name):
    assert environment._name(requirement) == name


def test_every_extra_that_is_offered_has_requirements():
    assert set(environment.EXTRAS) >= {"demo", "dev", "open-clip", "test"}
    assert all(environment._extra_requirements(extra) for extra in environment.EXTRAS)
