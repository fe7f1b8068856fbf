"""The Python that can run ComfyUI and this pack's commands: one that exists, or one made in .venv.

Standard library only, so that it runs on a bare Python.

An environment that the user already has is used as it is and never changed: what only this pack's commands need goes
into a `.venv` in the repository, which sees the other environment's packages. Without one, `.venv` gets everything.

    python3 -m headless.host.environment [EXTRA...]   prints the path of that Python; what it does goes to stderr
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .find import PACK_ROOT, Host, HostNotFoundError, find_host

REQUIREMENTS = PACK_ROOT / "requirements"  # one file for each extra
EXTRAS = tuple(sorted(file.stem for file in REQUIREMENTS.glob("*.txt")))

TORCH = "torch==2.13.0"
TORCHVISION = "torchvision==0.28.0"  # the release made for that torch
CORE = ("torch", "numpy", "safetensors", "pillow")  # what pfv_core imports, with or without a host

# On Linux the registry's torchvision and torchaudio, and with them whatever asks for them, want a CUDA build of torch.
WANT_CUDA_TORCH = ("torchvision", "torchaudio", "kornia", "spandrel")
WITHOUT_DEPENDENCIES = (TORCHVISION, "kornia", "kornia_rs", "spandrel")
STOOD_IN_FOR = ("torchvision", "torchaudio")  # a host starts without them, see torch_stand_ins

STAMP = "pfv-mepa-environment.json"
LOG = "pfv-mepa-install.log"


class EnvironmentFailedError(RuntimeError):
    """No Python could be made that runs what was asked for; the message says which step failed and why."""


@dataclass(frozen=True)
class Step:
    """One call of pip: what is printed, and pip's arguments after `install`."""

    title: str
    arguments: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\0".join(self.arguments).encode()).hexdigest()[:16]


def python_for(
    host: Host | None, extras: Sequence[str] = (), venv: Path = PACK_ROOT / ".venv", running_will_do: bool = True
) -> Path:
    """Find or make a Python that imports what the host and the named extras need.

    In this order: the running interpreter, the host's own environment (venv or .venv in its folder), `venv`.
    Packages are looked for by name, so another host's interpreter may have this one's in other versions.

    Args:
        host: the ComfyUI that it must run, or None when only `pfv_core` and the extras are wanted.
        extras: names of this pack's optional dependencies, see `EXTRAS`.
        venv: the folder of the environment that is made where neither of the others will do.
        running_will_do: False = the running interpreter is passed over.

    Returns:
        The path of a Python executable.

    Raises:
        EnvironmentFailedError: the interpreter is too old, an extra is unknown, or an installation failed.
    """
    _check_arguments(extras)
    base_needs = _names(_base_requirements(host))
    extra_needs = _names(line for extra in extras for line in _extra_requirements(extra))
    base = None
    for python in _existing_pythons(host, running_will_do):
        missing = _missing(python, [*base_needs, *extra_needs])
        if not missing:
            return python
        if base is None and not set(missing) & set(base_needs):
            base = python  # runs the host; only extras are missing
    return _made_environment(venv, host, extras, base, [*base_needs, *extra_needs])


def python_at_floors(venv: Path) -> Path:
    """Make a Python that has the lowest version of everything which a file of requirements allows.

    Torch has none there: it is the running interpreter's, where that has one.

    Raises:
        EnvironmentFailedError: the interpreter is too old, or an installation failed.
    """
    _check_arguments([])
    running = Path(sys.executable)
    base = None if _missing(running, ["torch"]) else running
    stamp = _create_where_needed(venv, base)
    torch = [] if base else [Step(TORCH, (TORCH,))]
    _install(venv, stamp, [*torch, Step("the lowest versions", tuple(floors()))])
    return _python_in(venv)


def floors() -> list[str]:
    """Every lower bound of the files of requirements, as the version itself."""
    lines = {line for extra in EXTRAS for line in _extra_requirements(extra)}
    return sorted(line.replace(">=", "==") for line in lines)


