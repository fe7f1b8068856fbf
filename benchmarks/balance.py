"""What a balanced image prompt costs in the cross-attention: `python -m benchmarks.balance`, from the repository root.

One call of the hook at SDXL's shapes of 1024 px, positive and negative in one pass, 16 image tokens with cached keys and
values, a region of half the frame, to torch's attention of the text alone in the same call. Interleaved, processor time
of one thread; weights are random. Prints ratios of medians. Run it with MALLOC_MMAP_THRESHOLD_=4000000000
MALLOC_TRIM_THRESHOLD_=16000000000 and OMP_NUM_THREADS=1: fresh memory and waiting threads are not what is asked for.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headless.host.as_package import load_repository
from headless.host.find import require_host

from .measure import Contestant, clock_for, interleaved, ratio
from .models import facts_of_a_call, unet_without_weights

SHAPES = {"640x4096": (640, 64), "1280x1024": (1280, 32)}  # width x queries: width, side of the grid
TOKENS, TEXT_TOKENS, HEAD_DIM = 16, 77, 64
ROWS, DISC, RAMP = "half the frame, in whole rows", "a disc of that area", "a ramp over the whole frame"
CASES = {  # text share, normalised, region
    "text_share 0": (0.0, False, ROWS),
    "text_share 0, a disc": (0.0, False, DISC),
    "text_share 0, a ramp": (0.0, False, RAMP),
    "text_share 1": (1.0, False, ROWS),
    "text_share 0, std_norm": (0.0, True, ROWS),
    "text_share 1, std_norm": (1.0, True, ROWS),
    "text_share 0, half of its time weight": (0.5, False, ROWS),  # what `PromptControl.at` makes of it
}


def main(rounds: int) -> None:
    """Measure and print."""
    load_repository()
    from headless.host.boot import boot_host

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="balance-") as folder:
        boot_host(require_host().path, Path(folder))
        for dtype in (torch.float32, torch.bfloat16):
            for shape, (width, side) in SHAPES.items():
                with torch.inference_mode():
                    seconds = interleaved(contestants(width, side, dtype), rounds, clock_for(torch.device("cpu")))
                for case in CASES:
                    made = ratio(case, "ours", seconds[case], seconds["plain"])
                    name = f"{shape} {str(dtype).removeprefix('torch.')}"
                    print(f"{name:20} {case:40} {made.value:.2f} [{made.low:.2f}-{made.high:.2f}]", flush=True)


def contestants(width: int, side: int, dtype: torch.dtype) -> dict[str, Contestant]:
    """The text's attention alone and every case, on the same numbers."""
    from comfy.ldm.modules.attention import attention_pytorch

    from pfv_mepa.nodes.host import slots

    slots.optimized_attention = attention_pytorch  # on a CPU the host takes a slower one
    generator = torch.Generator().manual_seed(0)

    def noise(rows: int, count: int) -> Tensor:
        return torch.randn(rows, count, width, generator=generator)

    query, key, value = (noise(2, count).to(dtype) for count in (side * side, TEXT_TOKENS, TEXT_TOKENS))
    pairs: Any = tuple([(noise(1, TOKENS), noise(1, TOKENS))] for _ in range(2))
    options = {
        "n_heads": width // HEAD_DIM,
        "activations_shape": [2, width, side, side],
        "original_shape": [2, 4, 128, 128],
        **facts_of_a_call(unet_without_weights("sdxl", dtype), (2, 4, 128, 128), (True, False)),
    }
    found: dict[str, Contestant] = {"plain": lambda: attention_pytorch(query, key, value, width // HEAD_DIM)}
    for case, (text_share, std_norm, region) in CASES.items():
        found[case] = _hook(pairs, text_share, std_norm, region_of(region), (query, key, value, options))
    return found


def region_of(kind: str) -> Tensor:
    """(1, 128, 128): half of a latent's area, or soft everywhere."""
    down, across = torch.meshgrid(*(torch.linspace(-1, 1, 128),) * 2, indexing="ij")
    made = {
        ROWS: (down > 0).float(),
        DISC: (down.square() + across.square() < 2 / torch.pi).float(),
        RAMP: (across + 1) / 2,
    }
    return made[kind][None]


def _hook(pairs: Any, text_share: float, std_norm: bool, region: Tensor, call: tuple[Any, ...]) -> Contestant:
    from pfv_mepa.nodes.host.adapter import ImagePrompt
    from pfv_mepa.nodes.host.cross_attention import ImagePromptPatch, PromptSlot
    from pfv_mepa.nodes.host.regional_prompt import RegionalPrompt
    from pfv_mepa.pfv_core.attention.control import PromptControl

    control = PromptControl(text_share=text_share, std_norm=std_norm)
    nobody: Any = None  # no adapter gave the keys and values
    image_prompt = ImagePrompt(nobody, *(torch.zeros(1, TOKENS, 1) for _ in range(2)))
    vars(image_prompt)["keys_values"] = pairs
    hook = PromptSlot(
        ImagePromptPatch((RegionalPrompt(image_prompt, control, region),), ()), ("input", 4, 0), None, (0,)
    )
    return lambda: hook(*call)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.balance", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="times that each case is timed (11)")
    main(parser.parse_args().rounds)
