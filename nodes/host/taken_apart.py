"""Calls that another pack takes apart, as Tiled Diffusion does: in the host's `model_function_wrapper`, which gets all rows of a
call and runs the model on what it likes of them.

Such a pack knows what the host's conditions are and cuts, rolls or repeats those, each in its own way; the map of the facts it
may well get wrong, or fail on. What every one has to repeat rightly is what goes with a row, or texts would stand at the wrong
pictures. So there each row has its number alone, and where a part lies in that row's latent is found by its values.

    numbered(function)      around what takes calls apart
    map_of(...)             where a latent of such a call arrives: the map that was there before
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...pfv_core.region.cut_out_of import corner_in
from .facts import MAP, UNKNOWN, Options

FUNCTION = "model_function_wrapper"  # of what another pack has put in the model's place, among a model's options
WHOLE = "pfv_whole"  # in the options of such a call

Function = Callable[[Callable[..., Tensor], dict[str, Any]], Tensor]
"""What the host calls in the place of the model, with the model and its inputs."""


@dataclass(frozen=True, eq=False)
class Whole:
    """What is taken apart: latents (rows, C, H, W) and their map (rows, 4, H, W); of another size it says all but the place."""

    latent: Tensor
    map: Tensor


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


def map_of(latent: Tensor, carried: Tensor | None, options: Options) -> Tensor | None:
    """The map of a call: what was carried to it, or where the call was taken apart what the numbers of its rows stand for.

    Args:
        latent: (rows, C, h, w), its values those that were handed to whoever takes calls apart.
        carried: (rows, 4, h, w) map, or (rows, 1) numbers.
        options: of the call.

    Returns:
        (rows, 4, h, w). A latent of the whole's size is the whole, its values are not looked at; a part that is not found there
        once has rows and columns that are UNKNOWN. None: nothing was carried, or not one number for each row.
    """
    whole: Whole | None = options.get(WHOLE)
    if carried is None or whole is None or carried.ndim != 2:
        return carried
    if len(carried) != len(latent):
        return None
    rows, size = carried[:, 0].tolist(), whole.latent.shape[-2:]
    if latent.shape[-2:] == size or whole.map.shape[-2:] != size:
        return whole.map[rows]
    return torch.stack([_cut(whole.map[row], whole.latent[row], part) for row, part in zip(rows, latent, strict=True)])


def _cut(known: Tensor, latent: Tensor, part: Tensor) -> Tensor:
    """The map of a part of one row."""
    corner, (height, width) = corner_in(latent, part.to(latent)), part.shape[-2:]
    if corner is None:
        cut = known[:, :1, :1].repeat(1, height, width)
        cut[:2] = UNKNOWN
        return cut
    top, left = corner
    return known[:, top : top + height, left : left + width]
