"""Sampled latents, beside the same sampling with the formula written out: explicit softmax in float64, every row twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from . import models
from .hook import CONTROLS
from .measure import Figure, Measured
from .workbench import Workbench

AT_MOST = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SIDE, STEPS, CHANNELS, HEAD_DIM, CONTEXT_DIM, POOLED_DIM = 128, 4, 32, 16, 64, 40
HOW = (
    f"A U-Net with SDXL's 70 cross-attentions at tiny widths, {SIDE} px, {STEPS} Euler steps, cfg 5, 16 tokens, strength 0.8, a "
    "region of 0, 0.5 and 1. Norm of the difference of the latents to their norm, to the same sampling with the formula written "
    "out: float64, explicit softmax, every row in both branches. *Unpatched* is the host's own attention against the same "
    "written-out attention without an adapter: what rounding alone makes of such a network."
)


def run(bench: Workbench) -> list[Figure]:
    """One table."""
    figure = Figure("latents", "Sampled latents", HOW)
    for dtype, at_most in AT_MOST.items():
        model = models.random_unet("sdxl", dtype, CHANNELS, HEAD_DIM, CONTEXT_DIM, POOLED_DIM)
        file = _adapter_file(bench.folder, model)
        vanilla = _sample(model)
        name = str(dtype).removeprefix("torch.")
        floor = _difference(vanilla, _sample(_without_adapter(model)))
        figure.measured.append(Measured(f"{name}, unpatched", "difference", floor, unit=""))
        for control in CONTROLS:
            ours, slow = (_sample(patched) for patched in _patched(model, file, control))
            case = f"{name}, {control}"
            figure.measured.append(Measured(case, "difference", _difference(ours, slow), unit="", at_most=at_most))
            figure.measured.append(Measured(case, "what the adapter changes", _difference(vanilla, slow), unit=""))
    return [figure]


def _difference(latents: Tensor, reference: Tensor) -> float:
    return (latents - reference).norm().item() / reference.norm().item()


def _without_adapter(model: Any) -> Any:
    """The model with the text's attention written out."""
    from pfv_mepa.nodes.host.unet import cross_attention_blocks

    slow = model.clone()
    for block in cross_attention_blocks(model):
        slow.set_model_attn2_replace(_slow_text, *block.key)
    return slow


def _slow_text(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    return _softmax(query, key, value, options).to(query.dtype)


class SlowAttention:
    """The formula of `pfv_core.attention.formula` for one block, as it is written there."""

    def __init__(
        self, images: tuple[tuple[Tensor, Tensor], ...], region: Tensor, strength: float, control: str
    ) -> None:
        self.images = images  # of positive and negative: key and value (1, c, width)
        self.region = region
        self.strength = strength
        self.gate, self.text_share = CONTROLS[control]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        """q, k, v after their projections -> the attention's output before to_out."""
        rows = query.shape[0] // len(options["cond_or_uncond"])
        image_key, image_value = (
            torch.cat([self.images[chunk][part].expand(rows, -1, -1) for chunk in options["cond_or_uncond"]])
            for part in (0, 1)
        )
        grid = options["activations_shape"][-2:]
        image = (
            F.interpolate(self.region[None], size=grid, mode="area").flatten()[None, :, None].to(query.device).double()
        )
        text = 1 - (1 - self.text_share) * image
        if self.gate == "query":
            out = _softmax(text * query, key, value, options) + self.strength * _softmax(
                image * query, image_key, image_value, options
            )
        else:
            out = text * _softmax(query, key, value, options) + self.strength * image * _softmax(
                query, image_key, image_value, options
            )
        return out.to(query.dtype)


def _softmax(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    """softmax(Q K^T / sqrt d) V in float64."""
    heads = options["n_heads"]
    query, key, value = (t.double().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def _patched(model: Any, file: Path, control: str) -> tuple[Any, Any]:
    """The model with our hooks, and with the slow ones."""
    from pfv_mepa.nodes.host.adapter import HostAdapter
    from pfv_mepa.nodes.host.cross_attention import apply_image_prompt
    from pfv_mepa.nodes.host.unet import cross_attention_blocks, match_adapter
    from pfv_mepa.pfv_core.attention.control import PromptControl

    gate, share = CONTROLS[control]
    region, strength = _region(), 0.8
    adapter = HostAdapter.load(file)
    with torch.inference_mode():
        prompt = adapter.image_prompt(models.encoded(), "adapter", 0)
        ours = apply_image_prompt(model, prompt, PromptControl(strength, share, gate), region)
    slow, weights = model.clone(), load_file(file)
    blocks = cross_attention_blocks(model)
    for key, index in match_adapter(adapter.config, blocks).items():
        images = tuple(
            tuple(
                tokens.double() @ weights[f"ip_adapter.{2 * index + 1}.{name}.weight"].double().T
                for name in _PROJECTIONS
            )
            for tokens in (prompt.positive[:1], prompt.negative)
        )
        slow.set_model_attn2_replace(SlowAttention(images, region, strength, control), *key)
    return ours, slow


_PROJECTIONS = ("to_k_ip", "to_v_ip")


def _region() -> Tensor:
    """(1, SIDE, SIDE) in cells of 32 px, the coarsest grid: a row of each value."""
    rows = torch.tensor([0.0, 0.5, 1.0, 1.0]).repeat_interleave(32)
    return rows[None, :, None].expand(1, SIDE, SIDE).clone()


def _adapter_file(folder: Path, model: Any) -> Path:
    from pfv_mepa.tests.support.tiny_stack import adapter_files

    return adapter_files.write_plus_adapter(
        folder / "tiny.safetensors",
        adapter_files.cross_attention_widths(model.model.diffusion_model),
        encoder_width=models.VISION_WIDTH,
        context_dim=CONTEXT_DIM,
    )


@torch.inference_mode()
def _sample(model: Any) -> Tensor:
    """(1, 4, SIDE / 8, SIDE / 8)."""
    import comfy.sample

    latent = torch.zeros(1, 4, SIDE // 8, SIDE // 8)
    noise = comfy.sample.prepare_noise(latent, 1)
    prompts = models.conditionings(CONTEXT_DIM, POOLED_DIM)
    out: Tensor = comfy.sample.sample(
        model, noise, STEPS, 5.0, "euler", "normal", *prompts, latent, disable_pbar=True, seed=1
    )
    return out.double()
