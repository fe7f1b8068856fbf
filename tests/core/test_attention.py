"""attention: the structured computation against the explicit formula, and what it costs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.attention.control import Attend, Gate, KeysValues, PromptControl
from pfv_mepa.pfv_core.attention.formula import scaled_dot_product, text_image_attention
from pfv_mepa.pfv_core.attention.general import general_attention, sample_weights
from pfv_mepa.pfv_core.attention.plan import RowPlan, plan_rows

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
    controls: list[PromptControl]

    def plan(self, dtype: torch.dtype = torch.float64) -> RowPlan:
        return plan_rows(self.masks, self.controls, self.query.shape[1]).to(CPU, dtype)

    def run(self, dtype: torch.dtype = torch.float64, attend: Attend = ATTEND, base: Attend | None = None) -> Tensor:
        text, *images = [tuple(t.to(dtype) for t in pair) for pair in (self.text, *self.images)]
        return text_image_attention(self.query.to(dtype), text, images, [self.plan(dtype)], attend, base)

    def plain(self) -> Tensor:
        return ATTEND(self.query, *self.text)

    def expected(self) -> np.ndarray:
        return np.stack([self.expected_of(sample) for sample in range(len(self.query))])

    def expected_of(self, sample: int, text_heads: int = HEADS) -> np.ndarray:
        masks = [np.ones(self.query.shape[1]) if mask is None else mask.double().numpy() for mask in self.masks]
        prompts = [(control.image_scale, control.text_share, control.gate.value) for control in self.controls]
        text, *images = [tuple(t[sample].numpy() for t in pair) for pair in (self.text, *self.images)]
        query = self.query[sample].numpy()
        return reference.text_image_attention(query, text, images, masks, prompts, HEADS, text_heads)


def scene(
    masks: list[Tensor | None], controls: list[PromptControl], batch: int = 1, seed: int = 0, tokens: int = 3
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


def random_mask(rng: random.Random) -> Tensor | None:
    kind = rng.choice(["hard", "hard", "soft", "mixed", "empty", "full", "none"])
    share_of_soft = {"soft": 1.0, "mixed": 0.3}.get(kind, 0.0)
    ones = {"empty": 0.0, "full": 1.0}.get(kind, 0.5)
    values = [rng.random() if rng.random() < share_of_soft else rng.random() < ones for _ in range(NUM_QUERIES)]
    return None if kind == "none" else torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Mixed:
    """Samples whose regions, scales and text shares may differ; gates belong to the prompts."""

    layouts: list[Scene]  # of the same tensors
    order: list[int]  # the layouts of samples i, i + len(order), ...
    kept: bool  # the images' keys and values come as a caller keeps them

    @property
    def samples(self) -> list[Scene]:
        """The layout of each."""
        copies = len(self.layouts[0].query) // len(self.order)
        return [self.layouts[index] for index in self.order * copies]

    def fast(self, dtype: torch.dtype = torch.float64, base: Attend | None = None) -> Tensor:
        plans = [layout.plan(dtype) for layout in self.layouts]
        return text_image_attention(*self._tensors(dtype), [plans[index] for index in self.order], ATTEND, base)

    def general(self, dtype: torch.dtype = torch.float64, base: Attend | None = None) -> Tensor:
        """One number for all samples where they agree, else one each; the same of masks."""
        of_prompts = range(len(self.layouts[0].controls))

        def mask_of(prompt: int) -> Tensor | None:
            masks = [sample.masks[prompt] for sample in self.samples]
            if all(mask is None for mask in masks):
                return None
            each = torch.stack([torch.ones(NUM_QUERIES) if mask is None else mask for mask in masks])
            return each[:1] if len(self.layouts) == 1 else each

        def control_of(prompt: int) -> PromptControl:
            controls = [sample.controls[prompt] for sample in self.samples]
            if all(control == controls[0] for control in controls):
                return controls[0]
            numbers = [(control.image_scale, control.text_share) for control in controls]
            return PromptControl(*torch.tensor(numbers, dtype=torch.float64).T, controls[0].gate)

        weights = sample_weights([mask_of(i) for i in of_prompts], [control_of(i) for i in of_prompts])
        return general_attention(*self._tensors(dtype), weights.to(CPU, dtype), ATTEND, base)

    def expected(self, text_heads: int = HEADS) -> np.ndarray:
        return np.stack([layout.expected_of(sample, text_heads) for sample, layout in enumerate(self.samples)])

    def _tensors(self, dtype: torch.dtype) -> tuple[Tensor, KeyValue, list[KeyValue | KeysValues]]:
        made = self.layouts[0]
        text, *images = [(key.to(dtype), value.to(dtype)) for key, value in (made.text, *made.images)]
        return made.query.to(dtype), text, [kept(*pair) if self.kept else pair for pair in images]


def kept(key: Tensor, value: Tensor) -> KeysValues:
    """The same keys and values, the last sample's first."""
    backwards = torch.arange(len(key)).flip(0)
    return KeysValues(key.flip(0), value.flip(0), value.flip(0).mean(1, keepdim=True), backwards)


