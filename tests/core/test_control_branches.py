"""control_branches: Eq. 4 to 10 against their own words, and what must not change a ControlNet."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pfv_mepa.pfv_core.attention.balance import time_weight, time_weights
from pfv_mepa.pfv_core.research.control_branches import (
    Branches,
    BranchInput,
    BranchInputs,
    BranchSizes,
    new_branches,
)

from .weights import noise

SIZES = BranchSizes(widths=(8, 16), heads=(2, 4), context_dim=12, token_dim=10)
BATCH, QUERIES, TOKENS = 3, 6, 5


class TextAttention(nn.Module):
    """What a host's cross-attention has of a branch's concern."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(size, width, bias=False) for size in (width, SIZES.context_dim, SIZES.context_dim)
        )
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, features: Tensor, context: Tensor) -> Tensor:
        return self.to_out(spelled(self.to_q(features), self.to_k(context), self.to_v(context), self.heads))


def spelled(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Eq. 5 without its Linear, a head at a time."""
    parts = [
        torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v
        for q, k, v in zip(*(t.chunk(heads, -1) for t in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, -1)


@pytest.fixture
def attentions():
    torch.manual_seed(0)
    return [TextAttention(width, heads).double() for width, heads in zip(SIZES.widths, SIZES.heads, strict=True)]


@pytest.fixture
def branches(attentions):
    """Each weight another random number, so that no two branches or places are alike."""
    made = Branches(SIZES).double()
    for number, parameter in enumerate(made.parameters()):
        parameter.data.copy_(noise(*parameter.shape, seed=number, dtype=torch.float64) / parameter.shape[-1] ** 0.5)
    made.attach(attentions)
    return made


FEATURES = [noise(BATCH, QUERIES, width, seed=20 + width, dtype=torch.float64) for width in SIZES.widths]
CONTEXT = noise(BATCH, 7, SIZES.context_dim, seed=30, dtype=torch.float64)
POSE, APPEARANCE = (noise(BATCH, TOKENS, SIZES.token_dim, seed=seed, dtype=torch.float64) for seed in (40, 41))
TIMES = torch.tensor([100.0, 500.0, 900.0], dtype=torch.float64)  # alpha 1, 0.75 and 0 with the paper's gamma


@torch.no_grad()
def run(attentions, branches, inputs, times=TIMES):
    branches.begin(inputs, times, CONTEXT)
    return [attention(features, CONTEXT) for attention, features in zip(attentions, FEATURES, strict=True)]


def term(branch, place, tokens):
    attention, projected = branch.attentions[place], tokens @ branch.projection.weight.mT
    query, key, value = (
        x @ w.weight.mT
        for x, w in (
            (FEATURES[place], attention.to_q),
            (projected, attention.to_k),
            (projected, attention.to_v),
        )
    )
    return spelled(query, key, value, SIZES.heads[place]) @ attention.to_out.weight.mT + attention.to_out.bias


def test_both_branches_are_the_equations_word_for_word(attentions, branches):
    plain = run(attentions, branches, None)
    joined = run(attentions, branches, BranchInputs(BranchInput(POSE, 0.5), BranchInput(APPEARANCE, 2.0)))
    alpha = torch.tensor([1.0, 0.75, 0.0], dtype=torch.float64).view(-1, 1, 1)
    for place, (text, found) in enumerate(zip(plain, joined, strict=True)):
        appearance = term(branches.appearance, place, APPEARANCE)
        ratio = text.flatten(1).std(1, correction=0) / appearance.flatten(1).std(1, correction=0)
        expected = text + 0.5 * term(branches.pose, place, POSE) + 2.0 * alpha * appearance * ratio.view(-1, 1, 1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_without_std_norm_and_time_weighting_the_appearance_is_added_as_it_is(attentions, branches):
    plain = run(attentions, branches, None)
    given = BranchInputs(None, BranchInput(APPEARANCE), std_norm=False, gamma=None)
    for place, (text, found) in enumerate(zip(plain, run(attentions, branches, given), strict=True)):
        torch.testing.assert_close(found, text + term(branches.appearance, place, APPEARANCE), rtol=1e-12, atol=1e-12)


def test_std_norm_keeps_any_size_of_the_appearance_and_leaves_the_pose_alone(attentions, branches):
    """Eq. 8 takes the size of Y_a out; the pose has none of it."""
    inputs = BranchInputs(BranchInput(POSE), BranchInput(APPEARANCE), gamma=None)
    before = run(attentions, branches, inputs)
    for attention in branches.appearance.attentions:
        attention.to_out.weight.data.mul_(100.0)
        attention.to_out.bias.data.mul_(100.0)
    for one, other in zip(before, run(attentions, branches, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for attention in branches.pose.attentions:
        attention.to_out.weight.data.mul_(100.0)
    assert max(float((a - b).abs().max()) for a, b in zip(before, run(attentions, branches, inputs), strict=True)) > 1.0


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        BranchInputs(),
        BranchInputs(BranchInput(POSE, 0.0), BranchInput(APPEARANCE, 0.0)),
        BranchInputs(BranchInput(POSE, torch.zeros(BATCH)), BranchInput(APPEARANCE, torch.zeros(BATCH))),
        BranchInputs(None, BranchInput(APPEARANCE), gamma=40.0),
    ],
    ids=["none", "no pictures", "weight 0", "weight 0 for each sample", "too early for the appearance"],
)
def test_what_is_left_out_changes_no_bit(inputs, attentions, branches):
    alone = [
        attention(features, CONTEXT) for attention, features in zip(copy.deepcopy(attentions), FEATURES, strict=True)
    ]
    found = run(attentions, branches, inputs)
    assert all(torch.equal(one, other) for one, other in zip(alone, found, strict=True))


def test_a_weight_for_each_sample_is_that_samples_own(attentions, branches):
    mixed = run(attentions, branches, BranchInputs(BranchInput(POSE, torch.tensor([0.0, 1.0, 0.5]))))
    for sample, weight in enumerate((0.0, 1.0, 0.5)):
        alike = run(attentions, branches, BranchInputs(BranchInput(POSE, weight)))
        for one, other in zip(mixed, alike, strict=True):
            torch.testing.assert_close(one[sample], other[sample], rtol=1e-12, atol=1e-12)


def test_one_picture_serves_all_samples(attentions, branches):
    one = run(attentions, branches, BranchInputs(BranchInput(POSE[:1])))
    each = run(attentions, branches, BranchInputs(BranchInput(POSE[:1].repeat(BATCH, 1, 1))))
    for first, second in zip(one, each, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def test_what_was_said_holds_until_it_is_said_anew(attentions, branches):
    """A recomputing backward pass runs the same places again."""
    inputs = BranchInputs(BranchInput(POSE))
    first = run(attentions, branches, inputs)
    again = [attention(features, CONTEXT) for attention, features in zip(attentions, FEATURES, strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_deep_copy_has_branches_of_its_own(attentions, branches):
    """As a host makes one of the whole network for a second device."""
    both = copy.deepcopy(nn.ModuleList([*attentions, branches]))
    *copied, own = both
    expected = run(attentions, branches, BranchInputs(BranchInput(POSE)))
    own.begin(BranchInputs(BranchInput(POSE)), TIMES, CONTEXT)
    branches.begin(None, TIMES, CONTEXT)
    found = [attention(features, CONTEXT) for attention, features in zip(copied, FEATURES, strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_new_branches_begin_as_the_texts_attention(attentions):
    made = new_branches(SIZES, attentions, seed=3)
    again = new_branches(SIZES, attentions, seed=3)
    for branch in (made.pose, made.appearance):
        for own, text in zip(branch.attentions, attentions, strict=True):
            assert torch.equal(own.to_q.weight, text.to_q.weight.float())
            assert torch.equal(own.to_v.weight, text.to_v.weight.float())
            assert torch.equal(own.to_out.bias, text.to_out[0].bias.float())
    assert torch.equal(made.pose.projection.weight, again.pose.projection.weight)
    assert not torch.equal(made.pose.projection.weight, made.appearance.projection.weight)
    other = new_branches(SIZES, attentions, seed=4)
    assert not torch.equal(made.pose.projection.weight, other.pose.projection.weight)


def test_time_weights_are_the_time_weight_of_each():
    times = torch.tensor([0.0, 399.0, 400.0, 401.0, 600.0, 799.0, 800.0, 999.0])
    expected = torch.tensor([time_weight(float(time), 400.0) for time in times])
    torch.testing.assert_close(time_weights(times, 400.0), expected, rtol=0, atol=1e-6)
    assert time_weights(times, 400.0)[[0, 2, 6, 7]].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_branches_of_another_controlnet_are_refused(attentions):
    with pytest.raises(
        ValueError, match=r"the branches are for 2 cross-attentions of 8, 16 channels, the ControlNet has 1 of 8"
    ):
        Branches(SIZES).attach(attentions[:1])


def test_tokens_of_another_width_are_refused(branches):
    with pytest.raises(ValueError, match=r"tokens are \(1, 5, 9\), the branches take \(batch, tokens, 10\)"):
        branches.begin(BranchInputs(BranchInput(torch.zeros(1, 5, 9))), TIMES, CONTEXT)


def test_a_gamma_that_is_none_is_refused():
    with pytest.raises(ValueError, match="gamma is 0, expected more than 0 timesteps"):
        BranchInputs(gamma=0)


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="weight is nan, expected a finite number"):
        BranchInput(POSE, float("nan"))
