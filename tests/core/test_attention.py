"""attention: the structured computation against the explicit formula, and what it costs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.attention.formula import (
    Attend,
    BranchControl,
    Gate,
    RowPlan,
    plan_rows,
    sample_weights,
    scaled_dot_product,
    text_image_attention,
    text_image_attention_by_image,
    text_image_attention_by_sample,
)

from . import reference
from .tolerances import DTYPES, assert_close
from .weights import noise, ramp

HEADS, WIDTH, NUM_QUERIES = 2, 8, 12
CPU = torch.device("cpu")
ATTEND = scaled_dot_product(HEADS)
GATES = list(Gate)

KeyValue = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Scene:
    """Everything a call needs, in float64."""

    query: Tensor
    text: KeyValue
    images: list[KeyValue]
    masks: list[Tensor | None]
    controls: list[BranchControl]

    def plan(self, dtype: torch.dtype = torch.float64) -> RowPlan:
        return plan_rows(self.masks, self.controls, self.query.shape[1]).to(CPU, dtype)

    def run(self, dtype: torch.dtype = torch.float64, attend: Attend = ATTEND, base: Attend | None = None) -> Tensor:
        text, *images = [tuple(t.to(dtype) for t in pair) for pair in (self.text, *self.images)]
        return text_image_attention(self.query.to(dtype), text, images, self.controls, self.plan(dtype), attend, base)

    def plain(self) -> Tensor:
        return ATTEND(self.query, *self.text)

    def expected(self) -> np.ndarray:
        masks = [np.ones(self.query.shape[1]) if mask is None else mask.double().numpy() for mask in self.masks]
        prompts = [(control.image_scale, control.text_share, control.gate.value) for control in self.controls]
        items = []
        for item in range(self.query.shape[0]):
            query, text, *images = (
                self.query[item].numpy(),
                *(tuple(t[item].numpy() for t in pair) for pair in (self.text, *self.images)),
            )
            items.append(reference.text_image_attention(query, text, images, masks, prompts, HEADS))
        return np.stack(items)


def scene(
    masks: list[Tensor | None], controls: list[BranchControl], batch: int = 1, seed: int = 0, tokens: int = 3
) -> Scene:
    """Noise for every tensor; each image prompt has another number of tokens."""
    num_queries = next((len(mask) for mask in masks if mask is not None), NUM_QUERIES)

    def pair(count: int, seed: int) -> KeyValue:
        shape = (batch, count, WIDTH)
        return noise(*shape, seed=seed, dtype=torch.float64), noise(*shape, seed=seed + 1, dtype=torch.float64)

    query = 2.0 * noise(batch, num_queries, WIDTH, seed=seed, dtype=torch.float64)
    images = [pair(tokens + index, seed + 10 * index + 20) for index in range(len(masks))]
    return Scene(query, pair(5, seed + 1), images, masks, controls)


def first_rows(count: int, num_queries: int = NUM_QUERIES) -> Tensor:
    return (torch.arange(num_queries) < count).double()


def random_scene(rng: random.Random, seed: int, hard_alone: bool = False) -> Scene:
    masks: list[Tensor | None] = []
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(["hard", "hard", "soft", "mixed", "empty", "full", "none"])
        values = [rng.choice([0.0, 1.0]) for _ in range(NUM_QUERIES)]
        if not hard_alone and kind in ("soft", "mixed"):
            values = [rng.random() if kind == "soft" or rng.random() < 0.3 else value for value in values]
        constants = {"empty": [0.0] * NUM_QUERIES, "full": [1.0] * NUM_QUERIES}
        masks.append(None if kind == "none" else torch.tensor(constants.get(kind, values), dtype=torch.float64))
    controls = [
        BranchControl(rng.choice([0.0, 1.0, 0.6, -0.5]), rng.choice([0.0, 0.3, 1.0]), rng.choice(GATES)) for _ in masks
    ]
    return scene(masks, controls, batch=rng.choice([1, 1, 3]), seed=seed)


@pytest.mark.parametrize("part", range(4))
def test_structured_is_the_explicit_formula(part):
    """1-4 prompts, hard, soft and mixed regions, both gates at once, with and without a base, batch 1 and 3."""
    rng = random.Random(part)
    for index in range(60):
        made = random_scene(rng, seed=1000 * part + index)
        expected = made.expected()
        assert_close(made.run(), expected)
        assert_close(made.run(base=ATTEND), expected)


def test_the_formula_holds_eq4_and_eq6():
    """The reference itself: its general form is each printed equation."""
    made = scene([first_rows(5)], [BranchControl()])
    query, mask = made.query[0].numpy(), first_rows(5).numpy()
    text, image = (tuple(t[0].numpy() for t in pair) for pair in (made.text, made.images[0]))
    general = reference.text_image_attention
    eq4 = reference.eq4(query, text, image, 0.6, HEADS)
    eq6 = reference.eq6(query, text, image, mask, HEADS)
    everywhere = np.ones(NUM_QUERIES)
    assert np.allclose(general(query, text, [image], [everywhere], [(0.6, 1.0, "output")], HEADS), eq4, atol=1e-14)
    assert np.allclose(general(query, text, [image], [mask], [(1.0, 0.0, "query")], HEADS), eq6, atol=1e-14)


def test_eq4_without_a_region():
    made = scene([None], [BranchControl(image_scale=0.6)], batch=3)
    image = ATTEND(made.query, *made.images[0])
    assert_close(made.run(), made.plain() + 0.6 * image)


def test_eq6_as_printed_with_a_hard_and_a_soft_mask():
    for mask in (first_rows(5), torch.linspace(0, 1, NUM_QUERIES, dtype=torch.float64)):
        made = scene([mask], [BranchControl(text_share=0.0, gate=Gate.QUERY)])
        text, image = (tuple(t[0].numpy() for t in pair) for pair in (made.text, made.images[0]))
        expected = reference.eq6(made.query[0].numpy(), text, image, mask.numpy(), HEADS)
        assert_close(made.run(), expected[None])


def test_values_by_hand():
    """One channel and one token: attention is that token's value, whatever the query is."""
    query, key = ramp(1, 4, 1), ramp(1, 1, 1)
    text, image = (key, torch.tensor([[[2.0]]])), (key, torch.tensor([[[10.0]]]))
    mask = torch.tensor([0.0, 0.25, 1.0, 1.0])
    for share, expected in [
        (1.0, [2.0, 4.5, 12.0, 12.0]),
        (0.0, [2.0, 4.0, 10.0, 10.0]),
        (0.5, [2.0, 4.25, 11.0, 11.0]),
    ]:
        controls = [BranchControl(text_share=share)]
        plan = plan_rows([mask], controls, 4).to(CPU, torch.float32)
        out = text_image_attention(query, text, [image], controls, plan, scaled_dot_product(1))
        assert out[0, :, 0].tolist() == expected


