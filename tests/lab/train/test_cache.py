"""Tensors that are kept: latents as they are, tokens in half precision."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from lab.train.cache import TensorCache, cached


def dtype_in(folder):
    (file,) = folder.rglob("*.safetensors")
    return load_file(file)["values"].dtype


def test_latents_come_back_to_the_bit(tmp_path):
    value = torch.randn(4, 8, 8)
    cache = TensorCache(tmp_path, "latents", {})
    assert torch.equal(cache.put("one", value), value)
    assert torch.equal(cache.get("one"), value)
    assert dtype_in(tmp_path) == torch.float32


def test_tokens_take_half_the_place_and_the_first_run_gets_what_the_second_does(tmp_path):
    value = torch.randn(17, 16) * 30
    cache = TensorCache(tmp_path, "tokens", {}, half=True)
    made = cached(cache, ["one"], lambda _: [value])[0]
    again = cached(cache, ["one"], lambda _: [torch.zeros(17, 16)])[0]
    assert torch.equal(made, again)
    assert made.dtype == torch.float32
    assert dtype_in(tmp_path) == torch.float16
    assert torch.equal(made, value.half().float())
    assert float(((made - value) / value).abs().max()) < 2**-11 * 1.01


def test_what_half_precision_cannot_hold_is_kept_whole(tmp_path):
    """It ends at 65504."""
    value = torch.tensor([1.0, 1e5])
    cache = TensorCache(tmp_path, "tokens", {}, half=True)
    assert torch.equal(cache.put("one", value), value)
    assert dtype_in(tmp_path) == torch.float32


def test_kinds_and_settings_do_not_mix(tmp_path):
    caches = [TensorCache(tmp_path, *what) for what in (("latents", {}), ("tokens", {}), ("tokens", {"size": 1}))]
    for number, cache in enumerate(caches):
        cache.put("one", torch.full((1,), float(number)))
    assert [float(cache.get("one")) for cache in caches] == [0.0, 1.0, 2.0]
    assert caches[0].get("two") is None


def test_only_what_has_a_key_is_kept(tmp_path):
    asked = []

    def make(items):
        asked.append(items)
        return [torch.full((1,), float(item)) for item in items]

    cache = TensorCache(tmp_path, "tokens", {})
    for _ in range(2):
        found = cached(cache, ["a", "", "b", ""], make)
        assert [float(value) for value in found] == [0.0, 1.0, 2.0, 3.0]
    assert asked == [[0], [2], [1, 3], [1, 3]]
