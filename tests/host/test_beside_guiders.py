"""Beside the host's guiders: each condition keeps its side, whatever its place in the list that a guider gives the model.

The yardsticks are what the guiders are by their own formulas: the ordinary guidance where two of their prompts are one, and a
sum of predictions, each made for one condition alone.
"""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_perpneg import perp_neg

from pfv_mepa.nodes.mepa.crop_nodes import MEPACrop
from pfv_mepa.tests.host.beside import (
    HEIGHT,
    PARTS,
    SCHEDULER,
    SIDED,
    WIDTH,
    Strange,
    assert_apart,
    assert_near,
    assert_same,
    basic,
    cfg,
    combined_by,
    controlled,
    guided,
    mixed,
    needs,
    prediction,
    prompted_control_net,
    prompts,
    run,
    sigmas_of,
)
from pfv_mepa.tests.host.sampling import outputs, sample
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning, tiny_controlnet, tiny_model

SCALE = 5.0


@pytest.fixture(scope="module")
def texts(model):
    """Positive, negative and a third text."""
    return (*prompts(model), tiny_conditioning(model, seed=9))


@pytest.fixture(scope="module")
def alone(pack, model, texts):
    """Function: part, text, side -> the prediction for that text alone, with the tokens of that side in every row."""
    known = {}

    def alone(part, text, side):
        key = part, id(text), side if part in SIDED else ""
        if key not in known:
            known[key] = prediction(basic(pack.put(part, model, side), text))
        return known[key]

    return alone


def dual(model, first, second, negative, scale, second_scale, style="regular"):
    return run(
        "DualCFGGuider",
        model=model,
        cond1=first,
        cond2=second,
        negative=negative,
        cfg_conds=scale,
        cfg_cond2_negative=second_scale,
        style=style,
    )


def perp(model, positive, negative, empty, scale=SCALE, negative_scale=1.0):
    return run(
        "PerpNegGuider",
        model=model,
        positive=positive,
        negative=negative,
        empty_conditioning=empty,
        cfg=scale,
        neg_scale=negative_scale,
    )


@pytest.fixture(scope="module")
def ordinary(pack, model, texts):
    """Function: part -> the ordinary guidance with it, which has an effect and in which sides count."""
    known = {}

    def sampled(model):
        return guided(cfg(model, texts[0], texts[1], SCALE))

    def ordinary(part):
        if part not in known:
            known[part] = sampled(pack.put(part, model) if part else model)
            if part:
                assert_apart(known[part], ordinary(""))
            if part in SIDED:
                assert_apart(sampled(pack.put(part, model, "swapped")), known[part])
        return known[part]

    return ordinary


@pytest.fixture
def assert_ordinary(pack, model, ordinary):
    """Function: function from a model to a guider that is the ordinary guidance by its formula, part -> it is it."""

    def assert_ordinary(guider_of, part):
        if part == "prompt":
            assert_near(guided(guider_of(model)), ordinary(""))  # of the host alone
        assert_near(guided(guider_of(pack.put(part, model))), ordinary(part))

    return assert_ordinary


@pytest.fixture(scope="module")
def control_net(model):
    return tiny_controlnet(model)


# --- the ordinary one -------------------------------------------------------------------------------------------------


@PARTS
def test_ordinary_guidance_is_the_sum_of_its_predictions(pack, model, texts, alone, part):
    """What everything else here is measured with."""
    positive, negative, _ = texts
    patched = prediction(cfg(pack.put(part, model), positive, negative, SCALE))
    assert_near(patched, mixed(alone(part, positive, "positive"), alone(part, negative, "negative"), SCALE))


@PARTS
def test_one_condition_is_guidance_at_scale_one(pack, model, texts, part):
    positive, negative, _ = texts
    patched = pack.put(part, model)
    one = guided(basic(patched, positive))
    assert_same(guided(cfg(patched, positive, negative, 1.0)), one)
    assert_same(sample(patched, positive, negative, cfg=1.0, scheduler=SCHEDULER, height=HEIGHT, width=WIDTH), one)
    assert_same(guided(basic(pack.put(part, model, "positive"), positive)), one)
    assert_apart(one, guided(basic(model, positive)))
    if part in SIDED:
        assert_apart(one, guided(basic(pack.put(part, model, "negative"), positive)))


