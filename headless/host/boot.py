"""ComfyUI imported into this process, for tests and for writing tiny model files; a server is start_host's job."""

from __future__ import annotations

import sys
from pathlib import Path

from .torch_stand_ins import accelerator_available, apply_where_needed


def boot_host(host_path: Path, base_directory: Path) -> None:
    """Make `import comfy`, `import nodes` and `import folder_paths` mean the host's modules.

    Must come before the first import of any host module: the host reads its options while it is imported.

    Args:
        host_path: the folder that holds ComfyUI's main.py; put first on sys.path.
        base_directory: takes the place of the host's own folder for models, input, output, temp and user files,
            so that nothing is written into the checkout.

    Raises:
        RuntimeError: a host was imported before.
    """
    if "comfy.cli_args" in sys.modules:
        raise RuntimeError("ComfyUI is imported already: boot_host must come before the first host import, and once")
    sys.path.insert(0, str(host_path))
    apply_where_needed()
    import comfy.options

    comfy.options.enable_args_parsing(False)  # the command line belongs to somebody else
    from comfy.cli_args import args

    args.cpu = not accelerator_available()  # without it a CPU-only torch fails at torch.cuda.current_device
    args.base_directory = str(base_directory)
