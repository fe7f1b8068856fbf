"""Which branches each query row of a cross-attention needs, grouped so that no row attends one it has no use for.

Hard regions split the rows into groups with one set of weights each; rows where any region is between 0 and 1 form one
soft group whose weights are tensors. The grouping depends on the regions alone, so it is made once for each grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .branch import BranchControl, BranchWeight, Gate, Weight, equals, text_weight


@dataclass(frozen=True)
class RowGroup:
    """Query rows that need the same branches. `rows` is (R,) int64."""

    rows: Tensor
    text: BranchWeight
    images: tuple[BranchWeight, ...]


@dataclass(frozen=True)
class RowPlan:
    """What every query row of one region layout needs.

    Attributes:
        groups: a partition of the rows.
        order: (L,) int64, the rows of all groups one after another; None where one group holds all rows.
        text: the text's weights for all rows; 1.0 where it is 1 everywhere.
        text_untouched: the text branch is the plain attention at every row.
    """

    groups: tuple[RowGroup, ...]
    order: Tensor | None
    text: BranchWeight
    text_untouched: bool

    def to(self, device: torch.device, dtype: torch.dtype) -> RowPlan:
        """The plan with its row indices on `device` and its soft weights in `dtype`."""
        groups = tuple(
            RowGroup(
                group.rows.to(device),
                group.text.to(device, dtype),
                tuple(image.to(device, dtype) for image in group.images),
            )
            for group in self.groups
        )
        order = None if self.order is None else self.order.to(device)
        return RowPlan(groups, order, self.text.to(device, dtype), self.text_untouched)


def plan_rows(query_masks: Sequence[Tensor | None], controls: Sequence[BranchControl], num_queries: int) -> RowPlan:
    """Group the query rows of one image by the branches they need.

    Args:
        query_masks: per image prompt (L,) float, 0..1, 1 = the image prompt rules; None = everywhere.
        controls: per image prompt.
        num_queries: L.

    Returns:
        A plan on the CPU. A row whose masks are all 0 or 1 falls into a hard group, one per pattern that occurs; rows
        with any mask between fall into one soft group, where every branch is attended.

    Raises:
        ValueError: counts or lengths that differ.
    """
    if len(query_masks) != len(controls):
        raise ValueError(f"{len(query_masks)} query masks for {len(controls)} image prompts: give one each")
    masks = torch.stack([_mask_rows(mask, num_queries) for mask in query_masks])
    left = text_weight(masks, [control.text_share for control in controls], [Gate(c.gate) for c in controls])
    for_query, for_output = (torch.as_tensor(w, dtype=torch.float64).expand(num_queries) for w in left)
    text = for_query, for_output
    images = [_image_weight(mask, control) for mask, control in zip(masks, controls, strict=True)]
    soft = ((masks != 0) & (masks != 1)).any(0)
    pattern = (masks == 1).T.long() @ (2 ** torch.arange(len(controls)))
    pattern[soft] = -1
    groups = []
    for value in pattern.unique().tolist():
        rows = (pattern == value).nonzero().flatten()
        weights = [_pick(branch, rows, soft=value < 0) for branch in (text, *images)]
        groups.append(RowGroup(rows, weights[0], tuple(weights[1:])))
    everywhere = _pick(text, torch.arange(num_queries), soft=True)
    untouched = equals(everywhere.query, 1.0) and equals(everywhere.output, 1.0)
    order = torch.cat([group.rows for group in groups]) if len(groups) > 1 else None
    return RowPlan(tuple(groups), order, everywhere, untouched)


def _mask_rows(mask: Tensor | None, num_queries: int) -> Tensor:
    if mask is None:
        return torch.ones(num_queries, dtype=torch.float64)
    if mask.shape != (num_queries,):
        raise ValueError(f"query mask is {tuple(mask.shape)}, expected ({num_queries},)")
    return mask.to("cpu", torch.float64)


def _image_weight(mask: Tensor, control: BranchControl) -> tuple[Tensor, Tensor]:
    ones = torch.ones_like(mask)
    return (mask, ones) if control.gate is Gate.QUERY else (ones, mask)


def _pick(weights: tuple[Tensor, Tensor], rows: Tensor, soft: bool) -> BranchWeight:
    """The weights of a group: one number where they agree, which hard rows always do."""

    def pick(weight: Tensor) -> Weight:
        values = weight[rows]
        if not soft or bool((values == values[0]).all()):
            return float(values[0])
        return values.view(1, -1, 1)

    return BranchWeight(pick(weights[0]), pick(weights[1]))
