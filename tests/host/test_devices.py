"""Nothing of ours mixes devices, and a step waits for the device only where a number is needed: shown without one.

Queries, keys and values lie on another device than main memory, see `support.devices`. A prompt's keys and values, its regions
and the map of facts are real tensors in main memory, as they are for a user. The first step may bring them over, the second
finds everything there.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import comfy.samplers
import pytest
import torch
from comfy.conds import CONDCrossAttn
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from pfv_mepa.nodes.host import fusion_run, slots, text_prompt, tracking
from pfv_mepa.nodes.host.controlnet import apply_to_control_net
from pfv_mepa.nodes.host.cross_attention import apply_prompt
from pfv_mepa.nodes.host.facts import CALL, KEY, MAP, Call, Row, Run
from pfv_mepa.nodes.host.mask_input import apply_mask_input
from pfv_mepa.nodes.host.reference_pass import ReferenceNoise
from pfv_mepa.nodes.host.regional_prompt import PromptRun, RegionalPrompt
from pfv_mepa.nodes.host.schedule import Window
from pfv_mepa.nodes.host.self_attention import apply_attention_fusion
from pfv_mepa.nodes.host.text_prompt import TextPrompt
from pfv_mepa.nodes.host.tracking import patches_of
from pfv_mepa.pfv_core.attention.control import Gate, PromptControl
from pfv_mepa.pfv_core.attention.curve import sampling_curve
from pfv_mepa.pfv_core.attention.fusion import Combine, FusionControl
from pfv_mepa.pfv_core.attention.layer_weights import LayerWeights
from pfv_mepa.pfv_core.attention.plan import RowPlan
from pfv_mepa.pfv_core.attention.weights import PromptWeights
from pfv_mepa.pfv_core.research.mask_input import CONTEXT_DIM, MaskInput
from pfv_mepa.tests.host.sampling import image_prompt, reference
from pfv_mepa.tests.support.devices import Device, MixedDevicesError
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning, tiny_controlnet

GUIDER = SimpleNamespace(model_patcher=SimpleNamespace(apply_hooks=lambda hooks: None))
KINDS = ("meta", "cuda")
LATENT, PART = (16, 24), (8, 8)  # of the frame, and of an area of it
CORNERS = ((4, 8), (8, 0))
TEXT, HEADS = 77, 4
SIGMA = 2.0  # of the tiny models' schedule: where a time weight of gamma 400 is neither 0 nor 1


FRAMES = [*(("cuda", frame) for frame in ("one image", "batch", "area")), ("meta", "area")]
"""Kinds of device and frames: that a tensor stayed behind is seen on either kind, so the second has the fullest frame alone."""

in_each_frame = pytest.mark.parametrize(("device", "frame"), FRAMES, indirect=["device"])
in_larger_frames = pytest.mark.parametrize(("device", "frame"), FRAMES[1:], indirect=["device"])
MASKS = (None, "hard", "soft")


@pytest.fixture(params=KINDS)
def device(request, monkeypatch):
    """A device of each kind. The host's attention would ask it for the memory that is free, and is no part of this."""
    device = Device(request.param)

    def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, **options: Any) -> Tensor:
        assert all(device.has(tensor) and tensor.dtype is query.dtype for tensor in (query, key, value))
        assert key.shape == value.shape
        assert len(key) == len(query)
        return query.clone()

    monkeypatch.setattr(slots, "optimized_attention", attention)
    monkeypatch.setattr(
        FakeTensor, "tolist", lambda tensor: device.list_of(tensor)
    )  # it asks for one number after the other
    return device


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("vega")


@pytest.fixture(scope="module")
def control_net(model):
    return tiny_controlnet(model)


@pytest.fixture(scope="module")
def prompts(tiny_clip_vision, plus_adapter_file):
    """Function: number of references -> their image prompt."""
    made = {}

    def prompts(count):
        if count not in made:
            made[count] = image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(batch=count))
            assert len(made[count]) == count
            _ = made[count].keys_values
        return made[count]

    return prompts


# --- calls by hand ----------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """One attention of a U-Net: the host's name of it, its width, and how often the latent was halved before it."""

    key: tuple[str, int, int]
    width: int
    level: int

    def grid(self, sampled):
        return sampled[0] >> self.level, sampled[1] >> self.level


