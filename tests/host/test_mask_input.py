"""RefAdGen Mask Input in the real host: the fifth channel is the widened convolution's, and zeros change no bit."""

from __future__ import annotations

import re

import nodes as host_nodes
import pytest
import torch
import torch.nn.functional as F

from headless.host.find import PACK_ROOT
from pfv_mepa.nodes.host.mask_input import FIRST_CONVOLUTION, apply_mask_input
from pfv_mepa.nodes.research.fusion_nodes import RefAdGenMaskInput
from pfv_mepa.pfv_core.attention.query_mask import query_mask
from pfv_mepa.pfv_core.research.mask_input import MaskInput, load_mask_input, save_mask_input
from pfv_mepa.tests.host.sampling import apply, cut_out, image_prompt, outputs, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack import models

CHANNELS = 32  # of the tiny models' first level
KEY = f"{FIRST_CONVOLUTION}.weight"


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture
def write(host_base_directory):
    """Function: mask input -> its name among the host's model patches."""
    written = []

    def write(mask_input, context_dim=models.CONTEXT_DIM):
        file = host_base_directory / "models" / "model_patches" / f"mask{len(written)}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_mask_input(file, mask_input, context_dim)
        written.append(file)
        return file.name

    yield write
    for file in written:
        file.unlink()


def kernel(seed: int = 1):
    return torch.randn(CHANNELS, 1, 3, 3, generator=torch.Generator().manual_seed(seed)) * 0.3


def with_mask(model, name, mask=None, **options):
    mask = right_half() if mask is None else mask
    (patched,) = outputs(RefAdGenMaskInput, model=model, mask_input_name=name, product_mask=mask, **options)
    return patched


def widened(model, kernel, latent_mask):
    """The same model with five input channels, as the paper builds it, and the mask concatenated to what it is given."""
    convolution = model.model.diffusion_model.input_blocks[0][0]

    def forward(x, *args, **kwargs):
        rows = torch.cat([x, latent_mask.to(x).expand(len(x), -1, -1, -1)], 1)
        return F.conv2d(rows, torch.cat([convolution.weight, kernel.to(x)], 1), convolution.bias, padding=1)

    clone = model.clone()
    clone.add_object_patch("diffusion_model.input_blocks.0.0.forward", forward)
    return clone


