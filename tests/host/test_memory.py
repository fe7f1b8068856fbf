"""What is computed, loaded and held over the runs of the host's queue: each thing once, and nothing when the host asks."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from weakref import ref

import comfy.model_management
import pytest
import torch

from pfv_mepa.nodes.host import adapter as host_adapter
from pfv_mepa.nodes.host.adapter import HostAdapter
from pfv_mepa.nodes.host.content_cache import ContentCache
from pfv_mepa.nodes.host.vit import HostVit
from pfv_mepa.nodes.reference import encoded as encoded_references
from pfv_mepa.pfv_core.adapter import checkpoint
from pfv_mepa.pfv_core.adapter.model import Adapter
from pfv_mepa.tests.host.host_queue import full_prompt, queue_for
from pfv_mepa.tests.host.sampling import image_prompt
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

SECOND_DEVICE = torch.device("cpu", 0)  # another device to host and torch, which copy weights to it as to a GPU


@pytest.fixture(scope="module")
def small_model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def adapters(adapter_widths, host_base_directory):
    """Names of two adapter files; made for SDXL's layers, they fit those of Vega too."""
    files = [
        adapter_files.write_plus_adapter(
            host_base_directory / "models" / "ipadapter" / f"memory-{seed}.safetensors",
            adapter_widths,
            encoder_width=models.VISION_WIDTH,
            context_dim=models.CONTEXT_DIM,
            seed=seed,
        )
        for seed in (1, 2)
    ]
    return [file.name for file in files]


@pytest.fixture
def queue(small_model):
    with queue_for(small_model) as running:
        yield running
        running.executor.reset()
    gc.collect()


