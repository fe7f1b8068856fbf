"""Which terms each query row of a cross-attention needs, grouped so that no row attends one it has no use for.

Hard regions split the rows into groups with one set of weights each; rows where any region is between 0 and 1 form one
soft group whose weights are tensors. The grouping depends on the regions alone, so it is made once for each grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .control import Gate, PromptControl, TermWeight, Weight, equals, text_weight

Layout = TypeVar("Layout")


@dataclass(frozen=True)
class RowGroup:
    """Query rows that need the same terms. `rows` is (R,) int64; an image's output weight includes its image scale."""

    rows: Tensor
    text: TermWeight
    images: tuple[TermWeight, ...]


@dataclass(frozen=True)
class RowPlan:
    """What every query row of one region layout needs.

    Attributes:
        groups: a partition of the rows.
        order: (L,) int64, the rows of all groups one after another; None where one group holds all rows.
        text: the text's weights for all rows; 1.0 where it is 1 everywhere.
        text_untouched: the text's term is the plain attention at every row.
    """

    groups: tuple[RowGroup, ...]
    order: Tensor | None
    text: TermWeight
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


def plan_rows(query_masks: Sequence[Tensor | None], controls: Sequence[PromptControl], num_queries: int) -> RowPlan:
    """Group the query rows of one image by the terms they need.

    Args:
        query_masks: per image prompt (L,) float, 0..1, 1 = the image prompt rules; None = everywhere.
        controls: per image prompt, with numbers that are the same for all samples and without `std_norm`.
        num_queries: L.

    Returns:
        A plan on the CPU. A row whose masks are all 0 or 1 falls into a hard group, one per pattern that occurs; rows
        with any mask between fall into one soft group, where every term is attended.

    Raises:
        ValueError: counts or lengths that differ, a control that only `general` can compute.
    """
    if len(query_masks) != len(controls):
        raise ValueError(f"{len(query_masks)} query masks for {len(controls)} image prompts: give one each")
    numbers = [number for control in controls for number in (control.image_scale, control.text_share)]
    if any(control.std_norm for control in controls) or any(isinstance(number, Tensor) for number in numbers):
        raise ValueError(
            "a normalised image prompt, or one with numbers for each sample, has no row plan: use general_attention"
        )
    masks = torch.stack([_mask_rows(mask, num_queries) for mask in query_masks])
    left = text_weight(masks, [control.text_share for control in controls], [Gate(c.gate) for c in controls])
    for_query, for_output = (
        torch.as_tensor(weight, dtype=torch.float64).expand(num_queries) for weight in (left.query, left.output)
    )
    text = for_query, for_output
    images = [_image_weight(mask, control) for mask, control in zip(masks, controls, strict=True)]
    soft = ((masks != 0) & (masks != 1)).any(0)
    pattern = (masks == 1).T.long() @ (2 ** torch.arange(len(controls)))
    pattern[soft] = -1
    groups = []
    for value in pattern.unique().tolist():
        rows = (pattern == value).nonzero().flatten()
        weights = [_pick(term, rows, soft=value < 0) for term in (text, *images)]
        groups.append(RowGroup(rows, weights[0], tuple(weights[1:])))
    everywhere = _pick(text, torch.arange(num_queries), soft=True)
    untouched = equals(everywhere.query, 1.0) and equals(everywhere.output, 1.0)
    order = torch.cat([group.rows for group in groups]) if len(groups) > 1 else None
    return RowPlan(tuple(groups), order, everywhere, untouched)


def samples_alike(layouts: Sequence[Layout], batch: int) -> Iterator[tuple[slice, Layout]]:
    """The samples of a batch that have the same layout, as slices: evenly spaced ones together, others one by one.

    Args:
        layouts: one for all samples, or one each for samples i, i + len(layouts), ...; the same object is the same layout.
        batch: samples.

    Raises:
        ValueError: a number of layouts that does not divide the batch.
    """
    if not layouts or batch % len(layouts):
        raise ValueError(f"{len(layouts)} region layouts for a batch of {batch}: give one, or as many as it divides by")
    samples: dict[int, list[int]] = {}
    for sample in range(batch):
        samples.setdefault(id(layouts[sample % len(layouts)]), []).append(sample)
    for found in samples.values():
        layout = layouts[found[0] % len(layouts)]
        step = found[1] - found[0] if len(found) > 1 else 1
        if found == list(range(found[0], found[-1] + 1, step)):
            yield slice(found[0], found[-1] + 1, step), layout
        else:
            yield from ((slice(sample, sample + 1), layout) for sample in found)


def _mask_rows(mask: Tensor | None, num_queries: int) -> Tensor:
    if mask is None:
        return torch.ones(num_queries, dtype=torch.float64)
    if mask.shape != (num_queries,):
        raise ValueError(f"query mask is {tuple(mask.shape)}, expected ({num_queries},)")
    return mask.to("cpu", torch.float64)


def _image_weight(mask: Tensor, control: PromptControl) -> tuple[Tensor, Tensor]:
    ones = torch.ones_like(mask)
    return (mask, ones * control.image_scale) if control.gate is Gate.QUERY else (ones, mask * control.image_scale)


def _pick(weights: tuple[Tensor, Tensor], rows: Tensor, soft: bool) -> TermWeight:
    """The weights of a group: one number where they agree, which hard rows always do."""

    def pick(weight: Tensor) -> Weight:
        values = weight[rows]
        if not soft or bool((values == values[0]).all()):
            return float(values[0])
        return values.view(1, -1, 1)

    return TermWeight(pick(weights[0]), pick(weights[1]))
