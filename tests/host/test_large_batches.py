"""Hundreds of references: encoded, compressed and projected in parts, each as if it was alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from pfv_mepa.nodes.host.adapter import COMPRESSED_TOGETHER, PROJECTED_TOGETHER
from pfv_mepa.pfv_core.adapter.model import Adapter
from pfv_mepa.pfv_core.reference.vit import PASS_IMAGES
from pfv_mepa.tests.host.sampling import image_prompt, reference

BATCH = 150


@pytest.fixture(scope="module")
def images():
    return reference(28, 40, batch=BATCH, seed=21)


@pytest.mark.parametrize("file", ["plus_adapter_file", "linear_adapter_file"])
def test_each_prompt_of_a_large_batch_is_its_pictures_own(tiny_clip_vision, images, request, monkeypatch, file):
    adapter_file, sizes = request.getfixturevalue(file), []
    compress = Adapter.image_prompt
    monkeypatch.setattr(
        Adapter, "image_prompt", lambda self, tokens, *rest: sizes.append(len(tokens)) or compress(self, tokens, *rest)
    )
    together = image_prompt(tiny_clip_vision, adapter_file, image=images)
    assert sizes == [64, 64, 22]
    assert len(together) == len(together.facts.references) == BATCH
    for item in (0, PASS_IMAGES, COMPRESSED_TOGETHER - 1, COMPRESSED_TOGETHER, BATCH - 1):
        alone = image_prompt(tiny_clip_vision, adapter_file, image=images[item : item + 1])
        assert torch.allclose(together.positive[item], alone.positive[0], atol=1e-5)
        assert torch.equal(together.negative, alone.negative)
    assert all(not torch.allclose(one, other, atol=1e-3) for one, other in pairwise(together.positive[:70]))


def test_keys_and_values_of_a_large_batch_are_projected_in_parts(
    tiny_clip_vision, images, plus_adapter_file, monkeypatch
):
    """150 prompts of 16 tokens and the negative's: 2416 tokens."""
    prompt, sizes = image_prompt(tiny_clip_vision, plus_adapter_file, image=images), []
    project = Adapter.keys_values
    monkeypatch.setattr(Adapter, "keys_values", lambda self, part: sizes.append(len(part)) or project(self, part))
    positive, negative = prompt.keys_values
    assert sizes == [PROJECTED_TOGETHER, PROJECTED_TOGETHER, 2416 - 2 * PROJECTED_TOGETHER]
    assert positive[0][0].shape[:2] == (BATCH, 16)
    assert negative[0][0].shape[:2] == (1, 16)
    for item in (0, 63, 64, BATCH - 1):
        alone = prompt.adapter.keys_values(prompt.positive[item : item + 1])
        for layer in (0, 35, 69):
            for kept, own in zip(positive[layer], alone[layer], strict=True):
                assert torch.allclose(kept[item], own[0], atol=1e-5)
