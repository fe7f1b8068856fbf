"""Several image prompts of one adapter as one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from fractions import Fraction
from math import gcd, isfinite, lcm

import torch
from torch import Tensor

MOST_COPIES = 40  # in all; so that any two weights from 0 to 1 in steps of 0.05 fit: 20 to 19 is the largest


class Combine(str, Enum):
    """CONCATENATE lets the text's queries choose among the tokens of all pictures, AVERAGE makes one picture's worth of them."""

    CONCATENATE = "concatenate"
    AVERAGE = "average"


def combine_prompts(prompts: Sequence[Tensor], weights: Sequence[float], combine: Combine) -> Tensor:
    """Several image prompts as one.

    Args:
        prompts: (1 or B, c_i, context_dim), each from the same adapter.
        weights: one each, 0 or more. Their ratio alone counts; 0 = as if the prompt was not there.
        combine: how. CONCATENATE: all tokens, one prompt's after another's, in one softmax, where a prompt of weight 2 beside
            one of weight 1 has twice as many of its own: each token is there twice. AVERAGE: the weighted mean of the first
            tokens, of the second, and so on.

    Returns:
        (B, c, context_dim). With one prompt that counts: that prompt.

    Raises:
        ValueError: counts that differ, weights that are negative, not finite or all 0, batches that are neither 1 nor equal,
            for AVERAGE different numbers of tokens, for CONCATENATE a ratio of weights that needs too many copies.

    Paper: none. A weight of concatenated tokens multiplies their part in the softmax, exp(q k / sqrt d), as their copies do.
    Multiplying keys or values instead would leave a picture of weight 0 its share of the attention, with nothing to give.
    """
    if len(prompts) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(prompts)} image prompts: give one each")
    counting = [(prompt, weight) for prompt, weight in zip(prompts, check_weights(weights), strict=True) if weight > 0]
    batch = max(len(prompt) for prompt, _ in counting)
    if any(len(prompt) not in (1, batch) for prompt, _ in counting):
        sizes = ", ".join(str(len(prompt)) for prompt, _ in counting)
        raise ValueError(f"the image prompts are batches of {sizes}: give each 1 reference, or all the same number")
    wide = [prompt.expand(batch, -1, -1) for prompt, _ in counting]
    shares = [weight for _, weight in counting]
    if combine is Combine.CONCATENATE:
        return torch.cat([prompt.repeat(1, count, 1) for prompt, count in zip(wide, copies(shares), strict=True)], 1)
    return _average(wide, shares)


def check_weights(weights: Sequence[float]) -> Sequence[float]:
    """The weights; ValueError where one is negative or not finite, or all are 0."""
    for number, weight in enumerate(weights, 1):
        if not (isfinite(weight) and weight >= 0):
            raise ValueError(
                f"weight {number} is {weight:g}, expected 0 or more: to move away from a picture, connect it to negative"
            )
    if not any(weights):
        raise ValueError("all weights are 0, so no picture is left: give one of them more")
    return weights


def copies(weights: Sequence[float]) -> list[int]:
    """How often each prompt's tokens stand in a concatenation: the smallest whole numbers in the weights' ratio.

    Raises:
        ValueError: they are more than MOST_COPIES together.
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]  # as written: 0.1 is a tenth
    whole = [int(weight * lcm(*(one.denominator for one in exact))) for weight in exact]
    counts = [count // gcd(*whole) for count in whole]
    if sum(counts) > MOST_COPIES:
        raise ValueError(
            f"concatenate: weights of {' : '.join(f'{weight:g}' for weight in weights)} are {' : '.join(map(str, counts))}, and "
            f"so many copies of the tokens, more than {MOST_COPIES}: choose a simpler ratio, such as 1 : 0.5, or average"
        )
    return counts


def _average(prompts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    counts = [prompt.shape[1] for prompt in prompts]
    if len(set(counts)) > 1:
        raise ValueError(
            f"average: the image prompts have {', '.join(map(str, counts))} tokens, which cannot be averaged one by one: "
            "concatenate them"
        )
    if len(prompts) == 1:
        return prompts[0]
    stacked = torch.stack([prompt.double() * weight for prompt, weight in zip(prompts, weights, strict=True)])
    return (stacked.sum(0) / sum(weights)).to(prompts[0].dtype)
