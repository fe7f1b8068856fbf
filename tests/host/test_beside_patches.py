"""Beside the host's patches of a model: before the pack's nodes or after them is one, and extra calls keep their side.

Where a node combines predictions, it is given those that were made for one condition alone. Where it calls the model once more,
what the call adds depends on the tokens of its own side alone.
"""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.tests.host.beside import (
    EVERYTHING,
    HEIGHT,
    PARTS,
    WIDTH,
    Pack,
    assert_apart,
    assert_near,
    assert_same,
    basic,
    cfg,
    combined_by,
    guided,
    mixed,
    needs,
    noise_like,
    prediction,
    prompts,
    run,
)
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

SCALE = 5.0
COMBINING = {  # what is made of the predictions is changed
    "APG": {"eta": 0.5, "norm_threshold": 15.0},
    "CFGNorm": {},
    "CFGZeroStar": {},
    "Epsilon Scaling": {"scaling_factor": 1.2},
    "FreSca": {"scale_low": 1.5},
    "Mahiro": {},
    "RescaleCFG": {},
    "TCFG": {},
    "TemporalScoreRescaling": {"tsr_k": 0.4, "tsr_sigma": 4.0},
}
INSIDE = {  # the U-Net itself is changed
    "FreeU": {},
    "FreeU_V2": {},
    "PatchModelAddDownscale": {"block_number": 3, "end_percent": 1.0},
    "UNetCrossAttentionMultiply": {"q": 1.5},
    "UNetSelfAttentionMultiply": {"v": 1.5},
}
AT_FULL_RESOLUTION = {"HyperTile": {"tile_size": 32}, "TomePatchModel": {}}  # SDXL has no attention there, SD1.5 has
CALLING = {"SelfAttentionGuidance": ("negative", "positive"), "PerturbedAttentionGuidance": ("positive", "negative")}
"""Nodes that call the model once more -> the side that they call it for, and the other."""


def marked(nodes):
    return [pytest.param(node, marks=needs(node), id=node) for node in nodes]


@pytest.fixture(scope="module")
def with_middle(tiny_model_of):
    """A U-Net whose middle has attention, where SAG and PAG work."""
    return tiny_model_of("koala1b")


@pytest.fixture(scope="module")
def sd15(tiny_model_of):
    """A U-Net that has attention at the latent's own resolution."""
    return tiny_model_of("sd15")


@pytest.fixture(scope="module")
def sd15_pack(host_base_directory, tiny_clip_vision, sd15):
    file = adapter_files.write_plus_adapter(
        host_base_directory / "models" / "ipadapter" / "beside-sd15.safetensors",
        adapter_files.cross_attention_widths(sd15.model.diffusion_model),
        encoder_width=models.VISION_WIDTH,
        context_dim=models.CONTEXT_DIM,
    )
    return Pack.of(host_base_directory, tiny_clip_vision, file)


@pytest.fixture(scope="module")
def texts(model):
    return prompts(model)


@pytest.fixture(scope="module")
def plain(pack, model, texts):
    """Function: part -> the prediction with it and without another node."""
    known = {}

    def plain(part):
        if part not in known:
            known[part] = prediction(cfg(pack.put(part, model), *texts, SCALE))
        return known[part]

    return plain


@pytest.fixture(scope="module")
def alone(pack, model, texts):
    """Predictions for the positive and the negative alone, with the image prompt's tokens of that side in every row."""
    return [
        prediction(basic(pack.prompt(model, side), text))
        for text, side in zip(texts, ("positive", "negative"), strict=True)
    ]


def before_and_after(pack, part, model, texts, node, **inputs):
    """The prediction with a node before the pack's, which is the same with it after them."""
    before = prediction(cfg(pack.put(part, run(node, model=model, **inputs)), *texts, SCALE))
    after = prediction(cfg(run(node, model=pack.put(part, model), **inputs), *texts, SCALE))
    assert_same(before, after)
    return after


# --- one call for each evaluation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", marked(COMBINING))
def test_a_node_that_combines_predictions_gets_each_from_its_own_side(pack, model, texts, plain, alone, node):
    made = before_and_after(pack, "prompt", model, texts, node, **COMBINING[node])
    assert_near(made, combined_by(run(node, model=model, **COMBINING[node]), alone, SCALE))
    assert_apart(made, combined_by(run(node, model=model, **COMBINING[node]), alone[::-1], SCALE))
    assert_apart(made, plain("prompt"))


