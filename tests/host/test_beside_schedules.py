"""Beside the host's nodes that change the noise levels: a window and a time weight are those of the run, whatever the order.

A run with a window is a run of two halves: with the part until the window's end, and without it from there.
"""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.tests.host.beside import (
    assert_apart,
    assert_near,
    assert_same,
    basic,
    cfg,
    controlled,
    guided,
    host_node,
    prediction,
    prompted_control_net,
    prompts,
    run,
)
from pfv_mepa.tests.support.tiny_stack.models import tiny_controlnet

SCALE = 5.0
PERCENT = 0.2  # of the windows
NODES = ("ModelSamplingDiscrete", "ModelSamplingContinuousEDM", "ModelSamplingContinuousV")
SAMPLINGS = [
    (node, {"sampling": sampling})
    for node in NODES
    for sampling in host_node(node).INPUT_TYPES()["required"]["sampling"][0]
]
SAMPLINGS.append(("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}))
EACH_SAMPLING = pytest.mark.parametrize(
    ("node", "inputs"),
    SAMPLINGS,
    ids=[" ".join([node.removeprefix("ModelSampling"), *map(str, inputs.values())]) for node, inputs in SAMPLINGS],
)
CONTINUOUS = "ModelSamplingContinuousEDM", {"sampling": "edm"}  # another schedule than the model's own
WHOLE_ONLY = "img_to_img_flow"  # what one half of such a run leaves is not what the other begins with


@pytest.fixture(scope="module")
def texts(model):
    return prompts(model)


def level(model, percent):
    return float(model.get_model_object("model_sampling").percent_to_sigma(percent))


def telling_levels(model, other):
    """Two steps of the second model: the first in the window, the second between the ends that both schedules give it.

    Where both give it the same end, the second step is after it. Also whether it is in the window.
    """
    highest = float(other.get_model_object("model_sampling").sigma_max)
    end, elsewhere = level(other, PERCENT), min(level(model, PERCENT), highest)
    second = (end * elsewhere) ** 0.5 if abs(elsewhere / end - 1) > 0.01 else 0.8 * end
    first = min(1.2 * max(end, elsewhere), highest)
    return torch.tensor([first, second, 0.3 * second]), second >= end


def made(model, texts, sigmas, **where):
    return guided(cfg(model, *texts, SCALE), sigmas=sigmas, **where)


def halves(first, second, texts, sigmas, step):
    """One model until a step, another from there."""
    begun = made(first, texts, sigmas[: step + 1])
    return made(second, texts, sigmas[step:], latent={"samples": begun}, noise=run("DisableNoise"))


def assert_window(pack, part, model, texts, node, inputs, edge):
    """A node that changes the schedule after the part is the node before it, and both are two halves."""
    window = {edge: PERCENT}
    bare = run(node, model=model, **inputs)
    sigmas, second_is_in = telling_levels(model, bare)
    after = made(run(node, model=pack.put(part, model, **window), **inputs), texts, sigmas)
    assert_same(made(pack.put(part, bare, **window), texts, sigmas), after)
    whole, none = made(pack.put(part, bare), texts, sigmas), made(bare, texts, sigmas)
    order = (pack.put(part, bare), bare) if edge == "end_percent" else (bare, pack.put(part, bare))
    if inputs["sampling"] == WHOLE_ONLY:
        assert not torch.equal(after, whole)
    elif second_is_in:
        assert_near(after, whole if edge == "end_percent" else none)
    else:
        assert_near(after, halves(*order, texts, sigmas, 1))
        assert_apart(after, whole, 1e-2)
        assert_apart(after, none, 1e-2)
    assert_apart(whole, none, 1e-2)


# --- windows ----------------------------------------------------------------------------------------------------------


@EACH_SAMPLING
def test_a_window_is_that_of_the_run(pack, model, texts, node, inputs):
    assert_window(pack, "prompt", model, texts, node, inputs, "end_percent")


@pytest.mark.parametrize(
    ("part", "edge"), [("prompt", "start_percent"), ("branches", "start_percent"), ("fusion", "end_percent")]
)
@pytest.mark.parametrize("node", ["ModelSamplingContinuousEDM", "ModelSamplingContinuousV"])
def test_a_window_of_each_part(pack, model, texts, part, edge, node):
    assert_window(pack, part, model, texts, node, {"sampling": "v_prediction"}, edge)


@pytest.mark.parametrize("part", ["prompt", "branches", "fusion"])
def test_a_window_in_which_no_step_begins_is_said(pack, model, texts, part, caplog):
    """As that of a second pass, which begins where less noise is."""
    end = level(model, PERCENT)
    late = torch.tensor([0.6 * end, 0.3 * end, 0.0])
    patched = pack.put(part, model, end_percent=PERCENT)
    assert_same(made(model, texts, late), made(patched, texts, late))
    said = f"none of the 2 steps of this sampling begins between start_percent 0 and end_percent {PERCENT:g}"
    assert said in caplog.text
    assert not caplog.records[-1].getMessage().startswith("none")  # the node is named
    caplog.clear()
    made(patched, texts, torch.tensor([1.2 * end, 0.3 * end, 0.0]))
    made(pack.put(part, model), texts, late)
    assert "of this sampling begins" not in caplog.text


def test_these_windows_tell_the_schedules_apart(model):
    """Otherwise the tests above would not see a schedule that is read when a node is run."""
    ends = {}
    for node, inputs in SAMPLINGS:
        other = run(node, model=model, **inputs)
        sigmas, _ = telling_levels(model, other)
        ends[node] = (sigmas[1] >= level(other, PERCENT)) != (sigmas[1] >= level(model, PERCENT))
    assert ends["ModelSamplingContinuousEDM"]
    assert ends["ModelSamplingContinuousV"]


def test_a_reference_that_is_read_at_each_step_has_the_noise_of_the_run(pack, model, texts):
    node, inputs = CONTINUOUS
    step = {"reference_noise": "step"}
    after = prediction(cfg(run(node, model=pack.fusion(model, **step), **inputs), *texts, SCALE))
    before = prediction(cfg(pack.fusion(run(node, model=model, **inputs), **step), *texts, SCALE))
    assert_same(before, after)
    assert_apart(after, prediction(cfg(run(node, model=pack.fusion(model), **inputs), *texts, SCALE)), 1e-2)


@pytest.mark.parametrize(
    ("part", "edge"),
    [
        ("prompt", "end_percent"),
        ("prompt", "start_percent"),
        ("branches", "end_percent"),
        ("fusion", "start_percent"),
    ],
)
def test_rescaled_guidance_and_a_window(pack, model, texts, part, edge):
    """It looks at the model's sampling when it is applied, and changes nothing of it."""
    sigmas, _ = telling_levels(model, model)
    after = made(run("RescaleCFG", model=pack.put(part, model, **{edge: PERCENT})), texts, sigmas)
    before = made(pack.put(part, run("RescaleCFG", model=model), **{edge: PERCENT}), texts, sigmas)
    assert_same(before, after)
    rescaled = run("RescaleCFG", model=model)
    order = (pack.put(part, rescaled), rescaled) if edge == "end_percent" else (rescaled, pack.put(part, rescaled))
    assert_near(after, halves(*order, texts, sigmas, 1))
    assert_apart(after, made(rescaled, texts, sigmas), 1e-2)


def test_a_window_in_a_controlnet_is_that_of_the_run(pack, model, texts):
    """The ControlNet's image prompt comes from a model that nobody samples."""
    node, inputs = CONTINUOUS
    bare = run(node, model=model, **inputs)
    sigmas, second_is_in = telling_levels(model, bare)
    control_net = tiny_controlnet(model)

    def sampled(own, model):
        return made(model, controlled(own, *texts), sigmas)

    def after(**window):
        own = prompted_control_net(control_net, pack.prompt(model, **window))
        return sampled(own, bare)

    window = {"end_percent": PERCENT}
    assert not second_is_in
    assert_same(sampled(prompted_control_net(control_net, pack.prompt(bare, **window)), bare), after(**window))
    for other in (after(), sampled(control_net, bare)):
        assert_apart(after(**window), other, 1e-3)
    both, first = run(node, model=pack.prompt(model, **window), **inputs), pack.prompt(bare, **window)
    assert_same(
        sampled(prompted_control_net(control_net, both), both),
        sampled(prompted_control_net(control_net, first), first),
    )


# --- time weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("ModelSamplingDiscrete", {"sampling": "eps"}),
        ("ModelSamplingDiscrete", {"sampling": "lcm"}),
        ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}),
        ("ModelSamplingContinuousEDM", {"sampling": "edm"}),
        ("ModelSamplingContinuousEDM", {"sampling": "cosmos_rflow"}),
        ("ModelSamplingContinuousV", {"sampling": "v_prediction"}),
    ],
)
def test_a_time_weight_follows_the_timesteps_of_the_run(pack, model, texts, node, inputs):
    """Each schedule once."""
    options = {"time_weighting": True, "gamma": 600}
    bare = run(node, model=model, **inputs)
    sigmas = torch.tensor([level(bare, percent) for percent in (0.1, 0.3, 0.6)])
    after = made(run(node, model=pack.prompt(model, **options), **inputs), texts, sigmas)
    assert_same(made(pack.prompt(bare, **options), texts, sigmas), after)
    assert_apart(after, made(bare, texts, sigmas), 1e-2)
    assert_apart(after, made(pack.prompt(bare), texts, sigmas), 1e-2)


@pytest.mark.parametrize("percent", [0.1, 0.3, 0.6])
def test_a_time_weight_is_a_strength(pack, model, texts, percent):
    """In a continuous schedule, whose timesteps are the places in its table; the text keeps its share."""
    node, inputs = CONTINUOUS
    bare = run(node, model=model, **inputs)
    sigmas, gamma = torch.tensor([level(bare, percent), 0.0]), 600
    table = bare.get_model_object("model_sampling").sigmas.log()
    timestep = int((sigmas[0].log() - table).abs().argmin())
    weight = min(1.0, 1 - (timestep - gamma) / gamma)
    patched = run(node, model=pack.prompt(model, text_share=1.0, time_weighting=True, gamma=gamma), **inputs)
    weighted = prediction(basic(patched, texts[0]), sigmas=sigmas)
    by_hand = pack.prompt(bare, text_share=1.0, strength=weight)
    assert_near(weighted, prediction(basic(by_hand, texts[0]), sigmas=sigmas))
    assert_apart(weighted, prediction(basic(bare, texts[0]), sigmas=sigmas), 1e-2)
