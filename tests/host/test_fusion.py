"""RefAdGen Attention Fusion in the real host: what it computes, what it leaves alone, and the guests beside it."""

from __future__ import annotations

import copy
import gc
import logging

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import nodes as host_nodes
import pytest
import torch
from comfy.patcher_extension import PatcherInjection
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

from pfv_mepa.nodes.host import fusion_run
from pfv_mepa.nodes.host.fusion_run import FusionRun
from pfv_mepa.nodes.host.reference_pass import Changes, ReferenceNoise
from pfv_mepa.nodes.host.self_attention import apply_attention_fusion
from pfv_mepa.nodes.host.slots import host_attention
from pfv_mepa.nodes.research.fusion_nodes import RefAdGenAttentionFusion
from pfv_mepa.pfv_core.attention.fusion import FusionControl
from pfv_mepa.tests.host.beside import run
from pfv_mepa.tests.host.sampling import apply, cut_out, image_prompt, outputs, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack import models

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # of the largest value, in float32 through a whole random U-Net
SELF_ATTENTIONS = {"sdxl": 70, "vega": 15, "koala700m": 21, "sd15": 16}


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def other_checkpoint():
    """Another checkpoint of the same family."""
    return models.tiny_model("few", seed=11)


def product(batch: int = 1, height: int = 96, width: int = 64, seed: int = 3):
    """A LATENT as VAE Encode gives it, of a size of its own."""
    return {"samples": torch.randn(batch, 4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))}


def fuse(model, **options):
    """RefAdGen Attention Fusion with its defaults, the product in the right half."""
    defaults = {
        "reference_latent": product(),
        "reference_prompt": models.tiny_conditioning(model, seed=8),
        "strength": 1.0,
        "combine": "add",
        "reference_noise": "clean",
        "start_percent": 0.0,
        "end_percent": 1.0,
        "product_mask": right_half(),
    }
    (patched,) = outputs(RefAdGenAttentionFusion, model=model, **{**defaults, **options})
    return patched


def assert_near(first, second):
    scale = second.abs().max()
    torch.testing.assert_close(first / scale, second / scale, **TOLERANCE)


class Passes:
    """Counts the reference passes."""

    def __init__(self, patch):
        self.sigmas = []
        original = fusion_run.reference_keys_values

        def counting(model, reference, sigma):
            self.sigmas.append(None if sigma is None else float(sigma[0]))
            return original(model, reference, sigma)

        patch.setattr(fusion_run, "reference_keys_values", counting)


@pytest.fixture
def passes(monkeypatch):
    return Passes(monkeypatch)


@pytest.fixture
def calls(monkeypatch):
    """(block, chunks) of each self-attention that runs."""
    found = []
    original = FusionRun.attention

    def recording(self, block, query, key, value, options, base):
        found.append((block, tuple(options["cond_or_uncond"])))
        return original(self, block, query, key, value, options, base)

    monkeypatch.setattr(FusionRun, "attention", recording)
    return found


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", SELF_ATTENTIONS)
def test_every_self_attention_is_patched_and_fires(tiny_model_of, calls, topology):
    model = tiny_model_of(topology)
    vanilla = sample(model, steps=1)
    changed = sample(fuse(model), steps=1)
    assert len(calls) == len({block for block, _ in calls}) == SELF_ATTENTIONS[topology]
    assert not torch.equal(changed, vanilla)


