"""What a call of the hook costs inside a real sampling, counted, and that it is still the explicit formula."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pfv_mepa.nodes.host import slots
from pfv_mepa.nodes.host.cross_attention import ImagePromptPatch, PromptSlot
from pfv_mepa.nodes.host.facts import Call
from pfv_mepa.tests.core import reference as explicit
from pfv_mepa.tests.host.sampling import apply, image_prompt, right_half, sample

# What makes the host wait for the device; "_to_copy" and "copy_" do where they cross between the two.
SYNCS = {"item", "_local_scalar_dense", "_to_copy", "to", "copy_", "nonzero", "equal", "is_nonzero", "masked_select"}
CALLS_PER_STEP = 3


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


class Operators(TorchDispatchMode):
    """Names of the operators that were dispatched, views left out; an attention counts as one."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.silent = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.silent and not func.is_view:
            self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_calls() -> Iterator[list[list[str]]]:
    """The operators of each call of the hook, in order."""
    calls: list[list[str]] = []
    attention, hook = slots.optimized_attention, PromptSlot.__call__

    def counting(self, *args):
        with Operators() as operators:

            def one_operator(*qkv, **kwargs):
                operators.silent = True
                out = attention(*qkv, **kwargs)
                operators.silent = False
                operators.names.append("attention")
                return out

            patch.setattr(slots, "optimized_attention", one_operator)
            out = hook(self, *args)
        calls.append(operators.names)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptSlot, "__call__", counting)
        yield calls


def after_the_first_step(model, **size) -> list[list[str]]:
    """The operators of every call but those of the first step, which fills the caches."""
    with counted_calls() as calls:
        sample(model, steps=3, **size)
    assert len(calls) == 3 * CALLS_PER_STEP
    return calls[CALLS_PER_STEP:]


ORDERED = ["index_select", "empty_like"]
COPIES = ["attention", "index_copy_"]


@pytest.mark.parametrize(
    ("gate", "text_share", "expected"),
    [
        ("output", 0.0, [*ORDERED, *COPIES, *COPIES]),
        ("output", 1.0, ["attention", "index_select", "attention", "index_add_"]),
        ("query", 0.0, [*ORDERED, *COPIES, *COPIES, "add", "add", "mean"]),
        ("query", 1.0, ["attention", "index_select", "attention", "index_add_", "index_add_"]),
    ],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_operators_of_a_call_with_a_hard_region(model, prompt, gate, text_share, expected, batch):
    """No more than these, whatever the strength: nothing is projected or scaled in a call. Images of a batch that share a
    prompt share its keys and values too, which are laid out for the rows in each call and not kept for each."""
    patched = apply(model, prompt, region=right_half(), gate=gate, text_share=text_share, strength=0.7)
    shared = [] if batch == 1 else ["index_select"] * (3 if gate == "query" else 2)
    for names in after_the_first_step(patched, batch=batch):
        assert Counter(names) == Counter([*expected, *shared])
    assert len(expected) <= 9


def test_a_window_is_read_once_in_a_step(model, prompt, monkeypatch):
    """Ours and that of another pack's callback in our slot, together; and nothing else waits for the device."""
    patched = apply(model, prompt, region=right_half(), text_share=0.0, end_percent=0.9)
    for slot in patched.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        slot.add(lambda out, *args, **window: 0.5 * out, sigma_start=999999999.9, sigma_end=0.0)
    reads: list[int] = []
    read = Call.sigma.func
    counting = cached_property(lambda call: reads.append(1) or read(call))
    counting.__set_name__(Call, "sigma")
    monkeypatch.setattr(Call, "sigma", counting)
    calls = after_the_first_step(patched)
    assert len(reads) == 3
    assert not {name for names in calls for name in names} & SYNCS


def test_without_a_window_nothing_waits_for_the_device(model, prompt):
    for region in (None, right_half(), right_half() * 0.5):
        for gate in ("output", "query"):
            calls = after_the_first_step(apply(model, prompt, region=region, gate=gate, text_share=0.3))
            assert not {name for names in calls for name in names} & SYNCS


@dataclass(frozen=True)
class Explicit:
    """Every cross-attention by the formula in float64 NumPy: softmax, masks and sums written out."""

    shares: list[float]  # per branch: how much of the right half it rules

    def __call__(self, patch, layers, query, key, value, options, base):
        rows, columns = options["activations_shape"][-2:]
        right = (np.arange(rows * columns) % columns >= columns // 2).astype(float)
        masks = [right * share for share in self.shares]
        numbers = [(p.control.image_scale, p.control.text_share, p.control.gate.value) for p in patch.prompts]
        chunks = [chunk for chunk in options["cond_or_uncond"] for _ in range(len(query) // 2)]
        out = []
        for row, chunk in enumerate(chunks):
            images = [p.image_prompt.keys_values[chunk][layer] for p, layer in zip(patch.prompts, layers, strict=True)]
            pairs = [tuple(t[0].double().numpy() for t in pair) for pair in images]
            own, *text = (tensor[row].double().numpy() for tensor in (query, key, value))
            out.append(explicit.text_image_attention(own, text, pairs, masks, numbers, options["n_heads"]))
        return torch.from_numpy(np.stack(out)).to(query.dtype)


@pytest.mark.parametrize(
    "branches",
    [
        [{"text_share": 0.0, "strength": 0.7}],
        [{"text_share": 0.0, "strength": 0.7, "gate": "query"}],
        [{"text_share": 1.0}, {"text_share": 0.3, "strength": 0.5, "gate": "query"}],
    ],
    ids=["output", "query", "two, one soft"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_sampled_latents_are_those_of_the_explicit_formula(model, prompt, branches, dtype, tolerance):
    """Relative to the latent's norm, after two steps through all layers; in bfloat16 it is the hook that is."""
    shares = [1.0, 0.4][: len(branches)]
    patched = model
    for share, branch in zip(shares, branches, strict=True):
        patched = apply(patched, prompt, region=share * right_half(64, 64), **branch)
    fast = sample_with(patched, dtype, ImagePromptPatch.attention)
    formula = Explicit(shares)
    slow = sample_with(patched, dtype, lambda patch, *args: formula(patch, *args))
    assert (fast - slow).norm() <= tolerance * slow.norm()
    turned = sample_with(patched, dtype, lambda patch, *args: Explicit([0.5] * len(shares))(patch, *args))
    assert (fast - turned).norm() > 2 * tolerance * slow.norm()  # another region is another latent


def sample_with(model, dtype, attention):
    """Sample with `attention` in the hook, which computes in `dtype`; the rest of the U-Net stays in float32."""

    def in_dtype(self, layers, query, key, value, options, base):
        made = attention(self, layers, *(tensor.to(dtype) for tensor in (query, key, value)), options, base)
        return made.to(query.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImagePromptPatch, "attention", in_dtype)
        return sample(model, height=64, width=64)
