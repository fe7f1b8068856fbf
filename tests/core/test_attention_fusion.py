"""attention_fusion: against an explicit float64 softmax, and that rows out of reach keep their bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.attention.formula import scaled_dot_product
from pfv_mepa.pfv_core.attention.fusion import Combine, FusionControl, FusionRows, fused_attention, fusion_rows

from .tolerances import DTYPES, assert_close
from .weights import noise

HEADS, WIDTH, QUERIES, OWN, REFERENCE = 2, 8, 12, 12, 7
ATTEND = scaled_dot_product(HEADS)
SOFT = torch.tensor([0, 0, 0.25, 0.5, 1, 1, 1, 0.75, 0.125, 0, 0, 1], dtype=torch.float64)
OTHER = SOFT.flip(0).clone()


def scene(batch: int = 1, dtype: torch.dtype = torch.float64):
    """Query, own key and value, reference's key and value."""
    query = noise(batch, QUERIES, WIDTH, seed=1, dtype=dtype)
    own = noise(batch, OWN, WIDTH, seed=2, dtype=dtype), noise(batch, OWN, WIDTH, seed=3, dtype=dtype)
    reference = tuple(noise(batch, REFERENCE, WIDTH, seed=seed, dtype=dtype) for seed in (4, 5))
    return query, own, reference


def explicit(query, key, value):
    """softmax(Q K^T / sqrt d_k) V of one item, head by head, with loops."""
    query, key, value = (tensor.double().numpy() for tensor in (query, key, value))
    size = WIDTH // HEADS
    out = np.zeros((len(query), WIDTH))
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for row in range(len(query)):
            logits = np.array([query[row, part] @ k[part] for k in key]) / np.sqrt(size)
            shares = np.exp(logits - logits.max())
            out[row, part] = (shares / shares.sum()) @ value[:, part]
    return out


def expected(query, own, reference, mask, scale, combine):
    """The formula at the head of the module, item by item."""
    rows = []
    for item in range(len(query)):
        m = (np.ones(QUERIES) if mask is None else mask.numpy())[:, None]
        self_attention = explicit(query[item], own[0][item], own[1][item])
        other = explicit(query[item], reference[0][item], reference[1][item])
        kept = 1 - scale * m if combine == "blend" else 1
        rows.append(kept * self_attention + scale * m * other)
    return np.stack(rows)


