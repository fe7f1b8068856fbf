"""Beside hypernetworks, and whatever else the host runs inside its U-Net that is no weight.

A hypernetwork without activation is a LoRA of to_k and to_v: two ways to load the same change, and one picture.
"""

from __future__ import annotations

import comfy.ops
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample

from pfv_mepa.nodes.host.refadgen import PROJECTIONS, FusionProjections
from pfv_mepa.nodes.host.unet import self_attentions
from pfv_mepa.nodes.mepa.text_nodes import MEPAApplyText
from pfv_mepa.tests.host.beside import (
    EVERYTHING,
    HEIGHT,
    WIDTH,
    assert_apart,
    assert_near,
    assert_same,
    basic,
    cfg,
    controlled,
    prediction,
    prompted_control_net,
    prompts,
    run,
)
from pfv_mepa.tests.host.sampling import outputs, right_half
from pfv_mepa.tests.support.tiny_stack import models
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning

SCALE = 5.0
FILES = ("linear", "tanh")  # by what is between their layers; the linear one has one layer
PLACES = ("attn1.to_k", "attn1.to_v", "attn2.to_k", "attn2.to_v")
TEXTS = 6, 7, 11  # seeds: `prompts` has the first two


@pytest.fixture(scope="module")
def twin():
    """The same weights from another file."""
    return models.tiny_model("few")


@pytest.fixture(scope="module")
def trained():
    """Another file, with projections of its own as RefAdGen Load gives them."""
    model = models.tiny_model("few", seed=11)
    blocks = self_attentions(model, "test")
    projections = FusionProjections(blocks, comfy.ops.disable_weight_init, torch.float32, "cpu")
    model.model.add_module(PROJECTIONS, models.randomize(projections, seed=3))
    return model


@pytest.fixture(scope="module")
def texts(model):
    return prompts(model)


def projections(model):
    """The weights that a hypernetwork stands before."""
    weights = model.model.diffusion_model.state_dict()
    return {name: weight for name, weight in weights.items() if name.removesuffix(".weight").endswith(PLACES)}


@pytest.fixture(scope="module")
def changes(model):
    """By width, what is added to the tokens of keys, and to those of values."""
    random = torch.Generator().manual_seed(5)
    widths = sorted({weight.shape[1] for weight in projections(model).values()})
    return {width: [torch.randn(width, width, generator=random) / width**0.5 for _ in "kv"] for width in widths}


@pytest.fixture(scope="module", autouse=True)
def _files(host_base_directory, changes):
    """Of the layout that the host reads."""
    folder = host_base_directory / "models" / "hypernetworks"
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        layers = ("linear.0",) if name == "linear" else ("linear.0", "linear.1")
        nets = {
            width: tuple(
                {f"{layer}.weight": weight for layer in layers}
                | {f"{layer}.bias": torch.zeros(width) for layer in layers}
                for weight in pair
            )
            for width, pair in changes.items()
        }
        torch.save(nets | {"activation_func": name, "is_layer_norm": False}, folder / f"{name}.pt")
    yield
    for name in FILES:
        (folder / f"{name}.pt").unlink()


def hypernetwork(model, name="linear", strength=0.5):
    return run("HypernetworkLoader", model=model, hypernetwork_name=f"{name}.pt", strength=strength)


@pytest.fixture(scope="module")
def lora(changes):
    """Function: model -> with the change of the linear hypernetwork, as a patch of weights."""

    def lora(model):
        clone = model.clone()
        added = {
            f"diffusion_model.{name}": (weight.float() @ changes[weight.shape[1]][".to_v." in name],)
            for name, weight in projections(model).items()
        }
        assert len(clone.add_patches(added, 0.5)) == len(added)
        return clone

    return lora


