"""balance: Eq. 8, 9 and 10 against float64 NumPy, and what happens where they are not defined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.attention.balance import check_gamma, std_ratio, time_weight, to_std_of
from pfv_mepa.pfv_core.attention.control import Gate, PromptControl
from pfv_mepa.pfv_core.attention.formula import scaled_dot_product, text_image_attention
from pfv_mepa.pfv_core.attention.general import general_attention, sample_weights
from pfv_mepa.pfv_core.attention.plan import plan_rows

from . import reference
from .tolerances import DTYPES, assert_close
from .weights import noise

HEADS, WIDTH, ROWS, BATCH = 2, 8, 12, 3
ATTEND = scaled_dot_product(HEADS)
GATES = list(Gate)


def first_rows(count: int) -> Tensor:
    return (torch.arange(ROWS) < count).double()


def tensors(count: int, seed: int) -> tuple[Tensor, Tensor]:
    key, value = (noise(BATCH, count, WIDTH, seed=seed + number, dtype=torch.float64) for number in range(2))
    return key, 3.0 * value + 0.5


QUERY = 2.0 * noise(BATCH, ROWS, WIDTH, seed=1, dtype=torch.float64)
TEXT, IMAGES = tensors(5, 2), [tensors(3, 10), tensors(4, 20)]


def run(
    masks: list[Tensor | None], controls: list[PromptControl], dtype: torch.dtype = torch.float64, **options
) -> Tensor:
    made = [None if mask is None else mask.view(-1, ROWS) for mask in masks]
    weights = sample_weights(made, controls).to(torch.device("cpu"), dtype)
    text, *images = [tuple(tensor.to(dtype) for tensor in pair) for pair in (TEXT, *IMAGES[: len(masks)])]
    return general_attention(QUERY.to(dtype), text, images, weights, ATTEND, **options)


def expected(masks: list[Tensor | None], controls: list[PromptControl]) -> np.ndarray:
    """Eq. 8 and 9 with everything written out, one sample at a time."""
    out = []
    for item in range(BATCH):
        query, text, *images = (
            QUERY[item].numpy(),
            *([tensor[item].numpy() for tensor in pair] for pair in (TEXT, *IMAGES[: len(masks)])),
        )
        taken = {gate: np.zeros((ROWS, 1)) for gate in GATES}
        plain, added = reference.attention(query, *text, HEADS), np.zeros((ROWS, WIDTH))
        for image, mask, control in zip(images, masks, controls, strict=True):
            region = np.ones((ROWS, 1)) if mask is None else mask.view(-1, ROWS)[item % len(mask.view(-1, ROWS))]
            region = np.asarray(region, dtype=float).reshape(ROWS, 1)
            taken[control.gate] += (1 - control.text_share) * region
            gated = region if control.gate is Gate.QUERY else np.ones((ROWS, 1))
            term = reference.attention(gated * query, *image, HEADS)
            if control.std_norm:
                term = term / reference.weighted_std(term, region) * reference.weighted_std(plain, region)
            added += control.image_scale * (region if control.gate is Gate.OUTPUT else 1.0) * term
        left = {gate: np.maximum(0, 1 - weight) for gate, weight in taken.items()}
        out.append(left[Gate.OUTPUT] * reference.attention(left[Gate.QUERY] * query, *text, HEADS) + added)
    return np.stack(out)


MASKS: list[Tensor | None] = [
    None,
    first_rows(5),
    torch.linspace(0, 1, ROWS, dtype=torch.float64),
    torch.stack([first_rows(4), first_rows(7), torch.linspace(1, 0, ROWS, dtype=torch.float64)]),
]


@pytest.mark.parametrize("mask", MASKS, ids=["everywhere", "hard", "soft", "one each"])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("text_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("normalised", [[True], [True, False], [True, True]], ids=str)
def test_eq8_and_eq9_are_the_explicit_formula(mask, gate, text_share, normalised):
    controls = [PromptControl(0.6, text_share, gate), PromptControl(-0.5, 0.8, Gate.QUERY)]
    controls = [replace(control, std_norm=norm) for control, norm in zip(controls, normalised, strict=False)]
    masks = [mask, first_rows(9)][: len(normalised)]
    assert_close(run(masks, controls), expected(masks, controls))


def test_numbers_for_each_sample_are_those_of_the_sample_alone():
    """Region, scale and text share are one for each; a scale of 0 leaves the text alone."""
    scales, shares = torch.tensor([0.5, 0.0, -1.0]), torch.tensor([0.25, 1.0, 0.0])
    out = run([MASKS[3]], [PromptControl(scales, shares, std_norm=True)])
    for item, (scale, share) in enumerate(zip(scales.tolist(), shares.tolist(), strict=True)):
        alone = expected([MASKS[3]], [PromptControl(scale, share, std_norm=True)])
        assert_close(out[item], alone[item])
    assert torch.equal(out[1], ATTEND(QUERY, *TEXT)[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    controls = [PromptControl(0.6, 0.3, std_norm=True), PromptControl(0.4, 1.0, Gate.QUERY, std_norm=True)]
    out = run([first_rows(5), None], controls, dtype)
    assert out.dtype == dtype
    assert_close(out, expected([first_rows(5), None], controls))


def test_the_term_has_the_texts_deviation():
    text, image = ATTEND(QUERY, *TEXT), 7.0 * ATTEND(QUERY, *IMAGES[0]) + 2.0
    brought = image * std_ratio(text, image)
    assert_close(brought.std((1, 2)), text.std((1, 2)))
    assert_close(std_ratio(text, 5.0 * image), std_ratio(text, image) / 5.0)  # the adapter's own size is gone
    assert (image.std((1, 2)) > 2 * text.std((1, 2))).all()


def test_values_by_hand():
    """Text -1, 1 and image 0, 10: deviations 1 and 5. In the first row alone they are 3 and 2."""
    text = torch.tensor([[[2.0, -4.0], [-1.0, 1.0]]], dtype=torch.float64)
    image = torch.tensor([[[4.0, 8.0], [0.0, 10.0]]], dtype=torch.float64)
    rows = torch.tensor([[[0.0], [1.0]], [[1.0], [0.0]], [[0.5], [0.0]]])
    assert std_ratio(text, image, rows[:1]).tolist() == [[[pytest.approx(0.2)]]]
    assert std_ratio(text, image, rows[1:2]).tolist() == [[[pytest.approx(1.5)]]]
    assert std_ratio(text, image, rows[2:]).tolist() == [[[pytest.approx(1.5)]]]  # half a row alone counts as that row


def test_queries_outside_the_region_do_not_count():
    text, image = ATTEND(QUERY, *TEXT), ATTEND(QUERY, *IMAGES[0])
    region = first_rows(5)[None, :, None]
    before = std_ratio(text, image, region)
    text[:, 5:], image[:, 5:] = 100.0, -100.0
    assert torch.equal(std_ratio(text, image, region), before)
    assert not torch.allclose(std_ratio(text, image), before)


def test_images_of_a_batch_do_not_depend_on_each_other():
    text, image = ATTEND(QUERY, *TEXT), ATTEND(QUERY, *IMAGES[0])
    together = std_ratio(text, image)
    for item in range(BATCH):
        assert_close(std_ratio(text[item : item + 1], image[item : item + 1]), together[item : item + 1])
    assert together.flatten().unique().numel() == BATCH


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
def test_a_constant_term_stays_as_it_is(dtype):
    """Eq. 8 divides by 0 there; rounding must not be blown up to the text's size either."""
    text = ATTEND(QUERY, *TEXT).to(dtype)
    for value in (0.0, 0.1, 37.3):
        assert std_ratio(text, torch.full_like(text, value)).flatten().tolist() == [1.0] * BATCH
    constant = torch.full_like(text, 0.1)
    assert std_ratio(constant.float(), ATTEND(QUERY, *TEXT).float()).abs().max() < 1e-6
    assert std_ratio(text, text, torch.zeros(1, ROWS, 1)).flatten().tolist() == [1.0] * BATCH  # an empty region


