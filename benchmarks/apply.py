"""From a file and encoded tokens to a patched model."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import torch

from . import models, peers
from .measure import Contestant, Figure, absolute, interleaved
from .workbench import Workbench

COLD_AT_MOST, COLD_STRETCH = 1.5, 0.5  # s
WARM_AT_MOST, WARM_STRETCH = 0.05, 0.01  # s
COLD_ROUNDS, WARM_ROUNDS = 3, 9
SIDE = 512

HOW = (
    "An adapter file of the full layout of ip-adapter-plus_sdxl_vit-h (847.5 MB, half precision, random), 129 encoded tokens, "
    "the U-Net of Vega's layout; keys and values are computed for all 70 layers of the file. "
)


def run(bench: Workbench) -> list[Figure]:
    """One table."""
    with torch.inference_mode():
        bench.adapter_file.stat()
        return [_time_to_apply(bench)]


def ours(bench: Workbench, strength: float = 1.0, model: Any = None) -> Any:
    """Loader, Token Compress and Apply, as the nodes do it, on the workbench's U-Net or another."""
    from pfv_mepa.nodes.host.cross_attention import apply_image_prompt
    from pfv_mepa.pfv_core.attention.control import PromptControl

    prompt = bench.adapter.image_prompt(models.encoded(), "adapter", 0)
    control = PromptControl(strength, 0.0, "output")
    return apply_image_prompt(model or bench.unet, prompt, control, models.region(50, SIDE))


def ip_adapter_plus(bench: Workbench, model: Any = None) -> Any:
    """Its loader and its node."""
    assert bench.ip_adapter_plus is not None
    return bench.ip_adapter_plus.apply(
        model or bench.unet, bench.adapter_file, models.encoded(), models.region(50, SIDE), torch.bfloat16
    )


def forget(bench: Workbench) -> None:
    """As after a start of the host: no adapter loaded, nothing computed. The file stays in the system's cache."""
    bench.forget_adapters()
    gc.collect()


def _time_to_apply(bench: Workbench) -> Figure:
    figure = Figure(
        "apply",
        "Applying an adapter",
        HOW + "Cold: load the file, compress, project, patch. Warm: the same nodes again, with another strength.",
    )
    who: dict[str, Callable[[Workbench], Any]] = {"ours": ours}
    if bench.ip_adapter_plus is not None:
        who[peers.IP_ADAPTER_PLUS] = ip_adapter_plus

    def cold(name: str) -> Contestant:
        return lambda: who[name](bench)

    def cold_clock(contestant: Contestant) -> float:
        forget(bench)
        return bench.clock(contestant)

    seconds = interleaved({name: cold(name) for name in who}, COLD_ROUNDS, cold_clock)
    for name in who:
        demanded = (COLD_AT_MOST, COLD_STRETCH) if name == "ours" else (None, None)
        figure.measured.append(absolute("cold", name, seconds[name], *demanded))
    strengths = itertools.count(1)
    again: dict[str, Contestant] = {"ours": lambda: ours(bench, 1.0 + next(strengths) / 1000)}
    seconds = interleaved(again, WARM_ROUNDS, bench.clock)
    figure.measured.append(absolute("warm", "ours", seconds["ours"], WARM_AT_MOST, WARM_STRETCH))
    if peers.IP_ADAPTER_PLUS in who:
        seconds = interleaved({"theirs": lambda: ip_adapter_plus(bench)}, COLD_ROUNDS, bench.clock, warm_up=0)
        figure.measured.append(absolute("warm", peers.IP_ADAPTER_PLUS, seconds["theirs"]))
    return figure