ORDERS = {
    "one for all": [0],
    "the same one twice": [0, 0],
    "one for each image": [0, 1, 2],
    "irregular": [0, 1, 1, 0, 2, 1],
}


def random_mixed(rng: random.Random, seed: int, order: list[int], copies: int) -> Mixed:
    gates = [rng.choice(GATES) for _ in range(rng.randint(1, 4))]
    made = scene([torch.ones(NUM_QUERIES) for _ in gates], [], batch=copies * len(order), seed=seed)

    def layout() -> Scene:
        controls = [
            PromptControl(rng.choice([0.0, 1.0, 0.6, -0.5]), rng.choice([0.0, 0.3, 1.0]), gate) for gate in gates
        ]
        return Scene(made.query, made.text, made.images, [random_mask(rng) for _ in gates], controls)

    return Mixed([layout() for _ in range(max(order) + 1)], order, rng.choice([False, True]))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("copies", [1, 2])
def test_both_evaluators_are_the_explicit_formula(order, copies):
    """1-4 prompts, hard, soft and mixed regions, both gates at once; the text's attention our own and another's."""
    rng = random.Random(10 * len(order) + copies)
    for index in range(30):
        made = random_mixed(rng, 1000 * copies + index, order, copies)
        for base, text_heads in ((None, HEADS), (scaled_dot_product(1), 1)):
            expected = made.expected(text_heads)
            assert_close(made.fast(base=base), expected)
            assert_close(made.general(base=base), expected)


def test_the_formula_holds_eq4_and_eq6():
    """The reference itself: its general form is each printed equation."""
    made = scene([first_rows(5)], [PromptControl()])
    query, mask = made.query[0].numpy(), first_rows(5).numpy()
    text, image = (tuple(t[0].numpy() for t in pair) for pair in (made.text, made.images[0]))
    general = reference.text_image_attention
    eq4 = reference.eq4(query, text, image, 0.6, HEADS)
    eq6 = reference.eq6(query, text, image, mask, HEADS)
    everywhere = np.ones(NUM_QUERIES)
    assert np.allclose(general(query, text, [image], [everywhere], [(0.6, 1.0, "output")], HEADS), eq4, atol=1e-14)
    assert np.allclose(general(query, text, [image], [mask], [(1.0, 0.0, "query")], HEADS), eq6, atol=1e-14)


def test_eq4_without_a_region():
    made = scene([None], [PromptControl(image_scale=0.6)], batch=3)
    image = ATTEND(made.query, *made.images[0])
    assert_close(made.run(), made.plain() + 0.6 * image)