@pytest.mark.parametrize("topology", ["sdxl", "sd15"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (136, 88)])
def test_the_sampled_latent_is_the_widened_unets(tiny_model_of, write, topology, height, width):
    model = tiny_model_of(topology)
    mask = right_half(height, width)
    mask[:, : height // 3] *= 0.4
    size = (height // 8, width // 8)
    latent_mask = query_mask(mask, size, size).view(1, 1, *size)
    where = {"height": height, "width": width}
    out = sample(with_mask(model, write(MaskInput(kernel())), mask), **where)
    expected = sample(widened(model, kernel(), latent_mask), **where)
    torch.testing.assert_close(out / expected.abs().max(), expected / expected.abs().max(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(out, sample(model, **where), atol=1e-3)


@pytest.mark.parametrize("topology", ["sdxl", "sd15"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_channel_of_zeros_is_the_unpatched_model(tiny_model_of, write, topology, whole):
    """Where training starts, with and without the base's own four channels in the file."""
    model = tiny_model_of(topology)
    convolution = model.model.diffusion_model.input_blocks[0][0]
    base = (convolution.weight.clone(), convolution.bias.clone()) if whole else (None, None)
    patched = with_mask(model, write(MaskInput(torch.zeros(CHANNELS, 1, 3, 3), *base)))
    assert patched.patches == {}
    assert (sample(patched) - sample(model)).abs().max() == 0.0


def test_trained_latent_channels_are_a_patch_of_weights(model, write):
    """The file's first four channels and bias take the base's place, and a LoRA on the same weights adds to them."""
    convolution = model.model.diffusion_model.input_blocks[0][0]
    before = sample(model)
    weight, bias = convolution.weight.clone(), convolution.bias.clone()  # the host patches them in place
    trained = weight * 1.1, bias + 0.1
    patched = with_mask(model, write(MaskInput(torch.zeros(CHANNELS, 1, 3, 3), *trained)))
    out = sample(patched)
    assert not torch.equal(out, before)
    expected = model.clone()
    expected.add_patches({KEY: (weight * 0.1,), f"{FIRST_CONVOLUTION}.bias": (torch.full((CHANNELS,), 0.1),)})
    torch.testing.assert_close(out, sample(expected), rtol=1e-3, atol=1e-3)
    assert (sample(model) - before).abs().max() == 0.0
    more = {KEY: (torch.randn(CHANNELS, 4, 3, 3, generator=torch.Generator().manual_seed(3)) * 0.1,)}
    lora_after, lora_before = patched.clone(), model.clone()
    for clone in (lora_after, lora_before):
        clone.add_patches(more)
    lora_before = with_mask(lora_before, write(MaskInput(torch.zeros(CHANNELS, 1, 3, 3), *trained)))
    assert not torch.equal(sample(lora_after), out)
    torch.testing.assert_close(sample(lora_after), sample(lora_before), rtol=1e-3, atol=1e-3)


def test_removing_the_node_leaves_the_model_as_it_was(model, write):
    before = sample(model)
    patched = with_mask(model, write(MaskInput(kernel())))
    clone = patched.clone()
    patches = [m.model_options["transformer_options"]["patches"]["input_block_patch"][0] for m in (patched, clone)]
    assert patches[0] is patches[1]  # shared, never copied
    changed = sample(patched)
    assert torch.equal(sample(clone), changed)
    del patched, clone
    assert (sample(model) - before).abs().max() == 0.0
    assert not torch.equal(changed, before)


def test_cfg_one_and_split_chunks(model, write):
    patched = with_mask(model, write(MaskInput(kernel())))
    assert not torch.equal(sample(patched, cfg=1.0), sample(model, cfg=1.0))
    negative = models.tiny_conditioning(model, seed=7)
    repeated = [[negative[0][0].repeat(1, 7, 1), negative[0][1]]]  # 539 tokens: a call of its own
    torch.testing.assert_close(
        sample(patched, negative=repeated, steps=1), sample(patched, negative=negative, steps=1), rtol=1e-3, atol=1e-3
    )


def test_one_mask_for_each_image(model, write):
    name = write(MaskInput(kernel()))
    masks = torch.stack([right_half()[0], 1 - right_half()[0]])
    together = sample(with_mask(model, name, masks), batch=2, steps=1)
    for index in range(2):
        alone = sample(with_mask(model, name, masks[index : index + 1]), batch=2, steps=1)
        torch.testing.assert_close(together[index], alone[index], rtol=1e-4, atol=1e-4)


def test_area_conditioning_reads_its_part_of_the_mask(model, write, host_base_directory):
    """An area in the right half sees a mask of ones, one in the left half a mask of zeros."""
    name = write(MaskInput(kernel()))
    file = host_base_directory / "models" / "model_patches" / name
    everywhere = apply_mask_input(model, load_mask_input(file), torch.ones(1, 128, 128))
    for left, other in ((64, everywhere), (0, model)):
        (area,) = host_nodes.ConditioningSetArea().append(
            models.tiny_conditioning(model, seed=6), 64, 128, left, 0, 1.0
        )
        out = sample(with_mask(model, name), positive=area, cfg=1.0)
        assert torch.equal(out, sample(other, positive=area, cfg=1.0))


def test_a_cut_outs_mask_is_turned_around_or_refused(model, write):
    """A file's transparency is 1 where the product is not."""
    name = write(MaskInput(kernel()))
    turned = sample(with_mask(model, name, cut_out(), product_mask_selects="background"))
    assert torch.equal(turned, sample(with_mask(model, name, 1 - cut_out())))
    assert not torch.equal(turned, sample(model))


def test_beside_controlnet_mepa_and_fusion(tiny_model, tiny_controlnet, tiny_clip_vision, plus_adapter_file, write):
    from pfv_mepa.tests.host.test_fusion import fuse

    positive, negative = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        models.tiny_conditioning(tiny_model, seed=6),
        models.tiny_conditioning(tiny_model, seed=7),
        tiny_controlnet,
        reference(128, 128),
        0.8,
        0.0,
        1.0,
    )
    name = write(MaskInput(kernel()))
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file)
    one = with_mask(fuse(apply(tiny_model, prompt)), name)
    two = apply(fuse(with_mask(tiny_model, name)), prompt)
    all_of_them = sample(one, positive, negative, steps=1)
    assert torch.equal(all_of_them, sample(two, positive, negative, steps=1))
    assert not torch.equal(all_of_them, sample(fuse(apply(tiny_model, prompt)), positive, negative, steps=1))
    assert not torch.equal(all_of_them, sample(one, steps=1))


def test_the_reference_pass_reads_no_mask(model, write, monkeypatch):
    """The paper's reference U-Net has four channels: its keys are the same with and without a mask input."""
    from pfv_mepa.nodes.host import fusion_run
    from pfv_mepa.tests.host.test_fusion import fuse

    seen = []
    original = fusion_run.reference_keys_values
    monkeypatch.setattr(fusion_run, "reference_keys_values", lambda *args: seen.append(original(*args)) or seen[-1])
    for patched in (fuse(model), fuse(with_mask(model, write(MaskInput(kernel()))))):
        sample(patched, steps=1)
    assert all(torch.equal(seen[0][block][0], seen[1][block][0]) for block in seen[0])


def test_what_does_not_fit(model, tiny_model_of, write):
    name = write(MaskInput(kernel()))
    with pytest.raises(ValueError, match="the model has a mask input already"):
        with_mask(with_mask(model, name), name)
    with pytest.raises(ValueError, match="for a text context of 768 channels, the model's has 64"):
        with_mask(model, write(MaskInput(kernel()), context_dim=768))
    with pytest.raises(ValueError, match=r"first convolution is \(16, 4, 3, 3\), the model's is \(32, 4, 3, 3\)"):
        with_mask(model, write(MaskInput(torch.zeros(16, 1, 3, 3))))
    stranger = torch.randn(CHANNELS, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match="which no training on this base does"):
        with_mask(model, write(MaskInput(kernel(), stranger)))
    with pytest.raises(ValueError, match="product_mask 0 selects nothing"):
        with_mask(model, name, torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="set product_mask_selects to background"):
        with_mask(model, name, cut_out())
    with pytest.raises(ValueError, match="product_mask is 128x256, the image being sampled is 128x128"):
        sample(with_mask(model, name, right_half(128, 256)))
    with pytest.raises(ValueError, match="product_mask is a batch of 3, 2 image"):
        sample(with_mask(model, name, right_half(batch=3)), batch=2)


def test_an_inpainting_model_is_refused(write):
    inpainting = models.tiny_model("few")
    convolution = inpainting.model.diffusion_model.input_blocks[0][0]
    convolution.weight = torch.nn.Parameter(torch.zeros(CHANNELS, 9, 3, 3), requires_grad=False)
    with pytest.raises(
        ValueError, match="the model's input has 9 channels, as models that read a picture do, expected 4"
    ):
        with_mask(inpainting, write(MaskInput(kernel())))


def test_the_help_pages_conversion_works(tmp_path, monkeypatch, model, host_base_directory):
    """The code that the help page prints, on a training checkpoint of the same keys."""
    page = (PACK_ROOT / "web" / "docs" / "RefAdGenMaskInput.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    convolution = model.model.diffusion_model.input_blocks[0][0]
    whole = torch.cat([convolution.weight, kernel()], 1)
    entries = {"unet.conv_in.weight": whole.half(), "unet.conv_in.bias": convolution.bias.half(), "proj.x": kernel()}
    torch.save({"module": entries}, tmp_path / "mp_rank_00_model_states.pt")
    monkeypatch.chdir(tmp_path)
    assert code.count('"768"') == 1
    exec(compile(code.replace('"768"', f'"{models.CONTEXT_DIM}"'), "help page", "exec"), {})
    folder = host_base_directory / "models" / "model_patches"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "converted.safetensors"
    file.write_bytes((tmp_path / "refadgen_mask_input.safetensors").read_bytes())
    try:
        patched = with_mask(model, file.name)
        assert not torch.equal(sample(patched, steps=1), sample(model, steps=1))
    finally:
        file.unlink()