def regional(model, seed=TEXTS[2], **options):
    """MEPA Apply Text in the right half."""
    defaults = {"region": right_half(HEIGHT, WIDTH), "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    text = options.pop("text", None) or tiny_conditioning(model, seed=seed)
    (patched,) = outputs(MEPAApplyText, model=model, text=text, **{**defaults, **options})
    return patched


def guided(model, texts, **where):
    return prediction(cfg(model, *texts, SCALE), **where)


# --- a text of a region -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_main_text_once_more_is_the_model_with_its_hypernetwork(model, texts, name, share):
    changed, region = hypernetwork(model, name), share * right_half(HEIGHT, WIDTH)
    expected = guided(changed, texts)
    assert_apart(expected, guided(model, texts))
    before = guided(regional(changed, TEXTS[0], region=region), texts)
    assert_near(before, expected)
    assert_same(guided(hypernetwork(regional(model, TEXTS[0], region=region), name), texts), before)
    other = guided(regional(changed, region=region), texts)
    assert_apart(other, expected, 1e-2)
    assert_apart(other, guided(regional(model, region=region), texts))


def test_a_text_that_rules_everywhere_is_the_main_text(model, texts):
    changed, everywhere = hypernetwork(model), torch.ones(1, HEIGHT, WIDTH)
    ((context, _),) = tiny_conditioning(model, seed=TEXTS[2])
    main = [[context, texts[0][0][1]]], texts[1]  # the tokens alone
    assert_near(guided(regional(changed, region=everywhere), texts), guided(changed, main))


def test_two_hypernetworks_in_their_order(model, texts):
    changed = hypernetwork(hypernetwork(model, "tanh"), "linear", -1.0)
    expected = guided(changed, texts)
    assert_near(guided(regional(changed, TEXTS[0]), texts), expected)
    assert_apart(guided(hypernetwork(hypernetwork(model, "linear", -1.0), "tanh"), texts), expected, 1e-2)


def test_each_image_its_own_text_in_batches_and_one_by_one(model, texts):
    """Rows of a call are of one image and one side each; the texts of two images are not mixed up."""
    changed, several = hypernetwork(model), [tiny_conditioning(model, seed=seed) for seed in TEXTS[:2]]
    text = [[torch.cat([entry[0][0] for entry in several]), several[0][0][1]]]
    together = guided(regional(changed, text=text), texts, batch=2)
    for image in range(2):
        alone = guided(regional(changed, text=several[image]), texts, batch=2)
        assert_near(together[image], alone[image])
    assert_apart(*(guided(regional(changed, text=one), texts, batch=2)[0] for one in several), 1e-2)


def test_areas_and_a_normalised_image_prompt(pack, model, texts):
    changed = hypernetwork(model)
    area = run("ConditioningSetArea", conditioning=texts[0], width=64, height=HEIGHT, x=64, y=0, strength=1.0)
    for positive in (area, [*texts[0], *area]):
        expected = guided(changed, (positive, texts[1]))
        assert_near(guided(regional(changed, TEXTS[0]), (positive, texts[1])), expected)
    normalised = pack.prompt(changed, region=1 - right_half(HEIGHT, WIDTH), text_share=1.0, std_norm=True)
    assert_near(guided(regional(normalised, TEXTS[0]), texts), guided(normalised, texts))


def test_what_reads_the_hidden_states_and_the_rows_too(model, texts):
    """Any pack's, which makes more tokens of them by what the query is made of and by the rows' sides."""

    def patch(hidden, keys, values, options):
        assert len(hidden) == len(keys) == len(values)
        sides = torch.tensor(options["cond_or_uncond"]).view(-1, 1, 1)
        level = hidden.mean((1, 2), keepdim=True) * (1 + sides)
        return hidden * 1.1, torch.cat([keys, keys * level], 1), torch.cat([values, values + level], 1)

    changed = model.clone()
    changed.set_model_attn2_patch(patch)
    expected = guided(changed, texts)
    assert_apart(expected, guided(model, texts))
    assert_near(guided(regional(changed, TEXTS[0]), texts), expected)
    assert_apart(guided(regional(changed), texts), expected, 1e-2)


def test_a_controlnet_has_none_of_it(model, texts):
    """The host hands a ControlNet no patches, so the text of a region has none there either."""
    control_net, changed = models.tiny_controlnet(model), hypernetwork(model)
    same, other = regional(changed, TEXTS[0]), regional(changed)
    expected = guided(changed, controlled(control_net, *texts))
    assert_near(guided(changed, controlled(prompted_control_net(control_net, same), *texts)), expected)
    assert_apart(guided(changed, controlled(prompted_control_net(control_net, other), *texts)), expected, 1e-4)


# --- all parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["clean", "step"])
@EVERYTHING
def test_a_hypernetwork_is_the_lora_of_its_projections(pack, model, texts, lora, part, noise):
    """To the text, to the image prompt beside it, and to the U-Net that reads the product."""

    def put(patched):
        return pack.fusion(regional(pack.put(part, patched)), reference_noise=noise, product_mask=None)

    expected = guided(put(lora(model)), texts)
    assert_near(guided(put(hypernetwork(model)), texts), expected)
    assert_near(guided(hypernetwork(put(model)), texts), expected)
    assert_apart(guided(put(model), texts), expected)


def test_the_reference_counts_in_what_a_hypernetwork_does(pack, model, texts):
    """Beside a reference_model that has none the picture is another one."""
    changed, other = hypernetwork(model), models.tiny_model("few")
    assert_apart(guided(pack.fusion(changed, reference_model=other), texts), guided(pack.fusion(changed), texts), 1e-2)


@pytest.mark.parametrize("reference", ["twin", "trained"])
def test_a_hypernetwork_on_the_reference_model_alone(request, pack, model, texts, lora, caplog, reference):
    """On weights of its own it counts as a LoRA does, which leaves trained projections as they are."""
    reference = request.getfixturevalue(reference)
    expected = guided(pack.fusion(model, reference_model=lora(reference)), texts)
    assert_near(guided(pack.fusion(model, reference_model=hypernetwork(reference)), texts), expected)
    assert_apart(guided(pack.fusion(model, reference_model=reference), texts), expected, 1e-2)
    assert "changes nothing" not in caplog.text


def test_a_hypernetwork_on_one_of_two_that_are_one_is_refused(pack, model, twin, texts):
    both = hypernetwork(model)
    together = guided(pack.fusion(both), texts)
    for same in (both.clone(), hypernetwork(model)):  # the file loaded twice is one change
        assert_same(guided(pack.fusion(both, reference_model=same), texts), together)
    others = (model, hypernetwork(both), hypernetwork(model, "tanh"), hypernetwork(model, strength=0.4))
    alone = [pack.fusion(both, reference_model=other) for other in others]
    for patched in (*alone, hypernetwork(pack.fusion(model, reference_model=model))):
        with pytest.raises(
            ValueError, match=r"from the same loader.*a hypernetwork is on one of them alone: put it on both"
        ):
            guided(patched, texts)
    with pytest.raises(ValueError, match=r"two reference_model inputs.*a hypernetwork is on one of them alone"):
        pack.fusion(pack.fusion(model, reference_model=twin), reference_model=hypernetwork(twin))


@pytest.mark.parametrize("node", ["FreeU_V2", "PatchModelAddDownscale", "HyperTile"])
def test_what_changes_nothing_on_a_reference_model_is_said(pack, model, twin, texts, caplog, node):
    for reference in (twin, model):
        plain = guided(pack.fusion(model, reference_model=reference), texts)
        assert "changes nothing" not in caplog.text
        assert_same(guided(pack.fusion(model, reference_model=run(node, model=reference)), texts), plain)
        (said,) = (record.message for record in caplog.records if "changes nothing" in record.message)
        assert f".{node}." in said
        caplog.clear()


def test_what_counts_or_is_on_both_is_not_said(pack, model, twin, texts, caplog):
    """A multiplied attention is a patch of weights, and a model that reads the product itself is as it is."""
    changed = run("UNetSelfAttentionMultiply", model=twin, v=1.5)
    plain = guided(pack.fusion(model, reference_model=twin), texts)
    assert_apart(guided(pack.fusion(model, reference_model=changed), texts), plain, 1e-2)
    both = pack.prompt(run("FreeU_V2", model=model))
    assert_same(guided(pack.fusion(both, reference_model=both), texts), guided(pack.fusion(both), texts))
    assert "changes nothing" not in caplog.text


# --- the host's other patches -----------------------------------------------------------------------------------------


SCALED = {  # by its kind, a patch that scales what it gets
    "attn1_patch": lambda hidden, keys, values, options: (hidden * 1.2, keys * 1.1, values * 1.3),
    "attn2_patch": lambda hidden, keys, values, options: (hidden * 1.2, keys * 1.1, values * 1.3),
    "attn1_output_patch": lambda out, options: out * 1.3,
    "attn2_output_patch": lambda out, options: out * 1.3,
    "middle_patch": lambda out, options: out * 1.3,
    "input_block_patch": lambda out, options: out * 1.3,
    "input_block_patch_after_skip": lambda out, options: out * 1.3,
    "output_block_patch": lambda out, skip, options: (out * 1.3, skip * 0.8),
    "middle_block_after_patch": lambda given: {"h": given["h"] * 1.5},
    "emb_patch": lambda emb, channels, options: emb * 1.5,
    "forward_timestep_embed_patch": (Downsample, lambda layer, x, *others: layer(x) * 1.5),
}


@pytest.mark.parametrize("kind", SCALED)
def test_every_kind_of_patch_before_and_after_and_beside_parts_that_do_nothing(pack, model, texts, kind):
    def changed(patched):
        clone = patched.clone()
        clone.set_model_patch(SCALED[kind], kind)
        return clone

    def put(patched):
        return regional(pack.everything(patched))

    vanilla = guided(changed(model), texts)
    if kind == "middle_block_after_patch" and torch.equal(vanilla, guided(model, texts)):
        pytest.skip("this ComfyUI has no such patch")
    assert_apart(vanilla, guided(model, texts), 1e-2)
    before = guided(put(changed(model)), texts)
    assert_same(guided(changed(put(model)), texts), before)
    assert_apart(before, guided(put(model), texts), 1e-2)
    late = {"start_percent": 0.9, "end_percent": 0.95}
    absent = pack.fusion(pack.prompt(regional(changed(model), **late), **late), **late)
    assert_same(guided(absent, texts), vanilla)
    assert_near(guided(regional(changed(model), TEXTS[0]), texts), vanilla)


def test_cfg_1_has_no_negative(model, texts):
    changed = hypernetwork(model)
    assert_near(prediction(basic(regional(changed, TEXTS[0]), texts[0])), prediction(basic(changed, texts[0])))
