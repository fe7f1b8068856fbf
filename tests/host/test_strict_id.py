"""Strictly-ID's ControlNet: what the trainer writes, loaded and run by the host's own nodes and sampler.

The files have the layouts of SD1.5's and SDXL's ControlNets at reduced widths, made by diffusers' classes.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lab.diffusers.strict_id import new_strict_id, save_strict_id_net
from pfv_core.research.control_branches import BranchInput, BranchInputs
from pfv_core.research.strict_id_file import StrictIDConfig
from pfv_mepa.nodes.host import facts
from pfv_mepa.nodes.host.control_network import control_network
from pfv_mepa.nodes.host.strict_id import Balance, with_pictures
from pfv_mepa.nodes.host.vit import encoder_spec
from pfv_mepa.nodes.mepa.branch_nodes import MEPAApplyControlNet
from pfv_mepa.nodes.mepa.crop_nodes import MEPACrop, MEPATiles
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.nodes.research.scale_nodes import PFVScaleMap
from pfv_mepa.nodes.research.strict_id_nodes import StrictIDBranches, StrictIDLoadControlNet
from pfv_mepa.tests.host.beside import Given, basic, cfg, guided, noise_like, prompts, run, sized
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, recorded_calls, reference, sample
from pfv_mepa.tests.host.test_beside_batches import one_at_a_time
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

CONTEXT, POOLED = models.CONTEXT_DIM, models.POOLED_DIM
SIDE = 128
LAYOUTS = {
    "sdxl": {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [2, 4, 8],  # diffusers' name for the number of heads
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": POOLED + 6 * 256,
    },
    "sd15": {"block_out_channels": (32, 64, 128, 128), "attention_head_dim": 8},
}
PLACES = {"sdxl": 34, "sd15": 7}
DEFAULTS = {
    "pose_strength": 1.0,
    "appearance_strength": 1.0,
    "std_norm": "as_trained",
    "time_weighting": "as_trained",
    "gamma": 400,
}


@pytest.fixture(scope="module", params=["sdxl", "sd15"])
def trained(request, tiny_clip_vision, host_base_directory):
    """A net as diffusers has it, and its file where the host looks for ControlNets."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(cross_attention_dim=CONTEXT, **LAYOUTS[request.param])
    net = new_strict_id(unet, encoder_spec(tiny_clip_vision), seed=1).eval().requires_grad_(False)
    for name, parameter in net.controlnet.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_")):
            parameter.normal_(std=0.1)
    file = host_base_directory / "models" / "controlnet" / f"trained-{request.param}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    config = StrictIDConfig(request.param, net.branches.sizes, encoder_spec(tiny_clip_vision), True, 400.0)
    save_strict_id_net(file, net, config, torch.float32)
    return SimpleNamespace(name=request.param, net=net, file=file)


@pytest.fixture(scope="module")
def control_net(trained):
    return loaded(trained.file)


@pytest.fixture(scope="module")
def model(trained):
    return models.tiny_model(trained.name, channels=32, head_dim=16)


def loaded(file):
    (made,) = outputs(StrictIDLoadControlNet, control_net_name=file.name)
    return made


def encoded(clip_vision, seed, batch=1, mask=None, mode="zero", fit="crop", size=(224, 224)):
    picture = reference(*size, batch=batch, seed=seed)
    patch_mask, _ = outputs(
        PFVMaskRebinarize, clip_vision=clip_vision, reference=picture, fit=fit, threshold=0.0, mask=mask
    )
    tokens, _ = outputs(PFVImageEncode, clip_vision=clip_vision, reference=picture, patch_mask=patch_mask, mode=mode)
    return tokens


@pytest.fixture(scope="module")
def pictures(tiny_clip_vision):
    return {"pose": encoded(tiny_clip_vision, 11), "appearance": encoded(tiny_clip_vision, 12)}


def branched(control_net, **options):
    (made,) = outputs(StrictIDBranches, control_net=control_net, **{**DEFAULTS, **options})
    return made


def scale_hint(product_cm=4.0, subject_cm=8.0):
    """The hint of PFV Scale Map for a box, (1, SIDE, SIDE, 4)."""
    background = torch.ones(1, SIDE, SIDE)
    background[:, 60:80, 50:70] = 0
    _, hint = outputs(
        PFVScaleMap,
        product=reference(SIDE, SIDE, seed=3),
        product_mask=background,
        product_mask_selects="background",
        height_from="sizes",
        product_cm=product_cm,
        subject_cm=subject_cm,
        height_ratio=0.5,
        center=0.0,
    )
    return hint


