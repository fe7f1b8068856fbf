"""MEPA Apply to ControlNet beside Advanced ControlNet, which runs ControlNets in classes of its own."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.tests.host.beside import (
    HEIGHT,
    WIDTH,
    assert_apart,
    assert_near,
    assert_same,
    cfg,
    controlled,
    guided,
    off,
    prompted_control_net,
    prompts,
)
from pfv_mepa.tests.host.sampling import outputs, reference, right_half
from pfv_mepa.tests.support.tiny_stack.models import tiny_controlnet


@pytest.fixture
def made(pack, model, advanced_control_net):
    """Function: ControlNet, options of Apply Advanced ControlNet, None for the host's own -> the latent with image prompts."""
    patched, texts = pack.prompt(model), prompts(model)

    def made(control_net, options=None, prompted=True):
        own = prompted_control_net(control_net, patched) if prompted else control_net
        if options is None:
            return guided(cfg(patched, *controlled(own, *texts)))
        inputs = {"positive": texts[0], "negative": texts[1], "control_net": own, "image": reference(HEIGHT, WIDTH)}
        inputs |= {"strength": 0.8, "start_percent": 0.0, "end_percent": 1.0}
        sides = outputs(advanced_control_net.nodes_main.AdvancedControlNetApply, **inputs, **options)[:2]
        return guided(cfg(patched, *sides))

    return made


def test_a_controlnet_of_its_loader_is_the_hosts(model, made, advanced_control_net):
    plain = tiny_controlnet(model)
    advanced = advanced_control_net.control.convert_to_advanced(tiny_controlnet(model))
    assert_same(made(advanced), made(plain))
    assert_near(made(advanced, {}), made(plain))
    assert_apart(made(advanced, {}), made(advanced, {}, prompted=False), 0.01)


def test_its_mask_holds_for_a_controlnet_of_its_loader(model, made, advanced_control_net):
    """A ControlNet of the host's loader it leaves as it is, once image prompts are in it, and does not use the mask."""
    plain = tiny_controlnet(model)
    advanced = advanced_control_net.control.convert_to_advanced(tiny_controlnet(model))
    half = right_half(HEIGHT, WIDTH)
    everywhere, right, left = ({"mask_optional": mask} for mask in (torch.ones_like(half), half, 1 - half))
    assert_near(made(advanced, everywhere), made(plain))
    there = (..., slice(WIDTH // 16, None))
    inside, outside = (off(made(advanced, mask)[there], made(plain)[there]) for mask in (right, left))
    assert 2 * inside < outside  # where the mask holds it is nearer to the whole ControlNet's picture
    assert_near(made(plain, right), made(plain))
