"""Files that the host finds by a folder's and a file's name, and modules filled from what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import folder_paths
from torch import Tensor, nn

Fingerprint = tuple[str, int, int]
"""Name, bytes, and time of change in nanoseconds."""


def fingerprint(folder: str, name: str | None) -> Fingerprint:
    """What tells a file from one that took its place, for a node's `fingerprint_inputs`.

    Args:
        folder: the host's name of the kind of files, such as ipadapter.
        name: the file's, as the host lists it; None where another node will say it: the host asks before that runs, and
            counts that node in by itself.

    Returns:
        Its name, size and time of change; the name and zeros where the host finds none.
    """
    if name is None or (path := folder_paths.get_full_path(folder, name)) is None:
        return name or "", 0, 0
    stat = Path(path).stat()
    return name, stat.st_size, stat.st_mtime_ns


def list_beside_own(models: Path) -> None:
    """Let the host's loaders list files that lie elsewhere.

    Args:
        models: a folder like the host's own of this name; a folder in it is listed where it holds a safetensors file.
    """
    for folder in sorted({file.parent for file in models.glob("*/*.safetensors")}):
        folder_paths.add_model_folder_path(folder.name, str(folder))


def fill(module: nn.Module, tensors: Mapping[str, Tensor], what: str, advice: str) -> None:
    """Fill a module and freeze it; every tensor must find its place and every place its tensor.

    Args:
        what: what cannot be had where they do not, for the message.
        advice: what to do then.

    Raises:
        ValueError: tensors that are missing, unexpected or of another size.
    """
    places = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    if places != shapes:
        wrong = sorted(key for key in places.keys() | shapes.keys() if places.get(key) != shapes.get(key))
        raise ValueError(
            f"{what}: {len(wrong)} tensors are missing, unexpected or of another size, the first is {wrong[0]}. {advice}"
        )
    module.load_state_dict(tensors)
    module.requires_grad_(False).eval()