def controlled(model, control_net, hint=None, strength=0.8, **options):
    """Sample through the host's Apply ControlNet."""
    conditions = models.tiny_conditioning(model, seed=6), models.tiny_conditioning(model, seed=7)
    hint = scale_hint() if hint is None else hint
    conditions = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        *conditions, control_net, hint, strength, 0.0, 1.0
    )
    return sample(model, *conditions, **{"steps": 1, **options})


def call_inputs(model):
    generator = torch.Generator().manual_seed(5)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    return SimpleNamespace(
        latents=random(2, 4, 16, 16),
        timesteps=torch.tensor([100.0, 500.0]),
        text=random(2, 77, CONTEXT),
        pooled=random(2, POOLED),
        hint=scale_hint().movedim(-1, 1).expand(2, -1, -1, -1),
    )


def of_host(control_net, model, given):
    added = {}
    if model.model.model_config.unet_config.get("adm_in_channels"):
        added["y"] = model.model.encode_adm(pooled_output=given.pooled, width=SIDE, height=SIDE, device="cpu")
    found = control_net.control_model(
        x=given.latents,
        hint=given.hint,
        timesteps=given.timesteps,
        context=given.text,
        **added,
        **control_net.extra_args,
    )
    return [*found["output"], *found["middle"]]


def of_diffusers(trained, given, inputs=None):
    added = {}
    if trained.name == "sdxl":
        sizes = torch.tensor([[float(SIDE), float(SIDE), 0.0, 0.0, float(SIDE), float(SIDE)]] * 2)
        added["added_cond_kwargs"] = {"text_embeds": given.pooled, "time_ids": sizes}
    conditions = {"encoder_hidden_states": given.text, **added}
    down, middle = trained.net(given.latents, given.timesteps, given.hint, inputs, **conditions)
    return [*down, middle]


def furthest(one, other):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("names", [(), ("pose",), ("appearance",), ("pose", "appearance")], ids="+".join)
@torch.inference_mode()
def test_both_engines_give_the_same_residuals(names, trained, control_net, model, pictures):
    given = call_inputs(model)
    chosen = {name: pictures[name] for name in names}
    inputs = BranchInputs(**{name: BranchInput(tokens.last[0][None]) for name, tokens in chosen.items()})
    ours, theirs = of_host(branched(control_net, **chosen), model, given), of_diffusers(trained, given, inputs)
    assert furthest(ours, theirs) < 1e-4
    plain = of_diffusers(trained, given)
    assert (furthest(ours, plain) > 1e-3) == bool(names)


@torch.inference_mode()
def test_balance_can_be_another_one_than_in_training(trained, control_net, model, pictures):
    given, seen = call_inputs(model), pictures["appearance"].last[0][None]
    for options, inputs in (
        ({"std_norm": "off"}, {"std_norm": False}),
        ({"time_weighting": "off"}, {"gamma": None}),
        ({"time_weighting": "on", "gamma": 300}, {"gamma": 300.0}),
        ({"appearance_strength": 0.3, "gamma": 300}, {"appearance": BranchInput(seen, 0.3)}),
    ):
        ours = of_host(branched(control_net, appearance=pictures["appearance"], **options), model, given)
        theirs = of_diffusers(trained, given, BranchInputs(**{"appearance": BranchInput(seen), **inputs}))
        assert furthest(ours, theirs) < 1e-4, options
        assert furthest(ours, of_diffusers(trained, given, BranchInputs(None, BranchInput(seen)))) > 1e-4, options


def test_the_branches_are_at_every_cross_attention(trained, control_net):
    sizes = control_net.config.sizes
    assert len(sizes.widths) == PLACES[trained.name]
    assert control_net.control_model_wrapped.model is control_net.control_model
    moved = {id(parameter) for parameter in control_net.control_model_wrapped.model.parameters()}
    assert {id(parameter) for parameter in control_net.control_model.branches.parameters()} <= moved


def plain_of(control_net):
    """A ControlNet of the host's class with the same weights and nothing of ours in it."""
    plain = copy.deepcopy(control_net.control_model)
    del plain.branches
    plain._forward_pre_hooks.clear()
    plain._forward_hooks.clear()
    for module in plain.modules():
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
    return comfy.controlnet.ControlNet(plain, load_device=control_net.load_device, manual_cast_dtype=None)