def test_eq6_as_printed_with_a_hard_and_a_soft_mask():
    for mask in (first_rows(5), torch.linspace(0, 1, NUM_QUERIES, dtype=torch.float64)):
        made = scene([mask], [PromptControl(text_share=0.0, gate=Gate.QUERY)])
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
        plan = plan_rows([mask], [PromptControl(text_share=share)], 4).to(CPU, torch.float32)
        out = text_image_attention(query, text, [image], [plan], scaled_dot_product(1))
        assert out[0, :, 0].tolist() == expected


def test_a_query_multiplied_by_zero_gives_the_mean_of_the_values():
    query = torch.zeros(1, NUM_QUERIES, WIDTH, dtype=torch.float64)
    key, value = (noise(1, 5, WIDTH, seed=seed, dtype=torch.float64) for seed in (1, 2))
    assert_close(ATTEND(query, key, value), value.mean(1, keepdim=True).expand(-1, NUM_QUERIES, -1))


@pytest.mark.parametrize("text_share", [0.0, 1.0])
def test_the_query_gate_leaks_the_mean_value_and_the_output_gate_nothing(text_share):
    mask = first_rows(5)
    query_gated = scene([mask], [PromptControl(0.6, text_share, Gate.QUERY)])
    output_gated = scene([mask], [PromptControl(0.6, text_share, Gate.OUTPUT)])
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
    made = scene([empty, empty], [PromptControl(text_share=text_share), PromptControl(0.6, text_share)], batch=3)
    plain = ATTEND(made.query.to(dtype), *(t.to(dtype) for t in made.text))
    assert torch.equal(made.run(dtype), plain)
    assert torch.equal(made.run(dtype, base=ATTEND), plain)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("mask", [None, first_rows(5), torch.linspace(0, 1, NUM_QUERIES)], ids=["none", "hard", "soft"])
def test_scale_zero_with_all_of_the_text_is_plain_attention_bit_for_bit(gate, mask):
    made = scene([mask, mask], [PromptControl(0.0, 1.0, gate)] * 2, batch=3)
    assert torch.equal(made.run(), made.plain())
    assert torch.equal(made.run(base=ATTEND), made.plain())


def test_rows_outside_every_region_are_plain_attention_bit_for_bit_while_text_is_untouched():
    made = scene([first_rows(5), first_rows(7)], [PromptControl(), PromptControl(0.6)])
    for out in (made.run(), made.run(base=ATTEND)):
        assert torch.equal(out[:, 7:], made.plain()[:, 7:])
        assert not torch.equal(out[:, :7], made.plain()[:, :7])


def test_a_partition_of_the_frame_leaves_no_text():
    masks: list[Tensor | None] = [first_rows(5), first_rows(9) - first_rows(5), 1 - first_rows(9)]
    controls = [PromptControl(text_share=0.0) for _ in masks]
    made = scene(masks, controls)
    other_text = Scene(made.query, (made.text[0] + 1, made.text[1] * 3), made.images, masks, controls)
    assert torch.equal(made.run(), other_text.run())
    soft: list[Tensor | None] = [torch.full((NUM_QUERIES,), share, dtype=torch.float64) for share in (0.25, 0.5, 0.25)]
    made, other_text = (Scene(s.query, s.text, s.images, soft, controls) for s in (made, other_text))
    assert torch.equal(made.run(), other_text.run())


def test_the_texts_weight_is_never_negative_where_regions_overlap():
    made = scene([first_rows(8), first_rows(6)], [PromptControl(text_share=0.0), PromptControl(text_share=0.3)])
    images = [ATTEND(made.query, *pair) for pair in made.images]
    assert_close(made.run()[:, :6], (images[0] + images[1])[:, :6])


def test_all_of_the_frame_is_the_image_alone():
    made = scene([None], [PromptControl(text_share=0.0)])
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
    numbered(scene([first_rows(image_rows)], [PromptControl(text_share=0.0, gate=gate)])).run(attend=counting)
    assert counting.rows == Counter(range(NUM_QUERIES))


