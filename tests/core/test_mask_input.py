"""mask_input: the fifth channel against a widened convolution in float64, and its files."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pfv_mepa.pfv_core.research.mask_input import (
    KERNEL,
    MaskInput,
    MaskInputFileError,
    add_mask_input,
    check_fits,
    load_mask_input,
    new_mask_input,
    save_mask_input,
)

from .tolerances import DTYPES, assert_close
from .weights import image, noise

CHANNELS = 6


def whole_kernel(seed: int = 1, dtype: torch.dtype = torch.float32):
    return noise(CHANNELS, 5, 3, 3, seed=seed, dtype=dtype)


def test_the_sum_is_the_widened_convolution():
    """concat(z_t, M') through five channels, in float64."""
    latent, mask = noise(2, 4, 5, 7, seed=2, dtype=torch.float64), image(2, 1, 5, 7, seed=3).double()
    kernel, bias = whole_kernel(dtype=torch.float64), noise(CHANNELS, seed=4, dtype=torch.float64)
    widened = F.conv2d(torch.cat([latent, mask], 1), kernel, bias, padding=1)
    narrow = F.conv2d(latent, kernel[:, :4], bias, padding=1)
    assert_close(add_mask_input(narrow, mask, kernel[:, 4:]), widened)


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
def test_a_channel_of_zeros_changes_no_bit(dtype):
    hidden = noise(2, CHANNELS, 5, 7, seed=2, dtype=dtype)
    out = add_mask_input(hidden, image(2, 1, 5, 7, seed=3), new_mask_input(CHANNELS).kernel)
    assert out.dtype == dtype
    assert (out - hidden).abs().max() == 0.0


def test_the_mask_counts_where_it_is():
    hidden = torch.zeros(1, CHANNELS, 5, 7)
    mask = torch.zeros(1, 1, 5, 7)
    mask[..., 3, 1] = 1
    changed = (add_mask_input(hidden, mask, whole_kernel()[:, 4:]) != 0).any(1)[0]
    assert changed.nonzero().tolist() == [[row, column] for row in (2, 3, 4) for column in (0, 1, 2)]


@pytest.mark.parametrize(
    ("mask_shape", "kernel_shape", "message"),
    [
        ((1, 1, 5, 7), (CHANNELS, 1, 3, 3), r"latent mask is \(1, 1, 5, 7\), expected \(2, 1, 5, 7\)"),
        ((2, 1, 4, 7), (CHANNELS, 1, 3, 3), r"latent mask is \(2, 1, 4, 7\)"),
        ((2, 1, 5, 7), (CHANNELS + 1, 1, 3, 3), r"kernel is \(7, 1, 3, 3\), expected \(6, 1, 3, 3\)"),
    ],
)
def test_bad_shapes(mask_shape, kernel_shape, message):
    with pytest.raises(ValueError, match=message):
        add_mask_input(torch.zeros(2, CHANNELS, 5, 7), torch.zeros(mask_shape), torch.zeros(kernel_shape))


@pytest.mark.parametrize("whole", [True, False])
def test_save_and_load(tmp_path, whole):
    kernel = whole_kernel()
    bias = noise(CHANNELS, seed=4)
    written = MaskInput(kernel[:, 4:], kernel[:, :4], bias) if whole else MaskInput(kernel[:, 4:])
    save_mask_input(tmp_path / "mask.safetensors", written, 768)
    read = load_mask_input(tmp_path / "mask.safetensors")
    assert torch.equal(read.kernel, kernel[:, 4:])
    assert read.metadata == {"format": "mask_input", "context_dim": "768"}
    if whole:
        assert torch.equal(read.latent_kernel, kernel[:, :4])
        assert torch.equal(read.bias, bias)
    else:
        assert read.latent_kernel is None
        assert read.bias is None


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_up.weight": (4, 4)}, r"holds no mask input \(its first keys: lora_up.weight\)"),
        ({"conv_in.weight": (6, 4, 3, 3)}, r"conv_in.weight is \(6, 4, 3, 3\), expected \(C, 5, 3, 3\)"),
        ({"conv_in.weight": (6, 9, 3, 3)}, r"\(6, 9, 3, 3\), expected \(C, 5, 3, 3\)"),
        ({"mask_input.weight": (6, 1, 1, 1)}, r"mask_input.weight is \(6, 1, 1, 1\), expected \(C, 1, 3, 3\)"),
        ({"conv_in.weight": (6, 5, 3, 3), "conv_in.bias": (5,)}, r"conv_in.bias is \(5,\), expected \(6,\)"),
    ],
)
def test_bad_files(tmp_path, tensors, message):
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "bad.safetensors")
    with pytest.raises(MaskInputFileError, match=message):
        load_mask_input(tmp_path / "bad.safetensors")


