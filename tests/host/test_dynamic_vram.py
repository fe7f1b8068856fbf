"""On a newer host with an NVIDIA card, which moves weights as they are needed: its switch, set as its start sets it there.

What only such a card can run, the host's own moving of weights, is not in here.
"""

from __future__ import annotations

from pathlib import Path

import comfy.ops
import comfy.sampler_helpers
import comfy.samplers
import pytest
import torch

from pfv_demo import sizes
from pfv_mepa.nodes.host import adapter as host_adapter
from pfv_mepa.nodes.host import demo as host_demo
from pfv_mepa.nodes.host.refadgen import PROJECTIONS, load_reference
from pfv_mepa.nodes.host.strict_id import load_control
from pfv_mepa.nodes.host.whole_layers import DYNAMIC, memory_management, whole_layers
from pfv_mepa.nodes.mepa.branch_nodes import MEPAApplyControlNet
from pfv_mepa.pfv_core.research.refadgen import open_refadgen
from pfv_mepa.tests.host.beside import controlled
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, sample
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning

MODELS = Path(sizes.__file__).parent / "models"
STRICT_ID = MODELS / "controlnet" / "pfv_demo_strict_id.safetensors"
REFADGEN = MODELS / "model_patches" / "pfv_demo_refadgen.safetensors"


@pytest.fixture(scope="module")
def base():
    """Loaded by the host before, as it would be by its own loader."""
    return host_demo.demo_model(sizes.WEIGHTS)


def fusion(base):
    unet = load_reference(base, open_refadgen(REFADGEN)).model
    return torch.nn.ModuleList([unet.diffusion_model, getattr(unet, PROJECTIONS)])


LOADED = {
    "model": lambda base: host_demo.demo_model(sizes.WEIGHTS).model.diffusion_model,
    "clip": lambda base: host_demo.demo_clip(sizes.WEIGHTS).cond_stage_model,
    "vae": lambda base: host_demo.demo_vae(sizes.WEIGHTS).first_stage_model,
    "clip_vision": lambda base: host_demo.demo_clip_vision(sizes.WEIGHTS).model,
    "controlnet": lambda base: host_demo.demo_controlnet(sizes.WEIGHTS).control_model,
    "adapter": lambda base: host_demo.demo_adapter(sizes.WEIGHTS)._adapter,
    "strict_id": lambda base: load_control(STRICT_ID).control_model,
    "refadgen": fusion,
}


@pytest.fixture
def dynamic(monkeypatch):
    """The host's switch; on a host that has none everything is as it always is there."""
    if hasattr(memory_management, DYNAMIC):
        monkeypatch.setattr(memory_management, DYNAMIC, True)
    host_adapter._loaded.clear()
    yield
    host_adapter._loaded.clear()


@pytest.mark.parametrize("name", LOADED)
def test_every_file_loads_as_it_does_without(name, base, dynamic, monkeypatch):
    """Weights, sizes and precisions."""
    found = LOADED[name](base).state_dict()
    if hasattr(memory_management, DYNAMIC):
        assert getattr(memory_management, DYNAMIC), "it is as it was afterwards"
        monkeypatch.setattr(memory_management, DYNAMIC, False)
    host_adapter._loaded.clear()
    expected = LOADED[name](base).state_dict()
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape), key
        assert torch.equal(found[key], value), key


def test_the_switch_is_what_makes_the_difference(dynamic):
    """Or the test above could not fail."""
    lazy = comfy.ops.disable_weight_init.Linear(2, 3)
    with whole_layers():
        whole = comfy.ops.disable_weight_init.Linear(2, 3)
    assert whole.weight.shape == (3, 2)
    assert (lazy.weight is None) == hasattr(memory_management, DYNAMIC)


def test_the_switch_is_set_again_after_an_error(dynamic):
    before = getattr(memory_management, DYNAMIC, None)
    with pytest.raises(ValueError, match="broken"), whole_layers():
        raise ValueError("broken")
    assert getattr(memory_management, DYNAMIC, None) == before


def dynamic_clone(model):
    """A model that says of itself what the host's own for such cards say."""
    clone = model.clone()

    class Dynamic(type(model)):
        def is_dynamic(self):
            return True

        def get_non_dynamic_delegate(self):
            raise AssertionError("the host would load the checkpoint once more")

    clone.__class__ = Dynamic
    return clone


def texts(model, control_net):
    return controlled(control_net, tiny_conditioning(model, seed=6), tiny_conditioning(model, seed=7))


@pytest.fixture
def prompted(tiny_model, tiny_controlnet, tiny_clip_vision, plus_adapter_file):
    """A ControlNet after MEPA Apply to ControlNet, the model that it was given, and that one's image prompt."""
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file)
    patched = apply(tiny_model, prompt)
    (made,) = outputs(MEPAApplyControlNet, control_net=tiny_controlnet, model=patched)
    return made, patched, prompt


def test_a_prompted_controlnet_does_not_load_the_model_again(prompted):
    """The host does for whatever changes weights, and counts a ControlNet's hooks among that."""
    made, patched, _ = prompted
    model = dynamic_clone(patched)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*texts(model, made))
    assert guider.model_patcher is model


def test_what_is_found_of_its_hooks(prompted, tiny_controlnet):
    """By those who run it ours, by those who ask what changes weights others' alone; so it stays in the host's copies."""
    made, *_ = prompted
    again = made.copy().copy()
    assert isinstance(again, type(tiny_controlnet))
    for one in (made, again):
        assert one.get_extra_hooks() == []
        assert len(comfy.sampler_helpers.get_hooks_from_cond([{"control": one}], comfy.hooks.HookGroup()).hooks) == 1
    others = comfy.hooks.HookGroup()
    others.add(comfy.hooks.WeightHook())
    hooked = tiny_controlnet.copy()
    hooked.extra_hooks = others
    both = made.copy()
    both.set_previous_controlnet(hooked)
    assert both.get_extra_hooks() == [others]


def test_hooks_of_others_are_still_found(tiny_controlnet, prompted):
    hooked = tiny_controlnet.copy()
    hooked.extra_hooks = comfy.hooks.HookGroup()
    hooked.extra_hooks.add(comfy.hooks.WeightHook())
    (made,) = outputs(MEPAApplyControlNet, control_net=hooked, model=prompted[1])
    (again,) = outputs(MEPAApplyControlNet, control_net=made, model=prompted[1])
    for one in (made, again, again.copy()):
        assert [len(group.hooks) for group in one.get_extra_hooks()] == [1]
        assert len(one.extra_hooks.hooks) == 2


def test_its_hook_lets_a_run_of_a_bare_model_carry_its_facts(tiny_model, tiny_controlnet, prompted):
    """Without it the rows that are negative would not be known, which is an error."""
    made, *_ = prompted
    changed = sample(tiny_model, *texts(tiny_model, made), steps=1)
    assert not torch.equal(changed, sample(tiny_model, *texts(tiny_model, tiny_controlnet), steps=1))


def test_another_packs_patch_beneath_ours_is_told_that_a_run_is_over(tiny_model, prompted):
    """Newer hosts tell whatever is in a slot."""
    told = []

    class Other:
        def __call__(self, query, key, value, options):
            return query

        def cleanup(self):
            told.append(self)

    clone = tiny_model.clone()
    block = next(iter(prompted[1].model_options["transformer_options"]["patches_replace"]["attn2"]))
    clone.set_model_patch_replace(Other(), "attn2", *block)
    patched = apply(clone, prompted[2])
    patched.model_options["transformer_options"]["patches_replace"]["attn2"][block].cleanup()
    assert [type(one) for one in told] == [Other]  # older hosts copy it when they clone a model