def test_the_mask_rules_at_the_attentions_own_output(model, monkeypatch):
    """Against explicit attention with the reference's recorded keys and values; outside the mask, the layer's own bits."""
    seen = []
    original = FusionRun.attention

    def comparing(self, block, query, key, value, options, base):
        out = original(self, block, query, key, value, options, base)
        own = host_attention(options)(query, key, value)
        pair = (tensor.expand(len(query), -1, -1) for tensor in self._keys_values[block])
        other = host_attention(options)(query, *pair)
        rows, columns = options["activations_shape"][-2:]
        inside = torch.zeros(rows, columns, 1)
        inside[:, columns // 2 :] = 1
        assert torch.allclose(out, own + 0.5 * inside.flatten(0, 1) * other, atol=1e-5)
        left = (out == own).view(-1, rows, columns, own.shape[-1])[:, :, : columns // 2]
        seen.append(bool(left.all()) and not torch.equal(out, own))
        return out

    monkeypatch.setattr(FusionRun, "attention", comparing)
    sample(fuse(model, strength=0.5), steps=1)
    assert seen == [True] * 3


def test_the_reference_pass_is_the_unet_on_the_product(model, monkeypatch):
    """Keys of the first self-attention, from the clean latent at the schedule's lowest level, without the host's sampler."""
    seen = []
    original = fusion_run.reference_keys_values
    monkeypatch.setattr(fusion_run, "reference_keys_values", lambda *args: seen.append(original(*args)) or seen[-1])
    sample(fuse(model), steps=2)
    assert len(seen) == 1
    unet = model.model.diffusion_model
    first = unet.input_blocks[3][1]
    keys = []
    hook = first.transformer_blocks[0].attn1.to_k.register_forward_hook(lambda m, i, out: keys.append(out))
    scale = model.model.latent_format.scale_factor
    level = float(model.model.model_sampling.sigma_min)
    latent = product()["samples"] * scale / (level**2 + 1) ** 0.5
    conditioning = models.tiny_conditioning(model, seed=8)
    pooled = model.model.encode_adm(
        pooled_output=conditioning[0][1]["pooled_output"], width=64, height=96, device="cpu"
    )
    unet(latent, torch.zeros(1), context=conditioning[0][0], y=pooled)
    hook.remove()
    torch.testing.assert_close(seen[0]["input", 3, 0][0], keys[0], rtol=1e-4, atol=1e-4)


def test_clean_is_read_once_and_step_at_every_step(model, passes):
    sample(fuse(model), steps=3)
    assert passes.sigmas == [None]
    passes.sigmas.clear()
    sample(fuse(model, reference_noise="step"), steps=3)
    assert len(passes.sigmas) == 3
    assert passes.sigmas == sorted(passes.sigmas, reverse=True)
    assert len(set(passes.sigmas)) == 3


def test_the_product_counts(model):
    """Another product, prompt, noise or way to combine gives another latent."""
    latents = [
        sample(fuse(model, **change), steps=2)
        for change in (
            {},
            {"reference_latent": product(seed=4)},
            {"reference_prompt": models.tiny_conditioning(model, seed=9)},
            {"reference_noise": "step"},
            {"combine": "blend"},
            {"strength": 0.5},
            {"product_mask": None},
            {"start_percent": 0.5},
            {"end_percent": 0.5},
        )
    ]
    for index, latent in enumerate(latents):
        assert not any(torch.equal(latent, other) for other in latents[index + 1 :])


def test_same_inputs_same_image(model):
    for noise in ("clean", "step"):
        patched = fuse(model, reference_noise=noise)
        assert torch.equal(sample(patched), sample(patched))


# --- what it leaves alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["sdxl", "sd15"])
@pytest.mark.parametrize("combine", ["add", "blend"])
def test_strength_zero_is_the_unpatched_model(tiny_model_of, topology, combine):
    model = tiny_model_of(topology)
    patched = fuse(model, strength=0.0, combine=combine)
    assert (sample(patched) - sample(model)).abs().max() == 0.0


def test_a_patch_that_adds_nothing_is_the_unpatched_model(model, calls):
    """The patched path itself, not its shortcut: every block is taken, with no row to reach."""
    region = right_half(batch=2)
    region[1] = 0
    latent, prompt = product()["samples"], models.tiny_conditioning(model, seed=8)
    patched = apply_attention_fusion(model, latent, prompt, FusionControl(1.0, "add"), ReferenceNoise.CLEAN, region)
    together, vanilla = sample(patched, batch=2), sample(model, batch=2)
    assert calls
    assert (together[1] - vanilla[1]).abs().max() == 0.0
    assert not torch.equal(together[0], vanilla[0])


def test_a_cut_outs_mask_is_turned_around(model):
    """A file's transparency is 1 where the product is not."""
    turned = fuse(model, product_mask=cut_out(), product_mask_selects="background")
    assert torch.equal(sample(turned), sample(fuse(model, product_mask=1 - cut_out())))


def test_outside_its_window_it_is_absent_and_reads_nothing(model, passes):
    between = fuse(model, start_percent=0.4, end_percent=0.6)  # two steps: the first and the last noise level
    assert (sample(between) - sample(model)).abs().max() == 0.0
    assert passes.sigmas == []


@pytest.mark.parametrize("noise", ["clean", "step"])
def test_removing_the_node_leaves_the_model_as_it_was(model, other_checkpoint, noise):
    before = sample(model)
    patched = fuse(model, reference_noise=noise, reference_model=other_checkpoint)
    changed = sample(patched)
    del patched
    assert (sample(model) - before).abs().max() == 0.0
    assert not torch.equal(changed, before)


def test_clones_do_not_see_each_other(model):
    one = fuse(model)
    baseline = sample(one)
    two = fuse(one.clone(), reference_latent=product(seed=9), product_mask=1 - right_half())
    both = sample(two)
    assert not torch.equal(both, baseline)
    assert torch.equal(sample(one), baseline)
    assert torch.equal(sample(copy.copy(two).clone()), both)
    slots = two.clone().model_options["transformer_options"]["patches_replace"]["attn1"]
    shared = two.model_options["transformer_options"]["patches_replace"]["attn1"]
    assert all(slots[key] is not shared[key] and slots[key].patch is shared[key].patch for key in shared)
    fusion = slots["input", 3, 0].patch
    assert copy.deepcopy(fusion) is fusion  # its runs are found by what it is


def test_cycles_leave_nothing_behind(model, other_checkpoint):
    def cycle():
        sample(fuse(fuse(model.clone(), reference_noise="step"), reference_model=other_checkpoint).clone(), steps=1)

    def alive():
        gc.collect()
        objects = gc.get_objects()
        return (
            sum(isinstance(thing, torch.Tensor) for thing in objects if issubclass(type(thing), torch.Tensor)),
            sum(type(thing) is comfy.model_patcher.ModelPatcher for thing in objects),
        )

    cycle()
    before = alive()
    for _ in range(5):
        cycle()
    assert alive() == before


# --- another checkpoint -----------------------------------------------------------------------------------------------


def test_another_checkpoint_reads_the_product_and_the_host_loads_it(model, other_checkpoint):
    patched = fuse(model, reference_model=other_checkpoint)
    extra = [extra.model for extra in patched.clone().get_nested_additional_models()]
    assert [one for one in extra if list(one.parameters())] == [other_checkpoint.model]
    comfy.model_management.unload_all_models()
    other = sample(patched)
    loaded = [entry.model.model for entry in comfy.model_management.current_loaded_models]
    assert model.model in loaded
    assert other_checkpoint.model in loaded
    assert not torch.equal(other, sample(fuse(model)))


def test_a_flow_and_another_schedule_do_not_mean_the_same_noise(model, other_checkpoint):
    """A level of 0.75 is three quarters of noise to the one, three quarters of noise on top of the picture to the other."""

    def flow(of):
        (patched,) = ModelSamplingSD3().patch(of, 3.0)
        return patched

    for sampled, reading in ((flow(model), other_checkpoint), (model, flow(other_checkpoint))):
        with pytest.raises(
            ValueError, match="put the same ModelSampling node on both, or set reference_noise to clean"
        ):
            sample(fuse(sampled, reference_model=reading, reference_noise="step"))
        sample(fuse(sampled, reference_model=reading, reference_noise="clean"))
    both = fuse(flow(model), reference_model=flow(other_checkpoint), reference_noise="step")
    assert not torch.equal(sample(both), sample(flow(model)))


@pytest.mark.parametrize("sampling", ["eps", "v_prediction", "lcm"])
def test_other_schedules_of_added_noise_do(model, other_checkpoint, sampling):
    other = run("ModelSamplingDiscrete", model=model, sampling=sampling)
    sample(fuse(other, reference_model=other_checkpoint, reference_noise="step"))


def test_beside_a_model_whose_weights_move_as_they_are_needed_nothing_holds_room(model):
    """A host that makes room as it is needed does less of that beside any model that it cannot move so."""
    clone = model.clone()
    clone.__class__ = type("Dynamic", (type(model),), {"is_dynamic": lambda self: True})
    assert len(fuse(model).get_nested_additional_models()) == 1
    assert fuse(clone).get_nested_additional_models() == []


def test_the_same_weights_from_another_loader_are_the_model_itself(model):
    twin = models.tiny_model("few")
    assert torch.equal(sample(fuse(model, reference_model=twin)), sample(fuse(model)))
    assert torch.equal(sample(fuse(model, reference_model=model.clone())), sample(fuse(model)))


def test_a_lora_on_the_reference_alone(model):
    """From weights of its own it counts; on shared weights it cannot, and the user is told."""
    twin = lora(models.tiny_model("few"))
    assert not torch.equal(sample(fuse(model, reference_model=twin)), sample(fuse(model)))
    shared = fuse(model, reference_model=lora(model))
    with pytest.raises(ValueError, match="from the same loader as the model that is sampled"):
        sample(shared)
    with pytest.raises(ValueError, match="from the same loader as the model that is sampled"):
        sample(lora(fuse(model, reference_model=model)))
    with pytest.raises(ValueError, match="two reference_model inputs come from the same loader"):
        fuse(fuse(model, reference_model=twin), reference_model=lora(twin))


def injected(model):
    """As the host's bypass LoRAs are: the weights stay as they are."""
    clone = model.clone()
    nothing = PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)
    clone.set_injections("bypass_lora", [nothing])
    return clone


def resampled(model):
    return run("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=False)


@pytest.mark.parametrize(
    ("change", "named"), [(injected, r"running model \(bypass_lora\)"), (resampled, "a change of model_sampling")]
)
def test_what_changes_one_set_of_weights_must_be_on_both(model, change, named):
    """It is there for both or for none, and the reference is read with the weights as they are loaded."""
    for noise in ("clean", "step"):
        both = change(model)
        together = fuse(both, reference_model=both.clone(), reference_noise=noise)
        assert torch.equal(sample(together), sample(fuse(both, reference_noise=noise)))
    alone = (fuse(change(model), reference_model=model), fuse(model, reference_model=change(model)))
    for patched in (*alone, change(fuse(model, reference_model=model))):
        with pytest.raises(ValueError, match=f"from the same loader as the model that is sampled.*{named}.*put it on"):
            sample(patched)
    twin = models.tiny_model("few")
    with pytest.raises(ValueError, match=f"two reference_model inputs.*{named}.*copy of the file under another name"):
        fuse(fuse(model, reference_model=twin), reference_model=change(twin))


def test_the_packs_own_patches_and_compiling_change_no_weights(model, tiny_clip_vision, plus_adapter_file):
    """The reference is read without them."""
    own = apply(fuse(model), image_prompt(tiny_clip_vision, plus_adapter_file))
    own.add_object_patch("diffusion_model", torch.compile(model.get_model_object("diffusion_model"), backend="eager"))
    assert Changes.of(own).beside(Changes.of(model)) is None
    plain = fuse(model, reference_model=own)
    assert torch.equal(sample(plain), sample(fuse(model)))


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ("sdxl", "sd15", "reference_model has 16 self-attentions, model has 70"),
        ("sd15", "vega", "reference_model has 15 self-attentions, model has 16"),
        ("koala1b", "sdxl", "reference_model has 70 self-attentions, model has 30"),
    ],
)
def test_another_family_is_refused(tiny_model_of, own, other, message):
    with pytest.raises(ValueError, match=f"{message}: use a reference_model of the same family"):
        fuse(tiny_model_of(own), reference_model=tiny_model_of(other))


