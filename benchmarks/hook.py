"""One call of a cross-attention hook at SDXL's shapes, beside the attention that it replaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import models, peers
from .measure import Contestant, Figure, interleaved, ratio
from .workbench import Workbench

TITLE = "Attention hook"
HOW = (
    "One call of the hook for a pass with positive and negative, to the host's own text attention of the same call. "
    "{fixed}Image keys and values are cached, as they are from the second step on; a peer that projects them in each call "
    "pays for it here as it does there. Regions are hard."
)
LEVELS = {
    640: (("input", 4, 0), 16),
    1280: (("input", 7, 0), 32),
}  # channels -> a block of SDXL, pixels of a query's side
SIDE = 1024  # pixels of the image
SIDES, PERCENT, TOKENS, BATCHES = (256, 512, 1024), (10, 30, 50, 90), (4, 16, 64, 257), (1, 2, 4, 8)
CONTROLS = {  # gate, text share
    "output, 0": ("output", 0.0),
    "query, 0": ("query", 0.0),
    "output, 1": ("output", 1.0),
    "query, 1": ("query", 1.0),
}
AT_MOST, STRETCH = 0.90, 0.75
PER_IMAGE_AT_MOST = 1.05  # "must not grow", with the noise of the measurement


@dataclass
class Call:
    """What the host hands to one hook, and every contestant for it."""

    bench: Workbench
    width: int
    dtype: torch.dtype
    batch: int = 1
    side: int = SIDE

    def __post_init__(self) -> None:
        self.block, pixels = LEVELS[self.width]
        grid = self.side // pixels
        self.queries = grid * grid
        generator = torch.Generator().manual_seed(3)
        sizes = [(2 * self.batch, count, self.width) for count in (self.queries, models.TEXT_TOKENS)]
        query, text = (torch.randn(size, generator=generator).to(self.bench.device, self.dtype) for size in sizes)
        self.query, self.key, self.value = query, text, text.flip(1)
        self.options: dict[str, Any] = {
            "n_heads": self.width // models.HEAD_DIM,
            "dim_head": models.HEAD_DIM,
            "attn_precision": None,
            "activations_shape": [2 * self.batch, self.width, grid, grid],
            "original_shape": [2 * self.batch, 4, self.side // 8, self.side // 8],
            "block": self.block[:2],
            "block_index": self.block[2],
            "transformer_index": 0,
            **models.facts_of_a_call(
                self.bench.unet, (2 * self.batch, 4, self.side // 8, self.side // 8), (True, False)
            ),
        }

    @property
    def shape(self) -> str:
        """Channels and queries."""
        return f"{self.width}x{self.queries}"

    def plain(self) -> Tensor:
        """The host's attention alone."""
        from comfy.ldm.modules.attention import optimized_attention

        out: Tensor = optimized_attention(
            self.query, self.key, self.value, self.options["n_heads"], transformer_options=self.options
        )
        return out

    def ours(self, percent: int, tokens: int, control: str) -> Contestant:
        """The pack's hook, as its apply node installs it."""
        hook = peers.slots(patched(self.bench, percent, tokens, control, self.side))[self.block]
        return lambda: hook(self.query, self.key, self.value, self.options)

    def peers(self, percent: int, tokens: int) -> dict[str, Contestant]:
        """The peers that are present."""
        found: dict[str, Contestant] = {}
        if theirs := self.ip_adapter_plus(percent, tokens):
            found[peers.IP_ADAPTER_PLUS] = theirs
        if pair := self.diffusers(percent, tokens):
            found["diffusers plain"], found[peers.DIFFUSERS] = pair
        return found

    def ip_adapter_plus(self, percent: int, tokens: int) -> Contestant | None:
        """IPAdapter_plus's hook, as its node installs it, with this number of tokens."""
        peer = self.bench.ip_adapter_plus
        if peer is None:
            return None
        model = peer_model(self.bench, self.dtype)
        hook = peers.slots(model)[self.block]
        for kwargs in hook.kwargs:  # type: ignore[attr-defined]
            random = torch.randn(1, tokens, models.CONTEXT_DIM, generator=torch.Generator().manual_seed(4))
            cond = random.to(self.bench.device, self.dtype)
            kwargs.update(cond=cond, uncond=cond.flip(1), mask=models.region(percent, self.side).to(self.bench.device))
        return lambda: hook(self.query, self.key, self.value, self.options)

    def diffusers(self, percent: int, tokens: int) -> tuple[Contestant, Contestant] | None:
        """diffusers' plain attention and its IP-Adapter processor."""
        found = peers.diffusers_attention(self.width, self.options["n_heads"], tokens, self.dtype)
        if found is None:
            return None
        plain, processor, attention = found
        processor.to(self.bench.device)
        generator = torch.Generator().manual_seed(5)
        size = (2 * self.batch, 1, tokens, models.CONTEXT_DIM)
        image = [torch.randn(size, generator=generator).to(self.bench.device, self.dtype)]
        masks = [models.region(percent, self.side)[:, None].to(self.bench.device, self.dtype)]
        return (
            lambda: plain(attention, self.query, self.key),
            lambda: processor(attention, self.query, (self.key, image), ip_adapter_masks=masks),
        )


def run(bench: Workbench) -> list[Figure]:
    """The four tables."""
    with torch.inference_mode():
        return [_regions(bench), _sizes(bench), _controls(bench), _batches(bench)]


def _regions(bench: Workbench) -> Figure:
    figure = Figure("hook", TITLE, HOW.format(fixed="A 1024 px image, output gate, text share 0, batch 1. "))
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (16,) if bench.quick or dtype is torch.bfloat16 else TOKENS:
            for width in LEVELS:
                for percent in (50,) if bench.quick else PERCENT:
                    _one_region(figure, Call(bench, width, dtype), tokens, percent)
    return figure


