"""Which module may know which: read from the source, so that nothing has to be installed or started."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE_FILES = sorted((ROOT / "pfv_core").rglob("*.py"))
NODE_FILES = sorted((ROOT / "nodes").rglob("*.py"))
CORE_MAY_IMPORT = {"torch", "numpy", "safetensors"} | set(sys.stdlib_module_names)
ROOM_MAY_IMPORT = {"found": {"scipy"}}
ONLY_INSIDE_A_FUNCTION = {"open_clip"}
HOST_ROOM = ROOT / "nodes" / "host"
HOST_ATTENTION_WORDS = ("transformer_options", "cond_or_uncond", "patches_replace")


def imports(tree: ast.AST) -> Iterator[tuple[str, int, ast.stmt]]:
    """(module, number of leading dots, statement) of every import anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, node


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_there_is_something_to_read():
    assert {"formula.py", "patch_mask.py", "checkpoint.py"} <= {path.name for path in CORE_FILES}


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.stem)
def test_core_imports_torch_numpy_safetensors_and_itself_alone(path):
    tree = parse(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {statement for function in functions for statement in ast.walk(function)}
    for module, dots, statement in imports(tree):
        where = f"{path.name}:{statement.lineno}"
        top = module.split(".")[0]
        if dots:
            package = path.parents[dots - 1]
            assert package.is_relative_to(ROOT / "pfv_core"), f"{where} reaches out of pfv_core"
            target = package.joinpath(*module.split("."))
            assert target.is_dir() or target.with_suffix(".py").is_file(), f"{where} imports no module of pfv_core"
        elif top in ONLY_INSIDE_A_FUNCTION:
            assert statement in inside, f"{where} imports {top} for everybody"
        else:
            allowed = CORE_MAY_IMPORT | ROOM_MAY_IMPORT.get(path.parent.name, set())
            assert top in allowed, f"{where} imports {module}"


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.stem)
def test_core_does_not_use_a_hosts_words(path):
    names = {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)}
    assert not names & {"comfy", "folder_paths", *HOST_ATTENTION_WORDS}


def test_one_room_alone_knows_how_the_host_hands_out_attention():
    """Strings and names both count: the host's options are dictionaries."""

    def words(path: Path) -> set[str]:
        found = set()
        for node in ast.walk(parse(path)):
            text = [getattr(node, name, "") for name in ("id", "attr", "arg", "value")]
            found |= {word for word in HOST_ATTENTION_WORDS if word in [t for t in text if isinstance(t, str)]}
        return found

    assert all(path.parent == HOST_ROOM for path in NODE_FILES if words(path))


def test_importing_the_core_starts_nothing():
    """No CUDA, no open_clip, no torchvision, no thread: it is imported by every worker at start."""
    names = [path.relative_to(ROOT).with_suffix("").parts for path in CORE_FILES if path.stem != "__init__"]
    modules = ", ".join(".".join(parts) for parts in names)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {modules}; import torch, threading; "
        "assert not torch.cuda.is_initialized(); assert threading.active_count() == 1; "
        "heavy = {'open_clip', 'torchvision', 'comfy', 'diffusers'}; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("root", ["pfv_core", "pfv_demo", "lab"])
def test_every_package_is_one_that_is_installed(root):
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for file in (ROOT / root).rglob("__init__.py"):
        name = ".".join(file.parent.relative_to(ROOT).parts)
        name = f"pfv_{name}" if root == "lab" else name
        assert f'"{name}"' in listed, f"{name} is missing from the packages of pyproject.toml"


HEADLESS = ROOT / "headless"
MAY_USE = {  # room -> others that it may import
    "host": set(),
    "server": set(),
    "pictures": set(),
    "ad": {"host", "server", "pictures"},
    "catalogue": {"server", "pictures"},
}
BARE = {"host"}  # runs before anything is installed


def test_every_room_of_headless_is_named_here():
    assert {path.name for path in HEADLESS.iterdir() if (path / "__init__.py").is_file()} == set(MAY_USE)


@pytest.mark.parametrize("room", MAY_USE)
def test_rooms_of_headless_import_what_they_may(room):
    for path in sorted((HEADLESS / room).rglob("*.py")):
        for module, dots, statement in imports(parse(path)):
            where = f"{path.relative_to(ROOT)}:{statement.lineno}"
            if not dots:
                assert module.split(".")[0] not in {"headless", "pfv_mepa", "nodes"}, (
                    f"{where} imports {module} absolutely"
                )
                assert room not in BARE or module.split(".")[0] in sys.stdlib_module_names | {"torch", "comfy"}, where
                continue
            package = path.parents[dots - 1]
            reached = package.joinpath(*module.split(".")).relative_to(HEADLESS).parts
            assert reached, f"{where} imports the floor that its room stands on"
            assert reached[0] in {room, *MAY_USE[room]} or path.name == "produce.py", f"{where} imports {reached[0]}"


LAB = ROOT / "lab"
LAB_MAY_USE = {  # room -> what of lab it may import besides itself; `files` and `machine` are the floor
    "diffusers": set(),
    "train": {"diffusers", "files", "machine"},
    "evaluation": {"files"},
    "demo": {"diffusers", "train", "evaluation", "files", "machine"},
}


def test_every_room_of_lab_is_named_here():
    assert {path.name for path in LAB.iterdir() if (path / "__init__.py").is_file()} == set(LAB_MAY_USE)


@pytest.mark.parametrize("room", [*LAB_MAY_USE, ""])
def test_rooms_of_lab_import_what_they_may(room):
    """Of the repository the core too, and the demo's data where the demo is; nothing of a host, and nothing of what runs one."""
    core = {"pfv_core", "pfv_demo"} if room == "demo" else {"pfv_core"}
    paths = sorted((LAB / room).rglob("*.py")) if room else sorted(LAB.glob("*.py"))
    for path in paths:
        for module, dots, statement in imports(parse(path)):
            where = f"{path.relative_to(ROOT)}:{statement.lineno}"
            top = module.split(".")[0]
            if not dots:
                assert top in core or not (ROOT / top).exists(), f"{where} imports {module}"
                assert top not in {"pfv_lab", "pfv_mepa", "comfy", "folder_paths"}, f"{where} imports {module}"
                continue
            target = path.parents[dots - 1].joinpath(*module.split("."))
            assert target.is_relative_to(LAB), f"{where} reaches out of lab"
            reached = target.relative_to(LAB).parts
            names = {reached[0]} if reached else {alias.name for alias in statement.names}
            assert names <= {room} | LAB_MAY_USE.get(room, set()), f"{where} imports {', '.join(sorted(names))}"