def test_a_query_multiplied_by_zero_gives_the_mean_of_the_values():
    query = torch.zeros(1, NUM_QUERIES, WIDTH, dtype=torch.float64)
    key, value = (noise(1, 5, WIDTH, seed=seed, dtype=torch.float64) for seed in (1, 2))
    assert_close(ATTEND(query, key, value), value.mean(1, keepdim=True).expand(-1, NUM_QUERIES, -1))


@pytest.mark.parametrize("text_share", [0.0, 1.0])
def test_the_query_gate_leaks_the_mean_value_and_the_output_gate_nothing(text_share):
    mask = first_rows(5)
    query_gated = scene([mask], [BranchControl(0.6, text_share, Gate.QUERY)])
    output_gated = scene([mask], [BranchControl(0.6, text_share, Gate.OUTPUT)])
    leak = 0.6 * query_gated.images[0][1].mean(1, keepdim=True)
    assert_close(query_gated.run()[:, 5:], (query_gated.plain() + leak)[:, 5:])
    assert_close(output_gated.run()[:, 5:], output_gated.plain()[:, 5:])
    image = 0.6 * ATTEND(query_gated.query, *query_gated.images[0])[:, :5]
    text = query_gated.text[1].mean(1, keepdim=True) if text_share == 0.0 else query_gated.plain()[:, :5]
    assert_close(query_gated.run()[:, :5], image + text)
    assert_close(output_gated.run()[:, :5], image + text_share * output_gated.plain()[:, :5])


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize("text_share", [0.0, 0.3, 1.0])
def test_an_empty_region_under_the_output_gate_is_plain_attention_bit_for_bit(dtype, text_share):
    empty = torch.zeros(NUM_QUERIES)
    made = scene([empty, empty], [BranchControl(text_share=text_share), BranchControl(0.6, text_share)], batch=3)
    plain = ATTEND(made.query.to(dtype), *(t.to(dtype) for t in made.text))
    assert torch.equal(made.run(dtype), plain)
    assert torch.equal(made.run(dtype, base=ATTEND), plain)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("mask", [None, first_rows(5), torch.linspace(0, 1, NUM_QUERIES)], ids=["none", "hard", "soft"])
