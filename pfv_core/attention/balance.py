"""An image prompt kept from drowning the text: brought to its spread (Eq. 8), and coming in late (Eq. 10).

Both are of the strictly-ID-preserved paper, where the appearance branch drowned the text's; they are options of every image
prompt here and off unless asked for. With m_i, s_i and lambda_i as in `formula`, a_i(t) the time weight and r_i the ratio of
spreads:

    output gate   out = clamp(1 - sum (1 - s_i) a_i m_i) * text(Q) + sum lambda_i a_i r_i m_i * image_i(Q)
    query gate    out = text(clamp(1 - sum (1 - s_i) a_i m_i) * Q) + sum lambda_i a_i r_i * image_i(m_i * Q)

With text_share 1 that is Eq. 9. A region that keeps no text (text_share 0) belongs to the text for as long as the time
weight holds its image prompt back: the weight moves what the region takes from the text along with the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers import at_least_float32

PAPER_GAMMA = 400  # Eq. 10, of 1000 timesteps
FLAT = 1e-5  # a term whose spread is a smaller share of its size is constant but for rounding


def check_gamma(gamma: float, num_timesteps: int) -> None:
    """ValueError if a gamma lies outside a model's schedule: not above 0, or so late that it would never act."""
    if not 0 < gamma < num_timesteps:
        raise ValueError(
            f"gamma is {gamma:g}, outside the model's schedule of {num_timesteps} timesteps: expected more than 0 and less "
            f"than {num_timesteps} (the paper's is 400 of 1000)"
        )


def time_weight(timestep: float, gamma: float) -> float:
    """Weight of an image prompt at a timestep: 0 in the early, noisy part of sampling, 1 in the late one.

    Args:
        timestep: in the model's schedule, the highest is pure noise and 0 the finished image.
        gamma: > 0, timesteps. The prompt is absent at 2 gamma and above, whole at gamma and below, linear between.

    Returns:
        0..1. Where 2 gamma lies above the schedule's end, sampling starts with more than 0.

    Paper: Eq. 10 of the strictly-ID-preserved paper, alpha(t).
    """
    if timestep >= 2 * gamma:
        return 0.0
    return 1.0 if timestep <= gamma else 1.0 - (timestep - gamma) / gamma


def time_weights(timesteps: Tensor, gamma: float) -> Tensor:
    """`time_weight` of each of (B,) timesteps, (B,) float32 at least, where they are: nothing is read back from a device."""
    return (2.0 - at_least_float32(timesteps) / gamma).clamp(0.0, 1.0)


def std_ratio(text: Tensor, image: Tensor, region: Tensor | None = None) -> Tensor:
    """What an image's term is multiplied by to have the text's standard deviation.

    Args:
        text, image: (B, L, C) output of the text's plain attention and of the image prompt's.
        region: (B or 1, L, 1) float, 0..1, how much each query counts; None = all alike.

    Returns:
        (B, 1, 1) in float32 at least: of a faint image's term half precision could not hold it. 1 where the image's term is
        constant (its deviation is 0, or less than rounding leaves of it) and where the region is empty: Eq. 8 is not defined
        there. 0 where the text is constant.

    Paper: Eq. 8, std(Y_t) / std(Y_a). **Deviation**: the paper does not say what the deviation is taken over. Here it
    is one number for each sample, over all channels of the queries in the prompt's region, so that no image of a batch
    depends on another, nor the prompt on the negative. Both outputs are taken before the layer's output projection,
    which they share.
    """
    of_text, _ = _spread(at_least_float32(text), region)
    of_image, size = _spread(at_least_float32(image), region)
    return torch.where(of_image > FLAT * size, of_text / of_image, 1.0)


def to_std_of(text: Tensor, image: Tensor, region: Tensor | None = None) -> Tensor:
    """An image's term, (B, L, C), with the text's standard deviation, in its dtype; the arguments are those of `std_ratio`."""
    return (at_least_float32(image) * std_ratio(text, image, region)).to(image.dtype)


def _spread(values: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor]:
    """Standard deviation and root mean square of each sample, (B, 1, 1), every query counted by its region."""
    counts = values.new_ones(1, values.shape[1], 1) if region is None else region.to(values.dtype)
    share = counts / counts.sum(1, keepdim=True)  # NaN where a region is empty: no spread is above it
    mean_of_row = values.mean(2, keepdim=True)
    of_row = torch.linalg.vector_norm(values - mean_of_row, dim=2, keepdim=True).square() / values.shape[2]
    mean = (share * mean_of_row).sum(1, keepdim=True)
    variance = (share * (of_row + (mean_of_row - mean).square())).sum(1, keepdim=True)
    return variance.sqrt(), (variance + mean.square()).sqrt()