# Two on one grid, the third on a coarser one.
LAYERS = [Layer(("input", 4, 0), 64, 1), Layer(("input", 5, 0), 64, 1), Layer(("input", 7, 0), 128, 2)]


@dataclass
class Steps:
    """Calls of a U-Net by hand, all of one run.

    Attributes:
        rows: of each call.
        sampled: rows and columns of its latent.
        expected: reads of the device in a step.
        on_host: operators in main memory that a step may need, whatever the number of layers.
        sigma: the noise level.
    """

    device: Device
    run: Run
    rows: tuple[Row, ...]
    sampled: tuple[int, int] = LATENT
    expected: int = 0
    on_host: int = 0
    sigma: float = SIGMA

    def sigmas(self) -> Tensor:
        """The noise level of every row, on the device."""
        with _disable_current_modes():
            level = torch.full((len(self.rows),), self.sigma)
        return self.device.known(level)

    @classmethod
    def of(cls, device: Device, model: Any, batch: int = 1, area: bool = False, **options: Any) -> Steps:
        """Positive and negative in one pass; with an area each image lies somewhere else in it."""
        run = Run("no guider", batch, LATENT, None, (), model)
        run.sampling = model.get_model_object("model_sampling")
        corners = CORNERS if area else ((0, 0), (0, 0))
        rows = tuple(Row(side, image, corners[image % 2]) for side in (False, True) for image in range(batch))
        return cls(device, run, rows, PART if area else LATENT, **options)

    def options(self, layer: Layer | None = None) -> dict[str, Any]:
        """Of a new call, or those of a layer in the call that is under way."""
        if layer is None:
            sigmas = self.sigmas()
            self.call = Call(self.run, self.rows, self.sampled, sigmas, network="the model's own")
            return {KEY: self.run, CALL: self.call, "sigmas": sigmas, "cond_or_uncond": [0, 1]}
        grid = layer.grid(self.sampled)
        shape = {"activations_shape": [len(self.rows), layer.width, *grid], "n_heads": HEADS}
        return {**self.step_options, **shape, "block": layer.key[:2], "block_index": layer.key[2]}

    def step(self, hooks: Sequence[Any], self_attention: bool = False) -> None:
        """One call of every layer's hook."""
        self.step_options = self.options()
        for layer, hook in zip(LAYERS, hooks, strict=True):
            rows, columns = layer.grid(self.sampled)
            query = self.device.empty(len(self.rows), rows * columns, layer.width)
            text = query if self_attention else self.device.empty(len(self.rows), TEXT, layer.width)
            out = hook(query, text, text.clone(), self.options(layer))
            assert (out.shape, out.dtype, out.device) == (query.shape, query.dtype, query.device)

    def twice(self, step: Any) -> None:
        """The first step may bring things over; the second must find everything there."""
        self.device.forget()
        with self.device:
            step()
            assert len(self.device.reads) == self.expected
            self.device.forget()
            step()
            assert_quiet(self.device, self.expected, self.on_host)


def assert_quiet(device: Device, reads: int = 0, on_host: int = 0) -> None:
    """Nothing crossed to the device, and no more was read of it or computed beside it than is expected."""
    assert not device.copies, f"copied to the device: {Counter(device.copies)}"
    assert len(device.on_host) <= on_host, f"in main memory: {Counter(device.on_host)}"
    assert len(device.reads) == reads, f"read {device.reads}, expected {reads}"


def masks(kind: str | None, count: int = 1) -> Tensor | None:
    """Regions of the frame: hard or soft, one or one for each image."""
    if kind is None:
        return None
    mask = torch.zeros(count, LATENT[0] * 8, LATENT[1] * 8)
    for number in range(count):
        mask[number, :, 96 - 32 * number :] = 1.0 if kind == "hard" else 0.4
        mask[number, 32:64] = 1.0
    return mask


def hooks_of(model: Any, kind: str = "attn2") -> list[Any]:
    """What the host calls in each layer."""
    found = model.model_options["transformer_options"]["patches_replace"][kind]
    return [found[layer.key] for layer in LAYERS]


def prompted(model: Any, *regional: RegionalPrompt) -> list[Any]:
    """The hooks of a model with these prompts."""
    for one in regional:
        model = apply_prompt(model, one)
    return hooks_of(model)


