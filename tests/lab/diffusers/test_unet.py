"""Image prompts in a diffusers U-Net: where they go, what they add, and that nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
    SlicedAttnProcessor,
)

from lab.diffusers.layers import attention_layers
from lab.diffusers.prompts import RegionalPrompt
from lab.diffusers.unet import image_prompts
from pfv_core.adapter.checkpoint import read_tensors, save_adapter
from pfv_core.adapter.model import AdapterKind
from pfv_core.attention.control import Gate, PromptControl
from pfv_core.attention.formula import scaled_dot_product, text_image_attention
from pfv_core.attention.plan import plan_rows
from pfv_core.attention.query_mask import query_mask

from .models import CONTEXT, SIZE, adapter_for, difference, inputs, left_half, new_unet, noise, regional_prompt

PROCESSORS = [AttnProcessor, AttnProcessor2_0]


def run(unet, prompts=(), size=None, **kwargs):
    arguments = inputs(**kwargs)
    with torch.no_grad(), image_prompts(unet, prompts, size or tuple(arguments["sample"].shape[2:])):
        return unet(**arguments).sample


# --- nothing changes where nothing should


@pytest.mark.parametrize("gate", list(Gate))
def test_nothing_to_add_is_the_unet_itself_bit_for_bit(unet, gate):
    plain = run(unet)
    zero = torch.zeros(2)
    for values in ({"image_scale": 0.0}, {"image_scale": zero, "text_share": 0.0}, {"image_scale": zero}):
        for region in (None, left_half()):
            assert torch.equal(run(unet, [regional_prompt(unet, gate=gate, region=region, **values)]), plain)
    assert torch.equal(run(unet, []), plain)


def test_an_empty_region_is_the_unet_itself_bit_for_bit(unet):
    region = torch.zeros(1, 64, 96)
    assert torch.equal(run(unet, [regional_prompt(unet, region=region, text_share=0.0)]), run(unet))


def test_a_sample_without_image_prompt_is_the_unet_itself_bit_for_bit(unet):
    """Text alone for some samples of a batch, as training has it."""
    scale = torch.tensor([1.0, 0.0, 1.0])
    region = torch.cat([left_half(), left_half(), 0 * left_half()])
    out = run(unet, [regional_prompt(unet, 3, image_scale=scale, text_share=torch.zeros(3), region=region)], batch=3)
    plain = run(unet, batch=3)
    assert torch.equal(out[1:], plain[1:])
    assert difference(out[0], plain[0]) > 1e-3


def test_the_unet_is_left_as_it_was(unet):
    before = dict(unet.attn_processors)
    plain = run(unet)
    arguments = inputs()
    with pytest.raises(RuntimeError), image_prompts(unet, [regional_prompt(unet)], SIZE):
        unet(**{**arguments, "encoder_hidden_states": noise(2, 7, CONTEXT + 1)})
    assert unet.attn_processors == before
    with torch.no_grad():
        assert torch.equal(unet(**arguments).sample, plain)
        unet(**inputs(rows=4, columns=4))  # the check of the latents' size is gone too


# --- what is added


def attention_outputs(unet, prompts, encoder_attention_mask=None, **kwargs):
    """(hidden states in, output) of the first cross-attention."""
    seen = []
    attention = unet.get_submodule(next(iter(attention_layers(unet).values())))
    handle = attention.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    arguments = inputs(**kwargs)
    with torch.no_grad(), image_prompts(unet, prompts, tuple(arguments["sample"].shape[2:])):
        unet(**arguments)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("gate", list(Gate))
def test_a_layer_is_the_core_formula_on_its_own_grid(unet, gate):
    """Two prompts, a soft region of its own for each sample, on a frame that is neither square nor even."""
    rows, columns = 7, 12
    region = torch.rand(2, rows * 8, columns * 8, generator=torch.Generator().manual_seed(1))
    share, scale = torch.tensor([0.0, 0.7]), torch.tensor([1.0, 0.5])
    first = regional_prompt(unet, seed=1, gate=gate, region=region, text_share=share, image_scale=scale)
    second = regional_prompt(unet, seed=2, image_scale=-0.3, text_share=0.9)
    hidden, out = attention_outputs(unet, [first, second], rows=rows, columns=columns)
    attention = unet.get_submodule(next(iter(attention_layers(unet).values())))
    text = inputs(rows=rows, columns=columns)["encoder_hidden_states"]
    masks = query_mask(region, (4, 6), (rows, columns))
    attend = scaled_dot_product(attention.heads)
    for sample in range(2):
        own = slice(sample, sample + 1)
        controls = [
            PromptControl(float(scale[sample]), float(share[sample]), gate),
            PromptControl(-0.3, 0.9, Gate.OUTPUT),
        ]
        plan = plan_rows([masks[sample], None], controls, 24).to(torch.device("cpu"), torch.float32)
        images = [tuple(tensor[own] for tensor in prompt.keys_values[0]) for prompt in (first, second)]
        with torch.no_grad():
            pair = attention.to_k(text[own]), attention.to_v(text[own])
            made = text_image_attention(attention.to_q(hidden[own]), pair, images, [plan], attend)
            expected = attention.to_out[0](made)
        assert difference(out[own], expected) < 1e-5


def test_rows_outside_the_region_are_the_plain_layer(unet):
    """The top quarter of a wide frame: the first rows of queries, not the first columns."""
    region = torch.zeros(1, 64, 96)
    region[:, :16] = 1
    hidden, plain = attention_outputs(unet, [])
    same, out = attention_outputs(unet, [regional_prompt(unet, region=region, text_share=0.0)])
    assert torch.equal(hidden, same)
    changed = (out != plain).any(-1).view(2, 4, 6)
    assert changed[:, 0].all()
    assert not changed[:, 1:].any()


def test_the_text_as_image_prompt_of_an_untrained_adapter_is_the_text(unet):
    """W_ki = W_k and W_vi = W_v, so with no text left the image's term is the text's: through every layer."""
    context = inputs()["encoder_hidden_states"]
    with torch.no_grad():
        keys_values = adapter_for(unet).keys_values(context)

    def far(**control):
        return difference(run(unet, [RegionalPrompt(keys_values, PromptControl(**control))]), run(unet))

    assert far(text_share=0.0) < 1e-5
    assert far(text_share=torch.zeros(2)) < 1e-5
    assert far(text_share=0.0, image_scale=0.5) > 1e-3


def test_one_set_of_keys_serves_the_batch(unet):
    single = regional_prompt(unet, batch=1)
    repeated = RegionalPrompt([(key.expand(2, -1, -1), value.expand(2, -1, -1)) for key, value in single.keys_values])
    assert torch.equal(run(unet, [single]), run(unet, [repeated]))


def test_a_batch_is_its_samples(unet):
    region = torch.cat([left_half(), 1 - left_half()])
    values = {"image_scale": torch.tensor([1.0, 0.5]), "text_share": torch.tensor([0.0, 0.6])}
    whole = regional_prompt(unet, region=region, **values)
    out = run(unet, [whole])
    arguments = inputs()
    for index in range(2):
        own = slice(index, index + 1)
        part = RegionalPrompt(
            [(key[own], value[own]) for key, value in whole.keys_values],
            PromptControl(**{name: float(value[index]) for name, value in values.items()}),
            region[own],
        )
        added = {name: value[own] for name, value in arguments["added_cond_kwargs"].items()}
        single = {name: value[own] for name, value in arguments.items() if name != "added_cond_kwargs"}
        with torch.no_grad(), image_prompts(unet, [part], SIZE):
            alone = unet(**single, added_cond_kwargs=added).sample
        assert difference(out[own], alone) < 1e-5


@pytest.mark.parametrize("size", [(8, 12), (7, 12), (5, 9)])
def test_any_latent_size_and_any_region_resolution(unet, size):
    rows, columns = size
    frame = (rows * 8, columns * 8)
    coarse = left_half(*frame)[:, ::8, ::8]
    fine = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    one, other = (
        run(unet, [regional_prompt(unet, region=region)], rows=rows, columns=columns) for region in (coarse, fine)
    )
    assert torch.equal(one, other)


def test_all_layers_of_sdxl_take_part():
    unet = new_unet("sdxl")
    made = regional_prompt(unet, batch=1, region=left_half(), text_share=0.3)
    out = run(unet, [made], batch=1)
    assert difference(out, run(unet, batch=1)) > 1e-3
    for index in (0, 23, 24, 59, 60, 69):
        pairs = list(made.keys_values)
        pairs[index] = (pairs[index][0], 2 * pairs[index][1])
        assert not torch.equal(run(unet, [RegionalPrompt(pairs, made.control, left_half())], batch=1), out)


@pytest.mark.parametrize(("kind", "scale"), [(AdapterKind.LINEAR, 1.0), (AdapterKind.RESAMPLER, 0.6)])
@pytest.mark.parametrize("masked", [False, True])
def test_diffusers_own_ip_adapter_gives_the_same(tmp_path, kind, scale, masked):
    """The same file through diffusers' loader and processors: the whole frame, and a mask, with all of the text."""
    unet = new_unet("sdxl")
    adapter = adapter_for(unet, kind)
    with torch.no_grad():
        for index, parameter in enumerate(adapter.parameters()):  # away from the text's projections
            parameter.add_(noise(*parameter.shape, seed=index) * 0.1)
    save_adapter(tmp_path / "adapter.safetensors", adapter)
    tokens = noise(1, 40) if kind is AdapterKind.LINEAR else noise(1, 17, 48)
    with torch.no_grad():
        keys_values = adapter.keys_values(adapter.image_proj(tokens))
    region = left_half() if masked else None
    ours = run(unet, [RegionalPrompt(keys_values, PromptControl(scale), region)], batch=1)

    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in read_tensors(tmp_path / "adapter.safetensors")[0].items():
        part, name = key.split(".", 1)
        nested[part][name] = tensor
    theirs_unet = copy.deepcopy(unet)
    theirs_unet._load_ip_adapter_weights([nested])
    theirs_unet.float()
    for processor in theirs_unet.attn_processors.values():
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            processor.scale = [scale]
    arguments = inputs(batch=1)
    arguments["added_cond_kwargs"]["image_embeds"] = [tokens[:, None]]
    masks = None if region is None else {"ip_adapter_masks": [region[:, None]]}
    with torch.no_grad():
        theirs = theirs_unet(**arguments, cross_attention_kwargs=masks).sample
    assert difference(ours, theirs) < 1e-5
    assert difference(run(unet, batch=1), theirs) > 1e-2


