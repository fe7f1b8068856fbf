"""An image prompt with its region and its part of the sampling, and what is computed once for a run of the sampler.

Nothing here knows the host's attention hooks: grids, rows and noise levels come as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...pfv_core.attention.balance import check_gamma
from ...pfv_core.attention.control import Gate, KeysValues, PromptControl
from ...pfv_core.attention.general import SampleWeights, sample_weights
from ...pfv_core.attention.plan import RowPlan, plan_rows
from .adapter import ImagePrompt
from .facts import Call, Grid, Options, Row, Run, cells, check_grid
from .schedule import Window

NODE = "MEPA Apply"
MOST_KEPT = 64  # plans at a time; a time weight makes new ones at each step

Controls = dict[int, PromptControl]
"""Of the prompts that take part, by their index."""


@dataclass(frozen=True, eq=False)
class RegionalPrompt:
    """What a node was asked for, handed on whole.

    Attributes:
        image_prompt: of one reference for all images of a batch, or one each.
        control: how it takes part.
        region: (R, H, W) float, 0..1, 1 = the image prompt rules; None = the whole frame. One, or one for each image.
        window: the part of the sampling in which it takes part.
    """

    image_prompt: ImagePrompt
    control: PromptControl = PromptControl()  # noqa: RUF009, frozen
    region: Tensor | None = None
    window: Window = Window()  # noqa: RUF009, frozen


@dataclass(frozen=True)
class Part:
    """The prompts that take part in a call, on one grid of queries.

    Attributes:
        controls: by the prompts' index.
        rows: of the query.
        tokens: stands for the image prompts that the rows have, by side and image.
        grid: rows and columns of queries.
        plans: for `text_image_attention`; None where a prompt is normalised.
        weights: for `general_attention`; None where none is.
    """

    controls: Controls
    rows: tuple[Row, ...]
    tokens: int
    grid: Grid
    plans: list[RowPlan] | None = None
    weights: SampleWeights | None = None


class PromptRun:
    """The prompts of a model in one run: their levels of noise, row plans for each grid, keys and values on the device.

    Raises:
        ValueError: a prompt that fits no batch of this size, a region of another frame, a gamma outside the schedule.
    """

    def __init__(self, prompts: tuple[RegionalPrompt, ...], run: Run) -> None:
        self._prompts = prompts  # and not the run, which holds this: what it keeps goes with it, at once
        run.check_sides(NODE)
        for prompt in prompts:
            run.check_batch(len(prompt.image_prompt), NODE, "the image prompt")
            if prompt.control.gamma is not None:
                check_gamma(prompt.control.gamma, run.schedule.num_timesteps)
        self._regions = [
            None if prompt.region is None else run.placed(prompt.region, NODE, "the region") for prompt in prompts
        ]
        self._levels = [run.levels(prompt.window) for prompt in prompts]
        self._schedule = run.schedule if any(prompt.control.gamma is not None for prompt in prompts) else None
        self._reads_noise = any(not prompt.window.whole or prompt.control.gamma is not None for prompt in prompts)
        self._tokens: dict[tuple[tuple[bool | None, int], ...], int] = {}
        self._masks: dict[Any, Tensor] = {}
        self._computed: dict[Any, list[RowPlan] | SampleWeights] = {}
        self._keys_values: dict[Any, KeysValues] = {}

    def part(self, call: Call, query: Tensor, options: Options) -> Part:
        """What takes part in an attention of a call; computed once in a call for all attentions of a grid."""
        shape = tuple(options["activations_shape"][-2:]), query.shape[:2], query.device, query.dtype
        key = id(self), shape
        if key not in call.kept:
            call.kept[key] = self._make_part(call, query, options)
        part: Part = call.kept[key]
        return part

    def keys_values(self, index: int, layer: int, part: Part, query: Tensor) -> KeysValues:
        """Keys and values of a prompt in one layer of its adapter, a row for each of the query's.

        What is kept has a row for each image prompt in use, however many images of the batch share it.
        """
        key = index, layer, part.tokens, query.device, query.dtype
        if key not in self._keys_values:
            self._keys_values[key] = self._make_keys_values(index, layer, part.rows, query)
        return self._keys_values[key]

    def _make_part(self, call: Call, query: Tensor, options: Options) -> Part:
        """The noise level is read only if a prompt needs it, the grid only if one has a region."""
        call.run.check_sides(NODE)  # again: conditions may be made during a run
        sigma = call.sigma if self._reads_noise else 1.0
        found = {index: self._control_at(index, sigma) for index in range(len(self._prompts))}
        controls = {index: control for index, control in found.items() if control is not None}
        rows = call.rows_of(query.shape[0], options, NODE)
        tokens = self._tokens.setdefault(tuple((row.negative, row.image) for row in rows), len(self._tokens))
        regional = any(self._regions[index] is not None for index in controls)
        grid = check_grid(options, query.shape[1], NODE) if regional else (query.shape[1], 1)
        part = Part(controls, rows, tokens, grid)
        if not controls:
            return part
        key = *controls.items(), rows, grid, call.sampled, query.device, query.dtype
        if key not in self._computed:
            if len(self._computed) >= MOST_KEPT:
                self._computed.clear()
            normalised = any(control.std_norm for control in controls.values())
            make = self._make_weights if normalised else self._make_plans
            self._computed[key] = make(part, call, query)
        computed = self._computed[key]
        weights, plans = (computed, None) if isinstance(computed, SampleWeights) else (None, computed)
        return replace(part, plans=plans, weights=weights)

    def _control_at(self, index: int, sigma: float) -> PromptControl | None:
        control, (start, end) = self._prompts[index].control, self._levels[index]
        if not end <= sigma <= start:
            return None
        return control if self._schedule is None else control.at(self._schedule.timestep(sigma))

    def _make_plans(self, part: Part, call: Call, query: Tensor) -> list[RowPlan]:
        """One plan, or one for each row where regions differ; rows with the same regions share one."""
        made: dict[Any, RowPlan] = {}
        plans = []
        for row in part.rows:
            spots = tuple(self._spot(index, row) for index in part.controls)
            if spots not in made:
                masks = [self._mask(index, row, part.grid, call) for index in part.controls]
                plan = plan_rows(masks, list(part.controls.values()), query.shape[1])
                made[spots] = plan.to(query.device, query.dtype)
            plans.append(made[spots])
        return plans[:1] if len(made) == 1 else plans

    def _make_weights(self, part: Part, call: Call, query: Tensor) -> SampleWeights:
        masks: list[Tensor | None] = []
        for index in part.controls:
            alike = len({self._spot(index, row) for row in part.rows}) == 1
            of_rows = [self._mask(index, row, part.grid, call) for row in part.rows[: 1 if alike else None]]
            there = [mask for mask in of_rows if mask is not None]
            masks.append(torch.stack(there) if there else None)
        return sample_weights(masks, list(part.controls.values())).to(query.device, query.dtype)

    def _spot(self, index: int, row: Row) -> tuple[int, Grid] | None:
        """Which of a prompt's regions a row has, and where it lies in it."""
        region = self._regions[index]
        return None if region is None else (row.image % len(region), row.corner)

    def _mask(self, index: int, row: Row, grid: Grid, call: Call) -> Tensor | None:
        region, spot = self._regions[index], self._spot(index, row)
        if region is None or spot is None:
            return None
        key = index, spot, grid, call.sampled
        if key not in self._masks:
            self._masks[key] = cells(region[spot[0] : spot[0] + 1], grid, call, row.corner)
        return self._masks[key]

    def _make_keys_values(self, index: int, layer: int, rows: tuple[Row, ...], query: Tensor) -> KeysValues:
        prompt = self._prompts[index]
        positive, negative = (pairs[layer] for pairs in prompt.image_prompt.keys_values)
        wanted = [(row.negative, 0 if row.negative else row.image % len(prompt.image_prompt)) for row in rows]
        differing = list(dict.fromkeys(wanted))
        sources = [(negative if is_negative else positive, image) for is_negative, image in differing]
        key, value = (torch.stack([pair[side][image] for pair, image in sources]) for side in range(2))
        mean = value.mean(1, keepdim=True).to(query) if prompt.control.gate is Gate.QUERY else None
        order = None
        if wanted != differing:
            order = torch.tensor([differing.index(one) for one in wanted]).to(query.device)
        return KeysValues(key.to(query), value.to(query), mean, order)