def test_half_precision_is_measured_in_float32():
    """Squares of 400 leave fp16's range, and so does the ratio to a faint image, whose term then fits it."""
    text = ATTEND(QUERY, *TEXT)
    assert_close(std_ratio((400 * text).half(), text.half()), torch.full((BATCH, 1, 1), 400.0), dtype=torch.float16)
    faint = (1e-4 * text).half()
    assert float(std_ratio((400 * text).half(), faint).max()) > 65504
    brought = to_std_of((400 * text).half(), faint)
    assert brought.dtype == torch.float16
    assert_close(brought.float() / 400, text, dtype=torch.float16)


@pytest.mark.parametrize("gate", GATES)
def test_rows_outside_the_region_are_the_bases_own_bits(gate):
    base = scaled_dot_product(1)
    out = run([first_rows(5)], [PromptControl(0.7, 0.3, gate, std_norm=True)], base=base)
    same = (out == base(QUERY, *TEXT)).all(-1)
    assert not same[:, :5].any()
    assert bool(same[:, 5:].all()) is (gate is Gate.OUTPUT)


@pytest.mark.parametrize(
    ("timestep", "weight"),
    [(999, 0.0), (800, 0.0), (799, 1 / 400), (600, 0.5), (500, 0.75), (401, 399 / 400), (400, 1.0), (0, 1.0)],
)
def test_eq10(timestep, weight):
    """Gamma 400: nothing down to 800, all from 400 on. t counts down while the picture appears."""
    assert time_weight(timestep, 400) == pytest.approx(weight, abs=1e-15)