def test_without_pictures_it_is_the_hosts_plain_controlnet_to_the_bit(trained, control_net, model, pictures):
    expected = controlled(model, plain_of(control_net))
    assert torch.equal(controlled(model, control_net), expected)
    nothing = branched(control_net, pose_strength=0.0, appearance_strength=0.0, **pictures)
    assert torch.equal(controlled(model, nothing), expected)
    assert torch.equal(controlled(model, branched(control_net)), expected)
    assert not torch.equal(controlled(model, branched(control_net, **pictures)), expected)
    assert control_net.control_model.branches._terms == []  # what was given to one is not left in the network
    assert torch.equal(controlled(model, control_net), expected)


def test_real_sizes_reach_the_picture(control_net, model):
    """The scale map is the only thing that differs."""
    one, other = scale_hint(subject_cm=8.0), scale_hint(subject_cm=16.0)
    assert torch.equal(one[..., :3], other[..., :3])
    assert not torch.equal(controlled(model, control_net, one), controlled(model, control_net, other))


def test_each_picture_does_something_of_its_own(control_net, model, pictures):
    drawn = [
        controlled(model, branched(control_net, time_weighting="off", **given))
        for given in (
            {"pose": pictures["pose"]},
            {"appearance": pictures["appearance"]},
            {"pose": pictures["appearance"]},
            pictures,
        )
    ]
    assert all(not torch.equal(a, b) for number, a in enumerate(drawn) for b in drawn[number + 1 :])


def test_a_batch_is_its_images_one_by_one(control_net, model, pictures):
    both = controlled(model, branched(control_net, **pictures), batch=2)
    assert both.shape[0] == 2
    assert not torch.equal(both[0], both[1])
    one = controlled(model, branched(control_net, **pictures))
    torch.testing.assert_close(both[:1], one, rtol=0, atol=1e-2)  # rounding, through two steps


def assert_nearer(found, right, wrong):
    """But for rounding it is the one, and not the other."""
    assert (found - right).abs().max() < 0.1 * (found - wrong).abs().max()


def test_each_image_has_its_own_hint(control_net, model):
    """Of the batch, also where positive and negative are one call; the host hands out hints by the row."""
    hints = [scale_hint(subject_cm=size) for size in (8.0, 16.0)]
    both = controlled(model, control_net, torch.cat(hints), batch=2)
    alone = [controlled(model, control_net, hint, batch=2) for hint in hints]
    for index in range(2):
        assert_nearer(both[index], alone[index][index], alone[1 - index][index])


