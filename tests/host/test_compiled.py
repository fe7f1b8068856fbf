"""Models that torch.compile runs: with the pack's patches they give the latent that they give without it.

Most of it runs dynamo with the backend `eager`, which changes no bit: what is tested is which compiled code runs where.
"""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import comfy.ldm.modules.attention as host_attention
import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper

from pfv_mepa.nodes.host import compiled, operators
from pfv_mepa.nodes.host.compiled import GuardedBackend, compiled_run
from pfv_mepa.nodes.mepa.text_nodes import MEPAApplyText
from pfv_mepa.nodes.mepa.weights_nodes import MEPAWeights
from pfv_mepa.nodes.research.fusion_nodes import RefAdGenAttentionFusion, RefAdGenMaskInput
from pfv_mepa.pfv_core.research.mask_input import MaskInput, save_mask_input
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack import models

try:
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict as host_filter
except ImportError:  # a host that drops no guards
    host_filter = None

BLOCK = "diffusion_model.input_blocks.3.1.transformer_blocks.0"
"""Compiled alone where a test asks what happens inside of a block: the rest of a model takes seconds and has no part in it."""

EFFECT = 0.05  # relative: what the pack must change at least, or equality would show nothing
ROUNDING = 1e-4  # relative: inductor adds up in another order; 4e-6 measured

inductor = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # that torch itself calls


@pytest.fixture(scope="module")
def model():
    return models.tiny_model("few")


@pytest.fixture(autouse=True)
def attention_of_a_gpu(monkeypatch):
    """The attention that the host takes where there is a GPU; that of a CPU asks for the free memory, which is not traced."""
    monkeypatch.setattr(host_attention, "optimized_attention", host_attention.attention_pytorch)


@pytest.fixture(scope="module", autouse=True)
def _forget_what_was_compiled():
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def prompts(tiny_clip_vision, linear_adapter_file):
    return [image_prompt(tiny_clip_vision, linear_adapter_file, image=reference(seed=seed)) for seed in (0, 4)]


@pytest.fixture(scope="module")
def mask_input(host_base_directory):
    file = host_base_directory / "models" / "model_patches" / "compiled.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    kernel = torch.randn(32, 1, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.3
    save_mask_input(file, MaskInput(kernel), models.CONTEXT_DIM)
    yield file.name
    file.unlink()


@pytest.fixture
def told(caplog):
    """Function: what was said about samplings that are not compiled."""
    ours = "without torch.compile"
    return lambda: [record.message for record in caplog.records if ours in record.message]


def compile_model(model, backend="eager", **options):
    """TorchCompileModel, with a backend that its list does not offer."""
    clone = model.clone()
    dropped = {"guard_filter_fn": host_filter} if host_filter else None
    set_torch_compile_wrapper(clone, backend=backend, options=dropped, **options)
    return clone


def compile_block(model, backend="eager"):
    """TorchCompileModel, of one block."""
    return compile_model(model, backend, keys=[BLOCK])


def distance(first, second):
    """Relative root mean square."""
    return float((first - second).norm() / second.norm())


def fuse(model):
    product = {"samples": torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(3))}
    (patched,) = outputs(
        RefAdGenAttentionFusion,
        model=model,
        reference_latent=product,
        reference_prompt=models.tiny_conditioning(model, seed=8),
        strength=1.0,
        combine="add",
        reference_noise="clean",
        start_percent=0.0,
        end_percent=1.0,
        product_mask=right_half(),
    )
    return patched


def give_mask(model, name):
    (patched,) = outputs(RefAdGenMaskInput, model=model, mask_input_name=name, product_mask=right_half())
    return patched


def assert_compiled_is_right(model, patched, compiling=compile_model, **where):
    """The compiled sampling gives the bits of the other, and the pack's effect is in them; how many graphs were compiled."""
    expected = sample(patched, **where)
    assert distance(expected, sample(model, **where)) > EFFECT
    graphs = compiled_graphs()
    assert torch.equal(sample(compiling(patched), **where), expected)
    return compiled_graphs() - graphs


def compiled_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_plain_then_patched_then_plain_in_one_process(model, prompts, told):
    plain = sample(model)
    assert torch.equal(sample(compile_model(model)), plain)
    assert assert_compiled_is_right(model, apply(model, prompts[0], region=right_half())) == 1
    assert torch.equal(sample(compile_model(model)), plain)
    assert told() == []