def test_other_widths_and_heads_are_refused(model):
    with pytest.raises(
        ValueError, match="at input 3 block 0 reference_model has 256 channels in 16 heads, model has 128 in 8"
    ):
        fuse(model, reference_model=models.tiny_model("few", channels=64))
    with pytest.raises(ValueError, match="has 128 channels in 4 heads, model has 128 in 8"):
        fuse(model, reference_model=models.tiny_model("few", head_dim=32))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_latent": {"samples": torch.zeros(1, 16, 8, 8)}}, r"is \(1, 16, 8, 8\), expected \(batch, 4,"),
        ({"reference_latent": {"samples": torch.zeros(1, 4, 1, 8, 8)}}, r"is \(1, 4, 1, 8, 8\), expected \(batch, 4,"),
        ({"reference_prompt": []}, "reference_prompt holds 0 prompts, expected 1"),
        ({"product_mask": torch.zeros(1, 64, 64)}, "product_mask 0 selects nothing: paint the part it is meant"),
        ({"product_mask": cut_out()}, "set product_mask_selects to background"),
        ({"product_mask_selects": "the product"}, "product_mask_selects is 'the product', expected one of"),
        ({"strength": 1.5, "combine": "blend"}, "scale is 1.5, expected 0"),
        ({"combine": "sum"}, "combine is 'sum', expected one of"),
        ({"reference_noise": "noisy"}, "reference_noise is 'noisy', expected one of"),
        ({"start_percent": 0.6, "end_percent": 0.4}, "start_percent is 0.6, end_percent 0.4"),
    ],
)
def test_bad_input(model, change, message):
    with pytest.raises(ValueError, match=message):
        fuse(model, **change)


