"""PFV Combine References: several pictures as one look, a picture to move away from, and both in one call of the model."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.nodes.host.adapter import ImagePrompt
from pfv_mepa.nodes.host.prompt_facts import PromptFacts, ReferenceFacts
from pfv_mepa.nodes.reference.reference_nodes import PFVCombineReferences, PFVReference
from pfv_mepa.pfv_core.found.reference import HiddenBy
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, painted, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning

NEAR = 2e-5


def combine(*prompts, how="concatenate", weights=(1.0, 1.0, 1.0, 1.0), negative=None):
    given = {f"image_prompt_{number}": prompt for number, prompt in enumerate(prompts, 1)}
    numbers = {f"weight_{number}": weight for number, weight in enumerate(weights, 1)}
    result = PFVCombineReferences.execute(combine=how, **given, **numbers, negative=negative)
    return result.args[0]


def distance(first, second):
    return ((first - second).norm() / second.norm()).item()


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def prompts(tiny_clip_vision, plus_adapter_file):
    return [image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(seed=seed)) for seed in range(3)]


def with_negative(prompt, negative):
    """By hand: the tokens of another picture where the negative's are."""
    return ImagePrompt(prompt.adapter, prompt.positive, negative.positive)


@pytest.mark.parametrize("how", ["concatenate", "average"])
def test_a_picture_combined_with_itself_is_the_picture(model, prompts, how):
    one = prompts[0]
    both = combine(one, one, how=how)
    assert both.positive.shape[1] == {"concatenate": 32, "average": 16}[how]
    assert distance(sample(apply(model, both)), sample(apply(model, one))) < NEAR


@pytest.mark.parametrize("how", ["concatenate", "average"])
def test_two_pictures_are_neither_of_them(model, prompts, how):
    both = sample(apply(model, combine(*prompts[:2], how=how)))
    for one in prompts[:2]:
        assert distance(sample(apply(model, one)), both) > 1e-3


def test_a_weight_of_0_is_the_picture_not_connected(model, prompts):
    alone = combine(*prompts[:2], weights=(0.0, 3.0, 1.0, 1.0))
    assert torch.equal(alone.positive, prompts[1].positive)
    assert alone.facts.references == (ReferenceFacts(None, 1.0, 3.0),)
    assert alone.facts.combined is None
    assert torch.equal(sample(apply(model, alone)), sample(apply(model, prompts[1])))


