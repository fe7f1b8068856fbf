"""Time inside the hooks of a real U-Net, and of its whole step, beside the same model without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import models, peers
from .hook import CONTROLS
from .measure import Clock, Contestant, Figure, Measured, absolute, interleaved, ratio
from .workbench import Workbench

PERCENT = 30
SIDES = (256, 512)
ROUNDS = {256: 4, 512: 2}  # a pass takes 2 and 6 s; at 1024 px it takes half a minute, see the hook alone there
AT_MOST, STRETCH = 1.10, 0.95
STEP_AT_MOST = 1.03  # "no slower within noise"
HOW = (
    "The host's U-Net of Vega's layout (0.75 billion random bfloat16 weights, SDXL's widths and grids in 15 cross-attentions), "
    "one forward pass with positive and negative, 16 image tokens, region 30 %. "
)
Options = dict[str, Any]
Hook = Callable[[Tensor, Tensor, Tensor, Options], Tensor]


class TimedHook:
    """A hook that adds up its time in a shared list; `None` is the host's own attention."""

    def __init__(self, hook: Hook | None, clock: Clock, seconds: list[float]) -> None:
        self.hook = hook or plain_attention
        self.clock = clock
        self.seconds = seconds

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """q, k, v after their projections -> the attention's output before to_out."""
        out: list[Tensor] = []
        self.seconds.append(self.clock(lambda: out.append(self.hook(query, key, value, options))))
        return out[0]


def plain_attention(query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
    """What the host computes where there is no hook."""
    from comfy.ldm.modules.attention import optimized_attention

    out: Tensor = optimized_attention(query, key, value, options["n_heads"], transformer_options=options)
    return out


class Pass:
    """One forward pass of a model, with the time of its cross-attentions."""

    def __init__(self, bench: Workbench, model: Any, side: int) -> None:
        from pfv_mepa.nodes.host.unet import cross_attention_blocks

        self.bench = bench
        self.model = model.model
        self.hooks: list[float] = []
        options = model.model_options["transformer_options"]
        found: dict[Any, Hook] = options.get("patches_replace", {}).get("attn2", {})
        keys = [block.key for block in cross_attention_blocks(model)]
        self.fired = sum(key in found for key in keys)
        timed = {key: TimedHook(found.get(key), bench.clock, self.hooks) for key in keys}
        self.options = {
            **{name: value for name, value in options.items() if name != "wrappers"},
            "patches_replace": {"attn2": timed},
            **models.facts_of_a_call(model, (2, 4, side // 8, side // 8), (True, False), 5.0),
        }
        self.inputs = self._inputs(side)

    def _inputs(self, side: int) -> Options:
        generator = torch.Generator().manual_seed(7)
        device, dtype = self.bench.device, self.model.get_dtype()
        sizes = {
            "x": (2, 4, side // 8, side // 8),
            "c_crossattn": (2, models.TEXT_TOKENS, models.CONTEXT_DIM),
            "y": (2, models.POOLED_DIM + 6 * 256),
        }
        tensors = {name: torch.randn(size, generator=generator).to(device, dtype) for name, size in sizes.items()}
        sigmas = torch.full((2,), 5.0).to(device)
        return {**tensors, "t": sigmas, "transformer_options": self.options}

    def __call__(self) -> None:
        """The U-Net once."""
        self.hooks.clear()
        self.model.apply_model(**self.inputs)


def run(bench: Workbench) -> list[Figure]:
    """Hook time, and step time."""
    hooks = Figure(
        "unet_hooks",
        "Hook time inside the U-Net",
        HOW + "Time of all hooks together, to the host's own attention at the same places.",
    )
    steps = Figure("unet_step", "Step time", HOW + "Time of the whole pass, to the unpatched model's.")
    for side in SIDES[:1] if bench.quick else SIDES:
        _one_size(bench, side, hooks, steps)
    return [hooks, steps]


def _one_size(bench: Workbench, side: int, hooks: Figure, steps: Figure) -> None:
    import comfy.model_management

    comfy.model_management.load_model_gpu(bench.unet)
    passes = {name: Pass(bench, model, side) for name, model in _models(bench, side).items()}
    inside: dict[str, list[float]] = {name: [] for name in passes}

    def recorded(name: str) -> Contestant:
        def one() -> None:
            passes[name]()
            inside[name].append(sum(passes[name].hooks))

        return one

    rounds = min(bench.rounds, ROUNDS[side])
    with torch.inference_mode():
        whole = interleaved({name: recorded(name) for name in passes}, rounds, bench.clock)
    plain = inside["plain"][1:]  # the first was the warm-up
    for name in passes:
        if name == "plain":
            continue
        demanded = (
            (AT_MOST, STRETCH) if CONTROLS.get(name.removeprefix("ours, "), ("", 1.0))[1] == 0.0 else (None, None)
        )
        case = f"{side} px, {name} ({passes[name].fired} of {len(passes[name].hooks)} hooked)"
        hooks.measured.append(ratio(case, "hooks", inside[name][1:], plain, *demanded))
        at_most = STEP_AT_MOST if name.startswith("ours") else None
        steps.measured.append(ratio(case, "step", whole[name], whole["plain"], at_most))
    share = [one / all_of_it for one, all_of_it in zip(plain, whole["plain"], strict=True)]
    steps.measured.append(absolute(f"{side} px, unpatched", "seconds", whole["plain"]))
    steps.measured.append(Measured(f"{side} px, unpatched", "share of cross-attention", sum(share) / len(share)))


def _models(bench: Workbench, side: int) -> dict[str, Any]:
    """The model unpatched, with our hooks, and with IPAdapter_plus's."""
    from pfv_mepa.nodes.host.cross_attention import apply_image_prompt
    from pfv_mepa.pfv_core.attention.control import PromptControl

    prompt = bench.adapter.image_prompt(models.encoded(), "adapter", 0)
    region = models.region(PERCENT, side)
    found = {"plain": bench.unet}
    for name in ("output, 0", "query, 0", "output, 1"):
        gate, share = CONTROLS[name]
        found[f"ours, {name}"] = apply_image_prompt(bench.unet, prompt, PromptControl(1.0, share, gate), region)
    if bench.ip_adapter_plus is not None:
        found[peers.IP_ADAPTER_PLUS] = bench.ip_adapter_plus.apply(
            bench.unet, bench.adapter_file, models.encoded(), region, torch.bfloat16
        )
    return found