def test_a_prompt_with_more_than_a_prompt_is_refused(model):
    prompt = models.tiny_conditioning(model, seed=8)
    (area,) = host_nodes.ConditioningSetArea().append(prompt, 64, 64, 0, 0, 1.0)
    with pytest.raises(ValueError, match="reference_prompt carries area"):
        fuse(model, reference_prompt=area)
    (part,) = host_nodes.ConditioningSetTimestepRange().set_range(prompt, 0.5, 1.0)
    with pytest.raises(ValueError, match="reference_prompt carries end_percent, start_percent, which the pass"):
        fuse(model, reference_prompt=part)
    told = [
        [prompt[0][0], {**prompt[0][1], "width": 8, "guidance": None}]
    ]  # SDXL's sizes count, and nothing is nothing
    fuse(model, reference_prompt=told)


def test_what_fits_no_run(model):
    with pytest.raises(ValueError, match="reference_latent is a batch of 3, 2 image"):
        sample(fuse(model, reference_latent=product(3)), batch=2)
    with pytest.raises(ValueError, match="product_mask is a batch of 3, 2 image"):
        sample(fuse(model, product_mask=right_half(batch=3)), batch=2)
    with pytest.raises(ValueError, match="product_mask is 128x256, the image being sampled is 128x128"):
        sample(fuse(model, product_mask=right_half(128, 256)))


