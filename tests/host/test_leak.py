"""Hidden pixels change no bit of anything, from the raw image to the U-Net's output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pfv_mepa.nodes.host.unet import cross_attention_blocks
from pfv_mepa.nodes.mepa.apply_nodes import MEPAAdapterLoader, PFVTokenCompress
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.pfv_core.adapter.checkpoint import load_adapter, save_adapter
from pfv_mepa.pfv_core.adapter.model import Adapter
from pfv_mepa.tests.host.sampling import apply, options_of_a_call, outputs
from pfv_mepa.tests.support.tiny_stack import models
from pfv_mepa.tests.support.tiny_stack.topologies import NO_MIDDLE_BLOCK, Topology

CASES = 150  # of the whole way; tests/core/test_no_leak.py has 2,000 of the geometry
MODES, FITS, THRESHOLDS = ("drop", "zero"), ("pad", "crop", "stretch"), (0.0, 0.0, 0.1, 0.5, 0.9)
METHODS = ("adapter", "eq3_normalized", "eq3_literal", "cluster")
GATES = ("output", "query")


@pytest.fixture(scope="module")
def small():
    """A two-layer encoder and a U-Net of three cross-attentions: the paths are whole, the work is little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.TOPOLOGIES, "smallest", Topology((1, 2), (1, 1), (0, 1), NO_MIDDLE_BLOCK, (0, 0, 1, 1)))
        return models.tiny_clip_vision(num_layers=2), models.tiny_model("smallest")


@pytest.fixture(scope="module")
def twin(small):
    """The same with another encoder of the same weights. Encoded references are kept for each encoder, by what is visible of
    them: the same one would answer the second time from what it kept, whatever became of the hidden pixels."""
    return models.tiny_clip_vision(num_layers=2), small[1]


@pytest.fixture(scope="module")
def adapter(small, plus_adapter_file):
    """The tiny adapter with the small U-Net's layers alone: 70 projections a case would be the longest part of it."""
    config = load_adapter(plus_adapter_file).config
    blocks = cross_attention_blocks(small[1])
    widths = {block.layer: block.width for block in blocks}
    config = replace(config, layers=tuple(widths), widths=tuple(widths.values()))
    file = plus_adapter_file.with_name("tiny-leak.safetensors")
    save_adapter(file, models.randomize(Adapter(config), seed=8))
    return outputs(MEPAAdapterLoader, adapter_name=file.name)[0]


def pick(options, generator):
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def whole(low, high, generator):
    return int(torch.randint(low, high, (1,), generator=generator))


def random_case(case: int):
    """(image, mask, settings) with something hidden and something visible in every image."""
    generator = torch.Generator().manual_seed(case)
    height, width, batch = whole(20, 320, generator), whole(20, 320, generator), whole(1, 3, generator)
    image = torch.rand(batch, height, width, 3, generator=generator)
    mask = torch.zeros(batch, height, width)
    for index in range(batch):
        top, left = whole(0, height // 2, generator), whole(0, width // 2, generator)
        mask[index, top : top + whole(1, height // 2, generator), left : left + whole(1, width // 2, generator)] = (
            254 / 255
        )
        if pick((True, False), generator):  # scattered single pixels too
            mask[index][torch.rand(height, width, generator=generator) < 0.0005] = 1
    settings = {"fit": pick(FITS, generator), "threshold": pick(THRESHOLDS, generator)}
    return image, mask, settings, pick(MODES, generator), pick(METHODS, generator), pick(GATES, generator)


def tampered(image, where, case):
    """Other values where `where` says: noise, far out of range, infinite or not a number."""
    generator = torch.Generator().manual_seed(case)
    kind = case % 4
    noise = torch.rand(image.shape, generator=generator)
    values = (noise, noise * 1e6 - 5e5, torch.full_like(noise, float("inf")), torch.full_like(noise, float("nan")))
    return torch.where(where[..., None], values[kind], image)


def rebinarized(small, image, mask, settings):
    """(patch mask, hidden mask)."""
    return outputs(PFVMaskRebinarize, clip_vision=small[0], reference=image, mask=mask, **settings)


def through_everything(small, adapter, image, patch_mask, mode, method, gate):
    """Raw image -> tokens -> image prompt -> one pass of the patched U-Net: every tensor on the way."""
    clip_vision, model = small
    tokens, output = outputs(PFVImageEncode, clip_vision=clip_vision, reference=image, patch_mask=patch_mask, mode=mode)
    (prompt,) = outputs(PFVTokenCompress, image_tokens=tokens, adapter=adapter, method=method, num_tokens=0)
    patched = apply(model, prompt, gate=gate, text_share=0.3)
    unet = model.model.diffusion_model
    generator = torch.Generator().manual_seed(0)
    batch = len(prompt)
    latent = torch.randn(batch, 4, 8, 8, generator=generator)
    options = options_of_a_call(patched, latent)
    with torch.inference_mode():
        denoised = unet(
            latent,
            torch.full((batch,), 500.0),
            context=torch.randn(batch, 8, models.CONTEXT_DIM, generator=generator),
            y=torch.randn(batch, models.POOLED_DIM + models.SIZE_EMBEDDING_DIM, generator=generator),
            transformer_options=options,
        )
    tensors = [*tokens.last, *tokens.penultimate, tokens.image_embeds, prompt.positive, denoised]
    return [*tensors, output["last_hidden_state"], output["penultimate_hidden_states"], output["image_embeds"]]


def test_leak_zero(small, twin, adapter):
    """In every case the hidden pixels are replaced, and every tensor on the way stays what it was, to the bit."""
    done = rejected = 0
    for case in range(2 * CASES):
        image, mask, settings, *rest = random_case(case)
        try:
            patch_mask, _ = rebinarized(small, image, mask, settings)
        except ValueError as error:  # a mask that leaves no patch, as the nodes say before any work
            assert "is left visible" in str(error)  # noqa: PT017
            rejected += 1
            continue
        expected = through_everything(small, adapter, image, patch_mask, *rest)
        got = through_everything(twin, adapter, tampered(image, mask > 0.5, case), patch_mask, *rest)
        for position, (one, other) in enumerate(zip(expected, got, strict=True)):
            assert torch.isfinite(one).all()
            assert torch.equal(one, other), (case, position, settings, rest)
        done += 1
        if done == CASES:
            break
    assert done == CASES
    assert rejected < CASES / 4


def test_the_leak_test_can_fail(small, adapter):
    """Change visible pixels of kept patches instead, and the tokens, the prompt and the U-Net's output change."""
    seen = 0
    for case in range(40):
        image, mask, settings, *rest = random_case(case)
        settings = {**settings, "threshold": 0.0, "fit": "stretch"}
        try:
            patch_mask, hidden = rebinarized(small, image, mask, settings)
        except ValueError:
            continue
        expected = through_everything(small, adapter, image, patch_mask, *rest)
        changed = torch.where((hidden == 0)[..., None], 1 - image, image)
        got = through_everything(small, adapter, changed, patch_mask, *rest)
        assert not torch.equal(expected[0], got[0])
        assert not torch.equal(expected[-4], got[-4])
        seen += 1
    assert seen > 20