def test_what_was_compiled_serves_other_prompts_steps_and_runs(model, prompts):
    """No compiling again, and no other prompt's picture."""
    assert_compiled_is_right(model, apply(model, prompts[0], region=right_half()))
    before = compiled_graphs()
    for options in ({"region": right_half()}, {"std_norm": True}, {"gate": "query"}):
        assert_compiled_is_right(model, apply(model, prompts[1], **options))
    both = apply(apply(model, prompts[0]), prompts[1], region=right_half())
    assert_compiled_is_right(model, both)
    assert_compiled_is_right(model, both, steps=4, seed=3)
    assert compiled_graphs() == before


def test_before_and_after_our_node(model, prompts):
    patched = apply(model, prompts[0], region=right_half())
    expected = sample(patched)
    assert torch.equal(sample(apply(compile_model(model), prompts[0], region=right_half())), expected)
    assert torch.equal(sample(compile_model(patched)), expected)


def test_fusion_alone_and_mask_input_beside_an_image_prompt(model, prompts, mask_input):
    assert assert_compiled_is_right(model, fuse(model)) == 1
    assert assert_compiled_is_right(model, apply(give_mask(model, mask_input), prompts[0])) == 1


def test_weights_and_a_region_with_its_own_text(model, prompts):
    """The text's keys and values are computed by the compiled model's own projections, outside of the compiled code."""
    (weights,) = outputs(
        MEPAWeights, layers="custom", layer_table="input: 0, output 1: 2", sampling="falling", sampling_table=""
    )
    (with_text,) = outputs(
        MEPAApplyText,
        model=apply(model, prompts[0], weights=weights),
        text=models.tiny_conditioning(model, seed=11),
        region=right_half(),
        strength=0.8,
        start_percent=0.0,
        end_percent=1.0,
    )
    assert_compiled_is_right(model, apply(model, prompts[0], weights=weights))
    before = compiled_graphs()
    assert_compiled_is_right(model, with_text)
    assert compiled_graphs() == before


def test_what_changes_a_texts_tokens_is_in_the_graph_and_in_the_text(model, told):
    """The operator gets the hidden states with which another pack's patch is run once more."""

    def patch(hidden, keys, values, options):
        return hidden, keys + hidden.mean(1, keepdim=True).mean(2, keepdim=True), values * 1.2

    changed = model.clone()
    changed.set_model_attn2_patch(patch)
    (same, other) = (
        outputs(
            MEPAApplyText,
            model=changed,
            text=models.tiny_conditioning(model, seed=seed),
            region=right_half(),
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )[0]
        for seed in (6, 11)
    )
    assert distance(sample(same), sample(changed)) < 2e-5
    assert_compiled_is_right(model, other)
    assert torch.equal(sample(compile_model(other, fullgraph=True)), sample(other))
    assert distance(sample(other), sample(changed)) > EFFECT
    assert told() == []


def test_all_three_with_fullgraph(model, prompts, mask_input, told):
    patched = apply(give_mask(fuse(model), mask_input), prompts[0], region=right_half())
    expected, graphs = sample(patched), compiled_graphs()
    assert torch.equal(sample(compile_model(patched, fullgraph=True)), expected)
    assert compiled_graphs() == graphs + 1
    assert told() == []


def test_other_latents_one_of_them_with_as_many_tokens(model, prompts):
    """Rows, columns and batch are the operators' arguments, whether torch makes them variables or not."""
    for height, width, batch in ((96, 64, 1), (64, 96, 1), (64, 128, 3)):
        patched = apply(model, prompts[0], gate="query", region=right_half(height, width))
        assert_compiled_is_right(model, patched, height=height, width=width, batch=batch)


def test_without_the_negative_after_with_it(model, prompts):
    patched = apply(model, prompts[0])
    assert_compiled_is_right(model, patched, cfg=5.0)
    assert_compiled_is_right(model, patched, cfg=1.0)


# --- with code of others inside ---------------------------------------------------------------------------------------


def halved(query, key, value, options):
    return value.mean(1, keepdim=True).expand_as(query) * 0.5


def put_below(model, prompt):
    """Another pack's attention, and ours around it."""
    clone = model.clone()
    clone.set_model_attn2_replace(halved, "input", 3)
    return apply(clone, prompt)


def add_to_ours(model, prompt):
    patched = apply(model, prompt)
    for slot in patched.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        slot.add(lambda out, *args, **window: halved(*args), sigma_start=999999999.9, sigma_end=0.0)
    return patched