def test_hidden_text_tokens_stay_hidden(unet):
    """The U-Net's encoder_attention_mask holds for the text, and for the text alone."""
    arguments = inputs()
    mask = torch.ones(2, 7)
    mask[:, 5:] = 0
    shorter = {**arguments, "encoder_hidden_states": arguments["encoder_hidden_states"][:, :5]}
    with torch.no_grad(), image_prompts(unet, [regional_prompt(unet, text_share=0.4)], SIZE):
        masked = unet(**arguments, encoder_attention_mask=mask).sample
        assert difference(masked, unet(**shorter).sample) < 1e-5
        assert difference(masked, unet(**arguments).sample) > 1e-4


def test_both_processors_give_the_same(demo_unet):
    outs = []
    for processor in PROCESSORS:
        demo_unet.set_attn_processor(processor())
        outs.append(run(demo_unet, [regional_prompt(demo_unet, region=left_half(), text_share=0.2, gate=Gate.QUERY)]))
    assert difference(outs[0], outs[1]) < 1e-5
    assert not torch.equal(outs[0], outs[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    unet = new_unet("demo").to(dtype)
    arguments = inputs()
    half = {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in arguments.items()
    }
    half["added_cond_kwargs"] = {name: value.to(dtype) for name, value in arguments["added_cond_kwargs"].items()}
    full = regional_prompt(new_unet("demo"), region=left_half(), text_share=0.5)
    with torch.no_grad(), image_prompts(unet, [full], SIZE):
        out = unet(**half).sample
    assert out.dtype == dtype
    assert difference(out.float(), run(new_unet("demo"), [full])) < 0.05


def test_autocast(unet):
    made = regional_prompt(unet, region=left_half(), text_share=torch.tensor([0.2, 0.9]))
    with torch.autocast("cpu", torch.bfloat16):
        out = run(unet, [made])
    assert difference(out.float(), run(unet, [made])) < 0.05


# --- bad input


def test_a_region_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"region is \(64, 96\), expected \(B, H, W\)"):
        RegionalPrompt([], region=torch.ones(64, 96))


def test_a_region_of_another_shape_is_refused(unet):
    with pytest.raises(ValueError, match=r"the region is 64x64, the image is 64x96 .height x width.: give the region"):
        run(unet, [regional_prompt(unet, region=torch.ones(1, 64, 64))])


def test_a_region_out_of_range_is_refused(unet):
    with pytest.raises(ValueError, match=r"region spans 0..2, expected finite values from 0 to 1"):
        run(unet, [regional_prompt(unet, region=2 * left_half())])


def test_latents_of_another_size_are_refused(unet):
    with pytest.raises(ValueError, match="the latents are 8x12, image_prompts was given latent_size 12x8"):
        run(unet, [regional_prompt(unet)], size=(12, 8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"region": left_half().expand(2, -1, -1)}, "region of an image prompt is for 2 samples, the batch has 3"),
        ({"image_scale": torch.ones(2)}, "image_scale of an image prompt is for 2 samples, the batch has 3"),
        ({}, "keys_values of an image prompt is for 2 samples, the batch has 3: give 1 or as many"),
    ],
)
def test_another_batch_is_refused(unet, values, message):
    with pytest.raises(ValueError, match=message):
        run(unet, [regional_prompt(unet, batch=2 if not values else 1, **values)], batch=3)


def test_keys_of_another_unet_are_refused(unet):
    with pytest.raises(ValueError, match="keys and values for 16 layers, the U-Net has 4"):
        run(unet, [regional_prompt(new_unet("sd15"))])


def test_a_processor_of_another_kind_is_refused_and_nothing_is_left_behind(demo_unet):
    demo_unet.set_attn_processor(SlicedAttnProcessor(1))
    before = dict(demo_unet.attn_processors)
    with pytest.raises(ValueError, match=r"has the attention processor SlicedAttnProcessor.*AttnProcessor2_0"):
        run(demo_unet, [regional_prompt(demo_unet)])
    assert demo_unet.attn_processors == before
    demo_unet.set_attn_processor(AttnProcessor2_0())
    with (
        pytest.raises(ValueError, match="has the attention processor _Processor"),
        image_prompts(demo_unet, [regional_prompt(demo_unet)], SIZE),
    ):
        run(demo_unet, [regional_prompt(demo_unet)])
    assert all(isinstance(processor, AttnProcessor2_0) for processor in demo_unet.attn_processors.values())
