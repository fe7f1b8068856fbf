"""combine: several image prompts as one, against softmaxes written out, and copies that change nothing."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.pfv_core.adapter.combine import MOST_COPIES, Combine, combine_prompts, copies
from pfv_mepa.pfv_core.attention.formula import scaled_dot_product

from .weights import seeded

CONCATENATE, AVERAGE = Combine


def prompt(tokens: int = 3, batch: int = 1, seed: int = 0, width: int = 8) -> torch.Tensor:
    return torch.randn(batch, tokens, width, generator=seeded(seed))


def test_concatenated_tokens_stand_one_after_another():
    first, second = prompt(3, seed=1), prompt(2, seed=2)
    assert torch.equal(combine_prompts([first, second], [1, 1], CONCATENATE), torch.cat([first, second], 1))


def test_an_average_is_the_weighted_mean_token_by_token():
    first, second = torch.full((1, 2, 4), 1.0), torch.full((1, 2, 4), 4.0)
    assert torch.equal(combine_prompts([first, second], [1, 1], AVERAGE), torch.full((1, 2, 4), 2.5))
    assert torch.equal(combine_prompts([first, second], [2, 1], AVERAGE), torch.full((1, 2, 4), 2.0))


@pytest.mark.parametrize("combine", Combine)
def test_one_prompt_that_counts_is_that_prompt_bit_for_bit(combine):
    first, second = prompt(seed=1), prompt(seed=2)
    assert torch.equal(combine_prompts([first], [0.3], combine), first)
    assert torch.equal(combine_prompts([first, second], [0, 2], combine), second)


@pytest.mark.parametrize("combine", Combine)
def test_only_the_ratio_of_weights_counts(combine):
    prompts = [prompt(seed=1), prompt(seed=2)]
    expected = combine_prompts(prompts, [1, 2], combine)
    for scale in (0.25, 0.5, 3):
        assert torch.equal(combine_prompts(prompts, [scale, 2 * scale], combine), expected)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1], [1]),
        ([0.7, 0.7], [1, 1]),
        ([1, 0.5], [2, 1]),
        ([1, 0.75, 0.5, 0.25], [4, 3, 2, 1]),
        ([0.1, 0.3], [1, 3]),  # as written: in binary neither is a tenth
        ([1, 0.95], [20, 19]),
    ],
)
def test_copies_are_the_smallest_whole_numbers_in_the_ratio(weights, expected):
    assert copies(weights) == expected


def test_too_many_copies_are_refused_with_the_ratio():
    message = f"weights of 1 : 0.333 are 1000 : 333, and so many copies of the tokens, more than {MOST_COPIES}"
    with pytest.raises(ValueError, match=message):
        combine_prompts([prompt(), prompt()], [1, 0.333], CONCATENATE)
    assert combine_prompts([prompt(), prompt()], [1, 0.333], AVERAGE).shape == (1, 3, 8)


def test_a_weight_multiplies_a_prompts_part_in_the_softmax():
    """By hand in float64: out = (sum_i w_i e^(q k_i) v_i) / (sum_i w_i e^(q k_i))."""
    keys = [prompt(3, seed=1).double(), prompt(5, seed=2).double()]
    values = [prompt(3, seed=3).double(), prompt(5, seed=4).double()]
    query, weights = prompt(6, seed=5).double(), [2.0, 0.5]
    logits = [query[0] @ key[0].T / 8**0.5 for key in keys]
    parts = [weight * logit.exp() for weight, logit in zip(weights, logits, strict=True)]
    total = sum(part.sum(1, keepdim=True) for part in parts)
    expected = sum(part @ value[0] for part, value in zip(parts, values, strict=True)) / total
    both = [combine_prompts(sides, weights, CONCATENATE) for sides in (keys, values)]
    assert both[0].shape == (1, 4 * 3 + 5, 8)
    assert torch.allclose(scaled_dot_product(1)(query, *both)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("times", [2, 3, 7])
def test_tokens_that_are_all_copied_equally_often_give_the_same_attention(times):
    query, key, value = (prompt(tokens, 2, seed).double() for tokens, seed in ((6, 1), (4, 2), (4, 3)))
    attend = scaled_dot_product(2)
    copied = attend(query, key.repeat(1, times, 1), value.repeat(1, times, 1))
    assert torch.allclose(copied, attend(query, key, value), rtol=1e-13, atol=1e-13)
    uneven = torch.cat([key, key[:, :1]], 1), torch.cat([value, value[:, :1]], 1)
    assert not torch.allclose(attend(query, *uneven), attend(query, key, value), atol=1e-3)


@pytest.mark.parametrize("combine", Combine)
def test_one_reference_serves_a_batch_and_a_batch_is_per_item(combine):
    one, three = prompt(seed=1), prompt(batch=3, seed=2)
    together = combine_prompts([one, three], [1, 2], combine)
    assert len(together) == 3
    for item in range(3):
        alone = combine_prompts([one, three[item : item + 1]], [1, 2], combine)
        assert torch.equal(together[item], alone[0])


@pytest.mark.parametrize(
    ("prompts", "weights", "combine", "message"),
    [
        ([prompt()], [1, 1], CONCATENATE, "2 weights for 1 image prompts"),
        ([prompt(), prompt()], [1, -1], AVERAGE, "weight 2 is -1, expected 0 or more: to move away"),
        ([prompt(), prompt()], [float("nan"), 1], AVERAGE, "weight 1 is nan"),
        ([prompt(), prompt()], [0, 0], CONCATENATE, "all weights are 0, so no picture is left"),
        ([prompt(batch=2), prompt(batch=3)], [1, 1], CONCATENATE, "image prompts are batches of 2, 3"),
        ([prompt(3), prompt(4)], [1, 1], AVERAGE, "average: the image prompts have 3, 4 tokens"),
    ],
)
def test_what_does_not_go_together_is_refused(prompts, weights, combine, message):
    with pytest.raises(ValueError, match=message):
        combine_prompts(prompts, weights, combine)