def override(model, prompt):
    """As packs of faster attentions do."""
    patched = apply(model, prompt)
    options = patched.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda own, *args, **kwargs: own(*args, **kwargs) * 0.5
    return patched


def put_around(model, prompt):
    """Another pack's attention around ours."""
    patched = apply(model, prompt)
    slots = patched.model_options["transformer_options"]["patches_replace"]["attn2"]
    ours = slots["input", 3, 0]
    patched.set_model_attn2_replace(lambda *args: ours(*args) * 0.5, "input", 3, 0)
    return patched


def tell_inside(model, prompt):
    """As attention-couple packs do in the U-Net."""
    patched = apply(model, prompt)

    def repeat(query, key, value, options):
        options["cond_or_uncond_couple"] = [*options["cond_or_uncond"], *options["cond_or_uncond"]]
        return tuple(tensor.repeat(2, 1, 1) for tensor in (query, key, value))

    patched.set_model_attn2_patch(repeat)
    patched.set_model_attn2_output_patch(lambda out, options: out[: len(out) // 2] + out[len(out) // 2 :])
    return patched


def attend_for_one_call(model, prompt):
    """As Perturbed-Attention Guidance does, for the whole of a transformer."""
    patched = fuse(apply(model, prompt))

    def guided(args):
        options = comfy.model_patcher.set_model_options_patch_replace(
            args["model_options"].copy(), lambda query, key, value, options: value, "attn1", "input", 3
        )
        (out,) = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + (args["cond_denoised"] - out) * 3

    patched.set_model_sampler_post_cfg_function(guided)
    return patched


@pytest.mark.parametrize(
    ("combine", "whole"),
    [
        (put_below, True),
        (add_to_ours, True),
        (override, True),
        (attend_for_one_call, True),
        (put_around, False),
        (tell_inside, False),
    ],
)
def test_beside_other_packs(model, prompts, combine, whole):
    """What another pack knows or does inside the U-Net is no operator's: there the graph ends."""
    torch._dynamo.reset()
    combined = combine(model, prompts[0])
    graphs = assert_compiled_is_right(model, combined, compile_block)
    expected = 2 if combine is attend_for_one_call else 1  # where one call has other patches it has a graph of its own
    assert (graphs == expected) == whole
    assert assert_compiled_is_right(model, combine(model, prompts[1]), compile_block) == 0
    assert not torch.equal(sample(combined), sample(apply(model, prompts[0])))


def test_a_deep_copy_of_a_compiled_models_options(model, prompts):
    """Clones are made while another of them has been sampled."""
    patched = compile_block(apply(model, prompts[0]))
    expected = sample(patched)
    assert torch.equal(sample(patched.clone()), expected)
    assert torch.equal(sample(compile_block(patched.clone())), expected)


def test_a_second_copy_of_the_pack_has_operators_of_its_own():
    name = f"{operators.__name__}_again"
    spec = importlib.util.spec_from_file_location(name, operators.__file__)
    again = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, again)
        spec.loader.exec_module(again)
    assert again.ATTENTION is not operators.ATTENTION
    assert again.ATTENTION._schema.name != operators.ATTENTION._schema.name


@pytest.mark.parametrize(
    ("backend", "mode", "options", "expected"),
    [
        ("inductor", None, {}, True),
        ("inductor", "max-autotune-no-cudagraphs", {}, True),
        ("inductor", "reduce-overhead", {}, False),
        ("inductor", "max-autotune", {}, False),
        ("inductor", None, {"triton.cudagraphs": True}, False),
        ("eager", None, {}, True),
        ("cudagraphs", None, {}, False),
        (print, None, {}, False),
    ],
)
def test_who_calls_operators_each_time(backend, mode, options, expected):
    """A CUDA graph would repeat the first image prompt for ever."""
    assert GuardedBackend(backend, mode, options, None).calls_operators() is expected


def a_backend_of_its_own(graph, inputs):
    return graph


def test_a_backend_that_may_not_call_operators_is_given_none(model, prompts):
    patched = apply(model, prompts[0])
    expected, graphs = sample(patched), compiled_graphs()
    assert torch.equal(sample(compile_block(patched, a_backend_of_its_own)), expected)
    assert compiled_graphs() > graphs + 1


def test_the_models_own_options_are_left_as_they_were(model, prompts):
    patched = compile_block(apply(model, prompts[0]))
    (before,) = patched.get_wrappers("apply_model", "torch.compile")
    limit = torch._dynamo.config.recompile_limit
    sample(patched, steps=1)
    assert patched.get_wrappers("apply_model", "torch.compile") == [before]
    assert torch._dynamo.config.recompile_limit == limit
    assert compiled.KEY not in patched.model_options


# --- what is not compiled, and said ----------------------------------------------------------------------------------


def compile_fully(model):
    return compile_model(model, a_backend_of_its_own, fullgraph=True)


def compile_a_block(model):
    clone = model.clone()
    clone.add_object_patch(BLOCK, torch.compile(clone.get_model_object(BLOCK), backend="eager"))
    return clone


def compile_a_forward(model):
    clone = model.clone()
    unet = clone.get_model_object("diffusion_model")
    clone.add_object_patch("diffusion_model.forward", torch.compile(unet.forward, backend="eager"))
    return clone


def compile_in_a_way_of_its_own(model):
    clone = model.clone()
    unet = torch.compile(clone.get_model_object("diffusion_model"), backend="eager")

    def wrapper(executor, *args, **kwargs):
        own, executor.class_obj.diffusion_model = executor.class_obj.diffusion_model, unet
        try:
            return executor(*args, **kwargs)
        finally:
            executor.class_obj.diffusion_model = own

    clone.add_wrapper_with_key("apply_model", "torch.compile", wrapper)
    return clone


@pytest.mark.parametrize(
    ("compiling", "named"),
    [
        (compile_fully, "fullgraph"),
        (compile_a_block, BLOCK),
        (compile_a_forward, "diffusion_model"),
        (compile_in_a_way_of_its_own, "TorchCompileModel"),
    ],
)
def test_what_cannot_be_guarded_runs_uncompiled(model, prompts, told, compiling, named):
    patched = apply(model, prompts[0], region=right_half())
    expected, graphs = sample(patched), compiled_graphs()
    assert torch.equal(sample(compiling(patched)), expected)
    (message,) = told()
    assert named in message
    assert compiled_graphs() == graphs


def test_a_model_without_compiling_is_left_alone():
    guider = SimpleNamespace(model_options={"transformer_options": {}})
    limit = torch._dynamo.config.recompile_limit
    with compiled_run(guider, pytest.fail):
        assert torch._dynamo.config.recompile_limit == limit
    assert "apply_model" not in guider.model_options["transformer_options"]["wrappers"]


# --- with what users compile ------------------------------------------------------------------------------------------


@inductor
def test_inductor_gives_the_latent_but_for_rounding(model, prompts):
    """Two blocks, each compiled by itself: the plain model first, then ours, then ours from inductor's files."""
    keys = [BLOCK, BLOCK.replace("blocks.0", "blocks.1")]
    patched = apply(model, prompts[0])
    plain, expected = sample(model, steps=1), sample(patched, steps=1)
    assert distance(expected, plain) > EFFECT
    torch._dynamo.reset()
    assert distance(sample(compile_model(model, "inductor", keys=keys), steps=1), plain) < ROUNDING
    assert distance(sample(compile_model(patched, "inductor", keys=keys), steps=1), expected) < ROUNDING
    torch._dynamo.reset()
    assert distance(sample(compile_model(patched, "inductor", keys=keys), steps=1), expected) < ROUNDING


@inductor
def test_what_another_pack_keeps_is_not_written_into(model, prompts):
    """Inductor uses the memory of a tensor again when its own code has read it for the last time."""

    def kept(compiling):
        patched, tensors = apply(model, prompts[0]), []
        slot = patched.model_options["transformer_options"]["patches_replace"]["attn2"]["input", 3, 0]
        slot.add(lambda out, query, key, value, options, **kwargs: tensors.extend((query, key, value)) or out)
        sample(compiling(patched), steps=1)
        return tensors

    expected = kept(lambda patched: patched)
    for tensor, other in zip(kept(lambda patched: compile_block(patched, "inductor")), expected, strict=True):
        assert distance(tensor, other) < ROUNDING


@inductor
@pytest.mark.parametrize("mode", [None, "default", "max-autotune-no-cudagraphs"])
def test_the_backend_compiles_as_the_hosts(mode):
    backend = GuardedBackend("inductor", mode, {} if mode else {"max-autotune": False}, None)
    function = torch.compile(lambda x: (x * 2).relu().sum(-1), backend=backend)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(function(x), (x * 2).relu().sum(-1))
    assert backend == GuardedBackend("inductor", mode, {} if mode else {"max-autotune": False}, None)
    assert backend != GuardedBackend("inductor", mode, {}, True)