CONTROLS = [
    PromptControl(0.7, share, gate, std_norm, gamma)
    for gate, share, std_norm, gamma in itertools.product(Gate, (0.0, 0.3, 1.0), (False, True), (None, 400.0))
]
PAIRS = [CONTROLS[place] for place in (0, 5, 10, 15, 18, 21)]
"""The fewest in which any two settings of a control meet in each of their values."""
FEW_CONTROLS = CONTROLS[::7]  # each setting in each of its values
WINDOW = Window(0.0, 0.9)
SCHEDULE = (
    72  # operators that look a noise level up in the schedule, in main memory: for two grids, not for three layers
)


def any_two(first: Sequence[Any], second: Sequence[Any], third: Sequence[Any]) -> list[tuple[Any, Any, Any]]:
    """Of three settings of two values each: the four cases in which any two of them meet in each of their values."""
    return [(first[one], second[other], third[one ^ other]) for one, other in itertools.product((0, 1), repeat=2)]


def beside(control: PromptControl) -> int:
    """Operators in main memory that a control needs in a step."""
    return 0 if control.gamma is None else SCHEDULE


def test_any_two_settings_of_a_control_are_there_in_each_of_their_values():
    names = ("gate", "text_share", "std_norm", "gamma")
    for pair in itertools.combinations(names, 2):
        met, all_of_them = (
            {tuple(getattr(control, name) for name in pair) for control in of} for of in (PAIRS, CONTROLS)
        )
        assert met == all_of_them, pair


def test_few_controls_have_each_setting_in_each_of_its_values():
    for name in ("gate", "text_share", "std_norm", "gamma"):
        met, all_of_them = ({getattr(control, name) for control in of} for of in (FEW_CONTROLS, CONTROLS))
        assert met == all_of_them, name


@pytest.mark.parametrize("window", [Window(), WINDOW], ids=["whole", "window"])
@pytest.mark.parametrize("region", MASKS)
@in_each_frame
def test_one_prompt(device, model, prompts, frame, region, window):
    """Each setting of a control beside each other; in a batch every image has a prompt and a region of its own."""
    batch = 1 if frame == "one image" else 2
    for control in PAIRS:
        reads = int(not window.whole or control.gamma is not None)
        steps = Steps.of(device, model, batch, frame == "area", expected=reads, on_host=beside(control))
        hooks = prompted(model, RegionalPrompt(prompts(batch), control, masks(region, batch), window))
        steps.twice(lambda steps=steps, hooks=hooks: steps.step(hooks))


@pytest.mark.parametrize(("region", "other"), [*itertools.combinations_with_replacement(MASKS, 2)])
@in_each_frame
def test_two_prompts(device, model, prompts, frame, region, other):
    """Of which one may be normalised, weighted by time, or out of its window; in a batch the first is shared by all."""
    batch = 1 if frame == "one image" else 2
    for gate, std_norm, window in any_two(list(Gate), (False, True), (Window(), Window(0.95, 1.0))):
        first = RegionalPrompt(prompts(1), PromptControl(0.7, 0.3, gate), masks(region))
        second = PromptControl(0.7, 0.0, Gate.OUTPUT, std_norm, 400.0)
        hooks = prompted(model, first, RegionalPrompt(prompts(batch), second, masks(other, batch), window))
        steps = Steps.of(device, model, batch, frame == "area", expected=1, on_host=SCHEDULE)
        steps.twice(lambda steps=steps, hooks=hooks: steps.step(hooks))


@pytest.mark.parametrize("region", MASKS)
@in_larger_frames
@pytest.mark.parametrize("base", [True, False])
def test_around_a_slot_of_another_pack(device, model, prompts, frame, region, base):
    """Which computes the text's attention, and adds a term of its own in a window of the run."""
    for control in FEW_CONTROLS:
        steps = Steps.of(device, model, 2, frame == "area", expected=1, on_host=beside(control))
        hooks = prompted(model, RegionalPrompt(prompts(2), control, masks(region, 2)))
        for hook in hooks:
            if base:
                hook.base = lambda query, key, value, options: query * 0.5
            hook.add(lambda out, *args, **window: 0.5 * out, sigma_start=999999999.9, sigma_end=0.0)
        steps.twice(lambda steps=steps, hooks=hooks: steps.step(hooks))