def test_damaged_and_missing_files(tmp_path):
    save_file({"mask_input.weight": torch.full((6, 1, 3, 3), float("nan"))}, tmp_path / "nan.safetensors")
    with pytest.raises(MaskInputFileError, match="not finite"):
        load_mask_input(tmp_path / "nan.safetensors")
    for name, bias in (("nan", torch.full((6,), float("nan"))), ("int", torch.zeros(6, dtype=torch.int64))):
        file = tmp_path / f"{name}_bias.safetensors"
        save_file({"conv_in.weight": torch.zeros(6, 5, 3, 3), "conv_in.bias": bias}, file)
        with pytest.raises(
            MaskInputFileError, match=r"conv_in.bias (holds values that are not finite|is of type torch.int64)"
        ):
            load_mask_input(file)
    save_file({"mask_input.weight": torch.ones(6, 1, 3, 3).to(torch.float8_e4m3fn)}, tmp_path / "float8.safetensors")
    assert load_mask_input(tmp_path / "float8.safetensors").kernel.eq(1).all()
    with pytest.raises(FileNotFoundError, match="no mask input at"):
        load_mask_input(tmp_path / "missing.safetensors")


class Harmful:
    """A pickle that does something when it is read."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was read",))


def test_pickles_are_not_read(tmp_path):
    file = tmp_path / "mask.bin"
    file.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(MaskInputFileError, match=r"pickles .* are not read"):
        load_mask_input(file)


def base(seed: int = 1):
    return whole_kernel(seed)[:, :4]


def test_what_belongs_to_a_base():
    """A fine-tuned kernel stays near its base; W_5 alone needs the base's name."""
    tuned = base() * 1.02 + 0.01
    check_fits(MaskInput(whole_kernel()[:, 4:], tuned), base(), 768, 16)
    check_fits(MaskInput(whole_kernel()[:, 4:], metadata={"context_dim": "768"}), base(), 768, 16)
    with pytest.raises(MaskInputFileError, match=r"differs from the model's by nan% of its size"):
        check_fits(MaskInput(whole_kernel()[:, 4:], base()), base() * float("nan"), 768, 16)
    with pytest.raises(MaskInputFileError, match=r"differs from the model's by 1\d\d% of its size"):
        check_fits(MaskInput(whole_kernel()[:, 4:], base(seed=9)), base(), 768, 16)
    with pytest.raises(MaskInputFileError, match="for a text context of 768 channels, the model's has 2048"):
        check_fits(MaskInput(whole_kernel()[:, 4:], metadata={"context_dim": "768"}), base(), 2048, 16)
    with pytest.raises(MaskInputFileError, match="does not say which base it is for: write context_dim"):
        check_fits(MaskInput(whole_kernel()[:, 4:]), base(), 768, 16)
    with pytest.raises(MaskInputFileError, match=r"is \(8, 4, 3, 3\), the model's is \(6, 4, 3, 3\)"):
        check_fits(new_mask_input(8), base(), 768, 16)


def test_a_mask_input_beside_a_reference_u_net_is_for_models_of_its_self_attentions(tmp_path):
    """Distilled models have the widths of SDXL, and less of them: in a file of all that RefAdGen trains it can be told."""
    reference = {f"reference.down_blocks.0.attentions.{n}.attn1.to_q.weight": torch.zeros(1) for n in range(3)}
    file = tmp_path / "whole.safetensors"
    save_file({KERNEL: whole_kernel()[:, 4:].contiguous(), **reference}, file, {"context_dim": "2048"})
    found = load_mask_input(file)
    assert found.self_attentions == 3
    check_fits(found, base(), 2048, 3)
    with pytest.raises(MaskInputFileError, match="beside a reference U-Net of 3 self-attentions, the model has 2"):
        check_fits(found, base(), 2048, 2)
