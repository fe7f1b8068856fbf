"""Image prompts in the forward passes of a U-Net, and what of them holds at a timestep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pfv_core.attention.balance import Balance, time_weight, weigh
from pfv_core.attention.formula import Gate, SampleWeights, sample_weights
from pfv_core.attention.query_mask import LATENT_SCALE, layer_grid, query_mask
from pfv_core.attention.unet_layout import AttentionLayer
from pfv_core.choices import parse_choice


@dataclass(frozen=True)
class Branch:
    """One image prompt in one forward pass of a batch of B.

    Attributes:
        keys_values: per layer in file order the key and value, (B or 1, c, width), see `Adapter.keys_values`.
        image_scale: lambda, one number or (B,). A sample with 0 has no image prompt at all, whatever its text share.
        text_share: how much the text keeps inside the region, one number or (B,), 0..1.
        gate: where the region is applied.
        region: (B or 1, H, W) float, 0..1, 1 = the image prompt rules; of the frame's shape at any resolution; None = the
            whole frame.
        balance: normalisation and time weighting against the text. A time weight reads the timestep that the U-Net is
            called with, one for the whole batch.

    Raises:
        ValueError: a text_share outside 0..1, a scale that is not finite, a gamma that is not above 0, an unknown gate,
            wrong shapes.
    """

    keys_values: Sequence[tuple[Tensor, Tensor]]
    image_scale: float | Tensor = 1.0
    text_share: float | Tensor = 1.0
    gate: Gate = Gate.OUTPUT
    region: Tensor | None = None
    balance: Balance = Balance()  # noqa: RUF009, frozen

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", parse_choice(Gate, self.gate, "gate"))
        for name in ("image_scale", "text_share"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim != 1:
                raise ValueError(f"{name} is {tuple(value.shape)}, expected one number or (B,)")
        share, scale = torch.as_tensor(self.text_share), torch.as_tensor(self.image_scale)
        if not bool(((share >= 0) & (share <= 1)).all()):
            raise ValueError(f"text_share is {self.text_share}, expected 0 (no text in the region) to 1 (all of it)")
        if not bool(scale.isfinite().all()):
            raise ValueError(f"image_scale is {self.image_scale}, expected finite numbers")
        if self.region is not None and self.region.ndim != 3:
            raise ValueError(f"region is {tuple(self.region.shape)}, expected (B, H, W)")
        if self.balance.gamma is not None and not self.balance.gamma > 0:
            raise ValueError(f"gamma is {self.balance.gamma}, expected more than 0 timesteps")

    @property
    def batch_sizes(self) -> dict[str, int]:
        """How many samples each part that is given per sample is for."""
        parts = {"image_scale": self.image_scale, "text_share": self.text_share, "region": self.region}
        sizes = {name: len(part) for name, part in parts.items() if isinstance(part, Tensor)}
        return {"keys_values": max(len(key) for key, _ in self.keys_values), **sizes}

    def numbers(self, weight: float) -> tuple[float | Tensor, float | Tensor]:
        """image_scale and text_share on the CPU at a time weight; the share is 1 where the scale is 0."""
        scale, share = (v.cpu() if isinstance(v, Tensor) else v for v in (self.image_scale, self.text_share))
        if isinstance(scale, Tensor):
            share = torch.where(scale.detach() == 0, 1.0, torch.as_tensor(share, dtype=torch.float64))
        return (scale, share) if weight == 1.0 else weigh(scale, share, weight)


@dataclass(frozen=True)
class Pass:
    """The branches that take part in a forward pass, by their index, on the grid of one level."""

    branches: tuple[int, ...]
    weights: SampleWeights
    regions: tuple[Tensor | None, ...]
    normalized: tuple[bool, ...]


class Passes:
    """What of the branches holds for a forward pass, computed once for all layers of a level and kept while it holds."""

    def __init__(self, branches: Sequence[Branch], latent_size: tuple[int, int]) -> None:
        self._branches = branches
        self._latent_size = latent_size
        self._time_weights = tuple(1.0 for _ in branches)
        self._known: dict[tuple[int, torch.device, torch.dtype], Pass] = {}

    def begin(self, timestep: Tensor | float) -> None:
        """A forward pass at a timestep, which is read only where a branch is weighted by it.

        Raises:
            ValueError: samples of one batch at different timesteps.
        """
        gammas = [branch.balance.gamma for branch in self._branches]
        if all(gamma is None for gamma in gammas):
            return
        now = _one_timestep(timestep)
        weights = tuple(1.0 if gamma is None else time_weight(now, gamma) for gamma in gammas)
        if weights != self._time_weights:
            self._time_weights = weights
            self._known.clear()

    def at(self, layer: AttentionLayer, query: Tensor) -> Pass:
        """The branches for the queries (B, L, C) of a layer."""
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
        present = tuple(index for index, weight in enumerate(self._time_weights) if weight != 0.0)
        branches = [self._branches[index] for index in present]
        numbers = [self._branches[index].numbers(self._time_weights[index]) for index in present]
        masks = [
            None if branch.region is None else query_mask(branch.region, grid, self._latent_size) for branch in branches
        ]
        weights = sample_weights(
            masks,
            [scale for scale, _ in numbers],
            [share for _, share in numbers],
            [branch.gate for branch in branches],
        )
        return Pass(
            present,
            weights.to(query.device, query.dtype),
            tuple(None if mask is None else mask[..., None].to(query.device, torch.float32) for mask in masks),
            tuple(branch.balance.std_norm for branch in branches),
        )


def _one_timestep(timestep: Tensor | float) -> float:
    if not isinstance(timestep, Tensor):
        return float(timestep)
    if timestep.unique().numel() != 1:
        raise ValueError(
            f"the batch has timesteps {timestep.flatten().tolist()}, a time weight needs one for all its samples: leave "
            "gamma None, or call the U-Net for one timestep at a time"
        )
    return float(timestep.flatten()[0])