def test_a_time_weight_that_changes_copies_no_more_than_the_rows_of_each_grid(device, model, prompts):
    """A step with another weight has plans of its own; no layer copies anything, whatever their number."""
    control = PromptControl(0.7, 0.0, Gate.OUTPUT, gamma=400.0)
    hooks = prompted(model, RegionalPrompt(prompts(1), control, masks("hard")))
    steps = Steps.of(device, model, expected=1)
    with device:
        steps.step(hooks)
        for steps.sigma in (1.9, 1.8):
            device.forget()
            steps.step(hooks)
            assert len(device.reads) == 1
            assert len(device.copies) <= 4 * len({layer.grid(LATENT) for layer in LAYERS})


@pytest.mark.parametrize("region", MASKS)
@in_larger_frames
@pytest.mark.parametrize("curve", ["constant", "rising"])
def test_weights_by_layer_and_over_the_sampling(device, model, prompts, frame, region, curve):
    """Three layers, two weights: the noise level is read once, and a layer with a weight of its own copies nothing in a step."""
    weights = PromptWeights(LayerWeights.of("custom", "input 1.0: 0.5, input 2: 0.25"), sampling_curve(curve))
    for control in FEW_CONTROLS:
        reads = int(curve != "constant" or control.gamma is not None)
        steps = Steps.of(device, model, 2, frame == "area", expected=reads, on_host=2 * SCHEDULE * reads)
        hooks = prompted(model, RegionalPrompt(prompts(2), control, masks(region, 2), weights=weights))
        steps.twice(lambda steps=steps, hooks=hooks: steps.step(hooks))


@pytest.mark.parametrize("region", ["hard", "soft"])
@in_each_frame
@pytest.mark.parametrize("beside_an_image", [False, True])
def test_a_text_with_a_region(device, model, prompts, monkeypatch, frame, region, beside_an_image):
    """Its keys and values come from the model's projections on the device, once."""
    batch = 1 if frame == "one image" else 2

    def projections(network, block):
        width = next(layer.width for layer in LAYERS if layer.key == block)

        def project(context):
            assert device.has(context)
            return device.empty(*context.shape[:2], width)

        return SimpleNamespace(to_k=project, to_v=project)

    monkeypatch.setattr(text_prompt, "cross_attention_at", projections)
    text = TextPrompt(torch.zeros(batch, TEXT, 64))
    regional = [RegionalPrompt(text, PromptControl(0.7, 0.3), masks(region, batch))]
    if beside_an_image:
        regional.append(RegionalPrompt(prompts(1), PromptControl(0.7, 0.3, std_norm=True), masks("hard")))
    steps = Steps.of(device, model, batch, frame == "area")
    hooks = prompted(model, *regional)
    steps.twice(lambda: steps.step(hooks))


# --- the others -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fused(device, model, monkeypatch):
    """Function: control, mask, references, window, noise -> the patch and the hooks of a model whose reference passes leave
    their keys and values on the device."""

    def fused(combine, mask, references, window, noise):
        def passed(*args):
            return {layer.key: tuple(device.empty(references, 20, layer.width) for _ in range(2)) for layer in LAYERS}

        monkeypatch.setattr(fusion_run, "reference_keys_values", passed)
        latent, text = torch.zeros(references, 4, 4, 5), tiny_conditioning(model)
        patched = apply_attention_fusion(
            model, latent, text, FusionControl(0.6, combine), noise, mask, reference_model=None, window=window
        )
        return patches_of(patched)[-1], hooks_of(patched, "attn1")

    return fused


@pytest.mark.parametrize("combine", Combine)
@pytest.mark.parametrize("region", MASKS)
@pytest.mark.parametrize(
    ("device", "batch", "references", "regions"),
    [
        *(("cuda", *numbers) for numbers in [(1, 1, 1), (2, 1, 1), (2, 1, 2), (2, 2, 1), (2, 2, 2)]),
        ("meta", 2, 2, 2),
    ],
    indirect=["device"],
)
def test_attention_fusion(device, model, fused, combine, region, batch, references, regions):
    """One reference or several, one mask or several; the noise level is read before the evaluation where there is a window."""
    for window, noise, area in any_two((Window(), WINDOW), list(ReferenceNoise), (False, True)):
        mask = masks(region, regions)
        fusion, hooks = fused(combine, mask, references, window, noise)
        steps = Steps.of(device, model, batch, area, expected=int(not window.whole))

        def step(fusion=fusion, hooks=hooks, steps=steps):
            steps.run.state(fusion).evaluate(GUIDER, steps.sigmas())
            steps.step(hooks, self_attention=True)

        steps.twice(step)