def test_hypertile_is_refused_by_name(model):
    (tiled,) = outputs(HyperTile, model=fuse(model), tile_size=64, swap_size=2, max_depth=1, scale_depth=False)
    with pytest.raises(RuntimeError, match=r"number of rows in attention from 2 to 8 .* HyperTile"):
        sample(tiled, height=256, width=256, steps=1)


# --- guests -----------------------------------------------------------------------------------------------------------


def lora(model):
    key = "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_k.weight"
    weight = model.model_state_dict()[key]
    clone = model.clone()
    patches = {key: (torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.2,)}
    assert clone.add_patches(patches, 1.0) == [key]
    return clone


def test_cfg_one_runs_the_positive_alone(model, calls):
    sample(fuse(model), cfg=1.0, steps=1)
    assert {chunks for _, chunks in calls} == {(0,)}


def test_split_chunks_give_what_one_call_gives(model, calls, passes):
    patched = fuse(model, reference_noise="step")
    negative = models.tiny_conditioning(model, seed=7)
    together = sample(patched, negative=negative, steps=1)
    assert {chunks for _, chunks in calls} == {(1, 0)}
    calls.clear()
    repeated = [[negative[0][0].repeat(1, 7, 1), negative[0][1]]]  # 539 tokens, the same attention
    apart = sample(patched, negative=repeated, steps=1)
    assert {chunks for _, chunks in calls} == {(0,), (1,)}
    assert_near(apart, together)
    assert len(passes.sigmas) == 2  # one for each of the two runs of one step


def test_two_positives(model, calls):
    positive = models.tiny_conditioning(model, seed=6)
    twice = sample(fuse(model), positive=[*positive, *positive], steps=1)
    assert {chunks for _, chunks in calls} == {(1, 0, 0)}
    assert_near(twice, sample(fuse(model), positive=positive, steps=1))


@pytest.mark.parametrize("batch", [2, 3])
def test_batches(model, batch):
    patched = fuse(model)
    together = sample(patched, batch=batch, steps=1)
    assert_near(together[:1], sample(patched, steps=1))
    assert not torch.equal(together[0], together[1])


def test_one_product_and_one_mask_for_each_image(model):
    latents = product(2)["samples"]
    masks = torch.stack([right_half()[0], 1 - right_half()[0]])
    together = sample(fuse(model, reference_latent={"samples": latents}, product_mask=masks), batch=2, steps=1)
    for index in range(2):
        one = {"samples": latents[index : index + 1]}
        alone = fuse(model, reference_latent=one, product_mask=masks[index : index + 1])
        assert_near(together[index], sample(alone, batch=2, steps=1)[index])


