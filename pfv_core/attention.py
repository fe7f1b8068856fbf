"""Text and image prompts in one cross-attention, each in its own region (Eq. 4, 6).

With m_i the region of image prompt i, s_i its text share and lambda_i its image scale:

    output gate   out = clamp(1 - sum (1 - s_i) m_i) * text(Q) + sum lambda_i m_i * image_i(Q)
    query gate    out = text(clamp(1 - sum (1 - s_i) m_i) * Q) + sum lambda_i * image_i(m_i * Q)

where text(Q) = softmax(Q K_text^T / sqrt d) V_text and d is the head dimension. text_share 0 under the query gate is
Eq. 6 as printed, text_share 1 under the output gate is the usual masked IP-Adapter, and without a region it is Eq. 4.

A query that is multiplied by 0 meets equal logits, so its attention is the mean of V: no softmax is needed for it, and
because softmax rows sum to 1 such a constant folds into another branch's V. Rows are therefore grouped by what they
need, and where hard regions are disjoint and keep no text (text_share 0) each row is attended once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .choices import parse_choice

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(B, L, C) query, (B, S, C) key, (B, S, C) value, heads joined in C -> (B, L, C)."""

Weight = float | Tensor
"""One number for all rows of a group, or (1, rows, 1) float64; in `SampleWeights` (B or 1, rows or 1, 1)."""


class Gate(str, Enum):
    """OUTPUT multiplies a branch after attention, QUERY multiplies its query as Eq. 6 prints it."""

    OUTPUT = "output"
    QUERY = "query"


@dataclass(frozen=True)
class BranchControl:
    """How one image prompt takes part.

    Attributes:
        image_scale: lambda of Eq. 4; 0 = no image, 1 = as trained.
        text_share: how much the text keeps inside the region; 0 = none (Eq. 6), 1 = all (IP-Adapter).
        gate: where the region is applied.

    Raises:
        ValueError: a text_share outside 0..1, a scale that is not finite, an unknown gate.
    """

    image_scale: float = 1.0
    text_share: float = 1.0
    gate: Gate | str = Gate.OUTPUT

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", parse_choice(Gate, self.gate, "gate"))
        if not 0.0 <= self.text_share <= 1.0:
            raise ValueError(f"text_share is {self.text_share}, expected 0 (no text in the region) to 1 (all of it)")
        if not math.isfinite(self.image_scale):
            raise ValueError(f"image_scale is {self.image_scale}, expected a finite number")


@dataclass(frozen=True)
class BranchWeight:
    """What multiplies a branch's query and its output in a group of rows."""

    query: Weight
    output: Weight

    def to(self, device: torch.device, dtype: torch.dtype) -> BranchWeight:
        """The same weights with their tensors on `device` in `dtype`."""

        def moved(weight: Weight) -> Weight:
            return weight.to(device, dtype) if isinstance(weight, Tensor) else weight

        return BranchWeight(moved(self.query), moved(self.output))


@dataclass(frozen=True)
class RowGroup:
    """Query rows that need the same branches. `rows` is (R,) int64 or None for all of them."""

    rows: Tensor | None
    text: BranchWeight
    images: tuple[BranchWeight, ...]


@dataclass(frozen=True)
class RowPlan:
    """What every query row of one region layout needs.

    Attributes:
        groups: a partition of the rows.
        text: the text's weights for all rows; 1.0 where it is 1 everywhere.
        text_untouched: the text branch is the plain attention at every row.
    """

    groups: tuple[RowGroup, ...]
    text: BranchWeight
    text_untouched: bool

    def to(self, device: torch.device, dtype: torch.dtype) -> RowPlan:
        """The plan with its row indices on `device` and its soft weights in `dtype`."""
        groups = tuple(
            RowGroup(
                None if group.rows is None else group.rows.to(device),
                group.text.to(device, dtype),
                tuple(image.to(device, dtype) for image in group.images),
            )
            for group in self.groups
        )
        return RowPlan(groups, self.text.to(device, dtype), self.text_untouched)


@dataclass(frozen=True)
class SampleWeights:
    """What multiplies each branch where every sample of a batch has weights of its own.

    Attributes:
        text: the text's weights.
        images: per image prompt; the weight of its output includes its image scale.
    """

    text: BranchWeight
    images: tuple[BranchWeight, ...]

    def to(self, device: torch.device, dtype: torch.dtype) -> SampleWeights:
        """The same weights with their tensors on `device` in `dtype`."""
        return SampleWeights(self.text.to(device, dtype), tuple(image.to(device, dtype) for image in self.images))


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
    left = _text_weight(masks, [control.text_share for control in controls], [Gate(c.gate) for c in controls])
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
        groups.append(RowGroup(None if len(rows) == num_queries else rows, weights[0], tuple(weights[1:])))
    everywhere = _pick(text, torch.arange(num_queries), soft=True)
    untouched = all(isinstance(weight, float) and weight == 1.0 for weight in (everywhere.query, everywhere.output))
    return RowPlan(tuple(groups), everywhere, untouched)