@pytest.mark.parametrize(("batch", "regions"), [(1, 1), (2, 1), (2, 2), (3, 3)], ids=str)
@pytest.mark.parametrize("area", [False, True])
def test_mask_input(device, model, batch, regions, area):
    mask_input = MaskInput(torch.randn(32, 1, 3, 3), metadata={CONTEXT_DIM: "64"})
    patch = patches_of(apply_mask_input(model, mask_input, masks("soft", regions)))[-1]
    steps = Steps.of(device, model, batch, area)

    def step():
        hidden = device.empty(len(steps.rows), 32, *steps.sampled)
        out = patch(hidden, {**steps.options(), "block": ("input", 0)})
        assert (out.shape, out.dtype, out.device) == (hidden.shape, hidden.dtype, hidden.device)

    steps.twice(step)


class Blocks(nn.Module):
    """A ControlNet's network of which nothing is left but its cross-attentions."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self.steps = steps
        self.input_blocks = nn.ModuleList([Block(steps, number) for number in range(9)])
        self.middle_block = nn.Identity()

    def forward(self, x: Tensor) -> None:
        for layer in LAYERS:
            self.input_blocks[layer.key[1]]()


class Block(nn.Module):
    def __init__(self, steps: Steps, number: int) -> None:
        super().__init__()
        self.steps, self.number = steps, number

    def forward(self, transformer_options: Any = None) -> None:
        (layer,) = [layer for layer in LAYERS if layer.key[1] == self.number]
        grid, rows = layer.grid(self.steps.sampled), len(self.steps.rows)
        query = self.steps.device.empty(rows, grid[0] * grid[1], layer.width)
        text = self.steps.device.empty(rows, TEXT, layer.width)
        shape = {"activations_shape": [rows, layer.width, *grid], "n_heads": HEADS, "block_index": 0}
        hook = transformer_options["patches_replace"]["attn2"][layer.key]
        out = hook(query, text, text, {**transformer_options, **shape})
        assert out.device == query.device


def map_of(rows: Sequence[Row], sampled: tuple[int, int]) -> Tensor:
    """The map of a call with these rows, in main memory."""
    facts = torch.empty(len(rows), 4, *sampled, dtype=torch.int32)
    for number, row in enumerate(rows):
        facts[number, 0] = torch.arange(sampled[0])[:, None] + row.corner[0]
        facts[number, 1] = torch.arange(sampled[1])[None] + row.corner[1]
        facts[number, 2], facts[number, 3] = row.image, int(bool(row.negative))
    return facts


@pytest.mark.parametrize("window", [Window(), WINDOW], ids=["whole", "window"])
@pytest.mark.parametrize("region", MASKS)
@in_larger_frames
def test_a_controlnet_reads_the_map_once_in_a_call(device, model, control_net, prompts, region, frame, window):
    """The host brings the map to its device with the other conditions; with a window the noise level is read as well."""
    for control in FEW_CONTROLS:
        reads = 1 + (not window.whole or control.gamma is not None)
        steps = Steps.of(device, model, 2, frame == "area", expected=reads, on_host=beside(control))
        patched = apply_prompt(model, RegionalPrompt(prompts(2), control, masks(region, 2), window))
        network = apply_to_control_net(control_net, patched).control_model
        network.network = Blocks(steps)
        network.slots = {layer.key: network.slots[layer.key] for layer in LAYERS}
        facts = map_of(steps.rows, steps.sampled)

        def step(steps=steps, network=network, facts=facts):
            x = device.empty(len(steps.rows), 4, *steps.sampled)
            network(x, transformer_options=steps.options(), **{MAP: device.known(facts)})

        steps.twice(step)


# --- the host's way to the model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", [False, True])
def test_the_map_of_the_unets_call_stays_in_main_memory(device, model, area):
    """Through the host's own handling of conditions, to the wrapper around the model: nothing of it waits for the device."""
    run = Run("no guider", 2, LATENT, None, (), model)
    sides = ("positive", "negative")
    with torch.no_grad():
        maps = {name: tracking._map(torch.zeros(2, 4, *LATENT), run, name) for name in sides}
    place = {"area": (*PART, *CORNERS[0])} if area else {}
    seen = []

    def executor(x, t, c_concat, c_crossattn, control, options, **kwargs):
        seen.append((options[CALL], kwargs))
        return x

    executor.class_obj = model.model
    with device:
        x, sigma = device.empty(2, 4, *LATENT, dtype=torch.float32), device.empty(2, dtype=torch.float32)
        text = device.empty(2, TEXT, 64)
        conditions = [
            {"uuid": name, "model_conds": {MAP: maps[name], "c_crossattn": CONDCrossAttn(text)}, **place}
            for name in sides
        ]
        parts = [comfy.samplers.get_area_and_mult(condition, x, sigma) for condition in conditions]
        inputs = comfy.samplers.cond_cat([part.conditioning for part in parts])
        whole, levels = torch.cat([part.input_x for part in parts]), torch.cat([sigma, sigma])
        device.forget()
        tracking._around_the_model.__wrapped__(executor, whole, levels, transformer_options={KEY: run}, **inputs)
        assert (device.copies, device.reads) == ([], [])
    ((call, others),) = seen
    assert MAP not in others
    corner = CORNERS[0] if area else (0, 0)
    assert call.rows == tuple(Row(name == "negative", image, corner) for name in sides for image in range(2))
    assert call.sampled == (PART if area else LATENT)


