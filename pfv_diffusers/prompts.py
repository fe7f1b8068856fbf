"""Image prompts in the forward passes of a U-Net, and what of them holds at a timestep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pfv_core.attention.control import PromptControl
from pfv_core.attention.general import SampleWeights, sample_weights
from pfv_core.attention.query_mask import LATENT_SCALE, layer_grid, query_mask
from pfv_core.attention.unet_layout import AttentionLayer


@dataclass(frozen=True)
class RegionalPrompt:
    """One image prompt in one forward pass of a batch of B.

    Attributes:
        keys_values: per layer in file order the key and value, (B or 1, c, width), see `Adapter.keys_values`.
        control: how it takes part. A sample of scale 0 has no image prompt at all, whatever its text share. A time weight
            reads the timestep that the U-Net is called with, one for the whole batch.
        region: (B or 1, H, W) float, 0..1, 1 = the image prompt rules; of the frame's shape at any resolution; None = the
            whole frame.

    Raises:
        ValueError: a region of another shape.
    """

    keys_values: Sequence[tuple[Tensor, Tensor]]
    control: PromptControl = PromptControl()  # noqa: RUF009, frozen
    region: Tensor | None = None

    def __post_init__(self) -> None:
        if self.region is not None and self.region.ndim != 3:
            raise ValueError(f"region is {tuple(self.region.shape)}, expected (B, H, W)")

    @property
    def absent(self) -> bool:
        """Whether no sample has it."""
        return not isinstance(self.control.image_scale, Tensor) and self.control.image_scale == 0.0

    @property
    def batch_sizes(self) -> dict[str, int]:
        """How many samples each part that is given per sample is for."""
        control = self.control
        parts = {"image_scale": control.image_scale, "text_share": control.text_share, "region": self.region}
        sizes = {name: len(part) for name, part in parts.items() if isinstance(part, Tensor)}
        return {"keys_values": max(len(key) for key, _ in self.keys_values), **sizes}


@dataclass(frozen=True)
class Pass:
    """The image prompts that take part in a forward pass, by their index, on the grid of one level."""

    prompts: tuple[int, ...]
    weights: SampleWeights


class Passes:
    """What of image prompts holds for a forward pass, computed once for all layers of a level and kept while it holds."""

    def __init__(self, prompts: Sequence[RegionalPrompt], latent_size: tuple[int, int]) -> None:
        self._regions = [prompt.region for prompt in prompts]
        self._latent_size = latent_size
        self._controls = [_without_samples_of_scale_0(prompt.control) for prompt in prompts]
        self._now: list[PromptControl | None] = [*self._controls]
        self._known: dict[tuple[int, torch.device, torch.dtype], Pass] = {}

    def begin(self, timestep: Tensor | float) -> None:
        """A forward pass at a timestep, which is read only where an image prompt is weighted by it.

        Raises:
            ValueError: samples of one batch at different timesteps.
        """
        if all(control.gamma is None for control in self._controls):
            return
        at = _one_timestep(timestep)
        now = [control.at(at) for control in self._controls]
        if any(one is not before for one, before in zip(now, self._now, strict=True)):
            self._now = now
            self._known.clear()

    def at(self, layer: AttentionLayer, query: Tensor) -> Pass:
        """The image prompts for the queries (B, L, C) of a layer."""
        rows, columns = self._latent_size
        grid = layer_grid(rows * LATENT_SCALE, columns * LATENT_SCALE, layer.level)
        if query.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"{layer} has {query.shape[1]} queries, a latent of {rows}x{columns} gives it {grid[0]}x{grid[1]}: the "
                "U-Net changes its resolution in another way than by halving, which regions cannot follow"
            )
        key = (layer.level, query.device, query.dtype)
        if key not in self._known:
            self._known[key] = self._on(grid, query)
        return self._known[key]

    def _on(self, grid: tuple[int, int], query: Tensor) -> Pass:
        present = {index: control for index, control in enumerate(self._now) if control is not None}
        regions = [self._regions[index] for index in present]
        masks = [None if region is None else query_mask(region, grid, self._latent_size) for region in regions]
        weights = sample_weights(masks, [*present.values()])
        return Pass(tuple(present), weights.to(query.device, query.dtype))


def _without_samples_of_scale_0(control: PromptControl) -> PromptControl:
    """The control on the CPU, with all of the text where the scale is 0."""
    scale, share = (
        number.cpu() if isinstance(number, Tensor) else number for number in (control.image_scale, control.text_share)
    )
    if isinstance(scale, Tensor):
        share = torch.where(scale.detach() == 0, 1.0, torch.as_tensor(share, dtype=torch.float64))
    return replace(control, image_scale=scale, text_share=share)


def _one_timestep(timestep: Tensor | float) -> float:
    if not isinstance(timestep, Tensor):
        return float(timestep)
    if timestep.unique().numel() != 1:
        raise ValueError(
            f"the batch has timesteps {timestep.flatten().tolist()}, a time weight needs one for all its samples: leave "
            "gamma None, or call the U-Net for one timestep at a time"
        )
    return float(timestep.flatten()[0])