@needs("CFGOverride")
@PARTS
def test_a_scale_that_is_overridden(pack, model, texts, ordinary, part):
    """At 1 for the whole run: one condition. At 1 for its second half: the ordinary guidance until then."""
    positive, negative, _ = texts
    patched = pack.put(part, model)
    whole = run("CFGOverride", model=patched, cfg=1.0)
    assert_same(guided(cfg(whole, positive, negative, SCALE)), guided(basic(patched, positive)))
    late = run("CFGOverride", model=patched, cfg=1.0, start_percent=0.4)
    sigmas = sigmas_of(model, 2)
    first = guided(cfg(patched, positive, negative, SCALE), sigmas=sigmas[:2])
    second = guided(basic(patched, positive), sigmas=sigmas[1:], latent={"samples": first}, noise=run("DisableNoise"))
    assert_near(guided(cfg(late, positive, negative, SCALE)), second)
    assert_apart(second, ordinary(part), 1e-3)  # the second step alone


# --- Dual CFG ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["regular", "nested"])
@PARTS
def test_dual_cfg_with_one_positive_prompt_is_cfg(assert_ordinary, texts, part, style):
    """Regular with equal scales; nested at any scale between the two, which are one prediction."""
    positive, negative, _ = texts
    scale = SCALE if style == "regular" else 3.0
    assert_ordinary(lambda model: dual(model, positive, positive, negative, scale, SCALE, style), part)


@pytest.mark.parametrize("style", ["regular", "nested"])
@PARTS
def test_dual_cfg_of_three_prompts_is_the_sum_of_their_predictions(pack, model, texts, alone, part, style):
    positive, negative, middle = texts
    made = prediction(dual(pack.put(part, model), positive, middle, negative, 3.0, SCALE, style))
    first, second = alone(part, positive, "positive"), alone(part, middle, "positive")
    below = alone(part, negative, "negative")
    if style == "nested":
        expected = mixed(mixed(first, second, 3.0), below, SCALE)
    else:
        expected = mixed(second, below, SCALE) + (first - second) * 3.0
    assert_near(made, expected)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (3.0, 1.0)], ids=["first alone", "first and second"])
def test_dual_cfg_that_leaves_conditions_out(pack, model, texts, alone, scales):
    """At a scale of 1 the host gives the model fewer conditions, at their own places in the list."""
    positive, negative, middle = texts
    made = prediction(dual(pack.prompt(model), positive, middle, negative, *scales))
    first, second = alone("prompt", positive, "positive"), alone("prompt", middle, "positive")
    assert_near(made, mixed(first, second, scales[0]))


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2s_ancestral", "euler_cfg_pp", "uni_pc"])
def test_dual_cfg_under_other_samplers(pack, model, texts, sampler):
    """Which evaluate the model more than once in a step, or ask for the negative's prediction."""
    positive, negative, _ = texts
    patched = pack.put("everything", model)
    ordinary = guided(cfg(patched, positive, negative, SCALE), sampler=sampler)
    made = guided(dual(patched, positive, positive, negative, SCALE, SCALE), sampler=sampler)
    assert_near(made, ordinary)
    assert_apart(ordinary, guided(cfg(model, positive, negative, SCALE), sampler=sampler))


# --- Perp-Neg ---------------------------------------------------------------------------------------------------------


@PARTS
def test_perp_neg_whose_negative_is_empty_is_cfg(assert_ordinary, texts, part):
    positive, negative, _ = texts
    assert_ordinary(lambda model: perp(model, positive, negative, negative), part)