@pytest.mark.parametrize(("left", "reached"), [(0, False), (64, True)])
def test_area_conditioning_takes_its_part_of_the_mask(model, left, reached, caplog):
    """The product stands in the right half: an area there is reached, one on the left is the unpatched model's."""
    (area,) = host_nodes.ConditioningSetArea().append(models.tiny_conditioning(model, seed=6), 64, 128, left, 0, 1.0)
    with caplog.at_level(logging.WARNING):
        cropped = sample(fuse(model), positive=area, cfg=1.0, steps=2)
    assert not [record for record in caplog.records if "sampled by itself" in record.message]
    vanilla = sample(model, positive=area, cfg=1.0, steps=2)
    assert bool((cropped - vanilla).abs().max() > 0) is reached


def test_areas_of_one_size_are_told_apart_in_one_call(model, calls):
    """Two areas side by side run as two chunks of one call; only the right one holds the product."""
    halves = []
    for left in (0, 64):
        prompt = models.tiny_conditioning(model, seed=6)
        halves += host_nodes.ConditioningSetArea().append(prompt, 64, 128, left, 0, 1.0)[0]
    out, vanilla = (sample(m, positive=halves, cfg=1.0, steps=1) for m in (fuse(model), model))
    assert {chunks for _, chunks in calls} == {(0, 0)}
    assert torch.equal(out[..., :8], vanilla[..., :8])
    assert not torch.equal(out[..., 8:], vanilla[..., 8:])


def test_what_another_pack_asks_of_a_prompt_is_missing_where_a_product_is_read(model):
    """As IC-Light does, which puts a picture beside the latent."""
    asking, encode, name = model.clone(), model.model.extra_conds, "picture_of_another_pack"
    asking.add_object_patch("extra_conds", lambda **given: encode(**given) if given[name] else {})
    sides = [
        [[text, values | {name: 1}] for text, values in models.tiny_conditioning(model, seed=seed)] for seed in (6, 7)
    ]
    sample(asking, *sides)
    with pytest.raises(ValueError, match=rf"could not be made of reference_prompt \(KeyError: '{name}'\)"):
        sample(fuse(asking), *sides)


def test_the_host_makes_room_for_what_is_held(model):
    """Keys and values of every self-attention: as many bytes as a reference pass gives."""
    found = []
    original = fusion_run.reference_keys_values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion_run, "reference_keys_values", lambda *args: found.append(original(*args)) or found[-1])
        patched = fuse(model, reference_latent=product(height=104, width=72))
        sample(patched, steps=1)
    held = sum(tensor.nbytes for pair in found[0].values() for tensor in pair)
    extra = patched.get_nested_additional_models()
    assert sum(one.model_size() for one in extra) == held > 0


def test_controlnet(tiny_model, tiny_controlnet):
    positive, negative = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        models.tiny_conditioning(tiny_model, seed=6),
        models.tiny_conditioning(tiny_model, seed=7),
        tiny_controlnet,
        reference(128, 128),
        0.8,
        0.0,
        1.0,
    )
    patched = fuse(tiny_model)
    controlled = sample(patched, positive, negative)
    assert not torch.equal(controlled, sample(patched))
    assert not torch.equal(controlled, sample(tiny_model, positive, negative))


def test_lora_before_and_after(model):
    """Without a reference_model the sampled model reads the product, with whatever LoRA is on it."""
    before, after = sample(fuse(lora(model))), sample(lora(fuse(model)))
    assert torch.equal(before, after)
    assert not torch.equal(before, sample(fuse(model)))
    assert not torch.equal(before, sample(lora(model)))


def test_a_lora_on_one_prompt_does_not_reach_the_reference(model, monkeypatch):
    """The host changes the weights for the prompt and leaves them so; the next step's reference pass sees the model's own."""
    seen = []
    original = fusion_run.reference_keys_values
    monkeypatch.setattr(fusion_run, "reference_keys_values", lambda *args: seen.append(original(*args)) or seen[-1])
    place = "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_k"
    random = torch.Generator().manual_seed(3)
    weights = {f"{place}.lora_up.weight": torch.randn(128, 4, generator=random)}
    weights[f"{place}.lora_down.weight"] = torch.randn(4, 128, generator=random)
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    positive = comfy.hooks.set_hooks_for_conditioning(models.tiny_conditioning(model, seed=6), hooks)
    patched = fuse(model, reference_noise="step")
    hooked, plain = sample(patched, positive=positive, cfg=1.0, steps=2), sample(patched, cfg=1.0, steps=2)
    assert not torch.equal(hooked, plain)
    assert len(seen) == 4
    for step in range(2):
        assert torch.equal(seen[step]["input", 3, 0][0], seen[step + 2]["input", 3, 0][0])