def assert_inside(pack, model, texts, node, **inputs):
    """As without the node: the sum of predictions, each made with it for one condition alone."""
    made = before_and_after(pack, "prompt", model, texts, node, **inputs)
    sides = [
        prediction(basic(run(node, model=pack.prompt(model, side), **inputs), text))
        for text, side in zip(texts, ("positive", "negative"), strict=True)
    ]
    assert_near(made, mixed(*sides, SCALE))
    assert_apart(made, prediction(cfg(pack.prompt(model), *texts, SCALE)))
    assert_apart(made, prediction(cfg(run(node, model=pack.prompt(model, "swapped"), **inputs), *texts, SCALE)))


@pytest.mark.parametrize("node", marked(INSIDE))
def test_a_node_inside_the_unet_leaves_each_row_its_side(pack, model, texts, node):
    assert_inside(pack, model, texts, node, **INSIDE[node])


@pytest.mark.parametrize("node", marked(AT_FULL_RESOLUTION))
def test_a_node_at_full_resolution_leaves_each_row_its_side(sd15_pack, sd15, texts, node):
    assert_inside(sd15_pack, sd15, prompts(sd15), node, **AT_FULL_RESOLUTION[node])


@pytest.mark.parametrize("node", marked(AT_FULL_RESOLUTION))
def test_what_takes_queries_from_attention_fusion_is_refused(sd15_pack, sd15, node):
    with pytest.raises(RuntimeError, match=r"another patch changed the number of (rows|queries)"):
        prediction(cfg(run(node, model=sd15_pack.fusion(sd15), **AT_FULL_RESOLUTION[node]), *prompts(sd15), SCALE))


@pytest.mark.parametrize("node", marked(AT_FULL_RESOLUTION))
def test_nodes_at_full_resolution_do_nothing_to_sdxl(pack, model, texts, plain, node):
    """At the size of these tests, with the inputs that the page offers."""
    assert_same(before_and_after(pack, "everything", model, texts, node), plain("everything"))


@pytest.mark.parametrize("node", marked(["RescaleCFG", "FreeU_V2", "PatchModelAddDownscale", "NAGuidance"]))
@EVERYTHING
def test_before_and_after_is_one_for_the_other_parts(pack, model, texts, plain, part, node):
    made = before_and_after(pack, part, model, texts, node, **(COMBINING | INSIDE).get(node, {}))
    assert_apart(made, plain(part))


@needs("NAGuidance")
def test_nag_at_nothing_is_nothing(pack, model, texts, plain):
    """It reads the rows by their place in the list, as the ordinary guider gives them."""
    patched = run("NAGuidance", model=pack.put("everything", model), nag_alpha=0.0)
    assert_same(prediction(cfg(patched, *texts, SCALE)), plain("everything"))


@pytest.mark.parametrize("node", marked(["VideoLinearCFGGuidance", "VideoTriangleCFGGuidance"]))
def test_guidance_that_changes_over_the_batch(pack, model, texts, node):
    """With the same scale at both ends it is the ordinary one."""
    patched, batch = pack.prompt(model), {"batch": 2}
    same = prediction(cfg(run(node, model=patched, min_cfg=SCALE), *texts, SCALE), **batch)
    assert_near(same, prediction(cfg(patched, *texts, SCALE), **batch))
    after = prediction(cfg(run(node, model=patched), *texts, SCALE), **batch)
    assert_same(after, prediction(cfg(pack.prompt(run(node, model=model)), *texts, SCALE), **batch))
    assert_apart(after, same)


# --- calls of their own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", marked(["SkipLayerGuidanceSD3", "SkipLayerGuidanceDiT", "SkipLayerGuidanceDiTSimple"]))
@EVERYTHING
def test_guidance_by_skipped_layers_does_nothing_to_a_unet(pack, model, texts, plain, part, node):
    """It calls the model once more, without layers that a U-Net does not have: the same prediction, so a difference of 0."""
    patched = run(node, model=pack.put(part, model), start_percent=0.0, end_percent=1.0)
    assert_near(prediction(cfg(patched, *texts, SCALE)), plain(part))


@pytest.mark.parametrize("node", CALLING)
def test_a_call_of_its_own_has_its_own_side(pack, with_middle, texts, node):
    """SAG calls the model with the negative alone, PAG with the positive: the other side's tokens do not count."""
    side, other = CALLING[node]
    shares = {}
    for tokens in ("", side, other):
        patched = pack.prompt(with_middle, tokens)
        guidance, nothing = (
            prediction(cfg(run(node, model=patched, scale=scale), *texts, SCALE)) for scale in (2.0, 0.0)
        )
        shares[tokens] = guidance - nothing
    assert_near(shares[""], shares[side])
    assert_apart(shares[""], shares[other])


