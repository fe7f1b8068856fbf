"""The two-branch form of `attention`, where every sample of a batch has weights of its own: for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .branch import Attend, BranchWeight, Gate, Weight, equals, text_weight, times


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
    return SampleWeights(BranchWeight(*text_weight(masks, shares, gates)), images)


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
        if not equals(weight.output, 0.0):
            branch = base or attend if weight is weights.text else attend
            terms.append(times(branch(times(query, weight.query), key, value), weight.output))
    return sum(terms[1:], terms[0]) if terms else torch.zeros_like(query)


def _by_sample(values: float | Tensor) -> Weight:
    """A number, or (B,) -> (B, 1, 1) float64."""
    return values.double().view(-1, 1, 1) if isinstance(values, Tensor) else values