def test_disjoint_hard_regions_without_text_attend_each_row_once():
    rng = random.Random(5)
    for index in range(40):
        owner = torch.tensor([rng.randint(0, 3) for _ in range(NUM_QUERIES)])  # 3 = nobody's
        masks: list[Tensor | None] = [(owner == number).double() for number in range(3)]
        controls = [PromptControl(1.0, 0.0, rng.choice(GATES)) for _ in masks]
        counting = Counting()
        made = numbered(scene(masks, controls, seed=index))
        out = made.run(attend=counting)
        # A text query that one prompt's gate took to 0 in a row leaves its mean, never a second attention.
        assert counting.rows == Counter(range(NUM_QUERIES)), (owner, controls)
        assert_close(out, made.expected())


def test_rows_outside_the_region_are_not_attended_by_the_image():
    counting = Counting()
    numbered(scene([first_rows(5)], [PromptControl()])).run(attend=counting)
    assert counting.calls == [list(range(NUM_QUERIES)), list(range(5))]


def test_a_prompt_of_scale_zero_costs_nothing():
    counting = Counting()
    numbered(scene([None], [PromptControl(image_scale=0.0)])).run(attend=counting)
    assert counting.calls == [list(range(NUM_QUERIES))]


def test_a_base_is_asked_once_for_all_rows_and_the_text_never_again():
    base, attend = Counting(), Counting()
    made = numbered(scene([first_rows(5)], [PromptControl(text_share=0.0)]))
    made.run(attend=attend, base=base)
    assert base.calls == [list(range(NUM_QUERIES))]
    assert attend.calls == [list(range(5))]


def test_a_bases_own_output_is_left_alone():
    """It may be another pack's cached tensor."""
    made = scene([first_rows(5)], [PromptControl()])
    cached = made.plain()
    kept = cached.clone()
    made.run(base=lambda *_: cached)
    assert torch.equal(cached, kept)