def test_scale_zero_with_all_of_the_text_is_plain_attention_bit_for_bit(gate, mask):
    made = scene([mask, mask], [BranchControl(0.0, 1.0, gate)] * 2, batch=3)
    assert torch.equal(made.run(), made.plain())
    assert torch.equal(made.run(base=ATTEND), made.plain())


def test_rows_outside_every_region_are_plain_attention_bit_for_bit_while_text_is_untouched():
    made = scene([first_rows(5), first_rows(7)], [BranchControl(), BranchControl(0.6)])
    for out in (made.run(), made.run(base=ATTEND)):
        assert torch.equal(out[:, 7:], made.plain()[:, 7:])
        assert not torch.equal(out[:, :7], made.plain()[:, :7])


def test_a_partition_of_the_frame_leaves_no_text():
    masks: list[Tensor | None] = [first_rows(5), first_rows(9) - first_rows(5), 1 - first_rows(9)]
    controls = [BranchControl(text_share=0.0) for _ in masks]
    made = scene(masks, controls)
    other_text = Scene(made.query, (made.text[0] + 1, made.text[1] * 3), made.images, masks, controls)
    assert torch.equal(made.run(), other_text.run())
    soft: list[Tensor | None] = [torch.full((NUM_QUERIES,), share, dtype=torch.float64) for share in (0.25, 0.5, 0.25)]
    made, other_text = (Scene(s.query, s.text, s.images, soft, controls) for s in (made, other_text))
    assert torch.equal(made.run(), other_text.run())


def test_the_texts_weight_is_never_negative_where_regions_overlap():
    made = scene([first_rows(8), first_rows(6)], [BranchControl(text_share=0.0), BranchControl(text_share=0.3)])
    images = [ATTEND(made.query, *pair) for pair in made.images]
    assert_close(made.run()[:, :6], (images[0] + images[1])[:, :6])


def test_all_of_the_frame_is_the_image_alone():
    made = scene([None], [BranchControl(text_share=0.0)])
    assert_close(made.run(), ATTEND(made.query, *made.images[0]))


@dataclass
class Counting:
    """Attention that remembers which query rows it was asked for; the row number is the query's first channel."""

    calls: list[list[int]] = field(default_factory=list)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.calls.append(query[0, :, 0].round().int().tolist())
        return ATTEND(query, key, value)

    @property
    def rows(self) -> Counter[int]:
        return Counter(row for call in self.calls for row in call)


def numbered(made: Scene) -> Scene:
    query = made.query.clone()
    query[:, :, 0] = torch.arange(query.shape[1])
    return Scene(query, made.text, made.images, made.masks, made.controls)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("image_rows", [0, 1, 5, 11, 12])
def test_a_hard_region_without_text_attends_each_row_once(gate, image_rows):
    counting = Counting()
    numbered(scene([first_rows(image_rows)], [BranchControl(text_share=0.0, gate=gate)])).run(attend=counting)
    assert counting.rows == Counter(range(NUM_QUERIES))


