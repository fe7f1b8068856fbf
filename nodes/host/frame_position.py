"""Where in the frame the parts lie that the host samples by themselves, as area conditioning does.

The host crops whatever has the shape of the noise together with it. So every condition gets a map of the frame's own
coordinates, and the corner of what arrives at the model says where each row of the call lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy.conds import CONDNoiseShape
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pfv_core.attention.query_mask import query_mask

KEY = "pfv_frame_position"  # of our wrappers, our condition and our entry in the options of a call
FRAME = "pfv_frame_size"  # of our entry in the options of a run


@dataclass(frozen=True)
class FramePosition:
    """Of one call of the model.

    Attributes:
        latent_size: rows and columns of the whole frame's latent.
        corners: (top, left) of each row of the call, latent pixels.
    """

    latent_size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    def whole(self, sampled: tuple[int, int]) -> bool:
        """Whether a part of this size is the frame itself."""
        return sampled == self.latent_size


def track_positions(model: Any) -> None:
    """Make a clone of a model tell its patches where each call lies; `position_of` reads it."""
    if model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        return
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _publish_the_frame)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _give_conditions_the_map)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _read_the_map)


def position_of(options: dict[str, Any]) -> FramePosition | None:
    """The position of this call; None where something between the host's sampler and its model has cut tiles.

    Whoever calls the model with conditions of its own brings no map; where it samples the whole frame, none is needed.
    """
    known: FramePosition | None = options.get(KEY)
    rows, *_, height, width = options["original_shape"]
    if known is None and options.get(FRAME) == (height, width):
        return FramePosition((height, width), ((0, 0),) * rows)
    return known


def cropped(masks: Tensor, position: FramePosition, sampled: tuple[int, int]) -> Tensor:
    """The part of each row's mask that the row samples.

    Args:
        masks: (M, H, W) float, 0..1, at any resolution; M is 1 or the images of the batch.
        position: of the call.
        sampled: rows and columns of latent pixels in the call.

    Returns:
        (rows of the call, *sampled) float64: the share of each latent pixel that the mask covers.
    """
    size = position.latent_size
    cells = query_mask(masks, size, size).view(-1, *size)
    return torch.stack(
        [
            cells[row % len(cells), top : top + sampled[0], left : left + sampled[1]]
            for row, (top, left) in enumerate(position.corners)
        ]
    )


def _publish_the_frame(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Before the first step, in the guider's own copy of the options for this run."""
    options = executor.class_obj.model_options.setdefault("transformer_options", {})
    options[FRAME] = (noise.shape[-2], noise.shape[-1])
    return executor(noise, *args, **kwargs)


def _give_conditions_the_map(executor: Any, guider: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Around the sampler, whose conditions are this run's own copies."""
    noise = kwargs["noise"] if "noise" in kwargs else args[3]  # sigmas, extra_args, callback, noise
    frame = _map(noise.shape[-2], noise.shape[-1])
    for conditions in guider.conds.values():
        for condition in conditions:
            condition["model_conds"] = {**condition["model_conds"], KEY: CONDNoiseShape(frame)}
    return executor(guider, *args, **kwargs)


def _map(rows: int, columns: int) -> Tensor:
    """(1, 4, rows, columns) int64: own row and column, and those that the frame has."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([row, column, torch.full_like(row, rows), torch.full_like(row, columns)])[None]


def _read_the_map(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Around the model, which is not to see our condition."""
    frame = kwargs.pop(KEY, None)
    options = {} if transformer_options is None else transformer_options
    if frame is not None and frame.shape[0] == x.shape[0] and frame.shape[-2:] == x.shape[-2:]:
        corners = frame[:, :, 0, 0].tolist()  # on the CPU: nothing waits for the sampling device
        options[KEY] = FramePosition((corners[0][2], corners[0][3]), tuple((top, left) for top, left, _, _ in corners))
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
