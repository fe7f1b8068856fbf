"""The formula computed plainly: every row attends every prompt, samples may differ, terms may be normalised.

For training, where every sample has weights of its own and gradients flow, and for `std_norm`, which needs the whole of a
term before it can weigh it. `formula` computes the same faster where nothing of that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .balance import to_std_of
from .control import Attend, Gate, KeysValues, Pair, PromptControl, TermWeight, Weight, equals, text_weight, times


@dataclass(frozen=True)
class SampleWeights:
    """What multiplies each term where every sample of a batch has weights of its own.

    Attributes:
        text: the text's weights.
        images: per image prompt; the weight of its output includes its image scale.
        spreads: per image prompt None, or the region (B or 1, L, 1) over which its term is brought to the text's standard
            deviation; the number 1.0 is the whole frame.
    """

    text: TermWeight
    images: tuple[TermWeight, ...]
    spreads: tuple[Weight | None, ...]

    def to(self, device: torch.device, dtype: torch.dtype) -> SampleWeights:
        """The same weights with their tensors on `device` in `dtype`; regions of spreads stay float32 at least."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return SampleWeights(
            self.text.to(device, dtype),
            tuple(image.to(device, dtype) for image in self.images),
            tuple(spread.to(device, wide) if isinstance(spread, Tensor) else spread for spread in self.spreads),
        )


def sample_weights(query_masks: Sequence[Tensor | None], controls: Sequence[PromptControl]) -> SampleWeights:
    """The weights of a batch whose samples may differ, for `general_attention`.

    Args:
        query_masks: per image prompt (B or 1, L) float, 0..1, 1 = the image prompt rules; None = everywhere.
        controls: per image prompt; its numbers may be (B,).

    Returns:
        Weights in float64 on the devices that their parts are on. Differentiable in every tensor.

    Raises:
        ValueError: counts that differ.
    """
    if len(query_masks) != len(controls):
        raise ValueError(f"{len(query_masks)} query masks for {len(controls)} image prompts: give one each")
    masks: list[Weight] = [1.0 if mask is None else mask.double()[..., None] for mask in query_masks]
    scales = [_by_sample(control.image_scale) for control in controls]
    shares, gates = [_by_sample(control.text_share) for control in controls], [Gate(c.gate) for c in controls]
    images = tuple(
        TermWeight(mask, scale) if gate is Gate.QUERY else TermWeight(1.0, scale * mask)
        for mask, scale, gate in zip(masks, scales, gates, strict=True)
    )
    spreads = tuple(mask if control.std_norm else None for mask, control in zip(masks, controls, strict=True))
    return SampleWeights(text_weight(masks, shares, gates), images, spreads)


def general_attention(
    query: Tensor,
    text: tuple[Tensor, Tensor],
    images: Sequence[Pair],
    weights: SampleWeights,
    attend: Attend,
    base: Attend | None = None,
) -> Tensor:
    """Cross-attention of a text and any number of image prompts.

    Args:
        query: (B, L, C), heads joined.
        text: key and value (B, S, C) of the text.
        images: per image prompt, key and value (B, c_i, C).
        weights: from `sample_weights`, moved to the query's device and dtype.
        attend: plain attention.
        base: the text's attention, where something else already computes it.

    Returns:
        (B, L, C) in the query's dtype, differentiable. A row whose weights are 1 for the text's output and query and 0
        for every image's output equals the plain attention exactly.

    Paper: Eq. 4 and Eq. 6 with the deviations of `formula`; Strictly-ID's Eq. 8 and 9. The text's deviation is that of its
    attention to the query as it is, whatever a gate then makes of it; an image's is that of its own gated query. lambda and
    the time weight come after the normalisation.
    """
    attend_text = base or attend
    normalised = any(spread is not None for spread in weights.spreads)
    counts = not equals(weights.text.output, 0.0)
    plain = attend_text(query, *text) if normalised or (counts and equals(weights.text.query, 1.0)) else None
    out = None
    if counts:
        own = plain if equals(weights.text.query, 1.0) else attend_text(times(query, weights.text.query), *text)
        assert own is not None
        out = times(own, weights.text.output)
    for pair, weight, spread in zip(map(KeysValues.of, images), weights.images, weights.spreads, strict=True):
        if equals(weight.output, 0.0):
            continue
        term = attend(times(query, weight.query), pair.keys(), pair.values())
        if spread is not None:
            assert plain is not None
            term = to_std_of(plain, term, spread if isinstance(spread, Tensor) else None)
        out = _plus(out, term, weight.output)
    return torch.zeros_like(query) if out is None else out


def _plus(out: Tensor | None, term: Tensor, factor: Weight) -> Tensor:
    if out is None:
        return times(term, factor)
    return torch.addcmul(out, term, factor) if isinstance(factor, Tensor) else out + times(term, factor)


def _by_sample(values: Weight) -> Weight:
    """A number, or (B,) -> (B, 1, 1) float64."""
    return values.double().view(-1, 1, 1) if isinstance(values, Tensor) else values
