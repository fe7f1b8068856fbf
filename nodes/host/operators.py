"""Operators that stand for our patches in a compiled U-Net: torch.compile calls them and does not look into them.

While compiled modules run, functions without state are where our patches were. Traced, they become operators, so the U-Net
stays one graph and nothing of a patch is in it; run, an operator finds the patch in the options of the call that is under
way. So what was compiled for one image prompt, region or strength serves every other.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from .facts import HIDDEN, Options

Block = tuple[Any, ...]

EXPECTED = "pfv_expected"  # in a call's options: the names that they have when a block reads them
INPUT_BLOCK = "input_block_patch"  # the host's name of patches that get what a block of the input side gave
KEPT_OUT = ("patches", "patches_replace")  # what the host does not hand on to an attention
ADDED = (  # what it adds, in the order of the operator's arguments
    "n_heads",
    "dim_head",
    "attn_precision",
    "activations_shape",
    "original_shape",
    "transformer_index",
    "block",
    "block_index",
    "prefetch_dynamic_vbars",
)


def never_traced(call: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates what the host calls inside its U-Net: torch.compile leaves it, and all that it calls, as it is."""
    disabled: Callable[..., Any] = torch.compiler.disable(call)
    return disabled


class Attention(ABC):
    """A patch in the host's replace slot of an attention that an operator can stand for.

    Attributes:
        kind: which attention, `attn1` or `attn2`.
    """

    kind: ClassVar[str]

    @abstractmethod
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """q, k, v (rows, tokens, width), the host's options -> (rows, tokens, width)."""

    @abstractmethod
    def reaches_others(self, options: Options) -> bool:
        """Whether code of another pack gets the tensors, and might keep them."""


class FirstBlock(ABC):
    """A patch of what the first block of the input side gave, that an operator can stand for."""

    @abstractmethod
    def __call__(self, hidden: Tensor, options: Options) -> Tensor:
        """(rows, channels, h, w), the host's options -> the same shape."""


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of a compiled model: its options, and the patches that operators stand for."""

    options: Options
    attentions: dict[str, dict[Block, Attention]]
    first_block: FirstBlock | None


class _Calls(threading.local):
    """Those of a thread that are under way, the innermost last: the host runs models of several devices in threads."""

    def __init__(self) -> None:
        self.under_way: list[_Call] = []


_calls = _Calls()


@contextmanager
def patches_as_operators(options: Options) -> Iterator[Options]:
    """While a compiled model runs: a call's options for it, in which operators stand for our patches."""
    if EXPECTED in options:  # another module of the same call
        yield options
        return
    slots, patches = options.get("patches_replace", {}), options.get("patches", {})
    attentions = {
        kind: {block: slot for block, slot in slots.get(kind, {}).items() if isinstance(slot, Attention)}
        for kind in STAND_INS
    }
    ours = [patch for patch in patches.get(INPUT_BLOCK, ()) if isinstance(patch, FirstBlock)]
    first_block = ours[0] if len(ours) == 1 else None
    own = {
        **options,
        "patches_replace": slots
        | {kind: slots[kind] | dict.fromkeys(found, STAND_INS[kind]) for kind, found in attentions.items() if found},
        EXPECTED: frozenset((*options, *ADDED, EXPECTED, HIDDEN)),
    }
    if first_block is not None:
        replaced = [_first_block if patch is first_block else patch for patch in patches[INPUT_BLOCK]]
        own["patches"] = {**patches, INPUT_BLOCK: replaced}
    _calls.under_way.append(_Call(own, attentions, first_block))
    try:
        yield own
    finally:
        _calls.under_way.pop()


# --- what is in the place of a patch -----------------------------------------------------------------------------------


