"""Stand-ins that let ComfyUI start where torchvision and torchaudio cannot be imported.

ComfyUI imports both at start for its video and audio models. On Linux the registry's wheels of both are linked against
a CUDA build of torch, so beside a CPU-only torch `import torchvision` fails with "operator torchvision::nms does not
exist" and torchaudio's library does not load. Nothing that makes images uses what is missing. So, only where needed:

* torchvision whose compiled operators did not load is imported without registering shapes for those operators;
* torchvision or torchaudio that is absent, or does not import at all, is replaced by empty modules.

The pack itself needs neither; only a headless server or a test process that boots the host on a CPU calls this.

    python torch_stand_ins.py SCRIPT [ARGS...]   runs SCRIPT as __main__ with the stand-ins
    python torch_stand_ins.py --probe            prints what this Python's torch is and needs, as JSON
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

# What the host imports from them at start, as module -> names that `from module import` asks for. Its nodes for upscale
# models want more of an absent torchvision and do not load then; the host says so and goes on.
TORCHVISION_MODULES = {"torchvision": (), "torchvision.transforms": ()}
TORCHAUDIO_MODULES = {"torchaudio": (), "torchaudio.transforms": ("MelScale",), "torchaudio.functional": ()}


def apply_where_needed() -> list[str]:
    """Make `import torchvision` and `import torchaudio` succeed in this process; call it before the host is imported.

    Returns:
        One short description for each stand-in that was needed; empty when both packages are whole.
    """
    described = (_whole_or_bare_torchvision(), _whole_or_empty_torchaudio())
    return [description for description in described if description]


def accelerator_available() -> bool:
    """Whether torch sees a device that ComfyUI can use instead of the CPU (CUDA or ROCm, Apple, Intel)."""
    import torch

    xpu = getattr(torch, "xpu", None)  # absent from older torch
    return torch.cuda.is_available() or torch.backends.mps.is_available() or (xpu is not None and xpu.is_available())


def _whole_or_bare_torchvision() -> str | None:
    if find_spec("torchvision") is None:
        _let_transformers_look_first()
        _install_empty_modules(TORCHVISION_MODULES)
        return "torchvision is absent: an empty module stands in"
    with _unknown_operators_skipped("torchvision") as skipped, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        importlib.import_module("torchvision")
    return "torchvision's compiled operators do not load: imported without them" if skipped else None


def _let_transformers_look_first() -> None:
    """transformers remembers whether there is a torchvision; it would take the empty module for one and import from it."""
    if find_spec("transformers") is not None:
        importlib.import_module("transformers.utils").is_torchvision_available()


def _whole_or_empty_torchaudio() -> str | None:
    try:
        importlib.import_module("torchaudio")
        return None
    except (ImportError, OSError) as error:  # OSError: its shared library does not load
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        _install_empty_modules(TORCHAUDIO_MODULES)
        reason = "is absent" if isinstance(error, ModuleNotFoundError) else "does not load"
        return f"torchaudio {reason}: an empty module stands in"


@contextmanager
def _unknown_operators_skipped(namespace: str) -> Iterator[list[str]]:
    """Let torch.library.register_fake pass over operators of `namespace` that do not exist; yields their names."""
    import torch

    register_fake = torch.library.register_fake
    skipped: list[str] = []

    def register_known(op: Any, *args: Any, **kwargs: Any) -> Any:
        operator_namespace, _, name = op.partition("::") if isinstance(op, str) else ("", "", "")
        if operator_namespace == namespace and not hasattr(getattr(torch.ops, namespace), name):
            skipped.append(op)
            return _unchanged
        return register_fake(op, *args, **kwargs)

    torch.library.register_fake = register_known
    try:
        yield skipped
    finally:
        torch.library.register_fake = register_fake


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _install_empty_modules(modules: Mapping[str, tuple[str, ...]]) -> None:
    for name, attributes in modules.items():
        module = ModuleType(name, f"Empty stand-in for {name}, see {Path(__file__).name}.")
        module.__spec__ = ModuleSpec(name, None)  # find_spec refuses a module without one
        module.__path__ = []  # a package, so that its submodules resolve
        for attribute in attributes:
            setattr(module, attribute, type(attribute, (), {}))
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _probe() -> str:
    import torch

    return json.dumps(
        {"torch": torch.__version__, "accelerator": accelerator_available(), "stand_ins": apply_where_needed()}
    )


def _run_script(script: str, arguments: list[str]) -> None:
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)  # as if Python had been called with the script itself
    apply_where_needed()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1:] == ["--probe"]:
        print(_probe())
    else:
        _run_script(sys.argv[1], sys.argv[2:])