@PARTS
def test_perp_neg_of_three_prompts_is_its_formula_of_their_predictions(pack, model, texts, alone, part):
    positive, negative, empty = texts
    made = prediction(perp(pack.put(part, model), positive, negative, empty, SCALE, 0.8))
    expected = perp_neg(
        None,
        alone(part, positive, "positive"),
        alone(part, negative, "negative"),
        alone(part, empty, "negative"),
        0.8,
        SCALE,
    )
    assert_near(made, expected)


@pytest.mark.parametrize(("scale", "sides"), [(SCALE, ("positive", "negative")), (1.0, ("positive",))])
def test_perp_neg_that_leaves_conditions_out(pack, model, texts, alone, scale, sides):
    positive, negative, empty = texts
    guider = perp(pack.prompt(model), positive, negative, empty, scale, 0.0)
    expected = [alone("prompt", text, side) for text, side in zip((positive, empty), sides, strict=False)]
    assert_near(prediction(guider), expected[0] if len(sides) == 1 else mixed(*expected, scale))


@PARTS
def test_the_older_perp_neg_node(assert_ordinary, texts, part):
    """It makes its third condition itself, in the middle of a step, where no guider knows of it."""
    positive, negative, _ = texts

    def older(model):
        patched = run("PerpNeg", model=model, empty_conditioning=negative, neg_scale=1.0)
        return cfg(patched, positive, negative, SCALE)

    assert_ordinary(older, part)


# --- Dual Model -------------------------------------------------------------------------------------------------------


@needs("DualModelGuider")
@PARTS
def test_dual_model_with_one_model_is_cfg(assert_ordinary, texts, part):
    positive, negative, _ = texts

    def both(model):
        return run(
            "DualModelGuider",
            model=model,
            model_negative=model.clone(),
            positive=positive,
            negative=negative,
            cfg=SCALE,
        )

    assert_ordinary(both, part)


@needs("DualModelGuider")
def test_dual_model_at_scale_one_is_one_condition(pack, model, texts):
    positive, negative, _ = texts
    patched = pack.prompt(model)
    guider = run(
        "DualModelGuider", model=patched, model_negative=patched, positive=positive, negative=negative, cfg=1.0
    )
    assert_same(guided(guider), guided(basic(patched, positive)))


def dual_model(first, second, texts, scale=SCALE):
    inputs = {"positive": texts[0], "negative": texts[1], "cfg": scale}
    return run("DualModelGuider", model=first, model_negative=second, **inputs)


def cropped(model, left):
    ad = {"y": 0, "width": WIDTH, "height": HEIGHT, "ad_width": 2 * WIDTH, "ad_height": HEIGHT}
    return outputs(MEPACrop, model=model, x=left, **ad)[0]


@needs("DualModelGuider")
@PARTS
def test_dual_model_with_two_models_is_refused(pack, model, texts, part):
    """The host would run the first one's patches in both, whichever of them has any."""
    patched, other = pack.put(part, model), tiny_model("few", seed=11)
    pairs = ((patched, other), (patched, model), (patched, pack.put(part, model)), (patched, cropped(patched, 0)))
    for first, second in pairs:
        with pytest.raises(ValueError, match="Guider_DualModel samples the negative with another model"):
            guided(dual_model(first, second, texts))
    for bare in (model, other):
        with pytest.raises(ValueError, match="this model is sampled as a second one, as Dual Model CFG Guider"):
            guided(dual_model(bare, patched, texts))


