"""The most memory that applying and a pass take, and what an adapter holds while it samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import models, peers
from .apply import forget, ip_adapter_plus, ours
from .held import held_bytes, peak_bytes
from .measure import Contestant, Figure, Measured
from .unet import Pass
from .workbench import Workbench

AT_MOST, STRETCH = 12.0, 6.0  # MB
SIDE = 256
HOW = (
    "An adapter file of the full layout of ip-adapter-plus_sdxl_vit-h, 16 tokens, positive and negative, a bfloat16 U-Net. "
    "*Held*: every tensor that the hooks and the adapter lead to when each of SDXL's cross-attentions has been called once, "
    "without the mapped file. What is in the U-Net's dtype follows the queries to their device; what is in float32 stays in "
    "main memory on a machine with a GPU. *Peaks*: the most that torch allocates at once, above what it held before "
    f"(Vega's layout, {SIDE} px); mapping a file is no allocation."
)


def run(bench: Workbench) -> list[Figure]:
    """One table."""
    figure = Figure("memory", "Memory", HOW)
    contestants: dict[str, Callable[..., Any]] = {"ours": ours}
    if bench.ip_adapter_plus is not None:
        contestants[peers.IP_ADAPTER_PLUS] = ip_adapter_plus
    with torch.inference_mode():
        figure.measured.append(_peak("peak of a pass", "unpatched", Pass(bench, bench.unet, SIDE), bench))
        for name, apply in contestants.items():
            forget(bench)
            applied: list[Any] = []
            cold = _applying(applied, apply, bench)
            figure.measured.append(_peak("peak of applying, cold", name, cold, bench))
            figure.measured.append(_peak("peak of a pass", name, Pass(bench, applied[0], SIDE), bench))
            figure.measured += _held(name, apply, bench)
    return [figure]


def _applying(applied: list[Any], apply: Callable[..., Any], bench: Workbench) -> Contestant:
    return lambda: applied.append(apply(bench))


def _peak(case: str, name: str, call: Contestant, bench: Workbench) -> Measured:
    return Measured(case, name, peak_bytes(call, bench.device, bench.adapter_file) / 1e6, unit="MB")


def _held(name: str, apply: Callable[..., Any], bench: Workbench) -> list[Measured]:
    """After a call of every hook of SDXL's own layout, whose U-Net need not be there for that."""
    from pfv_mepa.nodes.host.unet import cross_attention_blocks

    forget(bench)
    model = models.unet_without_weights("sdxl", torch.bfloat16)
    slots = peers.slots(apply(bench, model=model))
    facts = models.facts_of_a_call(model, (2, 4, 32, 32), (True, False))
    for block in cross_attention_blocks(model):
        if block.key in slots:
            _call(slots[block.key], block.width, bench.device, facts)
    roots = [slots, facts, bench.adapter] if name == "ours" else [slots]
    held = held_bytes(roots, bench.device, bench.adapter_file)
    demanded = (AT_MOST, STRETCH) if name == "ours" else (None, None)
    return [
        Measured("held, in the U-Net's dtype", name, held[torch.bfloat16] / 1e6, None, None, "MB", *demanded),
        Measured("held, in float32", name, held[torch.float32] / 1e6, unit="MB"),
    ]


def _call(hook: Callable[..., Any], width: int, device: torch.device, facts: dict[str, Any]) -> None:
    query, text = (torch.randn(2, count, width).to(device, torch.bfloat16) for count in (64, models.TEXT_TOKENS))
    options = {
        "n_heads": width // models.HEAD_DIM,
        "dim_head": models.HEAD_DIM,
        "attn_precision": None,
        "activations_shape": [2, width, 8, 8],
        "original_shape": [2, 4, 32, 32],
        "block": ("input", 4),
        "block_index": 0,
        "transformer_index": 0,
        **facts,
    }
    hook(query, text, text, options)
