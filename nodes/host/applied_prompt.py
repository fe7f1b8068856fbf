"""An image prompt as it was applied to a model, and what is computed once for a run of the sampler.

Nothing here knows the host's attention hooks: grids, rows and noise levels come as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...pfv_core.adapter.model import AdapterConfig
from ...pfv_core.attention.balance import Balance, time_weight, weigh_control
from ...pfv_core.attention.branch import BranchControl
from ...pfv_core.attention.formula import Gate, KeysValues, RowPlan, SampleWeights, plan_rows, sample_weights
from ...pfv_core.attention.query_mask import LATENT_SCALE, frame_matches, query_mask
from .adapter import LayerKeysValues
from .schedule import NoiseSchedule

MOST_PLANS = 64  # kept at a time; a time weight makes new ones at each step

Grid = tuple[int, int]
Controls = dict[int, BranchControl]
"""Of the prompts that take part, by their index; the scale is what the kept values do not hold yet."""


@dataclass(frozen=True)
class AppliedPrompt:
    """One branch: an image prompt with its region, its balance and its window of noise levels."""

    keys_values: tuple[LayerKeysValues, LayerKeysValues]  # of positive and negative, (T, c, width)
    config: AdapterConfig
    control: BranchControl
    region: Tensor | None  # (R, H, W) 0..1, None = the whole frame
    sigma_start: float
    sigma_end: float
    balance: Balance
    schedule: NoiseSchedule | None  # where the balance needs timesteps

    @property
    def num_images(self) -> int:
        """References in the prompt: one for all images of a batch, or one each."""
        return self.keys_values[0][0][0].shape[0]

    @property
    def num_regions(self) -> int:
        """Regions: one for all images of a batch, or one each."""
        return 1 if self.region is None else self.region.shape[0]

    @property
    def needs_noise_level(self) -> bool:
        """Whether the control depends on the step."""
        return self.schedule is not None or self.sigma_end > 0.0 or self.sigma_start < float("inf")

    @property
    def value_scale(self) -> float:
        """What the kept values are multiplied by; a normalised branch gets its scale after the normalisation."""
        return 1.0 if self.balance.std_norm else self.control.image_scale

    def control_at(self, sigma: float) -> BranchControl | None:
        """The branch's control at a noise level, without `value_scale`; None where it has no part."""
        if not self.sigma_end <= sigma <= self.sigma_start:
            return None
        control = self.control if self.balance.std_norm else replace(self.control, image_scale=1.0)
        if self.schedule is None or self.balance.gamma is None:
            return control
        weight = time_weight(self.schedule.timestep(sigma), self.balance.gamma)
        return None if weight == 0.0 else weigh_control(control, weight)

    def check_latent(self, batch: int, latent_size: Grid) -> None:
        """ValueError if the prompt fits no batch of this size, or its region no frame of this shape."""
        for count, what in ((self.num_images, "image prompt"), (self.num_regions, "region")):
            if count not in (1, batch):
                raise ValueError(
                    f"MEPA Apply: the {what} is a batch of {count}, {batch} image(s) are being sampled: give 1, or one "
                    "for each image"
                )
        if self.region is None or frame_matches((self.region.shape[1], self.region.shape[2]), latent_size):
            return
        height, width = (LATENT_SCALE * side for side in latent_size)
        raise ValueError(
            f"MEPA Apply: the region is {self.region.shape[1]}x{self.region.shape[2]}, the image being sampled is "
            f"{height}x{width} (height x width): give the region the image's shape"
        )


@dataclass(frozen=True)
class Place:
    """Where a call attends: its queries and their grid, the latent they belong to, and what it computes with."""

    num_queries: int
    grid: Grid
    latent_size: Grid
    device: torch.device
    dtype: torch.dtype


class RunCache:
    """Row plans for each grid, keys and values on the sampling device in its dtype: kept for one run."""

    def __init__(self, prompts: tuple[AppliedPrompt, ...]) -> None:
        self._prompts = prompts
        self.clear()

    def clear(self) -> None:
        """Drop all of it."""
        self._masks: dict[Any, Tensor] = {}
        self._plans: dict[Any, list[RowPlan]] = {}
        self._weights: dict[Any, tuple[SampleWeights, list[Tensor | None]]] = {}
        self._keys_values: dict[Any, KeysValues] = {}

    def row_plans(self, controls: Controls, place: Place) -> list[RowPlan]:
        """One plan, or one for each image of the batch where regions differ."""
        cache_key = (*controls.items(), place)
        if cache_key not in self._plans:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            masks = [self._query_mask(index, place) for index in controls]
            count = max((len(mask) for mask in masks if mask is not None), default=1)
            self._plans[cache_key] = [
                plan_rows(
                    [None if mask is None else mask[image % len(mask)] for mask in masks],
                    list(controls.values()),
                    place.num_queries,
                ).to(place.device, place.dtype)
                for image in range(count)
            ]
        return self._plans[cache_key]

    def sample_weights(
        self, controls: Controls, place: Place, num_chunks: int
    ) -> tuple[SampleWeights, list[Tensor | None]]:
        """The same regions for `balanced_attention`: the weights of all rows, and each prompt's region."""
        cache_key = (*controls.items(), place, num_chunks)
        if cache_key not in self._weights:
            if len(self._weights) >= MOST_PLANS:
                self._weights.clear()
            masks = [_all_rows(self._query_mask(index, place), num_chunks) for index in controls]
            weights = sample_weights(
                masks,
                [control.image_scale for control in controls.values()],
                [control.text_share for control in controls.values()],
                [Gate(control.gate) for control in controls.values()],
            )
            regions = [None if mask is None else mask[..., None].to(place.device, torch.float32) for mask in masks]
            self._weights[cache_key] = weights.to(place.device, place.dtype), regions
        return self._weights[cache_key]

    def keys_values(self, index: int, layer: int, chunks: Sequence[bool], batch: int, query: Tensor) -> KeysValues:
        """Keys and values of a prompt in one layer, a row for each of the query's.

        Args:
            index: of the prompt.
            layer: of its adapter.
            chunks: for each chunk of `batch` rows, whether it is negative.
            query: gives the device and dtype.
        """
        cache_key = (index, layer, chunks, batch, query.device, query.dtype)
        if cache_key not in self._keys_values:
            prompt = self._prompts[index]
            positive, negative = (pairs[layer] for pairs in prompt.keys_values)
            pairs = [negative if is_negative else positive for is_negative in chunks]
            key, value = (
                torch.cat([tensor.expand(batch, -1, -1) for tensor in tensors]) for tensors in zip(*pairs, strict=True)
            )
            value = value * prompt.value_scale
            mean = value.mean(1, keepdim=True).to(query) if prompt.control.gate is Gate.QUERY else None
            self._keys_values[cache_key] = KeysValues(key.to(query), value.to(query), mean)
        return self._keys_values[cache_key]

    def _query_mask(self, index: int, place: Place) -> Tensor | None:
        region = self._prompts[index].region
        if region is None:
            return None
        cache_key = (index, place.grid, place.latent_size)
        if cache_key not in self._masks:
            self._masks[cache_key] = query_mask(region, place.grid, place.latent_size)
        return self._masks[cache_key]


def _all_rows(mask: Tensor | None, num_chunks: int) -> Tensor | None:
    """(R, L) regions of a batch's images -> one for each row, or one for all."""
    return mask if mask is None or len(mask) == 1 else mask.repeat(num_chunks, 1)