@needs("DualModelGuider")
def test_dual_model_with_two_crops_is_refused(pack, model, texts, control_net):
    """The one of the first model would be that of both, in a ControlNet of the negative too."""
    halves = cropped(model, 0), cropped(model, WIDTH)
    wide = torch.zeros(1, HEIGHT, 2 * WIDTH)
    wide[..., : WIDTH // 2] = 1
    patched = [pack.prompt(half, region=wide) for half in halves]
    conditions = controlled(prompted_control_net(control_net, patched[0]), *texts[:2])
    for guider in (dual_model(*patched, texts), dual_model(*halves, conditions)):
        with pytest.raises(ValueError, match="Guider_DualModel samples the negative with another model"):
            guided(guider)
    made = guided(dual_model(halves[0], cropped(model, 0), conditions))  # the same crop from two nodes
    assert_near(made, guided(cfg(halves[0], *conditions, SCALE)))


@needs("DualModelGuider")
def test_a_second_model_that_is_not_sampled_loses_nothing(pack, model, texts):
    guider = dual_model(model, pack.prompt(model), texts, scale=1.0)
    assert_same(guided(guider), guided(basic(model, texts[0])))


# --- guiders of other packs -------------------------------------------------------------------------------------------


def strange(model, texts):
    guider = Strange(model)
    guider.set_conds(texts[0], texts[1])
    guider.set_cfg(SCALE)
    return guider


@pytest.mark.parametrize("part", ["prompt", "branches"])
def test_a_guider_with_conditions_of_its_own_is_refused_before_the_first_step(pack, model, texts, part):
    """Nobody can know which side "foo" is on."""
    calls = []
    patched = pack.put(part, model)
    patched.set_model_unet_function_wrapper(
        lambda apply_model, given: calls.append(1) or apply_model(given["input"], given["timestep"], **given["c"])
    )
    with pytest.raises((ValueError, RuntimeError), match=r"Strange.*'foo'|'foo'.*Strange"):
        guided(strange(patched, texts))
    assert calls == []
    guided(cfg(patched, texts[0], texts[1]), steps=1)
    assert calls


@pytest.mark.parametrize("part", ["fusion", "mask"])
def test_what_has_no_sides_works_in_any_guider(pack, model, texts, alone, part):
    made = prediction(strange(pack.put(part, model), texts))
    assert_near(made, mixed(alone(part, texts[0], ""), alone(part, texts[1], ""), SCALE))
    assert_apart(made, prediction(strange(model, texts)))


def test_a_guider_of_another_pack_with_the_hosts_names(assert_ordinary, texts):
    """Its list is the other way round."""
    positive, negative, _ = texts

    class Backwards(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            conds = [self.conds["negative"], self.conds["positive"]]
            below, above = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            return mixed(above, below, self.cfg)

    def backwards(model):
        guider = Backwards(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(SCALE)
        return guider

    assert_ordinary(backwards, "prompt")


# --- image prompts in a ControlNet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["dual", "perp"])
@pytest.mark.parametrize("in_model", [True, False], ids=["in both", "in the ControlNet alone"])
def test_a_prompted_controlnet_keeps_the_sides(pack, model, texts, control_net, style, in_model):
    """A model without image prompts knows nothing of them: the ControlNet brings what its runs must carry."""

    def conditions_and_model(side):
        patched = pack.prompt(model, side)
        own = prompted_control_net(control_net, patched)
        return *controlled(own, *texts[:2]), patched if in_model else model

    above, below, sampled = conditions_and_model("")
    ordinary = prediction(cfg(sampled, above, below, SCALE))
    *conditions, other = conditions_and_model("swapped")
    swapped = prediction(cfg(other, *conditions, SCALE))
    plain = prediction(cfg(model, *controlled(control_net, *texts[:2]), SCALE))
    assert_apart(ordinary, plain, 1e-2)
    assert_apart(swapped, ordinary, 1e-2)
    if style == "dual":
        made = prediction(dual(sampled, above, above, below, SCALE, SCALE))
    else:
        made = prediction(perp(sampled, above, below, below))
    assert_near(made, ordinary)


def test_predictions_combined_by_hand_are_the_hosts(pack, model, texts, alone):
    """The second yardstick, which the tests beside model patches use."""
    positive, negative, _ = texts
    made = combined_by(model, [alone("prompt", positive, "positive"), alone("prompt", negative, "negative")], SCALE)
    assert_near(made, prediction(cfg(pack.prompt(model), positive, negative, SCALE)))
    assert not torch.equal(made, prediction(cfg(model, positive, negative, SCALE)))
