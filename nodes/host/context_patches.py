"""What other packs do to a text's tokens before a cross-attention projects them, as a hypernetwork does, done to another text.

The host hands such a patch the hidden states that the query is made of, the tokens and the options, and hands an attention's slot
neither the first two nor the patches. So a note is put before them, which leaves the hidden states in the options of the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .facts import HIDDEN, Options

CONTEXT = "attn2_patch"  # the host's name of them

ContextPatch = Callable[[Tensor, Tensor, Tensor, Options], tuple[Tensor, Tensor, Tensor]]
"""Hidden states, what keys are made of, what values are made of, the options of a block -> the first three, changed."""


def note_hidden(hidden: Tensor, keys: Tensor, values: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """A patch that changes nothing and comes before all others of a call."""
    options[HIDDEN] = hidden
    return hidden, keys, values


def noted(options: Options) -> tuple[Any, ...]:
    """The patches of a call, in whose options the note is put before them; where there are none, nothing is."""
    patches = options.get("patches", {})
    found = tuple(patch for patch in patches.get(CONTEXT, ()) if patch is not note_hidden)
    if found:
        options["patches"] = {**patches, CONTEXT: [note_hidden, *found]}
    return found


def patched(context: Tensor, patches: Sequence[ContextPatch], options: Options) -> tuple[Tensor, Tensor]:
    """What the host would make keys and values of, if these were its tokens.

    Args:
        context: (rows, T, C), a row for each of the hidden states'.
        patches: of the call.
        options: of the block, with the note.
    """
    seen = {name: value for name, value in options.items() if name != HIDDEN}
    hidden, keys, values = options[HIDDEN], context, context
    for patch in patches:
        hidden, keys, values = patch(hidden, keys, values, seen)
    return keys, values
