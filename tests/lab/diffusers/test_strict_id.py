"""strict_id: a ControlNet with branches is the plain one where they have nothing to say, and comes back from its file."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import ControlNetModel

from lab.diffusers.strict_id import DOWN, MIDDLE, controlled, load_into, new_strict_id, save_strict_id_net
from pfv_core.research.control_branches import BranchInput, BranchInputs
from pfv_core.research.strict_id_file import StrictIDConfig, StrictIDFileError

from .models import COLUMNS, CONTEXT, ENCODER, POOLED, ROWS, new_unet, noise

HINT_WIDTHS = (4, 8, 8, 8)
BATCH = 2
FEATURES = noise(BATCH, 17, ENCODER.hidden_size, seed=5)
PICTURES = BranchInputs(BranchInput(FEATURES), BranchInput(FEATURES.flip(0)))
TIMES = torch.tensor([100, 500])


def conditions(name):
    context = {"encoder_hidden_states": noise(BATCH, 7, CONTEXT, seed=3)}
    if name == "sd15":
        return context
    sizes = torch.tensor([[64.0, 96.0, 0.0, 0.0, 64.0, 96.0]] * BATCH)
    return {**context, "added_cond_kwargs": {"text_embeds": noise(BATCH, POOLED, seed=4), "time_ids": sizes}}


@torch.no_grad()
def spread(net, seed=9):
    """Zero convolutions and hint layers with values, as after training."""
    torch.manual_seed(seed)
    for name, parameter in net.controlnet.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            parameter.normal_(std=0.2)
    return net.eval()


@pytest.fixture(scope="module", params=["demo", "sd15"])
def net(request):
    made = spread(new_strict_id(new_unet(request.param), ENCODER, seed=1, hint_widths=HINT_WIDTHS))
    made.name = request.param
    return made


@torch.no_grad()
def residuals(net, hint, inputs=None, control=None):
    latents = noise(BATCH, 4, ROWS, COLUMNS, seed=2)
    if control is not None:
        down, middle = control(latents, TIMES, controlnet_cond=hint, return_dict=False, **conditions(net.name))
    else:
        down, middle = net(latents, TIMES, hint, inputs, **conditions(net.name))
    return [*down, middle]


HINT = noise(BATCH, 4, 8 * ROWS, 8 * COLUMNS, seed=6).sigmoid()


def test_without_pictures_it_is_the_plain_controlnet_to_the_bit(net):
    plain = ControlNetModel.from_config(net.controlnet.config).eval()
    plain.load_state_dict(net.controlnet.state_dict())
    expected = residuals(net, HINT, control=plain)
    zero = torch.zeros(BATCH)
    for inputs in (
        None,
        BranchInputs(BranchInput(FEATURES, 0.0), BranchInput(FEATURES, 0.0)),
        BranchInputs(BranchInput(FEATURES, zero), BranchInput(FEATURES, zero)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(expected, residuals(net, HINT, inputs), strict=True))
    assert not torch.equal(expected[-1], residuals(net, HINT, PICTURES)[-1])


def test_a_fourth_channel_that_is_zero_changes_nothing(net):
    """A new one reads the scale map by zeros, and is the ControlNet of three channels to the bit."""
    three = ControlNetModel.from_config(net.controlnet.config, conditioning_channels=3).eval()
    state = net.controlnet.state_dict()
    kernel = "controlnet_cond_embedding.conv_in.weight"
    three.load_state_dict({**state, kernel: state[kernel][:, :3]})
    expected = residuals(net, HINT[:, :3], control=three)
    for one, other in zip(expected, residuals(net, HINT), strict=True):
        torch.testing.assert_close(
            one, other, rtol=0, atol=1e-6
        )  # a convolution of four channels sums in another order
    state[kernel][:, 3:] += 0.5
    changed = residuals(net, HINT)
    state[kernel][:, 3:] -= 0.5
    assert float((changed[-1] - expected[-1]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["demo", "sdxl", "sd15"])
def test_each_cross_attention_has_its_branches_and_a_new_net_leaves_the_unet_alone(name):
    net = new_strict_id(new_unet(name), ENCODER, seed=1, hint_widths=HINT_WIDTHS).eval()
    net.name = name
    assert len(net.branches.sizes.widths) == {"demo": 2, "sdxl": 34, "sd15": 7}[name]
    assert all(bool((tensor == 0).all()) for tensor in residuals(net, HINT, PICTURES))


def test_every_weight_learns(net):
    """Zero convolutions aside nothing is left without gradient: processes share all of them."""
    latents = noise(BATCH, 4, ROWS, COLUMNS, seed=2)
    down, middle = net(latents, TIMES, HINT, PICTURES, **conditions(net.name))
    sum(tensor.square().mean() for tensor in (*down, middle)).backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    net.zero_grad()
    assert without == []


def test_recomputing_the_forward_pass_gives_the_same_gradients(net):
    def gradients():
        net.zero_grad()
        down, middle = net(noise(BATCH, 4, ROWS, COLUMNS, seed=2), TIMES, HINT, PICTURES, **conditions(net.name))
        sum(tensor.square().mean() for tensor in (*down, middle)).backward()
        found = [parameter.grad.clone() for parameter in net.branches.parameters()]
        net.zero_grad()
        return found

    kept = gradients()
    net.train()
    net.controlnet.enable_gradient_checkpointing()
    again = gradients()
    net.controlnet.disable_gradient_checkpointing()
    net.eval()
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(one, other)


def saved(net, path, dtype=torch.float32):
    config = StrictIDConfig(net.name, net.branches.sizes, ENCODER, True, 400.0, {"step": "3"})
    save_strict_id_net(path, net, config, dtype)
    return path


def test_it_comes_back_from_its_file(net, tmp_path):
    other = new_strict_id(new_unet(net.name, seed=5), ENCODER, seed=2, hint_widths=HINT_WIDTHS).eval()
    other.name = net.name
    config = load_into(other, saved(net, tmp_path / "strict_id.safetensors"), ENCODER)
    assert (config.base, config.metadata["step"]) == (net.name, "3")
    for one, two in zip(residuals(net, HINT, PICTURES), residuals(other, HINT, PICTURES), strict=True):
        assert torch.equal(one, two)


def test_a_file_of_another_base_is_refused(net, tmp_path):
    path = saved(net, tmp_path / "strict_id.safetensors")
    other = new_strict_id(new_unet("sdxl"), ENCODER, seed=2, hint_widths=HINT_WIDTHS)
    with pytest.raises(
        ValueError, match=r"has branches of .*, this U-Net's ControlNet takes .*: give a file of the same base"
    ):
        load_into(other, path, ENCODER)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:900])
    with pytest.raises(StrictIDFileError, match="is no whole safetensors file"):
        load_into(other, tmp_path / "cut.safetensors", ENCODER)


def test_a_file_of_another_encoder_of_the_same_width_is_refused(net, tmp_path):
    path = saved(net, tmp_path / "strict_id.safetensors")
    other = dataclasses.replace(ENCODER, num_layers=ENCODER.num_layers + 1)
    with pytest.raises(ValueError, match=r"what this net is given was encoded by .*; these branches were trained with"):
        load_into(net, path, other)


@torch.no_grad()
def test_residuals_of_another_controlnet_stay(net):
    """Those that the U-Net is called with are added to, as the host adds those of several."""
    unet, latents = new_unet(net.name).eval(), noise(BATCH, 4, ROWS, COLUMNS, seed=2)
    *down, middle = residuals(net, HINT, PICTURES)
    theirs = {DOWN: [noise(*one.shape, seed=7) for one in down], MIDDLE: noise(*middle.shape, seed=8)}
    both = {DOWN: [one + other for one, other in zip(down, theirs[DOWN], strict=True)], MIDDLE: middle + theirs[MIDDLE]}
    expected = unet(latents, TIMES, **both, **conditions(net.name)).sample
    with controlled(unet, net, HINT, PICTURES):
        found = unet(latents, TIMES, **theirs, **conditions(net.name)).sample
        alone = unet(latents, TIMES, **conditions(net.name)).sample
        with pytest.raises(
            TypeError, match="called with 4 arguments by place, expected sample, timestep, encoder_hidden"
        ):
            unet(latents, TIMES, conditions(net.name)["encoder_hidden_states"], None)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, alone, atol=1e-2)


def test_no_generator_but_torchs_own_is_touched_and_that_is_put_back(monkeypatch):
    """On every process the devices' streams would all begin anew, and alike."""
    unet = new_unet("sd15")
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a device's generator was set"))
    before = torch.random.get_rng_state()
    new_strict_id(unet, ENCODER, seed=7, hint_widths=HINT_WIDTHS)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_same_seed_makes_the_same_net():
    one, two, other = (new_strict_id(new_unet(), ENCODER, seed, HINT_WIDTHS).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["branches.pose.projection.weight"], other["branches.pose.projection.weight"])
