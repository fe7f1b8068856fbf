"""A prompt with its region and its part of the sampling, and what is computed once for a run of the sampler.

A prompt is an image's or a text's. Rows of negative conditions have the negative of an image prompt, and nothing of a text: they
keep their own.

Nothing here knows the host's attention hooks: grids, rows and noise levels come as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import torch
from torch import Tensor

from ...pfv_core.attention.balance import check_gamma
from ...pfv_core.attention.control import Gate, KeysValues, PromptControl
from ...pfv_core.attention.general import SampleWeights, sample_weights
from ...pfv_core.attention.layer_weights import Weights
from ...pfv_core.attention.plan import RowPlan, plan_rows
from ...pfv_core.attention.transformers import transformer_of
from ...pfv_core.attention.unet_layout import AttentionLayer
from ...pfv_core.attention.weights import PromptWeights
from .adapter import ImagePrompt
from .context_patches import patched
from .facts import HIDDEN, Call, Grid, Options, Row, Run, call_of, cells, check_grid
from .schedule import Window
from .text_prompt import NODE as TEXT_NODE
from .text_prompt import TextPrompt, order_of, projected
from .unet import BlockKey

NODE = "MEPA Apply"
MOST_KEPT = 64  # plans at a time; a time weight makes new ones at each step

Controls = dict[int, PromptControl]
"""Of the prompts that take part, by their index."""

Moment = tuple[PromptControl | None, float]
"""Of a prompt at a noise level: its control, None where it is absent, and its weight."""

Place = int | BlockKey
"""Of a cross-attention, for an image prompt its layer in the adapter, for a text its block."""

Spot = tuple[int, Grid | None] | None
"""Which of a prompt's regions a row has, and where the row lies in it (None = nobody says); None without a region."""

OWN_TEXT: Spot = (-1, (0, 0))
"""Of a negative row: a text for a region is not for it."""


@dataclass(frozen=True, eq=False)
class RegionalPrompt:
    """What a node was asked for, handed on whole.

    Attributes:
        image_prompt: of one reference for all images of a batch, or one each; or a text's tokens.
        control: how it takes part.
        region: (R, H, W) float, 0..1, 1 = the image prompt rules; None = the whole frame. One, or one for each image.
        window: the part of the sampling in which it takes part.
        weights: by layer and over the sampling.
        of_layers: the weights of a model's transformers, once it is in one; None = all 1.
    """

    image_prompt: ImagePrompt | TextPrompt
    control: PromptControl = PromptControl()  # noqa: RUF009, frozen
    region: Tensor | None = None
    window: Window = Window()  # noqa: RUF009, frozen
    weights: PromptWeights = PromptWeights()  # noqa: RUF009, frozen
    of_layers: Weights | None = None

    @property
    def node(self) -> str:
        """The node it came from, for messages."""
        return TEXT_NODE if isinstance(self.image_prompt, TextPrompt) else NODE

    def on(self, layers: list[AttentionLayer]) -> RegionalPrompt:
        """The prompt with its weights looked up in a model; ValueError where the model has no such layer."""
        return replace(self, of_layers=self.weights.over(layers))

    def weight_at(self, place: Place) -> float:
        """Of the layer with this place."""
        if self.of_layers is None or isinstance(self.image_prompt, TextPrompt) or not isinstance(place, int):
            return 1.0
        return self.of_layers[transformer_of(self.image_prompt.adapter.config.layers[place])]


@dataclass(frozen=True)
class Part:
    """The prompts that take part in a call, on one grid of queries and in layers of the same weights.

    Attributes:
        controls: by the prompts' index.
        rows: of the query.
        grid: rows and columns of queries.
        plans: for `text_image_attention`; None where a prompt is normalised.
        weights: for `general_attention`; None where none is.
        network: that runs.
        hooked: whether its weights are those of this call alone.
    """

    controls: Controls
    rows: tuple[Row, ...]
    grid: Grid
    plans: list[RowPlan] | None = None
    weights: SampleWeights | None = None
    network: Any = None
    hooked: bool = False