def test_eq10_where_twice_gamma_lies_before_the_start():
    assert time_weight(999, 600) == pytest.approx(1 - 399 / 600)


@pytest.mark.parametrize("gamma", [0, -1, 1000, 1500, float("nan"), float("inf")])
def test_a_gamma_outside_the_schedule_is_refused(gamma):
    message = (
        rf"gamma is {gamma:g}, outside the model's schedule of 1000 timesteps: expected more than 0 and less than 1000"
    )
    with pytest.raises(ValueError, match=message):
        check_gamma(gamma, 1000)
    check_gamma(999, 1000)
    check_gamma(1, 1000)


def test_a_weighted_control_is_eq9_and_leaves_the_text_alone_at_zero():
    """Gamma 400: weight 1 at 400, 0 at 800, a quarter at 700."""
    control = PromptControl(0.6, 0.3, Gate.QUERY, gamma=400.0)
    assert control.at(400) is control
    assert control.at(800) is None
    unweighted = PromptControl(0.6, 0.3)
    assert unweighted.at(999) is unweighted
    quarter = replace(control, text_share=1.0, std_norm=True).at(700)
    assert (quarter.image_scale, quarter.text_share) == (pytest.approx(0.15), 1.0)
    assert (quarter.gate, quarter.std_norm) == (Gate.QUERY, True)
    scales, shares = torch.tensor([1.0, -0.5]), torch.tensor([0.0, 0.5])
    each = PromptControl(scales, shares, gamma=400.0).at(600)
    assert each.image_scale.tolist() == [0.5, -0.25]
    assert each.text_share.tolist() == [0.5, 0.75]
    half = PromptControl(1.0, 0.0, gamma=400.0).at(600)
    text, image = ATTEND(QUERY, *TEXT), ATTEND(QUERY, *IMAGES[0])
    for mask in (None, first_rows(5)):
        made = text_image_attention(QUERY, TEXT, IMAGES[:1], [plan_rows([mask], [half], ROWS)], ATTEND)
        inside = slice(None) if mask is None else slice(0, 5)
        assert_close(made[:, inside], (0.5 * text + 0.5 * image)[:, inside])
        if mask is not None:
            assert_close(made[:, 5:], text[:, 5:])
