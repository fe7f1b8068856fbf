"""How near the fill of hidden depth comes to the depth that is there: `python -m benchmarks.depth_fill [--scenes N]`.

Scenes of the demo are rendered with and without their product, at 256x256. Its patches of 32x32 pixels are hidden in the depth
without it, filled from what is left, and compared there: the mean difference, in hundredths of the way from far to near, with
95 % intervals over scenes. The camera is level or rolled, and normal noise of a deviation of 2 of these hundredths may lie
over the depth. Needs no ComfyUI.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.demo.evaluation.pairs import any_scene, render
from lab.evaluation.statistics import mean_interval
from pfv_core.ad.depth import fill_along_rows, fill_hidden
from pfv_demo.sizes import IMAGE_SIZE

FIRST_SCENE = 920_000_000  # scenes of other measurements have other seeds
PATCH = 32
ROLLS = (0, 5, 10, 20)  # degrees
NOISE = (0.0, 0.02)
Fill = Callable[[Tensor, Tensor], Tensor]
FILLS: dict[str, Fill] = {
    "along rows": fill_along_rows,
    "from all sides (push-pull)": fill_hidden,
    "far": lambda values, visible: torch.where(visible, values, 0.0),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    scenes = [any_scene(FIRST_SCENE + number) for number in range(parser.parse_args().scenes)]
    product = render(scenes, IMAGE_SIZE).product[:, None]
    depth = render(scenes, IMAGE_SIZE, product=False).depth[:, None]
    print(f"| camera rolled by | noise | {' | '.join(FILLS)} |")
    print(f"| --- | --- | {' | '.join('---' for _ in FILLS)} |")
    for roll in ROLLS:
        for noise in NOISE:
            cells = [cell(fill, rolled(product, roll), rolled(depth, roll), noise) for fill in FILLS.values()]
            print(f"| {roll}° | {100 * noise:.0f} | {' | '.join(cells)} |")


def rolled(values: Tensor, degrees: float) -> Tensor:
    """(B, 1, H, W) as a camera sees it that is rolled about its axis; what was out of sight is as at the border."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(values), -1, -1)
    grid = F.affine_grid(turn, list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, padding_mode="border", align_corners=False)


def cell(fill: Fill, product: Tensor, depth: Tensor, noise: float) -> str:
    """The mean error in the hidden patches."""
    hidden = F.max_pool2d((product > 0).float(), PATCH).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3) > 0
    seen = depth + noise * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0))
    error = (fill(torch.where(hidden, 0.0, seen), ~hidden) - depth).abs() * hidden
    found = mean_interval((100 * error.sum((1, 2, 3)) / hidden.sum((1, 2, 3))).numpy())
    return f"{found.value:.1f} ({found.low:.1f}-{found.high:.1f})"


if __name__ == "__main__":
    main()