def text_image_attention(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    images: Sequence[tuple[Tensor, Tensor]],
    controls: Sequence[BranchControl],
    plan: RowPlan,
    attend: Attend,
    base: Attend | None = None,
) -> Tensor:
    """Cross-attention of a batch that shares one region layout.

    Args:
        query: (B, L, C), heads joined.
        text: key and value (B, S, C) of the text.
        images: per image prompt, key and value (B, c_i, C).
        controls: per image prompt, as the plan was made with.
        plan: from `plan_rows`, moved to the query's device and dtype.
        attend: plain attention.
        base: the text branch, where something else already computes it for all rows.

    Returns:
        (B, L, C) in the query's dtype. Rows that no image prompt touches are the plain attention's own bits wherever
        the text is untouched.

    Paper: Eq. 4 and Eq. 6, with the formula at the head of this file. **Deviation**: Eq. 6 has no lambda, is only the
    query gate, and leaks mean(V) of a branch into the other's region; the output gate leaks nothing. With several
    prompts the text's weight is 1 - sum (1 - s_i) m_i, not below 0: a partition of the frame leaves no text behind.
    """
    branches = [(key, value, control.image_scale) for (key, value), control in zip(images, controls, strict=True)]
    if plan.text_untouched or base is not None:
        out = (base or attend)(_times(query, plan.text.query), *text)
        out = _times(out, plan.text.output)
        for group in plan.groups:
            added = _attend_group(query, branches, group.images, group.rows, attend)
            out = _add_rows(out, group.rows, added, in_place=base is None)
        return out
    out = torch.empty_like(query)
    for group in plan.groups:
        terms = [(*text, 1.0), *branches]
        value = _attend_group(query, terms, (group.text, *group.images), group.rows, attend)
        out = _set_rows(out, group.rows, value)
    return out


def text_image_attention_by_image(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    images: Sequence[tuple[Tensor, Tensor]],
    controls: Sequence[BranchControl],
    plans: Sequence[RowPlan],
    attend: Attend,
    base: Attend | None = None,
) -> Tensor:
    """`text_image_attention` of a batch whose images have region layouts of their own.

    Args are those of `text_image_attention`; plans holds one for each image, and rows i, i + len(plans), ... of the batch
    belong to image i. The text of all images is attended in one call wherever `text_image_attention` would attend all
    rows, so that an image whose regions are empty keeps the plain attention's own bits.
    """
    whole = None
    if base is not None or all(plan.text_untouched for plan in plans):
        whole = (base or attend)(_times_by_image(query, [plan.text.query for plan in plans]), *text)
    out = torch.empty_like(query)
    for image, plan in enumerate(plans):
        rows = slice(image, None, len(plans))
        own_text = text[0][rows], text[1][rows]
        own_images = [(key[rows], value[rows]) for key, value in images]
        done = None if whole is None else partial(_given, whole[rows])
        out[rows] = text_image_attention(query[rows], own_text, own_images, controls, plan, attend, done)
    return out


def sample_weights(
    query_masks: Sequence[Tensor | None],
    image_scales: Sequence[float | Tensor],
    text_shares: Sequence[float | Tensor],
    gates: Sequence[Gate],
) -> SampleWeights:
    """The weights of a batch whose samples differ, for `text_image_attention_by_sample`.

    Args:
        query_masks: per image prompt (B or 1, L) float, 0..1, 1 = the image prompt rules; None = everywhere.
        image_scales: per image prompt one number or (B,), lambda of Eq. 4.
        text_shares: per image prompt one number or (B,), 0..1, see `BranchControl`.
        gates: per image prompt.

    Returns:
        Weights in float64 on the devices that their parts are on. Differentiable in every tensor.

    Raises:
        ValueError: counts that differ.
    """
    if len({len(query_masks), len(image_scales), len(text_shares), len(gates)}) != 1:
        raise ValueError(
            f"{len(query_masks)} query masks, {len(image_scales)} image scales, {len(text_shares)} text shares and "
            f"{len(gates)} gates: give one of each for every image prompt"
        )
    masks = [1.0 if mask is None else mask.double()[..., None] for mask in query_masks]
    scales, shares = [_by_sample(values) for values in image_scales], [_by_sample(values) for values in text_shares]
    images = tuple(
        BranchWeight(mask, scale) if gate is Gate.QUERY else BranchWeight(1.0, scale * mask)
        for mask, scale, gate in zip(masks, scales, gates, strict=True)
    )
    return SampleWeights(BranchWeight(*_text_weight(masks, shares, gates)), images)


def text_image_attention_by_sample(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    images: Sequence[tuple[Tensor, Tensor]],
    weights: SampleWeights,
    attend: Attend,
    base: Attend | None = None,
) -> Tensor:
    """`text_image_attention` for training: every row attends every branch, and the batch is never taken apart.

    Args:
        query: (B, L, C), heads joined.
        text: key and value (B, S, C) of the text.
        images: per image prompt, key and value (B, c_i, C).
        weights: from `sample_weights`, moved to the query's device and dtype.
        attend: plain attention.
        base: the text branch, where it is not plain attention.

    Returns:
        (B, L, C) in the query's dtype, differentiable. A row whose weights are 1 for the text's output and query and 0
        for every image's output equals the plain attention exactly.

    Paper: Eq. 4 and Eq. 6, with the deviations of `text_image_attention`.
    """
    terms = []
    for (key, value), weight in zip((text, *images), (weights.text, *weights.images), strict=True):
        if not _is(weight.output, 0.0):
            branch = base or attend if weight is weights.text else attend
            terms.append(_times(branch(_times(query, weight.query), key, value), weight.output))
    return sum(terms[1:], terms[0]) if terms else torch.zeros_like(query)