@pytest.fixture
def counts(monkeypatch):
    """How often each costly thing was done; empty it to begin anew."""
    done: Counter[str] = Counter()
    for owner, name, what in (
        (HostVit, "run_blocks", "encoded"),
        (checkpoint, "read_tensors", "file read"),
        (Adapter, "__init__", "module built"),
        (Adapter, "image_prompt", "compressed"),
        (Adapter, "keys_values", "projected"),
    ):
        original = getattr(owner, name)

        def counting(*args, _original=original, _what=what, **kwargs):
            done[_what] += 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)
    loads = comfy.model_management.load_models_gpu

    def counting_loads(patchers, *args, **kwargs):
        done.update(f"{type(patcher.model).__name__} loaded" for patcher in patchers)
        return loads(patchers, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", counting_loads)
    return done


FIRST_RUN = {
    "encoded": 2,  # the reference, and the answer to zero pixels
    "file read": 1,
    "module built": 1,
    "compressed": 1,
    "projected": 1,
    "Adapter loaded": 2,  # to compress and to project
    "CLIPVisionModelProjection loaded": 1,
}
SAMPLED = "SDXL loaded"


def ours(counts):
    return {what: count for what, count in counts.items() if what != SAMPLED}


def test_each_thing_is_done_once_over_many_runs(queue, counts, adapters):
    first = queue.run(full_prompt(adapters[0]))
    assert ours(counts) == FIRST_RUN
    for change in (
        {"text": 8},
        {"seed": 2},
        {"strength": 0.5},
        {"text_share": 0.0, "end_percent": 0.5},
        {"gate": "query"},
    ):
        counts.clear()
        assert not torch.equal(queue.run(full_prompt(adapters[0], **change)), first)
        assert ours(counts) == {}, change
        assert counts[SAMPLED] == 1
    queue.run(full_prompt(adapters[0], text=6))
    counts.clear()
    queue.run(full_prompt(adapters[0], text=6))
    assert counts == {}  # the same once more: not even sampled


def test_references_that_take_turns_are_encoded_and_projected_once_each(queue, counts, adapters):
    """The host forgets what the last prompt did not use; the encoder and the adapter remember."""
    first = queue.run(full_prompt(adapters[0], picture=1))
    counts.clear()
    other = queue.run(full_prompt(adapters[0], picture=2))
    assert ours(counts) == {
        "encoded": 1,
        "compressed": 1,
        "projected": 1,
        "Adapter loaded": 2,
        "CLIPVisionModelProjection loaded": 1,
    }
    assert not torch.equal(first, other)
    counts.clear()
    assert torch.equal(queue.run(full_prompt(adapters[0], picture=1)), first)
    assert torch.equal(queue.run(full_prompt(adapters[0], picture=2)), other)
    assert ours(counts) == {}


def test_two_loaders_of_one_file_share_it(queue, counts, adapters):
    prompt = full_prompt(adapters[0])
    prompt["adapter 2"] = prompt["adapter"]
    prompt["compress 2"] = prompt["compress"] | {
        "inputs": prompt["compress"]["inputs"] | {"adapter": ["adapter 2", 0], "method": "cluster"}
    }
    prompt["apply 2"] = prompt["apply"] | {
        "inputs": prompt["apply"]["inputs"] | {"model": ["apply", 0], "image_prompt": ["compress 2", 0]}
    }
    prompt["sample"]["inputs"]["model"] = ["apply 2", 0]
    queue.run(prompt)
    assert counts["file read"] == counts["module built"] == 1
    assert counts["compressed"] == counts["projected"] == 2


def test_an_adapter_that_is_replaced_by_another_goes(queue, adapters):
    queue.run(full_prompt(adapters[0]))
    (first,) = [ref(adapter) for adapter in host_adapter._loaded.values()]
    queue.run(full_prompt(adapters[1]))
    gc.collect()
    assert first() is None
    assert len(host_adapter._loaded) == 1


def test_what_post_free_frees(queue, counts, adapters):
    """The host unloads its models and drops its results; nothing of the pack keeps anything alive."""
    before = len(encoded_references._references)
    latent = queue.run(full_prompt(adapters[0]))
    assert len(encoded_references._references) == before + 1
    assert len(host_adapter._loaded) == 1
    comfy.model_management.unload_all_models()
    queue.executor.reset()
    gc.collect()
    assert len(host_adapter._loaded) == 0
    assert len(encoded_references._references) == before
    counts.clear()
    assert torch.equal(queue.run(full_prompt(adapters[0])), latent)
    assert ours(counts) == FIRST_RUN


def test_unloaded_models_come_back(queue, counts, adapters):
    """POST /free with unload_models alone: the host's results stay, so nothing of ours is computed again."""
    latent = queue.run(full_prompt(adapters[0]))
    counts.clear()
    comfy.model_management.unload_all_models()
    queue.run(full_prompt(adapters[0], text=9))
    assert torch.equal(queue.run(full_prompt(adapters[0])), latent)
    assert ours(counts) == {}


def test_out_of_memory_in_the_patch_is_the_hosts_own_error_and_the_next_run_is_right(
    queue, adapters, monkeypatch, caplog
):
    """More than two rows of queries are too many here, as a batch of two is with positive and negative."""
    latent = queue.run(full_prompt(adapters[0]))
    attention = "pfv_mepa.nodes.host.slots.optimized_attention"
    calls = []

    def little_memory(query, *args, **kwargs):
        calls.append(query.shape[0])
        if query.shape[0] > 2 and len(calls) > 3:  # in the middle of a step, with caches half filled
            raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(query, *args, **kwargs)

    from comfy.ldm.modules.attention import optimized_attention as original

    large = full_prompt(adapters[0])
    large["latent"]["inputs"]["batch_size"] = 2
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(attention, little_memory)
        assert queue.run(large) is None
        assert len(calls) == 4
        (error,) = queue.events("execution_error")
        assert error["exception_type"] == "torch.OutOfMemoryError"
        assert error["node_type"] == "KSampler"
        assert "TIPS: If the workflow worked before" in error["exception_message"]
        assert torch.equal(queue.run(full_prompt(adapters[0])), latent)
    assert "Got an OOM, unloading all loaded models." in caplog.text


def test_a_run_that_is_interrupted_leaves_the_next_one_right(queue, adapters, monkeypatch):
    """At every one of the first cross-attention calls of a run, and in the second step."""
    latent = queue.run(full_prompt(adapters[0]))
    other = full_prompt(adapters[0], seed=5)
    from comfy.ldm.modules.attention import optimized_attention as original

    for moment in (1, 2, 3, 4, 6):
        calls = []

        def interrupting(*args, _calls=calls, _moment=moment, **kwargs):
            _calls.append(1)
            if len(_calls) == _moment:
                comfy.model_management.interrupt_current_processing()
                comfy.model_management.throw_exception_if_processing_interrupted()
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr("pfv_mepa.nodes.host.slots.optimized_attention", interrupting)
            assert queue.run(other) is None
        assert queue.events("execution_interrupted")
        assert torch.equal(queue.run(full_prompt(adapters[0])), latent)


class TestDevice:
    """The adapter on a device that is not where its file is mapped."""

    @pytest.fixture
    def adapter(self, plus_adapter_file, monkeypatch):
        monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: SECOND_DEVICE)
        adapter = HostAdapter(checkpoint.load_adapter(plus_adapter_file, comfy.ops.manual_cast))
        yield adapter
        comfy.model_management.unload_all_models()

    @pytest.fixture
    def tokens(self):
        return torch.randn(2, 16, models.CONTEXT_DIM, generator=torch.Generator().manual_seed(0))

    @pytest.fixture
    def expected(self, plus_adapter_file, tokens):
        with torch.inference_mode():
            return checkpoint.load_adapter(plus_adapter_file).keys_values(tokens)

    def places(self, adapter):
        return {name: weight.data_ptr() for name, weight in adapter._adapter.state_dict().items()}

    def loaded(self, adapter):
        entries = comfy.model_management.current_loaded_models
        return [entry.model_loaded_memory() for entry in entries if entry.model is adapter._patcher]

    def test_the_host_counts_it_while_it_is_used_and_has_the_memory_back_after(
        self, adapter, tokens, expected, monkeypatch
    ):
        mapped = self.places(adapter)
        size = adapter._patcher.model_size()
        seen = []
        project = Adapter.keys_values

        def looking(module, prompt):
            seen.append((self.loaded(adapter), self.places(adapter)))
            return project(module, prompt)

        monkeypatch.setattr(Adapter, "keys_values", looking)
        pairs = adapter.keys_values(tokens)
        ((memory, places),) = seen
        assert memory == [size]
        assert not set(places.values()) & set(mapped.values())  # it was copied, as it would be to a GPU
        assert self.loaded(adapter) == []
        assert self.places(adapter) == mapped  # and is the file's memory again, which costs nothing
        for pair, other in zip(pairs, expected, strict=True):
            assert all(torch.equal(*both) for both in zip(pair, other, strict=True))

    @pytest.mark.parametrize("budget", [1, 20_000, 100_000])
    def test_a_part_of_it_on_the_device_gives_the_same(self, adapter, tokens, expected, monkeypatch, budget):
        """As the host loads with --lowvram and --novram: this many bytes, the rest is cast where it is used."""
        load = adapter._patcher.partially_load
        monkeypatch.setattr(
            adapter._patcher, "partially_load", lambda device, extra, **kwargs: load(device, budget, **kwargs)
        )
        mapped = self.places(adapter)
        pairs = adapter.keys_values(tokens)
        for pair, other in zip(pairs, expected, strict=True):
            assert all(torch.equal(*both) for both in zip(pair, other, strict=True))
        assert self.places(adapter) == mapped
        assert self.loaded(adapter) == []

    def test_the_host_may_unload_it_at_any_time(self, adapter, tokens, expected):
        comfy.model_management.load_model_gpu(adapter._patcher)
        assert self.loaded(adapter) == [adapter._patcher.model_size()]
        comfy.model_management.free_memory(1e30, SECOND_DEVICE)
        assert self.loaded(adapter) == []
        assert torch.equal(adapter.keys_values(tokens)[0][0], expected[0][0])

    def test_a_failure_while_projecting_frees_it_too(self, adapter, tokens, monkeypatch):
        monkeypatch.setattr(Adapter, "keys_values", lambda *args: torch.zeros(2) @ torch.zeros(3))
        with pytest.raises(RuntimeError):
            adapter.keys_values(tokens)
        assert self.loaded(adapter) == []