def _check_arguments(extras: Sequence[str]) -> None:
    if sys.version_info < (3, 10):  # noqa: UP036  (the first thing a bare Python runs)
        raise EnvironmentFailedError(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    if unknown := set(extras) - set(EXTRAS):
        raise EnvironmentFailedError(f"unknown extras {sorted(unknown)}: expected some of {list(EXTRAS)}")


def _base_requirements(host: Host | None) -> list[str]:
    """Requirement lines of the core, and of the host except those it can start without."""
    if host is None:
        return list(CORE)
    lines = [line for line in _host_requirements(host) if _name(line) not in STOOD_IN_FOR]
    return [*CORE, *lines, "requests"]  # requests: imported by the host, not in its list


def _host_requirements(host: Host) -> list[str]:
    return _requirement_lines(host.path / "requirements.txt")


def _extra_requirements(extra: str) -> list[str]:
    return _requirement_lines(REQUIREMENTS / f"{extra}.txt")


def _requirement_lines(file: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _name(requirement: str) -> str:
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(requirements: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(_name(requirement) for requirement in requirements))


def _existing_pythons(host: Host | None, running_will_do: bool) -> list[Path]:
    pythons = [Path(sys.executable)] if running_will_do else []
    if host is not None:
        pythons += [python for name in ("venv", ".venv") if (python := _python_in(host.path / name)).is_file()]
    return pythons


def _python_in(venv: Path) -> Path:
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


FIND_MISSING = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        print(name)
"""


def _missing(python: Path, names: Sequence[str]) -> list[str]:
    """Those of the named distributions that `python` does not have; all of them when it does not even start."""
    result = _run(python, "-c", FIND_MISSING, *names)
    return result.stdout.split() if result.returncode == 0 else list(names)


def _made_environment(
    venv: Path, host: Host | None, extras: Sequence[str], base: Path | None, needs: list[str]
) -> Path:
    python = _python_in(venv)
    stamp = _create_where_needed(venv, base)
    if base is None:
        _install(venv, stamp, [Step(TORCH, (TORCH,))])
        _install(venv, stamp, _host_steps(host, registry_packages_fit=_registry_packages_fit(python)))
    steps = [Step(f"extra '{extra}'", tuple(_extra_requirements(extra))) for extra in extras]
    _install(venv, stamp, steps)
    if missing := _missing(python, needs):
        raise EnvironmentFailedError(f"{venv} still lacks {', '.join(missing)}: delete that folder and run this again")
    return python


def _host_steps(host: Host | None, registry_packages_fit: bool) -> list[Step]:
    core = tuple(name for name in CORE if name != "torch")
    if host is None:
        return [Step(", ".join(core), core)]
    requirements = _host_requirements(host)
    if registry_packages_fit:
        return [Step("ComfyUI's requirements", (*core, *requirements, "requests"))]
    plain = [line for line in requirements if _name(line) not in (*WANT_CUDA_TORCH, "torch")]
    return [
        Step("ComfyUI's requirements", (*core, *plain, "requests")),
        Step("torchvision, kornia, spandrel beside a CPU-only torch", ("--no-deps", *WITHOUT_DEPENDENCIES)),
    ]


DESCRIBE_TORCH = "import sys, torch; print(sys.platform, torch.version.cuda or torch.version.hip)"


def _registry_packages_fit(python: Path) -> bool:
    """Whether the registry's torchvision and torchaudio go with the installed torch: not with a CPU build on Linux."""
    return _run(python, "-c", DESCRIBE_TORCH).stdout.split() != ["linux", "None"]


def _create_where_needed(venv: Path, base: Path | None) -> dict[str, str]:
    """The record of what is installed in `venv`, which is made anew when it belongs to another Python."""
    stamp_file = venv / STAMP
    identity = f"{sys.version} {base}"
    if stamp_file.is_file():
        stamp: dict[str, str] = json.loads(stamp_file.read_text(encoding="utf-8"))
        if stamp.get("python") == identity and _python_in(venv).is_file():
            return stamp
    elif venv.exists():
        raise EnvironmentFailedError(f"{venv} exists and was not made by this command: move it away, or activate it")
    _say(f"making {venv}" + (f", which sees the packages of {base}" if base else ""))
    created = _run(base or Path(sys.executable), "-m", "venv", "--clear", str(venv))
    if created.returncode != 0:
        raise EnvironmentFailedError(f"cannot make {venv}: {(created.stdout + created.stderr).strip()}")
    if base is not None:
        _show_packages_of(base, venv)
    return _record(venv, {"python": identity})


FIND_SITE_PACKAGES = """
import sys
print(*[path for path in sys.path if path.endswith(("site-packages", "dist-packages"))], sep="\\n")
"""


def _show_packages_of(base: Path, venv: Path) -> None:
    """Let `venv` import what `base` has, after its own packages; pip then counts those as installed and leaves them."""
    folders = _run(base, "-c", FIND_SITE_PACKAGES).stdout.splitlines()
    lines = [f"import site; site.addsitedir({folder!r})" for folder in folders]
    own = _run(_python_in(venv), "-c", FIND_SITE_PACKAGES).stdout.splitlines()[0]
    (Path(own) / "base_environment.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _install(venv: Path, stamp: dict[str, str], steps: Sequence[Step]) -> None:
    for step in steps:
        if stamp.get(step.title) == step.fingerprint:
            continue
        started = time.monotonic()
        _say(f"installing {step.title}")
        _pip_install(venv, step)
        stamp[step.title] = step.fingerprint
        _record(venv, stamp)
        _say(f"installed {step.title} ({time.monotonic() - started:.0f} s)")


def _pip_install(venv: Path, step: Step) -> None:
    constraints = venv / "pfv-mepa-constraints.txt"
    constraints.write_text(_installed_torch(_python_in(venv)), encoding="utf-8")  # no package may exchange the torch
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    result = _run(_python_in(venv), "-m", "pip", "install", *quiet, "-c", str(constraints), *step.arguments)
    with (venv / LOG).open("a", encoding="utf-8") as log:
        log.write(f"# {step.title}\n{result.stdout}{result.stderr}")
    if result.returncode != 0:
        reason = "\n".join((result.stderr or result.stdout).strip().splitlines()[-8:])
        raise EnvironmentFailedError(f"installing {step.title} failed (all of it is in {venv / LOG}):\n{reason}")


INSTALLED_TORCH = "import importlib.metadata as m; print('torch==' + m.version('torch'))"


def _installed_torch(python: Path) -> str:
    return _run(python, "-c", INSTALLED_TORCH).stdout  # empty before torch is installed


def _record(venv: Path, stamp: dict[str, str]) -> dict[str, str]:
    (venv / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    return stamp


def _run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def _say(line: str) -> None:
    print(f"environment: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(python_for(find_host(), sys.argv[1:]))
    except (EnvironmentFailedError, HostNotFoundError) as error:
        sys.exit(str(error))
