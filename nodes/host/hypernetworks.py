"""Hypernetworks: what the host keeps among a model's patches of attention, and is a change of its projections to who loads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CLASS = "hypernetwork_patch"  # of the host's, which it defines anew for each file
KINDS = ("attn1_patch", "attn2_patch")

Hypernetworks = dict[str, list[Any]]
"""By the kind of patch that they are."""


def is_hypernetwork(patch: Any) -> bool:
    """Whether a patch is one of the host's."""
    return type(patch).__name__ == CLASS


def hypernetworks_of(patcher: Any) -> Hypernetworks:
    """Of a ModelPatcher, as its options name patches."""
    patches = patcher.model_options["transformer_options"].get("patches", {})
    found = {kind: [patch for patch in patches.get(kind, ()) if is_hypernetwork(patch)] for kind in KINDS}
    return {kind: several for kind, several in found.items() if several}


def are_alike(one: Hypernetworks, other: Hypernetworks) -> bool:
    """Whether they change a model in the same way; until 0.12 the host copies them with every clone of a model."""
    pairs = [(one.get(kind, []), other.get(kind, [])) for kind in KINDS]
    return all(len(first) == len(second) and all(map(_is_like, first, second)) for first, second in pairs)


def _is_like(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if one.strength != other.strength or str(one.hypernet) != str(other.hypernet):
        return False
    return all(map(_equal, _weights(one), _weights(other)))


def _weights(patch: Any) -> Iterator[Tensor]:
    return (tensor for width in sorted(patch.hypernet) for tensor in patch.hypernet[width].state_dict().values())


def _equal(one: Tensor, other: Tensor) -> bool:
    """One of them may be loaded, on a device and in less precision."""
    dtype = min(one.dtype, other.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(one.to("cpu", dtype), other.to("cpu", dtype))
