"""A call of a U-Net by hand, outside the host's samplers, with the facts that a run gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def facts_of_a_call(model: Any, latent_shape: Sequence[int], negative: Sequence[bool], sigma: float = 1.0) -> Any:
    """Options for a call of the whole frame.

    Args:
        model: the host's ModelPatcher.
        latent_shape: (rows, C, h, w) of the call.
        negative: for each chunk of images, whether its prompt is a negative one.
        sigma: noise level.

    Returns:
        What a run adds to the options; the host's own `cond_or_uncond` and `sigmas` are among it.
    """
    from ....nodes.host.facts import CALL, KEY, Call, Row, Run

    rows, _, height, width = latent_shape
    batch = rows // len(negative)
    run = Run("no guider", batch, (height, width), None, (), model)
    run.sampling = model.get_model_object("model_sampling")
    sigmas = torch.tensor([sigma]).to(model.load_device)
    of_rows = tuple(Row(is_negative, image, (0, 0)) for is_negative in negative for image in range(batch))
    return {
        "cond_or_uncond": [int(is_negative) for is_negative in negative],
        "sigmas": sigmas,
        KEY: run,
        CALL: Call(run, of_rows, run.latent_size, sigmas, network=model.model.diffusion_model),
    }
