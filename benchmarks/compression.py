"""What cluster compression keeps, against averaging neighbours: `python -m benchmarks.compression`.

Tokens are the 14-px patches of photographs that scikit-image ships, at 224 px on a 16x16 grid: raw pixels, since no
trained encoder is at hand. Printed is the share of the tokens' variance that is lost when each token is replaced by the
compressed token nearest to it (0 = nothing lost, 1 = one average for all), for all patches and for a half of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

from pfv_core.adapter.token_compress import cluster_tokens

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SIDES = (2, 4, 8)  # compressed to 4, 16 and 64 tokens


def patches(name: str) -> Tensor:
    """(256, 588) pixels of each patch, row-major."""
    image = torch.from_numpy(getattr(data, name)()).movedim(-1, 0)[None].float() / 255
    image = F.interpolate(image, size=(224, 224), mode="bicubic", antialias=True)
    return F.unfold(image, 14, stride=14)[0].T


def neighbours(tokens: Tensor, side: int) -> Tensor:
    """Averages of the side x side squares of the 16x16 grid."""
    grid = tokens.T.view(1, -1, 16, 16)
    return F.avg_pool2d(grid, 16 // side).flatten(2)[0].T


def lost(tokens: Tensor, compressed: Tensor) -> float:
    """Share of the variance that is lost."""
    nearest = torch.cdist(tokens, compressed).min(1).values.square().sum()
    return (nearest / (tokens - tokens.mean(0)).square().sum()).item()


def main() -> None:
    """Print the table."""
    print("| photograph | tokens | cluster, all patches | neighbours, all patches | cluster, left half only |")
    print("|---|---|---|---|---|")
    for name in PHOTOGRAPHS:
        tokens = patches(name)
        left = tokens.view(16, 16, -1)[:, :8].flatten(0, 1)
        for side in SIDES:
            count = side * side
            figures = (
                lost(tokens, cluster_tokens(tokens, count)),
                lost(tokens, neighbours(tokens, side)),
                lost(left, cluster_tokens(left, count)),
            )
            print(f"| {name} | {count} | {' | '.join(f'{figure:.3f}' for figure in figures)} |")


if __name__ == "__main__":
    main()