def test_disjoint_hard_regions_without_text_attend_each_row_once():
    rng = random.Random(5)
    for index in range(40):
        owner = torch.tensor([rng.randint(0, 3) for _ in range(NUM_QUERIES)])  # 3 = nobody's
        masks: list[Tensor | None] = [(owner == number).double() for number in range(3)]
        controls = [BranchControl(1.0, 0.0, rng.choice(GATES)) for _ in masks]
        counting = Counting()
        made = numbered(scene(masks, controls, seed=index))
        out = made.run(attend=counting)
        # A text query that one prompt's gate took to 0 in a row leaves its mean, never a second attention.
        assert counting.rows == Counter(range(NUM_QUERIES)), (owner, controls)
        assert_close(out, made.expected())


def test_rows_outside_the_region_are_not_attended_by_the_image():
    counting = Counting()
    numbered(scene([first_rows(5)], [BranchControl()])).run(attend=counting)
    assert counting.calls == [list(range(NUM_QUERIES)), list(range(5))]


def test_a_prompt_of_scale_zero_costs_nothing():
    counting = Counting()
    numbered(scene([None], [BranchControl(image_scale=0.0)])).run(attend=counting)
    assert counting.calls == [list(range(NUM_QUERIES))]


def test_a_base_is_asked_once_for_all_rows_and_the_text_never_again():
    base, attend = Counting(), Counting()
    made = numbered(scene([first_rows(5)], [BranchControl(text_share=0.0)]))
    made.run(attend=attend, base=base)
    assert base.calls == [list(range(NUM_QUERIES))]
    assert attend.calls == [list(range(5))]


def test_a_bases_own_output_is_left_alone():
    """It may be another pack's cached tensor."""
    made = scene([first_rows(5)], [BranchControl()])
    cached = made.plain()
    kept = cached.clone()
    made.run(base=lambda *_: cached)
    assert torch.equal(cached, kept)


@pytest.mark.parametrize(
    "control",
    [
        BranchControl(text_share=0.0),
        BranchControl(text_share=0.0, image_scale=0.0),
        BranchControl(text_share=0.0, image_scale=0.0, gate=Gate.QUERY),
        BranchControl(text_share=0.0, gate=Gate.QUERY),
    ],
)
def test_the_result_can_be_written_to(control):
    """Whoever comes next may add in place, which an expanded tensor refuses."""
    for mask in (None, first_rows(5)):
        made = scene([mask], [control])
        out = made.run()
        expected = made.expected() + 1.0
        assert_close(out.add_(1.0), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    rng = random.Random(7)
    for index in range(25):
        made = random_scene(rng, seed=500 + index)
        out = made.run(dtype)
        assert out.dtype == dtype
        assert_close(out, made.expected())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_precision_values_stay_finite(dtype):
    made = scene([first_rows(5)], [BranchControl(text_share=0.0, gate=Gate.QUERY)], tokens=64)
    loud = Scene(
        made.query, made.text, [(key, 3000 * value.abs()) for key, value in made.images], made.masks, made.controls
    )
    assert_close(loud.run(dtype), loud.expected())  # the sum of 64 values leaves fp16's range, their mean does not


def test_batch_is_per_item():
    rng = random.Random(8)
    for index in range(20):
        made = random_scene(rng, seed=700 + index)
        together = made.run()
        for item in range(together.shape[0]):
            one = slice(item, item + 1)
            text, *images = [(key[one], value[one]) for key, value in (made.text, *made.images)]
            alone = Scene(made.query[one], text, images, made.masks, made.controls)
            assert_close(together[one], alone.run())


def test_the_order_of_prompts_does_not_matter():
    made = random_scene(random.Random(9), seed=900)
    turned = Scene(made.query, made.text, made.images[::-1], made.masks[::-1], made.controls[::-1])
    assert_close(made.run(), turned.run())


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("text_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mask", [first_rows(2, 4), torch.tensor([0.0, 0.3, 0.8, 1.0])], ids=["hard", "soft"])
@pytest.mark.parametrize("with_base", [False, True])
def test_gradients(gate, text_share, mask, with_base):
    made = scene([mask], [BranchControl(0.6, text_share, gate)])
    plan = made.plan()

    def run(query, text_key, text_value, key, value):
        base = ATTEND if with_base else None
        return text_image_attention(query, (text_key, text_value), [(key, value)], made.controls, plan, ATTEND, base)

    inputs = [tensor.clone().requires_grad_() for tensor in (made.query, *made.text, *made.images[0])]
    assert torch.autograd.gradcheck(run, inputs)


def test_plan_moves_indices_and_soft_weights():
    masks: list[Tensor | None] = [torch.tensor([0.0, 0.5, 0.75, 1.0])]
    plan = plan_rows(masks, [BranchControl(text_share=0.0)], 4).to(CPU, torch.float16)
    rows = sorted(row for group in plan.groups for row in group.rows.tolist())
    assert rows == [0, 1, 2, 3]  # a partition
    soft = [weight for group in plan.groups for weight in (group.text.output,) if isinstance(weight, Tensor)]
    assert [weight.dtype for weight in soft] == [torch.float16]
    assert soft[0].flatten().tolist() == [0.5, 0.25]
    assert not plan.text_untouched
    assert plan_rows(masks, [BranchControl()], 4).text_untouched


def test_what_does_not_fit_is_refused_with_its_numbers():
    ones = torch.ones(NUM_QUERIES)
    with pytest.raises(ValueError, match="2 query masks for 1 image prompts: give one each"):
        plan_rows([ones, ones], [BranchControl()], NUM_QUERIES)
    with pytest.raises(ValueError, match=r"query mask is \(12,\), expected \(9,\)"):
        plan_rows([ones], [BranchControl()], 9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_share": 1.5}, r"text_share is 1.5, expected 0 \(no text in the region\) to 1"),
        ({"text_share": -0.1}, r"text_share is -0.1, expected 0 .* to 1"),
        ({"text_share": float("nan")}, r"text_share is nan, expected 0 .* to 1"),
        ({"image_scale": float("inf")}, "image_scale is inf, expected a finite number"),
        ({"image_scale": float("nan")}, "image_scale is nan, expected a finite number"),
        ({"gate": "both"}, r"gate is 'both', expected one of \['output', 'query'\]"),
    ],
)
def test_a_control_out_of_range_is_refused_with_its_number(values, message):
    with pytest.raises(ValueError, match=message):
        BranchControl(**values)