def scaled_dot_product(heads: int) -> Attend:
    """torch's attention as an `Attend`, for use without a host."""
    return partial(_sdpa, heads)


def _sdpa(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    split = [tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _given(out: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """An `Attend` whose answer is known already."""
    return out


def _by_sample(values: float | Tensor) -> Weight:
    """A number, or (B,) -> (B, 1, 1) float64."""
    return values.double().view(-1, 1, 1) if isinstance(values, Tensor) else values


def _times_by_image(query: Tensor, weights: Sequence[Weight]) -> Tensor:
    if all(_is(weight, 1.0) for weight in weights):
        return query
    rows = [w if isinstance(w, Tensor) else query.new_full((1, query.shape[1], 1), w) for w in weights]
    return query * torch.cat(rows).repeat(query.shape[0] // len(rows), 1, 1)


def _mask_rows(mask: Tensor | None, num_queries: int) -> Tensor:
    if mask is None:
        return torch.ones(num_queries, dtype=torch.float64)
    if mask.shape != (num_queries,):
        raise ValueError(f"query mask is {tuple(mask.shape)}, expected ({num_queries},)")
    return mask.to("cpu", torch.float64)


def _text_weight(
    masks: Iterable[Weight], text_shares: Iterable[Weight], gates: Iterable[Gate]
) -> tuple[Weight, Weight]:
    """What the image prompts leave of the text's query and of its output, in the shape that masks and shares span."""
    taken: dict[Gate, Weight] = dict.fromkeys(Gate, 0.0)
    for mask, share, gate in zip(masks, text_shares, gates, strict=True):
        taken[gate] = taken[gate] + (1.0 - share) * mask

    def left(weight: Weight) -> Weight:
        return (1.0 - weight).clamp_min(0) if isinstance(weight, Tensor) else max(0.0, 1.0 - weight)

    return left(taken[Gate.QUERY]), left(taken[Gate.OUTPUT])


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


def _attend_group(
    query: Tensor,
    branches: Sequence[tuple[Tensor, Tensor, float]],
    weights: Sequence[BranchWeight],
    rows: Tensor | None,
    attend: Attend,
) -> Tensor | None:
    """Sum of the branches over a group of rows: (B, R, C), (B, 1, C) where it is constant, None where it is 0."""
    constant: Tensor | None = None  # the same for every row: folds into a V, since softmax rows sum to 1
    terms: list[Tensor] = []
    attended = []
    for (key, value, scale), weight in zip(branches, weights, strict=True):
        if scale == 0.0 or _is(weight.output, 0.0):
            continue
        if not _is(weight.query, 0.0):
            attended.append((key, value, scale, weight))
            continue
        mean = _times(value.mean(1, keepdim=True), scale)  # equal logits
        if isinstance(weight.output, Tensor):
            terms.append(mean * weight.output)
        else:
            mean = _times(mean, weight.output)
            constant = mean if constant is None else constant + mean
    group_query = query if rows is None or not attended else query.index_select(1, rows)
    for key, value, scale, weight in attended:
        branch_query = _times(group_query, weight.query)
        if isinstance(weight.output, Tensor):
            terms.append(attend(branch_query, key, value) * (weight.output * scale))
            continue
        value = _times(value, scale * weight.output)
        if constant is not None:
            value, constant = value + constant, None
        terms.append(attend(branch_query, key, value))
    if constant is not None:
        terms.append(constant)
    return sum(terms[1:], terms[0]) if terms else None


def _is(weight: Weight, value: float) -> bool:
    return isinstance(weight, float) and weight == value


def _times(tensor: Tensor, weight: Weight) -> Tensor:
    return tensor if _is(weight, 1.0) else tensor * weight


def _add_rows(out: Tensor, rows: Tensor | None, value: Tensor | None, in_place: bool) -> Tensor:
    """`in_place` says that `out` is ours to change; autograd needs it kept either way."""
    if value is None:
        return out
    in_place = in_place and not out.requires_grad and not value.requires_grad
    if rows is None:
        return out.add_(value) if in_place else out + value
    value = value.expand(-1, len(rows), -1)
    return out.index_add_(1, rows, value) if in_place else out.index_add(1, rows, value)


def _set_rows(out: Tensor, rows: Tensor | None, value: Tensor | None) -> Tensor:
    value = out.new_zeros(1, 1, 1) if value is None else value
    value = value.expand(
        out.shape[0], out.shape[1] if rows is None else len(rows), -1 if value.shape[2] > 1 else out.shape[2]
    )
    return value.contiguous() if rows is None else out.index_copy_(1, rows, value)
