"""Re-binarizing a mask, beside copying it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .measure import Figure, absolute, interleaved, ratio
from .workbench import Workbench

SIDES = (512, 1024, 4096)
AT_MOST, STRETCH = 2.0, 1.2  # of a copy at 4096
LASTS = 4096 * 4096 * 4  # pixels that are read in one timing
HOW = (
    "`rebinarize` of one square bool mask on ViT-H/14's 16x16 grid, to `Tensor.clone()` of the same mask (one byte a pixel), and "
    "`avg_pool2d` of it as float32 with the conversion that it needs. On the CPU, where masks are."
)


def run(bench: Workbench) -> list[Figure]:
    """One table."""
    from pfv_mepa.pfv_core.reference.fit import fit_geometry
    from pfv_mepa.pfv_core.reference.patch_mask import rebinarize

    figure = Figure("rebinarize", "Re-binarizing a mask", HOW)
    clock = bench.cpu_clock
    for side in SIDES:
        mask, geometry = keep_mask(side), fit_geometry(side, side, 224, 14, "pad")
        times = LASTS // (side * side)

        def repeated(function, times=times, mask=mask, geometry=geometry):  # type: ignore[no-untyped-def]
            return lambda: [function(mask, geometry) for _ in range(times)]

        contestants = {
            "copy": repeated(lambda mask, _: mask.clone()),
            "ours": repeated(rebinarize),
            "avg_pool2d": repeated(lambda mask, _: F.avg_pool2d(mask[:, None].float(), mask.shape[1] // 16)),
        }
        seconds = interleaved(contestants, bench.rounds, clock)
        demanded = (AT_MOST, STRETCH) if side == SIDES[-1] else (None, None)
        case = f"{side}x{side}"
        figure.measured += [
            ratio(case, "ours", seconds["ours"], seconds["copy"], *demanded),
            ratio(case, "avg_pool2d", seconds["avg_pool2d"], seconds["copy"]),
            absolute(case, "copy", [second / times for second in seconds["copy"]], unit="ms"),
        ]
    return [figure]


def keep_mask(side: int) -> Tensor:
    """(1, side, side) bool, True = visible: a painted disc and some specks are hidden."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = (rows - side * 0.4) ** 2 + (columns - side * 0.6) ** 2 < (side * 0.2) ** 2
    specks = torch.rand(side, side, generator=torch.Generator().manual_seed(0)) < 1e-6
    return ~(disc | specks)[None]