def _one_region(figure: Figure, call: Call, tokens: int, percent: int) -> None:
    contestants: dict[str, Contestant] = {"plain": call.plain, "ours": call.ours(percent, tokens, "output, 0")}
    if percent == 50:  # peers attend every row with every region
        contestants |= call.peers(percent, tokens)
    demanded = (AT_MOST, STRETCH) if (percent, tokens) == (50, 16) else (None, None)
    case = f"{call.shape}, {_name(call.dtype)}, c={tokens}, region {percent} %"
    _add(figure, case, interleaved(contestants, call.bench.rounds, call.bench.clock), demanded)


def _sizes(bench: Workbench) -> Figure:
    figure = Figure(
        "hook_sizes",
        f"{TITLE}: size of the image",
        HOW.format(fixed="Region 30 %, c=16, bfloat16, output gate, text share 0, batch 1. ")
        + "What is small is repeated, so that a timing lasts as long as at 1024 px.",
    )
    for side in SIDES[:1] if bench.quick else SIDES:
        for width in LEVELS:
            call = Call(bench, width, torch.bfloat16, side=side)
            times = (SIDES[-1] // side) ** 2
            contestants: dict[str, Contestant] = {"plain": call.plain, "ours": call.ours(30, 16, "output, 0")}
            contestants |= call.peers(30, 16)
            contestants = {name: _repeated(one, times) for name, one in contestants.items()}
            _add(figure, f"{side} px, {call.shape}", interleaved(contestants, bench.rounds, bench.clock), (None, None))
    return figure


def _repeated(one: Contestant, times: int) -> Contestant:
    def several() -> None:
        for _ in range(times):
            one()

    return several


def _controls(bench: Workbench) -> Figure:
    figure = Figure(
        "hook_gates",
        f"{TITLE}: gates and text share",
        HOW.format(fixed="A 1024 px image, region 50 %, c=16, batch 1, float32. "),
    )
    for width in LEVELS:
        call = Call(bench, width, torch.float32)
        contestants: dict[str, Contestant] = {"plain": call.plain}
        contestants |= {name: call.ours(50, 16, name) for name in CONTROLS}
        seconds = interleaved(contestants, bench.rounds, bench.clock)
        for name, (_, share) in CONTROLS.items():
            demanded = (AT_MOST, STRETCH) if share == 0.0 else (None, None)
            figure.measured.append(ratio(f"{call.shape}, {name}", "ours", seconds[name], seconds["plain"], *demanded))
    return figure


def _batches(bench: Workbench) -> Figure:
    figure = Figure(
        "hook_batch",
        f"{TITLE}: cost per image of a batch",
        "Time of one call divided by its images, to the same at batch 1. A 512 px image, region 50 %, c=16, output gate, text "
        "share 0, float32.",
    )
    for width in LEVELS:
        batches = (1, 4) if bench.quick else BATCHES
        calls = {batch: Call(bench, width, torch.float32, batch, side=512) for batch in batches}
        contestants: dict[str, Contestant] = {f"plain {batch}": call.plain for batch, call in calls.items()}
        contestants |= {f"ours {batch}": call.ours(50, 16, "output, 0") for batch, call in calls.items()}
        seconds = interleaved(contestants, bench.rounds, bench.clock)
        for batch, call in calls.items():
            for who, at_most in (("ours", PER_IMAGE_AT_MOST), ("plain", None)):
                one, all_of_them = seconds[f"{who} 1"], seconds[f"{who} {batch}"]
                figure.measured.append(
                    ratio(f"{call.shape}, batch {batch}", who, all_of_them, one, at_most, scale=1 / batch)
                )
    return figure


def _add(
    figure: Figure, case: str, seconds: Mapping[str, list[float]], demanded: tuple[float | None, float | None]
) -> None:
    """Ratios to the plain attention; diffusers has one of its own."""
    figure.measured.append(ratio(case, "ours", seconds["ours"], seconds["plain"], *demanded))
    for who, plain in ((peers.IP_ADAPTER_PLUS, "plain"), (peers.DIFFUSERS, "diffusers plain")):
        if who in seconds:
            figure.measured.append(ratio(case, who, seconds[who], seconds[plain]))


def patched(bench: Workbench, percent: int, tokens: int, control: str, side: int) -> Any:
    """A model with our hooks in it, for this number of tokens."""
    from pfv_mepa.nodes.host.cross_attention import apply_image_prompt
    from pfv_mepa.pfv_core.attention.control import PromptControl

    gate, share = CONTROLS[control]
    prompt = image_prompt(bench, tokens)
    return apply_image_prompt(bench.unet, prompt, PromptControl(1.0, share, gate), models.region(percent, side))


def image_prompt(bench: Workbench, tokens: int) -> Any:
    """An image prompt of any number of tokens, as if an adapter had given it."""
    from pfv_mepa.nodes.host.adapter import ImagePrompt

    if tokens not in bench.prompts:
        generator = torch.Generator().manual_seed(6)
        pair = [torch.randn(1, tokens, models.CONTEXT_DIM, generator=generator) for _ in range(2)]
        bench.prompts[tokens] = ImagePrompt(bench.adapter, *pair)
    return bench.prompts[tokens]


def peer_model(bench: Workbench, dtype: torch.dtype) -> Any:
    """A model with IPAdapter_plus's hooks in it, whose weights have this dtype."""
    if dtype not in bench.peer_models:
        assert bench.ip_adapter_plus is not None
        bench.peer_models[dtype] = bench.ip_adapter_plus.apply(
            bench.unet, bench.adapter_file, models.encoded(), models.region(50), dtype
        )
    return bench.peer_models[dtype]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