@pytest.mark.parametrize("node", CALLING)
@PARTS
def test_a_node_with_a_call_of_its_own_before_and_after_is_one(pack, with_middle, texts, part, node, caplog):
    """SAG takes the middle's self-attention over without a look at what is there: after the fusion it is named, and where to
    put it."""
    before = prediction(cfg(pack.put(part, run(node, model=with_middle)), *texts, SCALE))
    assert "has taken the place of" not in caplog.text
    after = prediction(cfg(run(node, model=pack.put(part, with_middle)), *texts, SCALE))
    if (node, part) == ("SelfAttentionGuidance", "fusion"):
        assert "attn_and_record has taken the place of 1 of its 30 attentions" in caplog.text
        assert "put that node before this one" in caplog.text
    else:
        assert_same(before, after)
        assert "has taken the place of" not in caplog.text
    assert_apart(before, prediction(cfg(pack.put(part, with_middle), *texts, SCALE)), 1e-2)
    assert_apart(before, prediction(cfg(run(node, model=with_middle), *texts, SCALE)))


# --- steps that are left out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["EasyCache", "LazyCache"])
@EVERYTHING
def test_caches_of_steps(pack, model, texts, part, node):
    """With a threshold of 0 no step is left out; with a high one the last is, wherever the node stands."""

    def made(patched):
        return guided(cfg(patched, *texts, SCALE), steps=3)

    patched = pack.put(part, model)
    plain = made(patched)
    assert_same(made(run(node, model=patched, reuse_threshold=0.0)), plain)
    window = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0}
    after = made(run(node, model=patched, **window))
    assert_same(made(pack.put(part, run(node, model=model, **window))), after)
    assert_apart(after, plain, 1e-2)
    assert_apart(made(run(node, model=pack.put(part, model, "swapped"), **window)), after)


# --- inpainting -------------------------------------------------------------------------------------------------------


@EVERYTHING
def test_differential_diffusion(pack, model, texts, part):
    """A mask of ones changes nothing; a soft one leaves the picture where it is 0."""
    picture = noise_like(1, HEIGHT // 8, WIDTH // 8, seed=4)
    soft = torch.linspace(0, 1, WIDTH).repeat(1, HEIGHT, 1)

    def made(patched, mask=None):
        latent = {"samples": picture} | ({} if mask is None else {"noise_mask": mask})
        return guided(cfg(patched, *texts, SCALE), latent=latent)

    patched = pack.put(part, model)
    after = run("DifferentialDiffusion", model=patched)
    assert_near(made(after, torch.ones(1, HEIGHT, WIDTH)), made(patched))
    painted = made(after, soft)
    assert_same(made(pack.put(part, run("DifferentialDiffusion", model=model)), soft), painted)
    assert_apart(painted, made(run("DifferentialDiffusion", model=model), soft))
    assert_near(painted[..., :1], picture[..., :1])


# --- slots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["model", "clone"])
def test_what_another_pack_adds_stays_where_it_was_added(pack, model, texts, plain, side):
    """Packs find our slot taken and call its `add`; the model and its clone are two."""
    patched = pack.prompt(model)
    clone = patched.clone()
    changed, other = (clone, patched) if side == "clone" else (patched, clone)
    for slot in changed.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        slot.add(lambda out, *args, weight: out * weight, weight=0.5)
    assert_same(prediction(cfg(other, *texts, SCALE)), plain("prompt"))
    added = prediction(cfg(changed, *texts, SCALE))
    assert_apart(added, plain("prompt"))
    assert_same(prediction(cfg(changed.clone(), *texts, SCALE)), added)  # it goes on with its own clones


@PARTS
def test_a_merged_model_has_the_parts_of_its_first(pack, model, texts, part):
    """The host merges weights alone: what any node has put into the second model is not in the merged one."""
    other = models.tiny_model("few", seed=11)

    def merged(first, second):
        return run("ModelMergeSimple", model1=first, model2=second, ratio=0.5)

    after = guided(cfg(pack.put(part, merged(model, other)), *texts, SCALE))
    assert_same(guided(cfg(merged(pack.put(part, model), other), *texts, SCALE)), after)
    lost = guided(cfg(merged(model, pack.put(part, other)), *texts, SCALE))
    assert_same(lost, guided(cfg(merged(model, other), *texts, SCALE)))
    assert_apart(after, lost)