def test_a_gate_may_be_given_by_its_name():
    assert BranchControl(gate="query") == BranchControl(gate=Gate.QUERY)


@pytest.mark.parametrize("gate", list(Gate))
@pytest.mark.parametrize("text_share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("with_base", [False, True])
def test_images_with_plans_of_their_own_are_what_each_is_alone(gate, text_share, with_base):
    """Two chunks of three images: empty, half and soft regions. An empty one with all of the text is plain, bit for bit."""
    generator = torch.Generator().manual_seed(0)
    batch, rows, width, heads = 3, 12, 8, 2
    query = torch.randn(2 * batch, rows, width, generator=generator)
    text, image = ([torch.randn(2 * batch, n, width, generator=generator) for _ in range(2)] for n in (7, 4))
    masks = [torch.zeros(rows), (torch.arange(rows) < 5).float(), torch.rand(rows, generator=generator)]
    control = BranchControl(0.7, text_share, gate)
    plans = [plan_rows([mask], [control], rows).to(query.device, query.dtype) for mask in masks]
    attend = scaled_dot_product(heads)
    base = (lambda *qkv: 0.5 * attend(*qkv)) if with_base else None
    out = text_image_attention_by_image(query, tuple(text), [tuple(image)], [control], plans, attend, base)
    for index, plan in enumerate(plans):
        own = slice(index, None, batch)
        pairs = [tuple(tensor[own] for tensor in pair) for pair in (text, image)]
        alone = text_image_attention(query[own], pairs[0], [pairs[1]], [control], plan, attend, base)
        torch.testing.assert_close(out[own], alone)
    if gate is Gate.OUTPUT and text_share == 1.0:
        assert torch.equal(out[::batch], (base or attend)(query, *text)[::batch])


@dataclass(frozen=True)
class Batch:
    """Samples with masks, scales and text shares of their own. Gates belong to the prompts."""

    query: Tensor
    text: KeyValue
    images: list[KeyValue]
    masks: list[Tensor | None]  # (B, L)
    scales: list[Tensor]  # (B,)
    shares: list[Tensor]  # (B,)
    gates: list[Gate]

    def run(self, dtype: torch.dtype = torch.float64, base: Attend | None = None) -> Tensor:
        weights = sample_weights(self.masks, self.scales, self.shares, self.gates).to(CPU, dtype)
        text, *images = [tuple(t.to(dtype) for t in pair) for pair in (self.text, *self.images)]
        return text_image_attention_by_sample(self.query.to(dtype), text, images, weights, ATTEND, base)

    def each(self, base: Attend | None = None) -> Tensor:
        """Every sample by itself, with a plan of its own."""
        made = []
        for index in range(len(self.query)):
            own = slice(index, index + 1)
            masks = [None if mask is None else mask[index] for mask in self.masks]
            numbers = zip(self.scales, self.shares, self.gates, strict=True)
            controls = [BranchControl(float(scale[index]), float(share[index]), gate) for scale, share, gate in numbers]
            text, *images = [(key[own], value[own]) for key, value in (self.text, *self.images)]
            plan = plan_rows(masks, controls, self.query.shape[1])
            made.append(text_image_attention(self.query[own], text, images, controls, plan, ATTEND, base))
        return torch.cat(made)


def random_batch(rng: random.Random, seed: int, count: int = 5) -> Batch:
    prompts = rng.randint(1, 4)
    made = scene([torch.ones(NUM_QUERIES)] * prompts, [BranchControl()] * prompts, batch=count, seed=seed)

    def draw(*choices: float) -> list[Tensor]:
        return [torch.tensor([rng.choice(choices) for _ in range(count)], dtype=torch.float64) for _ in range(prompts)]

    def row(kind: str) -> list[float]:
        return [
            rng.random() if kind == "soft" else float(rng.random() < {"empty": 0, "full": 1}.get(kind, 0.5))
            for _ in range(NUM_QUERIES)
        ]

    kinds = ["hard", "soft", "empty", "full"]
    masks = [
        None
        if rng.random() < 0.2
        else torch.tensor([row(rng.choice(kinds)) for _ in range(count)], dtype=torch.float64)
        for _ in range(prompts)
    ]
    gates = [rng.choice(GATES) for _ in range(prompts)]
    scales, shares = draw(0.0, 1.0, 0.6, -0.5), draw(0.0, 0.3, 1.0)
    return Batch(made.query, made.text, made.images, masks, scales, shares, gates)


@pytest.mark.parametrize("part", range(4))
def test_by_sample_is_every_sample_by_itself(part):
    """1-4 prompts of both gates; per sample hard, soft, empty and full regions, scales and text shares."""
    rng = random.Random(part)
    other = scaled_dot_product(1)
    for index in range(25):
        made = random_batch(rng, seed=1000 * part + index)
        assert_close(made.run(), made.each())
        assert_close(made.run(base=other), made.each(base=other))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("text_share", [0.0, 0.4, 1.0])
def test_by_sample_is_by_image_where_the_controls_are_the_same(gate, text_share):
    """Two chunks of three images with regions of their own; one number for all samples."""
    made = scene([torch.ones(NUM_QUERIES)], [BranchControl()], batch=6, seed=3)
    masks = torch.stack([torch.zeros(NUM_QUERIES), first_rows(5).float(), ramp(NUM_QUERIES, low=0.0)])
    control = BranchControl(0.7, text_share, gate)
    plans = [plan_rows([mask], [control], NUM_QUERIES) for mask in masks]
    expected = text_image_attention_by_image(made.query, made.text, made.images, [control], plans, ATTEND)
    weights = sample_weights([masks.repeat(2, 1)], [0.7], [text_share], [gate])
    assert_close(text_image_attention_by_sample(made.query, made.text, made.images, weights, ATTEND), expected)


def test_by_sample_values_by_hand():
    """Every logit is 0, so each branch is its mean: text 1, image 10. A sample per text share, a column per mask."""
    query = torch.zeros(3, 2, 2, dtype=torch.float64)
    text, image = (torch.full((3, 4, 2), value, dtype=torch.float64) for value in (1.0, 10.0))
    mask, share = torch.tensor([[1.0, 0.25]]), torch.tensor([0.0, 0.5, 1.0])
    weights = sample_weights([mask], [torch.tensor([1.0, 1.0, 2.0])], [share], [Gate.OUTPUT])
    out = text_image_attention_by_sample(query, (text, text), [(image, image)], weights, scaled_dot_product(1))
    assert out[..., 0].tolist() == [[10.0, 3.25], [10.5, 3.375], [21.0, 6.0]]


def test_by_sample_one_mask_or_number_serves_all():
    made = random_batch(random.Random(4), seed=4)
    one = first_rows(4)[None]
    count = len(made.query)
    spread = sample_weights(
        [one.expand(count, -1)], [torch.full((count,), 0.6)], [torch.full((count,), 0.3)], [Gate.QUERY]
    )
    single = sample_weights([one], [0.6], [0.3], [Gate.QUERY])
    run = [
        text_image_attention_by_sample(made.query, made.text, made.images[:1], weights, ATTEND)
        for weights in (spread, single)
    ]
    assert_close(run[1], run[0].float().double(), dtype=torch.float32)  # 0.6 and 0.3 came in float32 there


@pytest.mark.parametrize("dtype", DTYPES)
def test_by_sample_a_sample_outside_every_region_is_plain_attention_bit_for_bit(dtype):
    made = scene([torch.ones(NUM_QUERIES)], [BranchControl()], batch=3)
    mask = torch.stack([torch.zeros(NUM_QUERIES), first_rows(5).float(), torch.zeros(NUM_QUERIES)])
    share, scale = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 1.0, -2.0])
    out = Batch(made.query, made.text, made.images, [mask], [scale], [share], [Gate.OUTPUT]).run(dtype)
    plain = ATTEND(made.query.to(dtype), *(tensor.to(dtype) for tensor in made.text))
    assert torch.equal(out[[0, 2]], plain[[0, 2]])
    assert torch.equal(out[1, 5:], plain[1, 5:])
    assert not torch.equal(out[1, :5], plain[1, :5])