# --- that it would be seen --------------------------------------------------------------------------------------------


def test_a_tensor_that_stayed_behind_is_refused(device, model, prompts, monkeypatch):
    """Keys and values that are kept in main memory, or brought over in each call."""
    hooks = prompted(model, RegionalPrompt(prompts(1), PromptControl(0.7, 0.3), masks("hard")))
    keys_values = PromptRun.keys_values

    def left_behind(self, index, layer, part, query, options):
        kept = keys_values(self, index, layer, part, query, options)
        with _disable_current_modes():
            return type(kept)(torch.zeros(kept.key.shape), torch.zeros(kept.value.shape), kept.mean, kept.order)

    def brought_over(self, index, layer, part, query, options):
        kept = left_behind(self, index, layer, part, query, options)
        return type(kept)(kept.key.to(query), kept.value.to(query), kept.mean, kept.order)

    steps = Steps.of(device, model)
    for change, message in ((left_behind, "on cpu|assert"), (brought_over, "copied to the device")):
        monkeypatch.setattr(PromptRun, "keys_values", change)
        with pytest.raises(AssertionError, match=message):
            steps.twice(lambda: steps.step(hooks))


def test_a_row_index_that_stayed_behind_is_refused(device, model, prompts, monkeypatch):
    hooks = prompted(model, RegionalPrompt(prompts(1), PromptControl(0.7, 0.3), masks("hard")))
    monkeypatch.setattr(RowPlan, "to", lambda self, *args: self)
    with device, pytest.raises(MixedDevicesError, match="on cpu"):
        Steps.of(device, model).step(hooks)


def test_a_number_that_every_layer_reads_is_counted(device, model, prompts, monkeypatch):
    """The noise level is known once it was read in a call; where it is not kept each layer waits for it."""
    hooks = prompted(model, RegionalPrompt(prompts(1), PromptControl(0.7, 0.3), masks("hard"), WINDOW))
    steps = Steps.of(device, model, expected=1)
    steps.twice(lambda: steps.step(hooks))
    make_part = PromptRun._make_part
    monkeypatch.setattr(PromptRun, "part", lambda self, *args: make_part(self, *args))
    monkeypatch.setattr(Call, "sigma", property(lambda call: float(call.sigmas.flatten()[0])))
    steps = Steps.of(device, model, expected=1)
    with pytest.raises(AssertionError):
        steps.twice(lambda: steps.step(hooks))
    assert len(device.reads) == len(LAYERS)


def test_a_content_that_is_read_back_is_refused(device):
    """Whatever the operator: a number, a truth, a list, the places that are not 0, a copy in main memory."""
    reads = (
        lambda tensor: tensor.sum().item(),
        lambda tensor: bool((tensor > 0).all()),
        lambda tensor: tensor.tolist(),
        lambda tensor: tensor.cpu(),
        lambda tensor: torch.zeros(4, dtype=tensor.dtype).copy_(tensor),
    )
    for read in reads:
        with device, pytest.raises(AssertionError, match="back from the device"):
            read(device.empty(4))
    sizes = (
        lambda tensor: tensor.nonzero(),
        lambda tensor: tensor.masked_select(tensor > 0),
        lambda tensor: tensor.unique(),
    )
    for size in sizes if device.kind == "cuda" else ():
        with device, pytest.raises(DynamicOutputShapeException):
            size(device.empty(4))