@pytest.mark.parametrize("combine", ["add", "blend"])
@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("mask", [None, SOFT, (SOFT > 0.5).double()], ids=["everywhere", "soft", "hard"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_formula(combine, scale, mask, batch):
    query, own, reference = scene(batch)
    layout = [fusion_rows(mask, QUERIES)]
    out = fused_attention(query, own, reference, FusionControl(scale, combine), layout, ATTEND)
    assert_close(out, expected(query, own, reference, mask, scale, combine))


def test_equation_one_as_printed():
    """lambda 1, everywhere, add: the sum of two attentions."""
    query, own, reference = scene()
    out = fused_attention(query, own, reference, FusionControl(), [fusion_rows(None, QUERIES)], ATTEND)
    assert torch.equal(out, ATTEND(query, *own) + ATTEND(query, *reference))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("combine", ["add", "blend"])
def test_dtypes(dtype, combine):
    query, own, reference = scene(2, dtype)
    layout = [fusion_rows(SOFT, QUERIES).to(torch.device("cpu"), dtype)]
    out = fused_attention(query, own, reference, FusionControl(0.7, combine), layout, ATTEND)
    assert out.dtype == dtype
    assert_close(out, expected(query, own, reference, SOFT, 0.7, combine))


@pytest.mark.parametrize("combine", ["add", "blend"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_zero_and_an_empty_mask_change_no_bit(combine, dtype):
    query, own, reference = scene(2, dtype)
    plain = ATTEND(query, *own)
    for scale, mask in ((0.0, SOFT), (0.0, None), (1.0, torch.zeros(QUERIES))):
        layout = [fusion_rows(mask, QUERIES).to(query.device, dtype)]
        out = fused_attention(query, own, reference, FusionControl(scale, combine), layout, ATTEND)
        assert (out - plain).abs().max() == 0.0


@pytest.mark.parametrize("combine", ["add", "blend"])
def test_rows_out_of_reach_keep_their_bits_and_the_others_change(combine):
    query, own, reference = scene(2, torch.float32)
    plain = ATTEND(query, *own)
    layout = [fusion_rows(SOFT, QUERIES).to(query.device, torch.float32)]
    out = fused_attention(query, own, reference, FusionControl(1.0, combine), layout, ATTEND)
    same = (out == plain).all(-1).all(0)
    assert torch.equal(same, SOFT == 0)


def test_blending_all_the_way_is_the_references_attention():
    query, own, reference = scene()
    out = fused_attention(query, own, reference, FusionControl(1.0, "blend"), [fusion_rows(None, QUERIES)], ATTEND)
    assert_close(out, ATTEND(query, *reference))


def test_each_image_has_its_own_rows():
    """Four items of two images: items 0, 2 of the one, 1, 3 of the other."""
    query, own, reference = scene(4)
    control = FusionControl(0.6)
    out = fused_attention(query, own, reference, control, [fusion_rows(m, QUERIES) for m in (SOFT, OTHER)], ATTEND)
    for item, mask in enumerate((SOFT, OTHER, SOFT, OTHER)):
        at = slice(item, item + 1)
        alone = expected(query[at], [t[at] for t in own], [t[at] for t in reference], mask, 0.6, "add")
        assert_close(out[at], alone)


def test_what_is_in_the_slot_already_computes_the_own_attention_and_keeps_its_result():
    query, own, reference = scene()
    given = torch.full_like(query, 0.5)
    layout = [fusion_rows(SOFT, QUERIES)]
    out = fused_attention(query, own, reference, FusionControl(), layout, ATTEND, base=lambda *_: given)
    assert_close(out - 0.5, SOFT[:, None] * ATTEND(query, *reference))
    assert bool((given == 0.5).all())  # another pack may hold on to it


def test_only_reached_rows_are_attended():
    seen = []

    def counting(query, key, value):
        seen.append(query.shape[1])
        return ATTEND(query, key, value)

    query, own, reference = scene()
    fused_attention(query, own, reference, FusionControl(), [fusion_rows(SOFT, QUERIES)], counting)
    assert seen == [QUERIES, int((SOFT > 0).sum())]


def test_rows_of_masks():
    assert fusion_rows(None, 4) == FusionRows(None, 1.0)
    assert fusion_rows(torch.ones(4), 4) == FusionRows(None, 1.0)
    hard = fusion_rows(torch.tensor([0.0, 1, 0, 1]), 4)
    assert hard.rows.tolist() == [1, 3]
    assert hard.weight == 1.0
    assert fusion_rows(torch.zeros(4), 4).empty


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((float("nan"), "add"), "scale is nan, expected a finite number"),
        ((1.2, "blend"), r"scale is 1.2, expected 0 .* to 1 .* where combine is blend"),
        ((-0.1, Combine.BLEND), "scale is -0.1, expected 0"),
        ((1.0, "sum"), r"combine is 'sum', expected one of \['add', 'blend'\]"),
    ],
)
def test_bad_controls(arguments, message):
    with pytest.raises(ValueError, match=message):
        FusionControl(*arguments)


def test_bad_shapes():
    query, own, reference = scene(2)
    with pytest.raises(ValueError, match=r"query mask is \(5,\), expected \(12,\)"):
        fusion_rows(torch.ones(5), QUERIES)
    layout = [fusion_rows(None, QUERIES)]
    with pytest.raises(ValueError, match="3 region layouts for a batch of 2"):
        fused_attention(query, own, reference, FusionControl(), layout * 3, ATTEND)
    with pytest.raises(ValueError, match=r"reference's key is \(1, 7, 8\), .* expected \(2, reference tokens, 8\)"):
        fused_attention(query, own, (reference[0][:1], reference[1]), FusionControl(), layout, ATTEND)
    with pytest.raises(ValueError, match=r"reference's value is \(2, 7, 4\)"):
        fused_attention(query, own, (reference[0], reference[1][..., :4]), FusionControl(), layout, ATTEND)
