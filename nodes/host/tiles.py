"""Which part of the ad a run samples, carried by its prompts: who cuts the ad into tiles cuts the masks of the prompts to each.

located(prompt, ad)     at the node: a prompt that carries it
taken_from(conditions)  as a run begins: what has arrived
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...pfv_core.region.ramps import part_of, ramps
from .facts import TILES as NAME
from .facts import Crop, Grid, Options

CARRIED = "pfv_tiles"  # of the ramp that a prompt's mask is, among its values
# No noise level lies in it, nor would it count.
NEVER = {"start_percent": 1.0, "end_percent": 0.0, "mask_strength": 0.0}
RAMPS = 4
SHARED = ("pooled_output",)  # values of a prompt that the host asks of each


@dataclass(frozen=True)
class Ramp:
    """One of those that say where in an ad a prompt's mask lies."""

    number: int  # among `ramps`
    ad: Grid  # rows and columns of the ad, image pixels


def located(prompt: list[Any], ad: Grid) -> list[Any]:
    """A prompt with more entries that are never sampled: their masks say where in an ad of this size a part of it lies.

    Raises:
        ValueError: a prompt that is empty or carries such entries.
    """
    if not prompt:
        raise ValueError(f"{NAME}: the prompt is empty: connect CLIP Text Encode")
    if any(CARRIED in values for _, values in prompt):
        raise ValueError(f"{NAME}: the prompt has been through this node: use it once, with the size of the whole ad")
    text, values = prompt[0]
    shared = {name: values[name] for name in SHARED if name in values}
    entries = [
        [text, {**shared, **NEVER, "mask": mask, CARRIED: Ramp(number, ad)}] for number, mask in enumerate(ramps(*ad))
    ]
    return [*prompt, *entries]


def taken_from(prompts: dict[str, list[Options]], batch: int) -> Crop | None:
    """Take what `located` added out of a run's prompts: the part of the ad that it samples, None where nobody says.

    Raises:
        ValueError: prompts of different parts or ads, masks that nobody has cut, or that are changed otherwise, or several
            images.
    """
    found: dict[Crop, None] = {}  # a set in order
    for conditions in prompts.values():
        carried = [condition for condition in conditions if CARRIED in condition]
        conditions[:] = [condition for condition in conditions if CARRIED not in condition]
        if carried:
            found[_part(carried)] = None
    if not found:
        return None
    if len(found) > 1:
        said = ", ".join(
            f"{part.width}x{part.height} at {part.left}, {part.top} of {part.ad_width}x{part.ad_height}"
            for part in found
        )
        raise ValueError(
            f"{NAME}: the prompts of one sampling say that different parts of the ad are sampled ({said}; width x height): let "
            "both go through one such node"
        )
    if batch > 1:
        raise ValueError(
            f"{NAME}: {batch} images are sampled at once, and nobody says whether all are of one tile: let the upscaler take one "
            "tile, and one image, at a time (batch_size 1)"
        )
    return next(iter(found))


def _part(carried: list[Options]) -> Crop:
    """The part that the entries of one prompt say."""
    masks: dict[int, Any] = {condition[CARRIED].number: condition.get("mask") for condition in carried}
    ads = {condition[CARRIED].ad for condition in carried}
    if len(carried) != RAMPS or len(masks) != RAMPS or len(ads) > 1:
        raise ValueError(
            f"{NAME}: a prompt has {len(carried)} of the {RAMPS} entries of this node, as after a node that combines prompts: "
            "put this one last"
        )
    ad, cut = ads.pop(), [masks[number] for number in range(RAMPS)]
    if any(mask is None for mask in cut):
        raise ValueError(f"{NAME}: a node after this one has taken the masks out of the prompts: put this one last")
    if all(torch.equal(mask.cpu(), ramp.to(mask.dtype)) for mask, ramp in zip(cut, ramps(*ad), strict=True)):
        raise ValueError(
            f"{NAME}: nobody has cut the prompts' masks to a tile, as Ultimate SD Upscale does, and the detailers of Impact Pack "
            "where the part is not the whole ad. With other nodes sample the parts one by one, with MEPA Crop, and the whole ad "
            "with neither"
        )
    try:
        top, left, height, width = part_of(cut, ad)
    except ValueError as error:
        raise ValueError(
            f"{NAME}: the prompts' masks were changed otherwise than by cutting a tile out and resizing it ({error}). In "
            "Ultimate SD Upscale make a tile with its padding no larger than the upscaled ad, or turn force_uniform_tiles off; "
            f"and ad_width and ad_height, {ad[1]} and {ad[0]}, must be the ad's"
        ) from error
    return Crop(top, left, height, width, ad[0], ad[1], said_by=NAME)
