"""Captions name what is seen, and every word of theirs is one token."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from transformers import CLIPTokenizer

from lab.demo import stack
from lab.demo.build_tokenizer import build
from lab.demo.captions import all_words, caption, varied_caption
from lab.demo.studio.scene import sample_scene
from pfv_demo.sizes import MAX_TOKENS


@pytest.fixture(scope="module")
def tokenizer():
    return stack.tokenizer()


def test_full_caption_names_everything():
    scene = sample_scene(1)
    words = caption(scene).replace(",", "").split()
    for name in (scene.product_color, scene.shape, scene.table, scene.wall_color, scene.pattern):
        assert name in words


def test_what_stands_beside_it_and_the_light_are_named_where_asked_for():
    scene = next(scene for seed in range(100) if (scene := sample_scene(seed)).companion is not None)
    scene = replace(scene, light=replace(scene.light, side=1, warmth=-0.9))
    companion = f"beside a {scene.companion.look} {scene.companion.kind}"
    assert companion in caption(scene, companion=True)
    assert caption(scene, light=True).endswith(", cool light from the right")
    assert caption(scene.mirrored(), light=True).endswith(", cool light from the left")
    assert scene.companion.kind not in caption(scene)
    assert "light" not in caption(scene)
    assert caption(scene.alone(), companion=True) == caption(scene)


def test_the_longest_caption_fits(tokenizer):
    """Nothing that the grammar can say is cut off."""
    scenes = [sample_scene(seed) for seed in range(300)]
    captions = [caption(scene, companion=True, light=True) for scene in scenes]
    assert max(len(tokenizer(text).input_ids) for text in captions) == MAX_TOKENS


def test_parts_that_are_left_out_are_not_named():
    scene = sample_scene(1)
    assert scene.wall_color not in caption(scene, wall=False).split(" ")[-2:]
    assert "table" not in caption(scene, table=False)
    assert scene.shape not in caption(scene, product=False)
    assert caption(scene, False, False, False) == ""


def test_varied_captions_are_seeded_and_fit(tokenizer):
    scenes = [sample_scene(seed) for seed in range(300)]
    captions = [varied_caption(scene, random.Random(seed)) for seed, scene in enumerate(scenes)]
    assert captions == [varied_caption(scene, random.Random(seed)) for seed, scene in enumerate(scenes)]
    without = [varied_caption(scene, random.Random(seed), product_named=0.0) for seed, scene in enumerate(scenes)]
    shapes = [[scene.shape in text for scene, text in zip(scenes, texts, strict=True)] for texts in (captions, without)]
    assert sum(shapes[0]) > 200
    assert not any(shapes[1])
    assert "" in captions
    assert stack.tokenize(captions, tokenizer).shape == (300, MAX_TOKENS)


@pytest.mark.parametrize("word", list(all_words()))
def test_every_word_is_one_token(tokenizer, word):
    assert len(tokenizer(word).input_ids) == 3  # begin, the word, end


def test_other_words_are_spelt_out(tokenizer):
    ids = tokenizer("zeppelin").input_ids
    assert len(ids) > 4
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "zeppelin"


def test_too_long_a_caption_is_refused(tokenizer):
    with pytest.raises(ValueError, match="at most 24 fit"):
        stack.tokenize(["red " * 40], tokenizer)


def test_a_newly_built_vocabulary_knows_the_words_too(tmp_path):
    build(tmp_path)
    rebuilt = CLIPTokenizer.from_pretrained(tmp_path)
    assert all(len(rebuilt(word).input_ids) == 3 for word in all_words())
