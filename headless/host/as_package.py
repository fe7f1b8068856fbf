"""A folder imported as a package whose name is not the folder's. Standard library only.

The pack imports itself relatively, and a checkout may lie in a folder of any name: whoever needs the pack outside a host
loads it as `pfv_mepa`. Other packs are loaded the same way where they are compared with.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from .find import PACK_ROOT

REPOSITORY = "pfv_mepa"


def load_repository(root: Path = PACK_ROOT) -> ModuleType:
    """Load this repository as `pfv_mepa`, and move its root to the end of sys.path.

    In front, where `python -m` puts it, its `nodes/` would shadow the host's own nodes.py; from the end the packages that
    are installed under their own names (`pfv_core`, `lab`, ...) are still found.
    """
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != root]
    sys.path.append(str(root))
    return load_as_package(REPOSITORY, root)


def load_as_package(name: str, folder: Path) -> ModuleType:
    """Import a folder, once, as the package `name`; its __init__.py runs if it has one."""
    if name in sys.modules:
        return sys.modules[name]
    file = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    if file.is_file():
        spec.loader.exec_module(module)
    return module