def _self_attention(query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
    return _attention("attn1", query, key, value, options)


def _cross_attention(query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
    return _attention("attn2", query, key, value, options)


STAND_INS = {"attn1": _self_attention, "attn2": _cross_attention}


def _attention(kind: str, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
    """Where another pack has added something to the options inside the U-Net, no operator can know it."""
    if not torch.compiler.is_compiling() or not options.keys() <= options[EXPECTED]:
        return cast(Tensor, _attention_as_it_is(kind, query, key, value, options))
    side, number = options["block"]
    return cast(
        Tensor,
        ATTENTION(
            query,
            key,
            value,
            options.get(HIDDEN),
            kind,
            options["n_heads"],
            options["dim_head"],
            options["attn_precision"],
            options["activations_shape"],
            options["original_shape"],
            options["transformer_index"],
            side,
            number,
            options["block_index"],
        ),
    )


@never_traced
def _attention_as_it_is(kind: str, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
    return _slot(kind, options)(query, key, value, options)


def _slot(kind: str, options: Options) -> Attention:
    """As the host finds it: that of the block, or of its whole transformer."""
    slots, block = _calls.under_way[-1].attentions[kind], tuple(options["block"])
    return slots.get((*block, options["block_index"])) or slots[block]


def _first_block(hidden: Tensor, options: Options) -> Tensor:
    if tuple(options["block"]) != ("input", 0):
        return hidden
    if torch.compiler.is_compiling():
        return cast(Tensor, FIRST_BLOCK(hidden))
    return cast(Tensor, _first_block_as_it_is(hidden))


# --- the operators -----------------------------------------------------------------------------------------------------


def _run_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    hidden: Tensor | None,
    kind: str,
    heads: int,
    head_width: int,
    precision: torch.dtype | None,
    activations_shape: list[int],
    original_shape: list[int],
    transformer: int,
    side: str,
    number: int,
    depth: int,
) -> Tensor:
    """The output is a tensor of its own, and who else gets the others gets copies: compiled code writes into them again."""
    call = _calls.under_way[-1]
    options = {name: value for name, value in call.options.items() if name not in (*KEPT_OUT, EXPECTED)}
    added = heads, head_width, precision, list(activations_shape), list(original_shape), transformer, (side, number)
    options |= dict(zip(ADDED, (*added, depth), strict=False))
    if hidden is not None:
        options[HIDDEN] = hidden.clone()
    slot = _slot(kind, options)
    if not slot.reaches_others(options):
        return _like(query, slot(query, key, value, options))
    return _like(query, slot(query.clone(), key.clone(), value.clone(), options)).clone()


def _like(query: Tensor, out: Tensor) -> Tensor:
    """What compiled code has room for: another pack's attention may give another dtype."""
    if out.shape != query.shape:
        raise RuntimeError(
            f"an attention gave {tuple(out.shape)} for a query of {tuple(query.shape)}: torch.compile cannot run this"
        )
    return out.to(query.dtype).contiguous()


def _run_first_block(hidden: Tensor) -> Tensor:
    out = torch.empty_like(hidden)
    return out.copy_(_first_block_as_it_is(hidden))


@never_traced
def _first_block_as_it_is(hidden: Tensor) -> Tensor:
    call = _calls.under_way[-1]
    assert call.first_block is not None
    return call.first_block(hidden, {**call.options, "block": ("input", 0)})


def _defined() -> tuple[Any, Any, Any]:
    """The library that holds the operators, and both; a second copy of the pack in a process has its own."""
    number = 0
    while hasattr(getattr(torch.ops, name := f"pfv_mepa{number or ''}"), "attention"):
        number += 1
    library = torch.library.Library(name, "DEF")
    for operator, schema, run, fake in (
        (
            "attention",
            "(Tensor query, Tensor key, Tensor value, Tensor? hidden, str kind, int heads, int head_width, "
            "ScalarType? precision, SymInt[] activations_shape, SymInt[] original_shape, int transformer, str side, "
            "int number, int depth) -> Tensor",
            _run_attention,
            lambda query, *rest: query.new_empty(query.shape),
        ),
        ("first_block", "(Tensor hidden) -> Tensor", _run_first_block, torch.empty_like),
    ):
        library.define(operator + schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(operator, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{name}::{operator}", fake, lib=library)
    operators = getattr(torch.ops, name)
    return library, operators.attention.default, operators.first_block.default


_LIBRARY, ATTENTION, FIRST_BLOCK = _defined()
