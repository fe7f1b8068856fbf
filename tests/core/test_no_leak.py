"""Nothing that is hidden reaches the model: from pixels to the output of the cross-attention, bit for bit.

The same machinery must find leaks where there are some: visible pixels that change, and the obvious wrong order
(resize, then mask).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pfv_mepa.pfv_core.adapter.model import AdapterKind
from pfv_mepa.pfv_core.attention.control import Gate, PromptControl
from pfv_mepa.pfv_core.attention.formula import scaled_dot_product, text_image_attention
from pfv_mepa.pfv_core.attention.plan import plan_rows
from pfv_mepa.pfv_core.reference.fit import fit_geometry
from pfv_mepa.pfv_core.reference.patch_mask import PatchMask, rebinarize
from pfv_mepa.pfv_core.reference.vit import encode_image, encode_pixels, encode_uncond

from .tiny_adapters import tiny_adapter
from .tiny_vit import TinyVit
from .weights import ramp

NUM_CASES = 2000


class RecordingVit(TinyVit):
    """Remembers the pixels it was given."""

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        self.pixel_values = pixel_values
        return super().embed_patches(pixel_values)


ENCODER = RecordingVit(image_size=32, patch_size=8, num_layers=2)
UNCOND = encode_uncond(ENCODER)
ADAPTERS = {kind: tiny_adapter(kind, ENCODER.spec, seed=index) for index, kind in enumerate(AdapterKind)}
PLANS = {
    gate: plan_rows([torch.arange(16) >= 8], [PromptControl(text_share=0.0, gate=gate)], 16).to(
        torch.device("cpu"), torch.float32
    )
    for gate in Gate
}
HIDDEN_VALUES = (0.0, 1.0, -3.0, 1e30, float("inf"), float("-inf"), float("nan"))


@dataclass(frozen=True)
class Case:
    """A random image, what is visible of it, and how it is encoded."""

    image: Tensor
    keep_mask: Tensor
    patch_mask: PatchMask
    mode: str
    kind: AdapterKind
    gate: Gate


def cases(count: int, seed: int, thresholds: tuple[float, ...] = (0.0, 0.0, 0.1, 0.3, 0.7, 1.0)) -> Iterator[Case]:
    """Random cases; a mask that leaves no patch is drawn again."""
    rng = np.random.default_rng(seed)
    while count:
        height, width = _size(rng)
        batch = int(rng.choice([1, 1, 1, 2, 3]))
        keep = torch.from_numpy(np.stack([_keep_mask(rng, height, width) for _ in range(batch)]))
        fit = str(rng.choice(["crop", "pad", "stretch"]))
        try:
            patch_mask = rebinarize(keep, fit_geometry(height, width, 32, 8, fit), float(rng.choice(thresholds)))
        except ValueError:
            continue
        yield Case(
            torch.from_numpy(rng.random((batch, 3, height, width), dtype=np.float32)),
            keep,
            patch_mask,
            str(rng.choice(["drop", "zero"])),
            list(AdapterKind)[rng.integers(len(AdapterKind))],
            list(Gate)[rng.integers(2)],
        )
        count -= 1


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Smaller than the input, about as large, wide, tall, and a few times as large."""
    sides = {"small": (1, 32), "near": (25, 40), "large": (33, 130)}
    shape = rng.choice(["small", "near", "large", "wide", "tall"])
    if shape in ("wide", "tall"):
        short, long = int(rng.integers(1, 40)), int(rng.integers(60, 160))
        return (short, long) if shape == "wide" else (long, short)
    low, high = sides[str(shape)]
    return int(rng.integers(low, high)), int(rng.integers(low, high))


def _keep_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A hidden rectangle, scattered hidden pixels, or both."""
    keep = np.ones((height, width), dtype=bool)
    if rng.random() < 0.8:
        top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
        keep[top : top + int(rng.integers(1, height + 1)), left : left + int(rng.integers(1, width + 1))] = False
    if rng.random() < 0.4:
        keep &= rng.random((height, width)) > rng.choice([0.005, 0.1, 0.5])
    return keep


def replaced(case: Case, where: Tensor, seed: int) -> Tensor:
    """The case's image with other values where (B, H, W) is True: one odd value all over, or a different one each."""
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.choice(HIDDEN_VALUES, size=case.image.shape).astype(np.float32))
    if rng.random() < 0.5:
        values = torch.full_like(case.image, float(rng.choice(HIDDEN_VALUES)))
    return torch.where(where[:, None], values, case.image)


