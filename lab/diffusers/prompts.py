"""Image prompts in the forward passes of a U-Net, and what of them holds at a timestep."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pfv_core.attention.control import PromptControl
from pfv_core.attention.curve import Curve, share_of_timestep
from pfv_core.attention.general import SampleWeights, sample_weights
from pfv_core.attention.layer_weights import Weights
from pfv_core.attention.query_mask import LATENT_SCALE, layer_grid, query_mask
from pfv_core.attention.transformers import transformer_of
from pfv_core.attention.unet_layout import AttentionLayer
from pfv_core.attention.weights import PromptWeights


@dataclass(frozen=True)
class RegionalPrompt:
    """One image prompt in one forward pass of a batch of B.

    Attributes:
        keys_values: per layer in file order the key and value, (B or 1, c, width), see `Adapter.keys_values`.
        control: how it takes part. A sample of scale 0 has no image prompt at all, whatever its text share. A time weight
            reads the timestep that the U-Net is called with, one for the whole batch.
        region: (B or 1, H, W) float, 0..1, 1 = the image prompt rules; of the frame's shape at any resolution; None = the
            whole frame.
        weights: by layer and over the sampling. A curve over the sampling reads the timestep as a time weight does.

    Raises:
        ValueError: a region of another shape.
    """

    keys_values: Sequence[tuple[Tensor, Tensor]]
    control: PromptControl = PromptControl()  # noqa: RUF009, frozen
    region: Tensor | None = None
    weights: PromptWeights = PromptWeights()  # noqa: RUF009, frozen

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
    """What of image prompts holds for a forward pass, computed once for all layers of a level and a weight, and kept while it
    holds.

    Args:
        prompts: those that take part.
        latent_size: rows and columns.
        layers: of the U-Net.
        num_timesteps: of the schedule that it was trained with.

    Raises:
        ValueError: weights for a layer that the U-Net has not.
    """

    def __init__(
        self,
        prompts: Sequence[RegionalPrompt],
        latent_size: tuple[int, int],
        layers: Collection[AttentionLayer],
        num_timesteps: int,
    ) -> None:
        self._regions = [prompt.region for prompt in prompts]
        self._latent_size = latent_size
        self._num_timesteps = num_timesteps
        self._layers: list[Weights | None] = [prompt.weights.over(layers) for prompt in prompts]
        self._curves = [prompt.weights.sampling for prompt in prompts]
        self._controls = [_without_samples_of_scale_0(prompt.control) for prompt in prompts]
        self._now: list[tuple[PromptControl | None, float]] = [(control, 1.0) for control in self._controls]
        self._known: dict[tuple[int, tuple[float, ...], torch.device, torch.dtype], Pass] = {}

    def begin(self, timestep: Tensor | float) -> None:
        """A forward pass at a timestep, which is read only where an image prompt is weighted by it.

        Raises:
            ValueError: samples of one batch at different timesteps.
        """
        timed = any(control.gamma is not None for control in self._controls)
        at = _one_timestep(timestep) if timed or any(curve.constant is None for curve in self._curves) else 0.0
        now = [
            (control.at(at), self._moment(curve, at))
            for control, curve in zip(self._controls, self._curves, strict=True)
        ]
        if any(one[0] is not old[0] or one[1] != old[1] for one, old in zip(now, self._now, strict=True)):
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
        one = transformer_of(layer)
        weights = tuple(1.0 if of_layers is None else of_layers[one] for of_layers in self._layers)
        key = (layer.level, weights, query.device, query.dtype)
        if key not in self._known:
            self._known[key] = self._on(grid, weights, query)
        return self._known[key]

    def _moment(self, curve: Curve, timestep: float) -> float:
        share = 0.0 if curve.constant is not None else share_of_timestep(timestep, self._num_timesteps)
        return curve.at(share)

    def _on(self, grid: tuple[int, int], weights: tuple[float, ...], query: Tensor) -> Pass:
        present = {}
        for index, ((control, moment), weight) in enumerate(zip(self._now, weights, strict=True)):
            weighted = None if control is None else control.weighted(moment * weight)
            if weighted is not None:
                present[index] = weighted
        regions = [self._regions[index] for index in present]
        masks = [None if region is None else query_mask(region, grid, self._latent_size) for region in regions]
        computed = sample_weights(masks, [*present.values()])
        return Pass(tuple(present), computed.to(query.device, query.dtype))


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
