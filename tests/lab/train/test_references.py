"""References encoded with parts of them hidden, as the adapter takes them."""

from __future__ import annotations

import pytest
import torch

from lab.train.references import References
from lab.train.visibility import Visibility
from pfv_core.reference.vit import encode_image

from .tiny_models import PATCH, SIZE, tiny_config, tiny_models

PATCHES = (SIZE // PATCH) ** 2


@pytest.mark.parametrize(("mode", "tokens"), [("drop", 1 + PATCHES // 2), ("zero", 1 + PATCHES)])
def test_hidden_patches_leave_the_sequence_or_stay_as_zeros(mode, tokens):
    """What is split between the worker and the training process is, put together, the core's own encoding."""
    models, config = tiny_models(), tiny_config(hide_mode=mode)
    visibility, references = Visibility.of(config, models.vision), References(models, config, None)
    image = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    keep_mask = torch.ones(3, SIZE, SIZE, dtype=torch.bool)
    keep_mask[1, : SIZE // 2] = False
    found = references.encode(*visibility.seen(image, keep_mask), [""] * 3)
    assert [len(one) for one in found] == [1 + PATCHES, tokens, 1 + PATCHES]
    expected = encode_image(models.vision, image, visibility.patch_mask(keep_mask), mode).penultimate
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_linear_adapter_takes_one_embedding_and_zeros_for_none():
    models, config = tiny_models(), tiny_config(kind="linear", latent_width=0)
    visibility, references = Visibility.of(config, models.vision), References(models, config, None)
    image, keep_mask = torch.rand(1, 3, SIZE, SIZE), torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    embedding = references.encode(*visibility.seen(image, keep_mask), [""])[0]
    assert embedding.shape == references.negative().shape == (models.vision.spec.projection_size,)
    assert not bool(references.negative().any())


def test_the_negative_is_what_the_encoder_answers_to_nothing_seen():
    """Zero normalised pixels, as the nodes give to the negative of guidance."""
    models, config = tiny_models(), tiny_config()
    visibility, references = Visibility.of(config, models.vision), References(models, config, None)
    assert torch.equal(references.encode(*visibility.nothing_seen(), [""])[0], references.negative())
