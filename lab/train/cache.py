"""Latents and image tokens kept in a folder, one safetensors file each, named by what they were made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import save_atomically

_NAME = "values"


class TensorCache:
    """Tensors by key, for one kind of content and one set of settings.

    Args:
        folder: where all caches are.
        kind: latents, tokens, ...
        settings: whatever changes the tensors besides the key's content.
        half: whether they are kept in half precision.
    """

    def __init__(self, folder: Path, kind: str, settings: Mapping[str, Any], half: bool = False) -> None:
        described = json.dumps(settings, sort_keys=True, default=str)
        self.folder = folder / f"{kind}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"
        self.half = half

    def get(self, key: str) -> Tensor | None:
        """The tensor of a key, float32; None where there is none that is whole."""
        file = self._file(key)
        try:
            return load_file(file)[_NAME].float() if file.is_file() else None
        except (SafetensorError, KeyError):
            return None  # damaged: made and written again

    def put(self, key: str, value: Tensor) -> Tensor:
        """Keep a tensor; returns what `get` will give. NotWrittenError where it cannot be written."""
        kept = self._kept(value.detach().cpu())
        save_atomically(self._file(key), lambda file: save_file({_NAME: kept.contiguous().clone()}, file))
        return kept.float()

    def _kept(self, value: Tensor) -> Tensor:
        """In half precision where that is asked for and holds the values: it ends at 65504."""
        half = value.half() if self.half else value
        return half if bool(torch.isfinite(half).all()) else value

    def _file(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"


def cached(cache: TensorCache | None, keys: Sequence[str], make: Callable[[list[int]], list[Tensor]]) -> list[Tensor]:
    """The tensors of a batch, taken from the cache where they are there.

    What is to be cached is made one by one, so that its bits do not depend on which others were missing; the rest is
    made together.

    Args:
        cache: None = none.
        keys: of each item; empty = it is not cached.
        make: item numbers -> their tensors.
    """
    found: dict[int, Tensor] = {}
    together = []
    for item, key in enumerate(keys):
        if cache is None or not key:
            together.append(item)
            continue
        value = cache.get(key)
        found[item] = cache.put(key, make([item])[0]) if value is None else value
    if together:
        found.update(zip(together, make(together), strict=True))
    return [found[item] for item in range(len(keys))]


def fingerprint(module: nn.Module) -> str:
    """A short name for a model's weights: the same for the same file, read fast even from large models."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.state_dict().items()):
        head = parameter.detach().flatten()[:16].to("cpu", torch.float32).tolist()
        digest.update(f"{name}{tuple(parameter.shape)}{head}".encode())
    return digest.hexdigest()[:16]