def test_by_sample_branches_that_count_for_nobody_are_not_attended():
    counting = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        counting.append(key.shape[1])
        return ATTEND(query, key, value)

    made = scene([None, None], [BranchControl()] * 2)
    for scales, shares, expected in (
        ([0.0, 1.0], [1.0, 1.0], [5, 4]),
        ([1.0, 0.0], [0.0, 1.0], [3]),
        ([0.0, 0.0], [0.0, 1.0], []),
    ):
        counting.clear()
        weights = sample_weights([None, None], scales, shares, [Gate.OUTPUT] * 2)
        out = text_image_attention_by_sample(made.query, made.text, made.images, weights, attend)
        assert counting == expected
        assert out.shape == made.query.shape
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("with_base", [False, True])
def test_by_sample_gradients(gate, with_base):
    """In everything a training could want to learn: queries, keys, values, scales, text shares and regions."""
    made = scene([torch.ones(3), torch.ones(3)], [BranchControl()] * 2, batch=2, tokens=2)
    mask = torch.tensor([[0.1, 0.3, 0.6], [0.2, 0.4, 0.7]], dtype=torch.float64)
    scale, share = torch.tensor([0.6, 1.2], dtype=torch.float64), torch.tensor([0.3, 0.8], dtype=torch.float64)

    def run(query, text_key, text_value, key, value, mask, scale, share):
        weights = sample_weights([mask, None], [scale, 0.5], [share, 0.9], [gate, Gate.OUTPUT])
        base = ATTEND if with_base else None
        images = [(key, value), made.images[1]]
        return text_image_attention_by_sample(query, (text_key, text_value), images, weights, ATTEND, base)

    inputs = [
        tensor.clone().requires_grad_() for tensor in (made.query, *made.text, *made.images[0], mask, scale, share)
    ]
    assert torch.autograd.gradcheck(run, inputs)


def test_sample_weights_need_one_of_each():
    with pytest.raises(ValueError, match="1 query masks, 2 image scales, 1 text shares and 1 gates: give one of each"):
        sample_weights([None], [1.0, 1.0], [1.0], [Gate.OUTPUT])