def test_tokens_of_an_encoder_that_does_not_fit_load_nothing(tiny_clip_vision, plus_adapter_file, counts):
    wrong = models.tiny_clip_vision(width=128)
    with pytest.raises(ValueError, match="hidden state has 128 channels"):
        image_prompt(wrong, plus_adapter_file)
    assert counts["Adapter loaded"] == 0


class TestContentCache:
    """The bounded cache."""

    def test_it_computes_once_and_forgets_what_was_used_least_recently(self):
        cache: ContentCache[str] = ContentCache(10, len)
        computed = []

        def get(key, value):
            return cache.get_or_compute(key, lambda: computed.append(key) or value)

        assert [get("a", "1234"), get("b", "1234"), get("a", "other")] == ["1234", "1234", "1234"]
        assert get("c", "12345") == "12345"  # b goes: a was used after it
        assert computed == ["a", "b", "c"]
        get("a", "")
        assert computed == ["a", "b", "c"]
        get("b", "1")
        assert computed == ["a", "b", "c", "b"]
        assert len(cache) == 3

    def test_what_is_too_large_is_not_kept(self):
        cache: ContentCache[str] = ContentCache(3, len)
        assert cache.get_or_compute("a", lambda: "1234") == "1234"
        assert len(cache) == 0

    def test_a_failure_is_not_kept(self):
        cache: ContentCache[str] = ContentCache(3, len)
        with pytest.raises(ZeroDivisionError):
            cache.get_or_compute("a", lambda: str(1 / 0))
        assert cache.get_or_compute("a", lambda: "1") == "1"
