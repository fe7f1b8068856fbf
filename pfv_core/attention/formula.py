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

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .branch import Attend, BranchControl, BranchWeight, Gate, KeysValues, Pair, Weight, equals, times
from .general import SampleWeights, sample_weights, text_image_attention_by_sample
from .plan import RowPlan, plan_rows

__all__ = [
    "Attend",
    "BranchControl",
    "Gate",
    "KeysValues",
    "RowPlan",
    "SampleWeights",
    "plan_rows",
    "sample_weights",
    "scaled_dot_product",
    "text_image_attention",
    "text_image_attention_by_image",
    "text_image_attention_by_sample",
]


def text_image_attention(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    images: Sequence[Pair],
    controls: Sequence[BranchControl],
    plan: RowPlan,
    attend: Attend,
    base: Attend | None = None,
) -> Tensor:
    """Cross-attention of a batch that shares one region layout.

    Args:
        query: (B, L, C), heads joined.
        text: key and value (B, S, C) of the text.
        images: per image prompt, key and value (B, c_i, C), or `KeysValues`.
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
    branches = [_Term(KeysValues(*pair), control.image_scale) for pair, control in zip(images, controls, strict=True)]
    if plan.text_untouched or base is not None:
        out = (base or attend)(times(query, plan.text.query), *text)
        out = times(out, plan.text.output)
        for group in plan.groups:
            needs_rows = plan.order is not None and _attends(branches, group.images)
            rows = query.index_select(1, group.rows) if needs_rows else query
            value = _attend_group(rows, branches, group.images, attend)
            out = _add_rows(out, None if plan.order is None else group.rows, value, in_place=base is None)
        return out
    terms = [_Term(KeysValues(*text)), *branches]
    weights = [(group.text, *group.images) for group in plan.groups]
    if plan.order is None:
        return _whole(query, _attend_group(query, terms, weights[0], attend))
    out, ordered, start = torch.empty_like(query), query.index_select(1, plan.order), 0
    for group, of_group in zip(plan.groups, weights, strict=True):
        end = start + len(group.rows)
        _set_rows(out, group.rows, _attend_group(ordered[:, start:end], terms, of_group, attend))
        start = end
    return out


def text_image_attention_by_image(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    images: Sequence[Pair],
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
        own_images = [KeysValues(*pair).rows(rows) for pair in images]
        done = None if whole is None else partial(_given, whole[rows])
        out[rows] = text_image_attention(query[rows], own_text, own_images, controls, plan, attend, done)
    return out


def scaled_dot_product(heads: int) -> Attend:
    """torch's attention as an `Attend`, for use without a host."""
    return partial(_sdpa, heads)


def _sdpa(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    split = [tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _given(out: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """An `Attend` whose answer is known already."""
    return out


def _times_by_image(query: Tensor, weights: Sequence[Weight]) -> Tensor:
    if all(equals(weight, 1.0) for weight in weights):
        return query
    rows = [w if isinstance(w, Tensor) else query.new_full((1, query.shape[1], 1), w) for w in weights]
    return query * torch.cat(rows).repeat(query.shape[0] // len(rows), 1, 1)


class _Term(NamedTuple):
    """A branch: what it attends and what multiplies it everywhere."""

    pair: KeysValues
    scale: float = 1.0

    def constant(self) -> Tensor:
        """(B, 1, C), the attention of a query that is 0: equal logits."""
        _, value, mean = self.pair
        return times(value.mean(1, keepdim=True) if mean is None else mean, self.scale)


def _attends(terms: Sequence[_Term], weights: Sequence[BranchWeight]) -> bool:
    return any(
        _counts(term, weight) and not equals(weight.query, 0.0) for term, weight in zip(terms, weights, strict=True)
    )


def _counts(term: _Term, weight: BranchWeight) -> bool:
    return term.scale != 0.0 and not equals(weight.output, 0.0)


def _attend_group(
    query: Tensor, terms: Sequence[_Term], weights: Sequence[BranchWeight], attend: Attend
) -> Tensor | None:
    """Sum of the branches over a group's rows: (B, R, C), (B, 1, C) where it is constant, None where it is 0."""
    counting = [(term, weight) for term, weight in zip(terms, weights, strict=True) if _counts(term, weight)]
    constant: Tensor | None = None  # the same for every row: folds into a V, since softmax rows sum to 1
    added: list[Tensor] = []
    for term, weight in counting:
        if not equals(weight.query, 0.0):
            continue
        if isinstance(weight.output, Tensor):
            added.append(term.constant() * weight.output)
        else:
            mean = times(term.constant(), weight.output)
            constant = mean if constant is None else constant + mean
    for term, weight in counting:
        if equals(weight.query, 0.0):
            continue
        rows = times(query, weight.query)
        if isinstance(weight.output, Tensor):
            added.append(attend(rows, term.pair.key, term.pair.value) * (weight.output * term.scale))
            continue
        value = times(term.pair.value, term.scale * weight.output)
        if constant is not None:
            value, constant = value + constant, None
        added.append(attend(rows, term.pair.key, value))
    if constant is not None:
        added.append(constant)
    return sum(added[1:], added[0]) if added else None


def _add_rows(out: Tensor, rows: Tensor | None, value: Tensor | None, in_place: bool) -> Tensor:
    """`in_place` says that `out` is ours to change; autograd needs it kept either way."""
    if value is None:
        return out
    in_place = in_place and not out.requires_grad and not value.requires_grad
    if rows is None:
        return out.add_(value) if in_place else out + value
    value = value.expand(-1, len(rows), -1)
    return out.index_add_(1, rows, value) if in_place else out.index_add(1, rows, value)


def _set_rows(out: Tensor, rows: Tensor, value: Tensor | None) -> None:
    value = out.new_zeros(1, 1, 1) if value is None else value
    out.index_copy_(1, rows, value.expand(out.shape[0], len(rows), out.shape[2]))


def _whole(query: Tensor, value: Tensor | None) -> Tensor:
    """A group's value where that group is all rows; whoever comes next may write to it."""
    return torch.zeros_like(query) if value is None else value.expand_as(query).contiguous()