def test_freeu_before_and_after(model):
    def freeu(model):
        return outputs(FreeU_V2, model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]

    before, after = sample(fuse(freeu(model))), sample(freeu(fuse(model)))
    assert torch.equal(before, after)
    assert not torch.equal(before, sample(freeu(model)))


def test_deep_shrink(model):
    """The grid of a layer is what it is in this pass; the reference keeps its own."""
    (shrunk,) = outputs(
        PatchModelAddDownscale,
        model=fuse(model, product_mask=right_half(192, 256)),
        block_number=3,
        downscale_factor=2.0,
        start_percent=0.0,
        end_percent=0.35,
        downscale_after_skip=True,
        downscale_method="bicubic",
        upscale_method="bicubic",
    )
    size = {"height": 192, "width": 256, "steps": 2}
    assert not torch.equal(sample(shrunk, **size), sample(fuse(model, product_mask=right_half(192, 256)), **size))


@pytest.mark.parametrize(("height", "width"), [(136, 184), (72, 264)])
def test_odd_sizes(model, height, width):
    patched = fuse(model, product_mask=right_half(height, width))
    assert not torch.equal(
        sample(patched, height=height, width=width, steps=1), sample(model, height=height, width=width, steps=1)
    )


def test_a_slot_taken_by_another_pack_stays_in_use(model):
    """It computes the layer's own attention; the reference comes on top."""
    counted = []

    def foreign(query, key, value, options):
        counted.append(options["block"])
        return host_attention(options)(query, key, value) * 0.5

    taken = model.clone()
    taken.set_model_attn1_replace(foreign, "input", 3)  # the whole transformer, as the host allows
    before = sample(taken, steps=1)
    counted.clear()
    after = sample(fuse(taken), steps=1)
    assert counted == [("input", 3)] * 2
    assert not torch.equal(before, after)
    assert not torch.equal(after, sample(fuse(model), steps=1))
    assert torch.equal(sample(taken, steps=1), before)


def test_other_patches_of_self_attention_run_too(model):
    """attn1_patch before, attn1_output_patch after: both lists of the host."""
    patched = fuse(model)
    patched.set_model_attn1_patch(lambda n, context, value, options: (n, context * 0.9, value))
    once = sample(patched, steps=1)
    patched.set_model_attn1_output_patch(lambda n, options: n * 0.9)
    assert not torch.equal(once, sample(fuse(model), steps=1))
    assert not torch.equal(sample(patched, steps=1), once)


def test_stacked_products_do_not_depend_on_their_order(model):
    left, right = {"product_mask": 1 - right_half()}, {"reference_latent": product(seed=9)}
    one, two = fuse(fuse(model, **left), **right), fuse(fuse(model, **right), **left)
    assert_near(sample(one, steps=1), sample(two, steps=1))
    assert not torch.equal(sample(one, steps=1), sample(fuse(model, **left), steps=1))


def test_beside_mepa_apply(tiny_model, tiny_clip_vision, plus_adapter_file):
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file)
    region = 1 - right_half()
    one = apply(fuse(tiny_model), prompt, region=region)
    two = fuse(apply(tiny_model, prompt, region=region))
    both = sample(one, steps=1)
    assert torch.equal(both, sample(two, steps=1))
    assert not torch.equal(both, sample(fuse(tiny_model), steps=1))
    assert not torch.equal(both, sample(apply(tiny_model, prompt, region=region), steps=1))


def test_half_precision_unet(tiny_model_of):
    model = tiny_model_of("vega")
    full = sample(fuse(model), steps=1)
    half = comfy.model_patcher.ModelPatcher(model.model, model.load_device, model.offload_device)
    weights = {name: parameter.data for name, parameter in model.model.named_parameters()}
    previous = model.model.diffusion_model.dtype
    try:
        model.model.diffusion_model.to(torch.bfloat16)  # as the host does: its noise schedule stays float32
        model.model.diffusion_model.dtype = torch.bfloat16
        low = sample(fuse(half), steps=1)
    finally:
        for name, parameter in model.model.named_parameters():
            parameter.data = weights[name]
        model.model.diffusion_model.dtype = previous
    assert ((low - full).norm() / full.norm()) < 0.05