def test_twice_the_weight_is_the_picture_twice(model, prompts):
    by_weight = combine(*prompts[:2], weights=(2.0, 1.0, 1.0, 1.0))
    by_hand = combine(prompts[0], prompts[0], prompts[1])
    assert torch.equal(by_weight.positive, by_hand.positive)
    even = sample(apply(model, combine(*prompts[:2])))
    assert distance(sample(apply(model, by_weight)), even) > 1e-3


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("gate", ["output", "query"])
@pytest.mark.parametrize("std_norm", [False, True])
def test_sides_of_different_lengths_in_one_call_are_each_its_own(model, prompts, cfg, gate, std_norm):
    """The positive has 48 tokens, the negative 32: by hand from runs in which both sides have the same number."""
    three, two = combine(*prompts), combine(*prompts[1:])
    settings = {"gate": gate, "std_norm": std_norm, "region": right_half(), "text_share": 0.3}
    mixed = sample(apply(model, with_negative(three, two), **settings), steps=1, cfg=cfg)

    def same_length(positive, negative):
        long = ImagePrompt(three.adapter, positive.repeat(1, 96 // positive.shape[1], 1), negative.repeat(1, 3, 1))
        return sample(apply(model, long, **settings), steps=1, cfg=cfg)

    assert (three.positive.shape[1], two.positive.shape[1]) == (48, 32)
    assert distance(mixed, same_length(three.positive, two.positive)) < NEAR
    assert distance(mixed, same_length(two.positive, two.positive)) > 1e-3
    if cfg > 1:
        assert distance(mixed, same_length(three.positive, prompts[0].positive.repeat(1, 2, 1))) > 1e-3


def test_a_picture_to_move_away_from_is_what_the_negative_gets(model, prompts):
    away = combine(prompts[0], negative=prompts[1])
    assert torch.equal(away.positive, prompts[0].positive)
    assert torch.equal(away.negative, prompts[1].positive)
    assert not torch.equal(away.negative, prompts[0].negative)
    moved, usual = (sample(apply(model, prompt), steps=1) for prompt in (away, prompts[0]))
    assert distance(moved, usual) > 1e-3
    alone = [sample(apply(model, prompt), steps=1, cfg=1.0) for prompt in (away, prompts[0])]
    assert torch.equal(*alone)  # without a negative chunk it has no effect


@pytest.mark.parametrize("gate", ["output", "query"])
@pytest.mark.parametrize("std_norm", [False, True])
@pytest.mark.parametrize("tokens", [(16, 16), (48, 32), (16, 48)])
def test_guidance_away_from_pictures_by_hand(model, prompts, gate, std_norm, tokens):
    """cfg 5 = negative + 5 (positive - negative), each side a run of its own at cfg 1, whatever their numbers of tokens."""
    for_it, against = (combine(*prompts[: count // 16]) for count in tokens)
    assert (for_it.positive.shape[1], against.positive.shape[1]) == tokens
    settings = {"gate": gate, "std_norm": std_norm, "region": right_half(), "text_share": 0.3}
    positive, negative = tiny_conditioning(model, seed=6), tiny_conditioning(model, seed=7)
    away = apply(model, combine(for_it, negative=against), **settings)
    plus = sample(apply(model, for_it, **settings), positive, steps=1, cfg=1.0)
    minus = sample(apply(model, against, **settings), negative, steps=1, cfg=1.0)
    assert distance(sample(away, positive, negative, steps=1, cfg=5.0), minus + 5 * (plus - minus)) < NEAR


def test_a_batch_is_per_item(model, tiny_clip_vision, plus_adapter_file, prompts):
    three = image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(batch=3, seed=9))
    away = image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(batch=3, seed=10))
    together = sample(apply(model, combine(prompts[0], three, negative=away)), batch=3, steps=1)
    for item in range(3):
        one, other = (
            ImagePrompt(each.adapter, each.positive[item : item + 1], each.negative) for each in (three, away)
        )
        alone = sample(apply(model, combine(prompts[0], one, negative=other)), batch=3, steps=1)
        assert distance(together[item], alone[item]) < NEAR
        assert distance(together[item], alone[(item + 1) % 3]) > 1e-3
    only_away = combine(prompts[0], negative=away)
    assert len(only_away) == len(only_away.negative) == 3


def test_negatives_that_differ_are_combined_as_the_prompts_are(prompts):
    first, second = (with_negative(prompt, prompts[2]) for prompt in prompts[:2])
    assert torch.equal(combine(first, second).negative, prompts[2].positive)  # equal: one stands for both
    second = with_negative(prompts[1], prompts[0])
    both = combine(first, second, weights=(1.0, 2.0, 1.0, 1.0))
    expected = torch.cat([prompts[2].positive, prompts[0].positive, prompts[0].positive], 1)
    assert torch.equal(both.negative, expected)
    assert torch.equal(combine(first, second, negative=prompts[1]).negative, prompts[1].positive)


def test_its_keys_and_values_are_computed_once_for_the_same_pictures(prompts):
    first, again = combine(*prompts), combine(*prompts)
    assert first.keys_values[0][0][0].data_ptr() == again.keys_values[0][0][0].data_ptr()
    other = combine(*prompts, weights=(1.0, 1.0, 0.5, 1.0))
    assert other.keys_values[0][0][0].shape[1] == 80


def test_the_facts_of_all_pictures_are_kept(tiny_clip_vision, prompts):
    inputs = {"clip_vision": tiny_clip_vision, "adapter": prompts[0].adapter, "fit": "pad", "threshold": 0.0}
    hidden = outputs(PFVReference, **inputs, reference=reference(), hide="automatic", mode="drop", mask=painted())[0]
    both = combine(hidden, prompts[1], weights=(1.0, 0.5, 1.0, 1.0), negative=prompts[2])
    share = hidden.facts.references[0].kept_share
    assert both.facts == PromptFacts(
        "a ViT of 4 layers, hidden 64, projection 32",
        (
            ReferenceFacts(HiddenBy.PAINTED, share),
            ReferenceFacts(None, 1.0, 0.5),
            ReferenceFacts(None, 1.0, against=True),
        ),
        "concatenate",
    )
    nested = combine(both, prompts[0], weights=(1.0, 2.0, 1.0, 1.0), how="concatenate")
    assert [(fact.weight, fact.against) for fact in nested.facts.references] == [
        (1.0, False),
        (0.5, False),
        (1.0, True),
        (2.0, False),
    ]
    unknown = combine(prompts[0], with_negative(prompts[1], prompts[2]))
    assert unknown.facts.encoder is None
    assert unknown.facts.references == (ReferenceFacts(None, 1.0),)


def test_what_is_shown_on_the_node(prompts):
    inputs = {f"weight_{number}": 1.0 for number in range(1, 5)} | {"weight_2": 0.0, "combine": "concatenate"}
    named = {f"image_prompt_{number}": prompt for number, prompt in enumerate(prompts, 1)}
    line = "concatenate: 2 of 3 connected, 32 tokens; away from a picture of 16 tokens"
    assert PFVCombineReferences.execute(**named, **inputs, negative=prompts[0]).ui["pfv_line"] == [line]


def test_prompts_of_different_adapters_are_refused_by_name(tiny_clip_vision, prompts, linear_adapter_file):
    linear = image_prompt(tiny_clip_vision, linear_adapter_file)
    message = "image_prompt_2 was made with tiny-linear.safetensors, image_prompt_1 with tiny-plus.safetensors"
    with pytest.raises(ValueError, match=message):
        combine(prompts[0], linear)
    with pytest.raises(ValueError, match=r"negative was made with tiny-linear\.safetensors"):
        combine(prompts[0], negative=linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "mix"}, r"combine is 'mix', expected one of \['concatenate', 'average'\]"),
        ({"weights": (0.0, 0.0, 1.0, 1.0)}, "all weights are 0"),
        ({"weights": (1.0, 0.01, 1.0, 1.0)}, r"weights of 1 : 0\.01 are 100 : 1"),
    ],
)
def test_bad_settings_are_refused(prompts, options, message):
    with pytest.raises(ValueError, match=message):
        combine(*prompts[:2], **options)


def test_sides_that_only_many_copies_would_bring_together_are_refused(prompts):
    long = combine(*prompts[:2], weights=(5.0, 2.0, 1.0, 1.0))
    other = combine(*prompts[:2], weights=(5.0, 4.0, 1.0, 1.0))
    message = "have 112 tokens together, negative 144: copied to the same number they are 1008, more than 640"
    with pytest.raises(ValueError, match=message):
        combine(long, negative=other)


def test_batches_that_do_not_go_together_are_refused(prompts, tiny_clip_vision, plus_adapter_file):
    two, three = (image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(batch=batch)) for batch in (2, 3))
    with pytest.raises(ValueError, match="the image prompts are batches of 2, 3"):
        combine(two, three)
    with pytest.raises(ValueError, match="negative is a batch of 3, the image prompts of 2"):
        combine(two, negative=three)