@torch.inference_mode()
def outputs(case: Case, image: Tensor) -> dict[str, Tensor]:
    """Every tensor on the way from an image to the model, by name."""
    tokens = encode_image(ENCODER, image, case.patch_mask, case.mode, UNCOND)
    positive, negative = ADAPTERS[case.kind].image_prompt(tokens)
    found = {
        "pixel values": ENCODER.pixel_values,
        "image embeds": tokens.image_embeds,
        "image prompt": positive,
        "negative": negative,
    }
    for item in range(len(tokens)):
        found |= {f"last {item}": tokens.last[item], f"penultimate {item}": tokens.penultimate[item]}
    for layer, (key, value) in enumerate(ADAPTERS[case.kind].keys_values(positive)):
        found |= {f"key {layer}": key, f"value {layer}": value}
    found["attention"] = _attention(found["key 0"], found["value 0"], case.gate)
    return found


def _attention(key: Tensor, value: Tensor, gate: Gate) -> Tensor:
    """The image prompt in half of a 4x4 frame."""
    batch, _, width = key.shape
    query, text = ramp(batch, 16, width), (ramp(batch, 5, width), ramp(batch, 5, width, low=2.0))
    return text_image_attention(query, text, [(key, value)], [PLANS[gate]], scaled_dot_product(2))


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal in every bit; NaN is never equal."""
    assert one.keys() == other.keys()
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


@pytest.mark.parametrize("part", range(4))
def test_hidden_pixels_change_no_bit_of_anything(part):
    hidden_somewhere = 0
    for index, case in enumerate(cases(NUM_CASES // 4, seed=part)):
        plain = outputs(case, case.image)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in plain.values())
        changed = outputs(case, replaced(case, ~case.keep_mask, seed=index))
        assert different(plain, changed) == [], (case.patch_mask.geometry, case.mode, case.kind)
        hidden_somewhere += not bool(case.keep_mask.all())
    assert hidden_somewhere > 0.8 * NUM_CASES / 4


def test_visible_pixels_under_a_hidden_patch_change_no_bit_of_anything():
    """D_p hides whole patches: what was not painted but shares a patch with what was is hidden too."""
    compared = 0
    for case in cases(300, seed=10):
        patch_mask = case.patch_mask
        under = painted(patch_mask, ~patch_mask.patch_keep_mask) & ~painted(patch_mask, patch_mask.patch_keep_mask)
        other = replaced(case, under | ~case.keep_mask, seed=compared)
        compared += bool((under & case.keep_mask).any())
        assert different(outputs(case, case.image), outputs(case, other)) == [], patch_mask.geometry
    assert compared > 100


def painted(patch_mask: PatchMask, patches: Tensor) -> Tensor:
    """(B, grid, grid) bool on the image's pixels."""
    geometry = patch_mask.geometry
    pixels = torch.zeros_like(patch_mask.keep_mask)
    for row, (top, bottom) in enumerate(geometry.row_cells):
        for column, (left, right) in enumerate(geometry.column_cells):
            pixels[:, top:bottom, left:right] |= patches[:, row, column, None, None]
    return pixels


def test_with_the_mask_inverted_the_same_comparison_finds_the_change():
    """Every case keeps a patch in which something is visible, so changing what is visible must change the answer."""
    for case in cases(100, seed=20, thresholds=(0.0, 0.3, 0.7)):
        other = torch.where(case.keep_mask[:, None], 0.5 * case.image, case.image)
        names = different(outputs(case, case.image), outputs(case, other))
        assert "pixel values" in names, case.patch_mask.geometry
        assert "attention" in names, case.patch_mask.geometry


def test_a_resize_that_ignores_the_mask_is_found_to_leak():
    """Resizing first and masking patches afterwards carries hidden pixels over the edges of kept patches."""

    def resize_then_mask(image: Tensor, patch_mask: PatchMask) -> Tensor:
        geometry = patch_mask.geometry
        pixels = interpolate(image, (geometry.input_size,) * 2, mode="bicubic", antialias=True)
        kept = patch_mask.patch_keep_mask.float()[:, None]
        return pixels * interpolate(kept, (geometry.input_size,) * 2, mode="nearest")

    leaks, compared = 0, 0
    for case in cases(300, seed=30, thresholds=(0.0,)):
        patch_mask = case.patch_mask
        if patch_mask.geometry.fit != "stretch" or bool(patch_mask.patch_keep_mask.all()):
            continue
        keep = patch_mask.token_keep_mask
        other = torch.where(case.keep_mask[:, None], case.image, 1.0 - case.image)
        one, two = (resize_then_mask(image, patch_mask) for image in (case.image, other))
        compared += 1
        one, two = (encode_pixels(ENCODER, pixel_values, keep, keep)[2] for pixel_values in (one, two))
        leaks += not torch.equal(one, two)
    assert compared > 50
    assert leaks > 0.5 * compared
