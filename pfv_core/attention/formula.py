"""Text and image prompts in one cross-attention, each in its own region (Eq. 4, 6).

With m_i the region of image prompt i, s_i its text share and lambda_i its image scale:

    output gate   out = clamp(1 - sum (1 - s_i) m_i) * text(Q) + sum lambda_i m_i * image_i(Q)
    query gate    out = text(clamp(1 - sum (1 - s_i) m_i) * Q) + sum lambda_i * image_i(m_i * Q)

where text(Q) = softmax(Q K_text^T / sqrt d) V_text and d is the head dimension. text_share 0 under the query gate is
Eq. 6 as printed, text_share 1 under the output gate is the usual masked IP-Adapter, and without a region it is Eq. 4.
`general.general_attention` computes exactly this, and what `balance` adds; here it is computed fast:

A query that is multiplied by 0 meets equal logits, so its attention is the mean of V: no softmax is needed for it, and
because softmax rows sum to 1 such a constant folds into another term's V. Rows are therefore grouped by what they
need (`plan`), and where hard regions are disjoint and keep no text (text_share 0) each row is attended once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .control import Attend, KeysValues, Pair, TermWeight, Weight, equals, times
from .plan import RowPlan, samples_alike


def text_image_attention(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    images: Sequence[Pair],
    plans: Sequence[RowPlan],
    attend: Attend,
    base: Attend | None = None,
) -> Tensor:
    """Cross-attention of a batch by the row plans of its samples.

    Args:
        query: (B, L, C), heads joined.
        text: key and value (B, S, C) of the text.
        images: per image prompt, key and value (B, c_i, C), or `KeysValues`.
        plans: from `plan_rows`, moved to the query's device and dtype: one for all samples, or one each for samples
            i, i + len(plans), ... Samples whose plan is the same object are attended together.
        attend: plain attention.
        base: the text's attention, where something else already computes it for all rows.

    Returns:
        (B, L, C) in the query's dtype. Rows that no image prompt touches are the plain attention's own bits wherever
        the text is untouched: the text of all samples is attended in one call there.

    Raises:
        ValueError: a number of plans that does not divide the batch, see `samples_alike`.

    Paper: Eq. 4 and Eq. 6, with the formula at the head of this file. **Deviation**: Eq. 6 has no lambda, is only the
    query gate, and leaks mean(V) of a prompt into the other's region; the output gate leaks nothing. With several
    prompts the text's weight is 1 - sum (1 - s_i) m_i, not below 0: a partition of the frame leaves no text behind.
    """
    pairs = [KeysValues.of(pair) for pair in images]
    if len(plans) == 1:
        return _by_plan(query, text, pairs, plans[0], attend, base)
    parts = list(samples_alike(plans, query.shape[0]))
    whole = None
    if base is not None or all(plan.text_untouched for plan in plans):
        whole = (base or attend)(_times_by_sample(query, [plan.text.query for plan in plans]), *text)
    out = torch.empty_like(query)
    for samples, plan in parts:
        given = None if whole is None else partial(_given, whole[samples])
        own_text, own_pairs = (text[0][samples], text[1][samples]), [pair.rows(samples) for pair in pairs]
        out[samples] = _by_plan(query[samples], own_text, own_pairs, plan, attend, given)
    return out


def scaled_dot_product(heads: int) -> Attend:
    """torch's attention as an `Attend`, for use without a host."""
    return partial(_sdpa, heads)


def _sdpa(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    split = [tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _by_plan(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    images: Sequence[KeysValues],
    plan: RowPlan,
    attend: Attend,
    base: Attend | None,
) -> Tensor:
    """The samples that share one plan."""
    if plan.text_untouched or base is not None:
        out = (base or attend)(times(query, plan.text.query), *text)
        out = times(out, plan.text.output)
        for group in plan.groups:
            needs_rows = plan.order is not None and _attends(group.images)
            rows = query.index_select(1, group.rows) if needs_rows else query
            value = _attend_group(rows, images, group.images, attend)
            out = _add_rows(out, None if plan.order is None else group.rows, value, in_place=base is None)
        return out
    terms = [KeysValues(*text), *images]
    weights = [(group.text, *group.images) for group in plan.groups]
    if plan.order is None:
        return _whole(query, _attend_group(query, terms, weights[0], attend))
    out, ordered, start = torch.empty_like(query), query.index_select(1, plan.order), 0
    for group, of_group in zip(plan.groups, weights, strict=True):
        end = start + len(group.rows)
        _set_rows(out, group.rows, _attend_group(ordered[:, start:end], terms, of_group, attend))
        start = end
    return out


def _given(out: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """An `Attend` whose answer is known already."""
    return out


def _times_by_sample(query: Tensor, weights: Sequence[Weight]) -> Tensor:
    if all(equals(weight, 1.0) for weight in weights):
        return query
    rows = [w if isinstance(w, Tensor) else query.new_full((1, query.shape[1], 1), w) for w in weights]
    return query * torch.cat(rows).repeat(query.shape[0] // len(rows), 1, 1)


def _attends(weights: Sequence[TermWeight]) -> bool:
    return any(not equals(weight.output, 0.0) and not equals(weight.query, 0.0) for weight in weights)


def _attend_group(
    query: Tensor, terms: Sequence[KeysValues], weights: Sequence[TermWeight], attend: Attend
) -> Tensor | None:
    """Sum of the terms over a group's rows: (B, R, C), (B, 1, C) where it is constant, None where it is 0."""
    counting = [pair for pair in zip(terms, weights, strict=True) if not equals(pair[1].output, 0.0)]
    constant: Tensor | None = None  # the same for every row: folds into a V, since softmax rows sum to 1
    added: list[Tensor] = []
    for term, weight in counting:
        if not equals(weight.query, 0.0):
            continue
        mean = term.constant(weight.output)
        if isinstance(weight.output, Tensor):
            added.append(mean)
        else:
            constant = mean if constant is None else constant + mean
    for term, weight in counting:
        if equals(weight.query, 0.0):
            continue
        rows = times(query, weight.query)
        if isinstance(weight.output, Tensor):
            added.append(attend(rows, term.keys(), term.values()) * weight.output)
            continue
        value = term.values(weight.output)
        if constant is not None:
            value, constant = value + constant, None
        added.append(attend(rows, term.keys(), value))
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