@pytest.mark.parametrize(
    "control",
    [
        PromptControl(text_share=0.0),
        PromptControl(text_share=0.0, image_scale=0.0),
        PromptControl(text_share=0.0, image_scale=0.0, gate=Gate.QUERY),
        PromptControl(text_share=0.0, gate=Gate.QUERY),
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
        made = random_mixed(rng, 500 + index, rng.choice([*ORDERS.values()]), 1)
        expected = made.expected()
        for out in (made.fast(dtype), made.general(dtype)):
            assert out.dtype == dtype
            assert_close(out, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_precision_values_stay_finite(dtype):
    made = scene([first_rows(5)], [PromptControl(text_share=0.0, gate=Gate.QUERY)], tokens=64)
    loud = Scene(
        made.query, made.text, [(key, 3000 * value.abs()) for key, value in made.images], made.masks, made.controls
    )
    assert_close(loud.run(dtype), loud.expected())  # the sum of 64 values leaves fp16's range, their mean does not


def test_the_order_of_prompts_does_not_matter():
    (made,) = random_mixed(random.Random(9), 900, [0], 1).layouts
    assert len(made.images) > 1
    turned = Scene(made.query, made.text, made.images[::-1], made.masks[::-1], made.controls[::-1])
    assert_close(made.run(), turned.run())


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("text_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mask", [first_rows(2, 4), torch.tensor([0.0, 0.3, 0.8, 1.0])], ids=["hard", "soft"])
@pytest.mark.parametrize("with_base", [False, True])
def test_gradients(gate, text_share, mask, with_base):
    made = scene([mask], [PromptControl(0.6, text_share, gate)])
    plan = made.plan()

    def run(query, text_key, text_value, key, value):
        base = ATTEND if with_base else None
        return text_image_attention(query, (text_key, text_value), [(key, value)], [plan], ATTEND, base)

    inputs = [tensor.clone().requires_grad_() for tensor in (made.query, *made.text, *made.images[0])]
    assert torch.autograd.gradcheck(run, inputs)


def test_plan_moves_indices_and_soft_weights():
    masks: list[Tensor | None] = [torch.tensor([0.0, 0.5, 0.75, 1.0])]
    plan = plan_rows(masks, [PromptControl(text_share=0.0)], 4).to(CPU, torch.float16)
    rows = sorted(row for group in plan.groups for row in group.rows.tolist())
    assert rows == [0, 1, 2, 3]  # a partition
    soft = [weight for group in plan.groups for weight in (group.text.output,) if isinstance(weight, Tensor)]
    assert [weight.dtype for weight in soft] == [torch.float16]
    assert soft[0].flatten().tolist() == [0.5, 0.25]
    assert not plan.text_untouched
    assert plan_rows(masks, [PromptControl()], 4).text_untouched


def test_what_does_not_fit_is_refused_with_its_numbers():
    ones = torch.ones(NUM_QUERIES)
    with pytest.raises(ValueError, match="2 query masks for 1 image prompts: give one each"):
        plan_rows([ones, ones], [PromptControl()], NUM_QUERIES)
    with pytest.raises(ValueError, match=r"query mask is \(12,\), expected \(9,\)"):
        plan_rows([ones], [PromptControl()], 9)
    for control in (
        PromptControl(std_norm=True),
        PromptControl(image_scale=torch.ones(1)),
        PromptControl(text_share=torch.ones(1)),
    ):
        with pytest.raises(ValueError, match="has no row plan: use general_attention"):
            plan_rows([ones], [control], NUM_QUERIES)
    with pytest.raises(ValueError, match="1 query masks for 2 image prompts: give one each"):
        sample_weights([None], [PromptControl()] * 2)
    made = scene([ones], [PromptControl(text_share=0.5, gate=Gate.QUERY)], batch=3)
    for plans in ([], [made.plan()] * 2):
        for base in (None, ATTEND):
            message = f"{len(plans)} region layouts for a batch of 3: give one, or as many as it divides by"
            with pytest.raises(ValueError, match=message):
                text_image_attention(made.query, made.text, made.images, plans, ATTEND, base)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_share": 1.5}, r"text_share is 1.5, expected 0 \(no text in the region\) to 1"),
        ({"text_share": -0.1}, r"text_share is -0.1, expected 0 .* to 1"),
        ({"text_share": float("nan")}, r"text_share is nan, expected 0 .* to 1"),
        ({"image_scale": float("inf")}, "image_scale is inf, expected a finite number"),
        ({"image_scale": float("nan")}, "image_scale is nan, expected a finite number"),
        ({"text_share": torch.tensor([0.5, float("nan")])}, r"text_share is tensor.* expected 0 .* to 1"),
        ({"image_scale": torch.tensor([0.5, float("inf")])}, "image_scale is tensor.* expected a finite number"),
        ({"image_scale": torch.ones(2, 1)}, r"image_scale is \(2, 1\), expected one number or \(B,\)"),
        ({"text_share": torch.tensor(0.5)}, r"text_share is \(\), expected one number or \(B,\)"),
        ({"gamma": 0.0}, "gamma is 0.0, expected more than 0 timesteps"),
        ({"gate": "both"}, r"gate is 'both', expected one of \['output', 'query'\]"),
    ],
)
def test_a_control_out_of_range_is_refused_with_its_number(values, message):
    with pytest.raises(ValueError, match=message):
        PromptControl(**values)


def test_a_gate_may_be_given_by_its_name():
    assert PromptControl(gate="query") == PromptControl(gate=Gate.QUERY)


@pytest.mark.parametrize("mask", [first_rows(5), torch.linspace(0, 1, NUM_QUERIES)], ids=["hard", "soft"])
@pytest.mark.parametrize("gate", GATES)
def test_kept_keys_and_values_serve_one_scale_after_the_other(gate, mask):
    made = scene([mask], [PromptControl()], batch=3)
    images = [kept(*made.images[0])]
    for scale in (0.6, -0.5, 1.0, 0.6):
        plan = plan_rows([mask], [PromptControl(scale, 0.0, gate)], NUM_QUERIES)
        outs = [text_image_attention(made.query, made.text, i, [plan], ATTEND) for i in (images, made.images)]
        assert_close(*outs)


# --- plans of their own for the samples of a batch


def attended(
    made: Scene, plans: list[RowPlan], base: Attend | None = None
) -> tuple[Tensor, list[tuple[str, list[int]]]]:
    """The output, and of every attention whose it was and for which samples; every query is its sample's number."""
    calls: list[tuple[str, list[int]]] = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        calls.append(("text" if key.shape[1] == made.text[0].shape[1] else "image", query[:, 0, 0].int().tolist()))
        return ATTEND(query, key, value)

    query = torch.arange(len(made.query), dtype=torch.float64)[:, None, None].expand_as(made.query)
    return text_image_attention(query, made.text, made.images, plans, attend, base), calls


def test_samples_of_one_plan_are_attended_together_where_they_are_evenly_spaced():
    made = scene([None], [PromptControl(text_share=0.0)], batch=6)
    a, b, c = (made.plan() for _ in range(3))  # alike, but not the same object
    for plans, expected in (
        ([a], [[0, 1, 2, 3, 4, 5]]),
        ([a, a], [[0, 1, 2, 3, 4, 5]]),
        ([a, b], [[0, 2, 4], [1, 3, 5]]),
        ([a, b, c], [[0, 3], [1, 4], [2, 5]]),
        ([a, b, b], [[0, 3], [1], [2], [4], [5]]),
        ([a, a, a, b, b, b], [[0, 1, 2], [3, 4, 5]]),
        ([a, b, b, a, c, b], [[0, 3], [1], [2], [5], [4]]),
    ):
        out, calls = attended(made, plans)
        assert calls == [("image", samples) for samples in expected]
        assert_close(out, attended(made, [a])[0])


@pytest.mark.parametrize("with_base", [False, True])
def test_the_text_of_all_samples_is_attended_in_one_call(with_base):
    """By whoever computes it; samples with an empty region are its own bits."""
    base = scaled_dot_product(1) if with_base else None
    made = scene([first_rows(5)], [PromptControl()], batch=6)
    empty = scene([first_rows(0)], [PromptControl()]).plan()
    out, calls = attended(made, [made.plan(), empty, empty, made.plan(), empty, empty], base)
    everyone = [] if with_base else [("text", [0, 1, 2, 3, 4, 5])]
    assert calls == [*everyone, ("image", [0]), ("image", [3])]
    query = torch.arange(6, dtype=torch.float64)[:, None, None].expand_as(made.query)
    same = (out == (base or ATTEND)(query, *made.text)).all(-1)
    assert same[[1, 2, 4, 5]].all()
    assert not same[[0, 3], :5].any()
    assert same[[0, 3], 5:].all()


def test_the_text_a_gate_takes_from_is_each_plans_own_in_the_one_call():
    """A base sees every sample's query times what its own plan leaves of it."""
    made = scene([first_rows(5)], [PromptControl(text_share=0.3, gate=Gate.QUERY)], batch=4)
    whole = scene([None], [PromptControl(text_share=0.5, gate=Gate.QUERY)]).plan()
    seen: list[Tensor] = []

    def base(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen.append(query / made.query)
        return ATTEND(query, key, value)

    text_image_attention(made.query, made.text, made.images, [made.plan(), whole], ATTEND, base)
    (left,) = seen
    assert_close(left[::2, :5], torch.full_like(left[::2, :5], 0.3))
    assert_close(left[::2, 5:], torch.ones_like(left[::2, 5:]))
    assert_close(left[1::2], torch.full_like(left[1::2], 0.5))


# --- the general form


def test_general_values_by_hand():
    """Every logit is 0, so each term is its mean: text 1, image 10. A sample per text share, a column per mask."""
    query = torch.zeros(3, 2, 2, dtype=torch.float64)
    text, image = (torch.full((3, 4, 2), value, dtype=torch.float64) for value in (1.0, 10.0))
    mask, share = torch.tensor([[1.0, 0.25]]), torch.tensor([0.0, 0.5, 1.0])
    weights = sample_weights([mask], [PromptControl(torch.tensor([1.0, 1.0, 2.0]), share)])
    out = general_attention(query, (text, text), [(image, image)], weights, scaled_dot_product(1))
    assert out[..., 0].tolist() == [[10.0, 3.25], [10.5, 3.375], [21.0, 6.0]]


def test_one_mask_or_number_serves_all_samples():
    made, one = scene([None], [], batch=5), first_rows(4)[None]
    single = sample_weights([one], [PromptControl(0.5, 0.25, Gate.QUERY)])
    each = PromptControl(torch.full((5,), 0.5), torch.full((5,), 0.25), Gate.QUERY)
    spread = sample_weights([one.expand(5, -1)], [each])
    outs = [general_attention(made.query, made.text, made.images, weights, ATTEND) for weights in (single, spread)]
    assert torch.equal(*outs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_general_a_sample_outside_every_region_is_plain_attention_bit_for_bit(dtype):
    made = scene([torch.ones(NUM_QUERIES)], [PromptControl()], batch=3)
    mask = torch.stack([torch.zeros(NUM_QUERIES), first_rows(5).float(), torch.zeros(NUM_QUERIES)])
    share, scale = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([1.0, 1.0, -2.0])
    weights = sample_weights([mask], [PromptControl(scale, share)]).to(CPU, dtype)
    query, text, *images = (
        made.query.to(dtype),
        *(tuple(tensor.to(dtype) for tensor in pair) for pair in (made.text, *made.images)),
    )
    out = general_attention(query, text, images, weights, ATTEND)
    plain = ATTEND(query, *text)
    assert torch.equal(out[[0, 2]], plain[[0, 2]])
    assert torch.equal(out[1, 5:], plain[1, 5:])
    assert not torch.equal(out[1, :5], plain[1, :5])


def test_general_terms_that_count_for_nobody_are_not_attended():
    counting = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        counting.append(key.shape[1])
        return ATTEND(query, key, value)

    made = scene([None, None], [PromptControl()] * 2)
    for scales, shares, expected in (
        ([0.0, 1.0], [1.0, 1.0], [5, 4]),
        ([1.0, 0.0], [0.0, 1.0], [3]),
        ([0.0, 0.0], [0.0, 1.0], []),
    ):
        counting.clear()
        controls = [PromptControl(*numbers) for numbers in zip(scales, shares, strict=True)]
        weights = sample_weights([None, None], controls)
        out = general_attention(made.query, made.text, made.images, weights, attend)
        assert counting == expected
        assert out.shape == made.query.shape
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("with_base", [False, True])
def test_general_gradients(gate, with_base):
    """In everything a training could want to learn: queries, keys, values, scales, text shares and regions."""
    made = scene([torch.ones(3), torch.ones(3)], [PromptControl()] * 2, batch=2, tokens=2)
    mask = torch.tensor([[0.1, 0.3, 0.6], [0.2, 0.4, 0.7]], dtype=torch.float64)
    scale, share = torch.tensor([0.6, 1.2], dtype=torch.float64), torch.tensor([0.3, 0.8], dtype=torch.float64)

    def run(query, text_key, text_value, key, value, mask, scale, share):
        weights = sample_weights([mask, None], [PromptControl(scale, share, gate), PromptControl(0.5, 0.9)])
        base = ATTEND if with_base else None
        images = [(key, value), made.images[1]]
        return general_attention(query, (text_key, text_value), images, weights, ATTEND, base)

    inputs = [
        tensor.clone().requires_grad_() for tensor in (made.query, *made.text, *made.images[0], mask, scale, share)
    ]
    assert torch.autograd.gradcheck(run, inputs)