class PromptRun:
    """The prompts of a model in one run: their levels of noise, row plans for each grid, keys and values on the device.

    Raises:
        ValueError: a prompt that fits no batch of this size, a region of another frame, a gamma outside the schedule.
    """

    def __init__(self, prompts: tuple[RegionalPrompt, ...], run: Run) -> None:
        self._prompts = prompts  # and not the run, which holds this: what it keeps goes with it, at once
        run.check_sides(NODE)
        for prompt in prompts:
            what = "the text" if prompt.node == TEXT_NODE else "the image prompt"
            run.check_batch(len(prompt.image_prompt), prompt.node, what)
            if prompt.control.gamma is not None:
                check_gamma(prompt.control.gamma, run.schedule.num_timesteps)
        self._regions = [
            None if prompt.region is None else run.placed(prompt.region, prompt.node, "the region")
            for prompt in prompts
        ]
        self._levels = [run.levels(prompt.window, prompt.node) for prompt in prompts]
        timed = [prompt.control.gamma is not None or prompt.weights.sampling.constant is None for prompt in prompts]
        self._schedule = run.schedule if any(timed) else None
        self._reads_noise = any(timed) or any(not prompt.window.whole for prompt in prompts)
        self._weights: dict[tuple[Place, ...], tuple[float, ...]] = {}
        self._moments: tuple[float | None, list[Moment], dict[tuple[float, ...], Controls]] = (None, [], {})
        self._orders: dict[Any, tuple[tuple[bool, ...], Tensor | None]] = {}
        self._masks: dict[Any, Tensor] = {}
        self._computed: dict[Any, list[RowPlan] | SampleWeights] = {}
        self._keys_values: dict[Any, KeysValues] = {}
        self._contexts: dict[Any, Tensor] = {}

    def weights_at(self, places: tuple[Place, ...]) -> tuple[float, ...]:
        """The weight of each prompt in the layer with these places."""
        if places not in self._weights:
            self._weights[places] = tuple(
                prompt.weight_at(place) for prompt, place in zip(self._prompts, places, strict=True)
            )
        return self._weights[places]

    def part(self, call: Call, query: Tensor, options: Options, weights: tuple[float, ...]) -> Part:
        """What takes part in an attention of a call; computed once in a call for all attentions of a grid and of `weights`."""
        shape = tuple(options["activations_shape"][-2:]), query.shape[:2], query.device, query.dtype
        key = id(self), shape, weights
        if key not in call.kept:
            call.kept[key] = self._make_part(call, query, options, weights)
        part: Part = call.kept[key]
        return part

    def keys_values(self, index: int, place: Place, part: Part, query: Tensor, options: Options) -> KeysValues:
        """Keys and values of a prompt in one layer, a row for each of the query's.

        What is kept has a row for each image prompt or text there is, whichever images of the batch a call has: windows over
        the batch make new calls at every step.
        """
        if not isinstance(place, int):
            return self._text_keys_values(index, place, part, query, options)
        sides, order = self._image_order(index, part, query)
        key = index, place, sides, query.device, query.dtype
        if key not in self._keys_values:
            self._keys_values[key] = self._make_keys_values(index, place, sides, query)
        return replace(self._keys_values[key], order=order)

    def _image_order(self, index: int, part: Part, query: Tensor) -> tuple[tuple[bool, ...], Tensor | None]:
        """The sides of a prompt that the rows have, and which of their images each row has, one side after the other; once for
        all layers: bringing it to the device waits for that."""
        key = index, part.rows, query.device
        if key not in self._orders:
            prompt = self._prompts[index].image_prompt
            assert isinstance(prompt, ImagePrompt)
            counts = len(prompt.positive), len(prompt.negative)
            sides = tuple(dict.fromkeys(bool(row.negative) for row in part.rows))
            first = {sides[0]: 0, sides[-1]: 0 if len(sides) == 1 else counts[sides[0]]}
            places = tuple(first[bool(row.negative)] + row.among(counts[bool(row.negative)]) for row in part.rows)
            self._orders[key] = sides, order_of(places, sum(counts[side] for side in sides), query.device)
        return self._orders[key]

    def _text_keys_values(self, index: int, block: BlockKey, part: Part, query: Tensor, options: Options) -> KeysValues:
        """By the projections of the network that runs; kept unless they are this call's alone."""
        text = self._prompts[index].image_prompt
        assert isinstance(text, TextPrompt)
        if HIDDEN in options:
            return self._patched_keys_values(index, text, block, part, query, options)
        key = index, block, query.device, query.dtype, id(part.network)
        made = None if part.hooked else self._keys_values.get(key)
        if made is None:
            made = KeysValues(*text.project(part.network, block, query))
            if not part.hooked:
                self._keys_values[key] = made
        return replace(made, order=self._text_order(index, text, part.rows, query.device))

    def _patched_keys_values(
        self, index: int, text: TextPrompt, block: BlockKey, part: Part, query: Tensor, options: Options
    ) -> KeysValues:
        """Of what other packs make of the text's tokens in this block, row by row as of the main text's."""
        call, hidden = call_of(options, TEXT_NODE), options[HIDDEN]
        order = self._text_order(index, text, call.rows_of(len(hidden), options, TEXT_NODE), hidden.device)
        key = index, hidden.device, hidden.dtype
        if key not in self._contexts:
            self._contexts[key] = text.context.to(hidden)
        context = self._contexts[key].clone() if order is None else self._contexts[key].index_select(0, order)
        keys, values = patched(context, call.context_patches, options)
        return KeysValues(*projected(part.network, block, keys, values, query))

    def _text_order(self, index: int, text: TextPrompt, rows: tuple[Row, ...], device: torch.device) -> Tensor | None:
        """Which of the texts each row has; once for all layers: bringing it to the device waits for that."""
        key = index, rows, device
        if key not in self._orders:
            places = tuple(row.among(len(text)) for row in rows)
            self._orders[key] = (), order_of(places, len(text), device)
        return self._orders[key][1]

    def _make_part(self, call: Call, query: Tensor, options: Options, of_layer: tuple[float, ...]) -> Part:
        """The noise level is read only if a prompt needs it, the grid only if one has a region."""
        call.run.check_sides(NODE)  # again: conditions may be made during a run
        sigma = call.sigma if self._reads_noise else 1.0
        controls = self._controls_at(sigma, of_layer)
        rows = call.rows_of(query.shape[0], options, NODE)
        for index in controls:
            self._check_images(index, call, rows)
        regional = any(self._regions[index] is not None for index in controls)
        grid = check_grid(options, query.shape[1], NODE) if regional else (query.shape[1], 1)
        part = Part(controls, rows, grid, network=call.network, hooked=call.hooked)
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

    def _check_images(self, index: int, call: Call, rows: tuple[Row, ...]) -> None:
        """RuntimeError where a prompt has something for each image and nobody says which images the rows are."""
        prompt, region = self._prompts[index], self._regions[index]
        image_prompt, text = prompt.image_prompt, isinstance(prompt.image_prompt, TextPrompt)
        call.check_images(rows, len(image_prompt), prompt.node, "the text" if text else "the image prompt")
        call.check_images(rows, 1 if region is None else len(region), prompt.node, "the region")

    def _controls_at(self, sigma: float, weights: tuple[float, ...]) -> Controls:
        """Of the prompts that count at a noise level, in a layer of these weights."""
        level, moments, known = self._moments
        if level != sigma:
            moments, known = [self._moment(index, sigma) for index in range(len(self._prompts))], {}
            self._moments = sigma, moments, known
        if weights not in known:
            pairs = enumerate(zip(moments, weights, strict=True))
            found = {index: _weighted(control, moment * weight) for index, ((control, moment), weight) in pairs}
            known[weights] = {index: control for index, control in found.items() if control is not None}
        return known[weights]

    def _moment(self, index: int, sigma: float) -> Moment:
        """The control that a prompt has at a noise level, and its weight there."""
        prompt, (start, end) = self._prompts[index], self._levels[index]
        curve, schedule = prompt.weights.sampling, self._schedule
        if not end <= sigma <= start:
            return None, 0.0
        if schedule is None:
            return prompt.control, curve.at(0.0)
        control = prompt.control if prompt.control.gamma is None else prompt.control.at(schedule.timestep(sigma))
        return control, curve.at(0.0 if curve.constant is not None else schedule.share(sigma))

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

    def _spot(self, index: int, row: Row) -> Spot:
        region = self._regions[index]
        if row.negative and self._prompts[index].node == TEXT_NODE:
            return OWN_TEXT
        return None if region is None else (row.among(len(region)), row.corner)

    def _mask(self, index: int, row: Row, grid: Grid, call: Call) -> Tensor | None:
        region, spot = self._regions[index], self._spot(index, row)
        if spot == OWN_TEXT:
            return torch.zeros(grid[0] * grid[1], dtype=torch.float64)
        if region is None or spot is None:  # of a text, whose rows differ, written out
            everywhere = self._prompts[index].node == TEXT_NODE
            return torch.ones(grid[0] * grid[1], dtype=torch.float64) if everywhere else None
        key = index, spot, grid, call.sampled
        if key not in self._masks:
            node = self._prompts[index].node
            self._masks[key] = cells(region[spot[0] : spot[0] + 1], grid, call, row.corner, node)
        return self._masks[key]

    def _make_keys_values(self, index: int, layer: int, sides: tuple[bool, ...], query: Tensor) -> KeysValues:
        prompt = self._prompts[index]
        assert not isinstance(prompt.image_prompt, TextPrompt)  # a text's are of the network that runs
        pairs = [prompt.image_prompt.keys_values[side][layer] for side in sides]
        key, value = (_stacked([tokens for pair in pairs for tokens in pair[of]]) for of in range(2))
        mean = value.mean(1, keepdim=True).to(query) if prompt.control.gate is Gate.QUERY else None
        return KeysValues(key.to(query), value.to(query), mean)


def _weighted(control: PromptControl | None, weight: float) -> PromptControl | None:
    return None if control is None else control.weighted(weight)


def _stacked(tokens: list[Tensor]) -> Tensor:
    """(c_i, width) each -> (rows, c, width), where fewer tokens are repeated as a whole, each equally often.

    A softmax over n copies of every key gives each copy an n-th of its weight: the attention is that of the tokens themselves,
    within rounding, and nothing is padded.
    """
    count = lcm(*(len(one) for one in tokens))
    return torch.stack([one.repeat(count // len(one), 1) for one in tokens])
