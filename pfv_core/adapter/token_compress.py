"""Fewer tokens than patches: Eq. 3, and a compression that needs no training."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers import at_least_float32

LLOYD_ROUNDS = 8


def compress_eq3(tokens: Tensor, latents: Tensor, normalize: bool = True) -> Tensor:
    """Z' = Q Z^T Z.

    Args:
        tokens: (B, N, D) kept tokens, Z.
        latents: (1 or B, c, D) learned queries, Q.
        normalize: divide Z by the number of tokens on one side, so that the result does not grow with what a mask
            keeps; False is the equation as printed.

    Returns:
        (B, c, D) in float32 (float64 for float64 input): the printed form leaves fp16's range at SDXL sizes.

    Raises:
        ValueError: widths that differ, or no token at all.

    Paper: Eq. 3. **Deviation**: "certain linear operations have been omitted", see `adapter.Eq3Projection`; products
    run in float32, from the left or the right, whichever costs less.
    """
    if tokens.ndim != 3 or latents.ndim != 3 or tokens.shape[2] != latents.shape[2]:
        raise ValueError(
            f"tokens are {tuple(tokens.shape)}, latents {tuple(latents.shape)}: expected (B, N, D), (1, c, D)"
        )
    count, width = tokens.shape[1:]
    if count == 0:
        raise ValueError("no token to compress: the mask hides every patch")
    tokens, latents = at_least_float32(tokens), at_least_float32(latents)
    right = tokens / count if normalize else tokens
    from_left = 2 * latents.shape[1] * count  # multiplications per channel of D
    from_right = (count + latents.shape[1]) * width
    with torch.autocast(tokens.device.type, enabled=False):
        if from_left <= from_right:
            return latents @ tokens.transpose(1, 2) @ right
        return latents @ (tokens.transpose(1, 2) @ right)


def cluster_tokens(tokens: Tensor, num_tokens: int) -> Tensor:
    """Compress without any trained weights: each output is the mean of a cluster of similar tokens.

    Args:
        tokens: (N, D), the class token excluded.
        num_tokens: c, 1..N. N or fewer clusters can come out where tokens repeat; then copies fill up the count.

    Returns:
        (c, D) in the tokens' dtype. Deterministic: the first seed is the token nearest to the mean, each next one the
        token farthest from all seeds so far, then k-means (Lloyd) in float32.

    Raises:
        ValueError: num_tokens outside 1..N.

    Paper: none; stands in for Eq. 3 where no file with a learned Q is at hand.
    """
    count = tokens.shape[0]
    if not 1 <= num_tokens <= count:
        raise ValueError(f"num_tokens is {num_tokens}, expected 1 to {count}, the number of kept patches")
    if num_tokens == count:
        return tokens
    values = at_least_float32(tokens)
    centres = values[_farthest_first(values, num_tokens)]
    for _ in range(LLOYD_ROUNDS):
        nearest = torch.cdist(values, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        members = values.new_zeros(num_tokens, count).scatter_(0, nearest[None], 1.0)
        size = members.sum(1, keepdim=True)
        centres = torch.where(size > 0, members @ values / size.clamp_min(1), centres)
    return centres.to(tokens.dtype)


def _farthest_first(values: Tensor, num_seeds: int) -> list[int]:
    seeds = [int((values - values.mean(0)).square().sum(1).argmin())]
    distance = (values - values[seeds[0]]).square().sum(1)
    while len(seeds) < num_seeds:
        seeds.append(int(distance.argmax()))
        distance = torch.minimum(distance, (values - values[seeds[-1]]).square().sum(1))
    return seeds