def test_an_area_gets_its_own_part_of_the_hint(control_net, model):
    """As the host's ControlNet does that is handed the part by hand; handed the whole, it draws it smaller."""
    plain, hint = plain_of(control_net), scale_hint()
    left = hint[:, :, : SIDE // 2].contiguous()

    def in_area(control, hint):
        positive = models.tiny_conditioning(model, seed=6)
        (applied,) = host_nodes.ControlNetApply().apply_controlnet(positive, control, hint, 0.8)
        return host_nodes.ConditioningSetArea().append(applied, SIDE // 2, SIDE, 0, 0, 1.0)[0]

    own, cut, whole = (
        sample(model, in_area(control, given), cfg=1.0, steps=1)
        for control, given in ((control_net, hint), (plain, left), (plain, hint))
    )
    assert_nearer(own, cut, whole)


@pytest.mark.parametrize("apart", [False, True])
def test_areas_of_one_shape_get_their_own_parts_of_the_hint(control_net, model, monkeypatch, apart):
    """In one call, or in two where memory is short."""
    if apart:
        monkeypatch.setattr(type(model.model), "memory_required", lambda *_args, **_kwargs: 1e30)
    plain, hint = plain_of(control_net), scale_hint()
    left, right = (part.contiguous() for part in hint.chunk(2, dim=2))

    def applied(control, given):
        return host_nodes.ControlNetApply().apply_controlnet(
            models.tiny_conditioning(model, seed=6), control, given, 0.8
        )[0]

    def in_areas(*prompts):
        areas = [
            host_nodes.ConditioningSetArea().append(prompt, SIDE // 2, SIDE, x, 0, 1.0)[0]
            for prompt, x in zip(prompts, (0, SIDE // 2), strict=True)
        ]
        return sample(model, areas[0] + areas[1], cfg=1.0, steps=1)

    whole = applied(control_net, hint)  # one ControlNet for both
    cut, swapped = (in_areas(*(applied(plain, part) for part in parts)) for parts in ((left, right), (right, left)))
    assert_nearer(in_areas(whole, whole), cut, swapped)


def test_a_cropped_run_gets_its_own_part_of_the_hint(control_net, model):
    (cropped,) = outputs(
        MEPACrop, model=model, x=SIDE // 2, y=0, width=SIDE // 2, height=SIDE, ad_width=SIDE, ad_height=SIDE
    )
    left, right = (part.contiguous() for part in scale_hint().chunk(2, dim=2))
    own = controlled(cropped, control_net, width=SIDE // 2)
    by_hand = [controlled(model, plain_of(control_net), part, width=SIDE // 2) for part in (right, left)]
    assert_nearer(own, *by_hand)


def test_a_tile_within_a_step_gets_its_own_part_of_the_hint(control_net, model):
    """As Tiled Diffusion runs a ControlNet: from within, on each tile, where it has put a hint that it has cut itself."""
    hint, noise = scale_hint(), noise_like(1, SIDE // 8, SIDE // 8, seed=2)
    halves = [slice(0, SIDE // 16), slice(SIDE // 16, SIDE // 8)]

    def applied(control, given):
        texts = sized(*prompts(model))
        return host_nodes.ControlNetApplyAdvanced().apply_controlnet(*texts, control, given, 0.8, 0.0, 1.0)

    def function(apply_model, given):
        made, control, inputs = [], sides[0][0][1]["control"], given["c"]
        how = inputs, len(given["cond_or_uncond"]), inputs["transformer_options"]
        for columns in halves:
            part = given["input"][..., columns]
            control.cond_hint = torch.zeros(1, 4, SIDE, SIDE // 2)
            residuals = control.get_control(part, given["timestep"], *how)
            made.append(apply_model(part, given["timestep"], **{**inputs, "control": residuals}))
        return torch.cat(made, -1)

    sides, apart = applied(control_net, hint), model.clone()
    apart.set_model_unet_function_wrapper(function)
    out = guided(cfg(apart, *sides), noise=Given(noise), width=SIDE, height=SIDE, steps=1)
    parts = [part.contiguous() for part in hint.chunk(2, dim=2)]
    for columns, own, other in zip(halves, parts, parts[::-1], strict=True):
        where = {"noise": Given(noise[..., columns]), "width": SIDE // 2, "height": SIDE, "steps": 1}
        right, wrong = (guided(cfg(model, *applied(plain_of(control_net), given)), **where) for given in (own, other))
        assert_nearer(out[..., columns], right, wrong)


def test_beside_tiles_nobody_says_whether_the_hint_is_cut_too(control_net, model):
    sizes = {"ad_width": SIDE, "ad_height": SIDE}
    texts = models.tiny_conditioning(model, seed=6), models.tiny_conditioning(model, seed=7)
    sides = outputs(MEPATiles, positive=texts[0], negative=texts[1], **sizes)
    for _, values in (*sides[0][1:], *sides[1][1:]):
        values["mask"] = values["mask"][..., SIDE // 2 :]
    sides = host_nodes.ControlNetApplyAdvanced().apply_controlnet(*sides, control_net, scale_hint(), 0.8, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"nobody says whether the upscaler has cut the hint.*with MEPA Crop"):
        sample(model, *sides, width=SIDE // 2, steps=1)


def test_a_hint_that_an_upscaler_may_have_cut_is_not_told_to_be_the_whole(control_net, model, caplog, monkeypatch):
    """As the most used one cuts those of ControlNets; where it does not, the shape is seldom right."""
    monkeypatch.setattr(facts, "drawing_node", lambda: "UltimateSDUpscale")
    controlled(model, control_net)
    assert "MEPA" not in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 1}, "the hint is a batch of 2, 1 image"),
        ({"batch": 3}, "the hint is a batch of 2, 3 image"),
        ({"batch": 2, "width": 2 * SIDE}, "the hint is 128x128, the image being sampled is 128x256"),
    ],
)
def test_a_hint_that_is_not_the_frames_is_refused(control_net, model, given, message):
    with pytest.raises(ValueError, match=message):
        controlled(model, control_net, scale_hint().repeat(2, 1, 1, 1), **given)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # the windows of older hosts
def test_a_hint_whose_image_or_place_nobody_says_is_refused(control_net, model):
    """One for all images serves a sampler that takes them one by one."""
    frame = {"height": SIDE, "width": SIDE, "batch": 2}
    by_themselves = {**frame, "sampler": comfy.samplers.KSAMPLER(one_at_a_time)}

    def guider(hint, model=model):
        prompt = models.tiny_conditioning(model, seed=6)
        (applied,) = host_nodes.ControlNetApply().apply_controlnet(prompt, control_net, hint, 0.8)
        return basic(model, applied)

    one = scale_hint()
    torch.testing.assert_close(guided(guider(one), **by_themselves), guided(guider(one), **frame), rtol=0, atol=1e-2)
    with pytest.raises(RuntimeError, match="nobody says which, so the hint, one for each image"):
        guided(guider(one.repeat(2, 1, 1, 1)), **by_themselves)
    apart = {"dim": 3, "context_length": SIDE // 16, "context_overlap": 2, "closed_loop": True}
    looped = run("ContextWindowsManual", model=model, context_schedule="looped_uniform", **apart)
    with pytest.raises(RuntimeError, match=r"nobody says where .* hint can be placed"):
        guided(guider(one, looped), height=SIDE, width=SIDE, steps=4)


def test_an_appearance_that_is_too_early_waits(control_net, model, pictures):
    """Eq. 10 at the first of one step, whose noise is the schedule's highest."""
    early = {"steps": 1, "model": model}
    before = controlled(control_net=control_net, **early)
    waiting = branched(control_net, appearance=pictures["appearance"])
    assert torch.equal(controlled(control_net=waiting, **early), before)
    at_once = branched(control_net, appearance=pictures["appearance"], time_weighting="off")
    assert not torch.equal(controlled(control_net=at_once, **early), before)


def test_it_stands_beside_mepa_in_the_same_controlnet(
    trained, control_net, model, pictures, tiny_clip_vision, host_base_directory
):
    file = adapter_files.write_plus_adapter(
        host_base_directory / "models" / "ipadapter" / f"beside-{trained.name}.safetensors",
        adapter_files.cross_attention_widths(model.model.diffusion_model),
        encoder_width=models.VISION_WIDTH,
        context_dim=CONTEXT,
    )
    patched = apply(model, image_prompt(tiny_clip_vision, file))
    (first,) = outputs(MEPAApplyControlNet, control_net=branched(control_net, **pictures), model=patched)
    (then,) = outputs(MEPAApplyControlNet, control_net=control_net, model=patched)
    with recorded_calls() as calls:
        one = controlled(patched, first, steps=1)
    assert len(calls) == {"sdxl": 70 + 34, "sd15": 16 + 7}[trained.name]
    assert torch.equal(one, controlled(patched, branched(then, **pictures), steps=1))
    assert not torch.equal(one, controlled(patched, then, steps=1))


def test_a_hint_without_scale_map_is_refused_before_sampling(control_net, model):
    with pytest.raises(ValueError, match=r"the hint has 3 channels, this Strictly-ID ControlNet takes 4"):
        controlled(model, control_net, scale_hint()[..., :3])


def test_a_model_of_another_base_is_refused_before_its_first_step(trained, control_net, pictures):
    other = models.tiny_model("sd15" if trained.name == "sdxl" else "sdxl", channels=32, head_dim=16, context_dim=48)
    called = []
    other.model.diffusion_model.register_forward_hook(lambda *_: called.append(1))
    with pytest.raises(ValueError, match=rf"is for {trained.name} with a text context of 64 channels, .*one of 48"):
        controlled(other, branched(control_net, **pictures))
    assert called == []


def test_a_gamma_that_would_never_act_is_refused_before_its_first_step(control_net, model, pictures):
    """A file may have been trained with more timesteps than the model that is sampled has."""
    appearance = pictures["appearance"], 1.0
    late = with_pictures(control_net, None, appearance, Balance.AS_TRAINED, Balance.ON, gamma=1000)
    with pytest.raises(ValueError, match="gamma is 1000, outside the model's schedule of 1000 timesteps"):
        controlled(model, late)


def test_pictures_that_do_not_fit_are_refused(control_net, tiny_clip_vision):
    with pytest.raises(ValueError, match="pose holds 2 pictures, expected 1"):
        branched(control_net, pose=encoded(tiny_clip_vision, 1, batch=2))
    other = encoded(models.tiny_clip_vision(num_layers=3), 1)
    with pytest.raises(
        ValueError, match=r"appearance was encoded by a ViT of 3 layers.*were trained with a ViT of 4 layers"
    ):
        branched(control_net, appearance=other)


def test_another_controlnet_has_no_branches(tiny_controlnet, pictures):
    with pytest.raises(ValueError, match="control_net is a ControlNet without branches: load a Strictly-ID file"):
        branched(tiny_controlnet, **pictures)


def test_an_unknown_balance_is_refused(control_net):
    with pytest.raises(ValueError, match="std_norm is 'maybe', expected one of"):
        branched(control_net, std_norm="maybe")


@pytest.mark.parametrize("name", ["pose", "appearance"])
def test_a_picture_of_which_patches_have_left_the_sequence_is_refused(tiny_clip_vision, control_net, pictures, name):
    """In training they stay, empty; a picture that hides nothing is the same in both modes."""
    hidden = torch.zeros(1, 224, 224)
    hidden[:, :112] = 1
    dropped = encoded(tiny_clip_vision, 12, mask=hidden, mode="drop")
    padded = encoded(tiny_clip_vision, 12, fit="pad", size=(112, 224))
    for lacking in (dropped, padded):
        with pytest.raises(
            ValueError, match=rf"Branches: {name} has \d+ of .* patches .*: encode it with mode zero and fit"
        ):
            branched(control_net, **{name: lacking})
    branched(control_net, **{name: encoded(tiny_clip_vision, 12, mask=hidden)})
    whole = encoded(tiny_clip_vision, 12, mode="drop")
    assert torch.equal(whole.last[0], pictures["appearance"].last[0])
    branched(control_net, **{name: whole})


def changed(trained, name, **tensors):
    with safe_open(trained.file, "pt") as opened:
        metadata = opened.metadata()
    state = {key: value for key, value in (load_file(trained.file) | tensors).items() if value is not None}
    file = trained.file.with_name(name)
    save_file(state, file, metadata)
    return file


def test_a_file_that_lacks_a_tensor_is_refused_when_it_is_loaded(trained):
    missing = "mid_block.resnets.0.conv1.weight"
    with pytest.raises(
        ValueError, match=r"does not hold a whole ControlNet: 1 tensors are missing.*middle_block.0.in_layers.2.weight"
    ):
        loaded(changed(trained, "missing.safetensors", **{missing: None}))
    extra = {"controlnet_extra.weight": torch.zeros(2)}
    with pytest.raises(
        ValueError, match=r"1 tensors are missing, unexpected or of another size, the first is controlnet_extra"
    ):
        loaded(changed(trained, "extra.safetensors", **extra))


def test_half_precision_files_load_as_well(trained, control_net, model, pictures):
    halves = {key: value.half() for key, value in load_file(trained.file).items()}
    small = loaded(changed(trained, "half.safetensors", **halves))
    one, other = (controlled(model, branched(net, **pictures), steps=1) for net in (small, control_net))
    assert float((one - other).norm() / other.norm()) < 0.02


RELEASED = {
    "sdxl": {
        **LAYOUTS["sdxl"],
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sd15": {"cross_attention_dim": 768},
}


@pytest.mark.parametrize(("base", "heads"), [("sdxl", {"num_head_channels": 64}), ("sd15", {"num_heads": 8})])
def test_at_the_released_widths_every_tensor_has_its_place_in_the_host(base, heads, monkeypatch):
    """Without numbers: shapes alone."""
    monkeypatch.setattr(comfy.model_management, "unet_offload_device", lambda: torch.device("meta"))
    sizes = {name: size for name, size in RELEASED[base].items() if name != "up_block_types"}
    with torch.device("meta"):
        theirs = ControlNetModel(conditioning_channels=4, **sizes)
    operations = comfy.ops.disable_weight_init
    made = control_network(theirs.state_dict(), "it does not fit", "", torch.float16, operations, **heads)
    count = sum(parameter.numel() for parameter in made.parameters())
    assert count == sum(parameter.numel() for parameter in theirs.parameters()) > 361e6
    assert made.input_hint_block[0].weight.shape == (16, 4, 3, 3)
