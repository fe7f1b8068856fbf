"""Calls that another pack takes apart, as Tiled Diffusion does: in the host's `model_function_wrapper`, which gets all rows of a
call and runs the model on what it likes of them.

Such a pack knows what the host's conditions are and cuts, rolls or repeats those, each in its own way; the map of the facts it
may well get wrong, or fail on. What every one has to repeat rightly is what goes with a row, or texts would stand at the wrong
pictures. So there each row has its number alone, and where a latent lies in that row's is found by its values.

    numbered(function)      around what takes calls apart
    map_of(...)             where a latent arrives: the map that was there before
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
        latent, inputs = given["input"], given["c"]
        if MAP not in inputs or len(inputs[MAP]) != len(latent):
            return function(apply_model, given)
        options = inputs["transformer_options"]
        whole = Whole(latent, _with_images(inputs[MAP], options))
        numbers = torch.arange(len(latent))[:, None]
        own = {**inputs, MAP: numbers, "transformer_options": {**options, WHOLE: whole}}
        return function(apply_model, {**given, "c": own})

    return around


def map_of(latent: Tensor, carried: Tensor | None, options: Options) -> Tensor | None:
    """The map of a latent: what was carried to it, or what the numbers of its rows stand for.

    Args:
        latent: (rows, C, h, w), with the values that the model was given.
        carried: (rows, 4, h, w) map, or (rows, 1) numbers.
        options: of the call.

    Returns:
        (rows, 4, h, w) int32, its images those of a window over the batch where there is one. A latent that its row's does not
        have, or has at several places, has rows and columns that are UNKNOWN. None: nothing was carried, or not one number for
        each row.
    """
    whole: Whole | None = options.get(WHOLE)
    if carried is None or (carried.ndim == 2 and (whole is None or len(carried) != len(latent))):
        return None
    if whole is None:
        return _with_images(carried, options)
    if carried.ndim != 2:
        return carried  # looked up before
    rows = [round(number) for number in carried[:, 0].tolist()]  # cast along with a latent, as some packs do
    if latent is whole.latent or whole.map.shape[-2:] != whole.latent.shape[-2:]:
        return whole.map[rows]
    return torch.stack([_cut(whole.map[row], whole.latent[row], part) for row, part in zip(rows, latent, strict=True)])


def _cut(known: Tensor, latent: Tensor, part: Tensor) -> Tensor:
    """The map of a part of one row, which may be all of it."""
    corner, (height, width) = corner_in(latent, part.to(latent)), part.shape[-2:]
    if corner is None:
        cut = known[:, :1, :1].repeat(1, height, width)
        cut[:2] = UNKNOWN
        return cut
    top, left = corner
    return known[:, top : top + height, left : left + width]


def _with_images(carried: Tensor, options: Options) -> Tensor:
    """A map whose images are those of a context window over the batch, which says itself which they are, row by row.

    Until 0.4 the host's windows cut no condition at the batch, since 0.18 they may keep the first images' conditions.
    """
    window = options.get("context_window")
    if window is None or window.dim != 0:
        return carried
    anchor = getattr(window, "causal_anchor_index", None)
    images = [*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list]
    if len(carried) % len(images):
        return carried
    told = carried.clone()
    told[:, 2] = torch.tensor(images).repeat(len(carried) // len(images)).to(told)[:, None, None]
    return told
