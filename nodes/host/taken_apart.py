"""Calls that another pack takes apart, as Tiled Diffusion does: in the host's `model_function_wrapper`, which gets all rows of a
call and runs the model on what it likes of them.

Such a pack knows what the host's conditions are and cuts, rolls or repeats those, each in its own way; the map of the facts it
may well get wrong, or fail on. What every one has to repeat rightly is what goes with a row, or texts would stand at the wrong
pictures. So there each row has its number alone, and where a part lies in that row's latent is found by its values.

    numbered(function)      around what takes calls apart
    facts_of(...)           in a call of it: the map that was there before
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...pfv_core.region.cut_out_of import corner_in
from .facts import MAP, Options

WHOLE = "pfv_whole"  # in the options of such a call
NOWHERE = -1  # row and column of a pixel that no latent has

Function = Callable[[Callable[..., Tensor], dict[str, Any]], Tensor]
"""What the host calls in the place of the model, with the model and its inputs."""


@dataclass(frozen=True, eq=False)
class Whole:
    """What is taken apart: latents (rows, C, H, W) and their map (rows, 4, H, W)."""

    latent: Tensor
    facts: Tensor


def numbered(function: Function) -> Function:
    """Another pack's function, which gets the number of each row in the place of its map."""

    def around(apply_model: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        inputs = given["c"]
        if MAP not in inputs:
            return function(apply_model, given)
        whole = Whole(given["input"], inputs[MAP])
        options = {**inputs["transformer_options"], WHOLE: whole}
        numbers = torch.arange(len(whole.latent))[:, None]
        return function(apply_model, {**given, "c": {**inputs, MAP: numbers, "transformer_options": options}})

    return around


def facts_of(latent: Tensor, facts: Tensor | None, options: Options) -> Tensor | None:
    """The map of a call, from the numbers of its rows where it was taken apart; None where they are not the latent's.

    Args:
        latent: (rows, C, h, w), its values those that were handed to whoever takes calls apart.
        facts: (rows, 4, h, w), or (rows, 1) numbers.
        options: of the call.

    Returns:
        (rows, 4, h, w); rows of which nobody knows where they lie have no pixel of the latent's.
    """
    whole: Whole | None = options.get(WHOLE)
    if facts is None or whole is None or facts.ndim != 2:
        return facts
    if len(facts) != len(latent):
        return None
    rows = facts[:, 0].tolist()
    if latent.shape[-2:] == whole.latent.shape[-2:]:
        return whole.facts[rows]
    return torch.stack(
        [_cut(whole.facts[row], whole.latent[row], part) for row, part in zip(rows, latent, strict=True)]
    )


def _cut(facts: Tensor, latent: Tensor, part: Tensor) -> Tensor:
    """The map of a part of one row."""
    corner, (height, width) = corner_in(latent, part), part.shape[-2:]
    if corner is None:
        cut = facts[:, :1, :1].repeat(1, height, width)
        cut[:2] = NOWHERE
        return cut
    top, left = corner
    return facts[:, top : top + height, left : left + width]
