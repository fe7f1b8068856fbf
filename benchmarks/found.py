"""What `pfv_core.found` finds, against the truth of pictures that nothing was tuned on: `python -m benchmarks.found`.

    python -m benchmarks.found [--scenes N] [--packshots N] [--filled N] [--pairs N] [--steps N] [--out FILE]

Scenes of the demo at 256x256: the product, the ground line beside it, the plain depth. Packshots at 1024x1024 drawn from their
products; and some cut so that the product fills them. Two photographs marked by hand, if scikit-image is there. And how much of
the other product in a reference reaches the demo's ads. Prints the tables of docs/found.md and writes all figures as JSON; of 0
there is none. Needs no ComfyUI.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.demo.evaluation.pairs import NAMED, any_scene, render
from pfv_core.ad.opacity import SEEN_ABOVE
from pfv_core.found.depth import plain_depth
from pfv_core.found.line import find_ground_line
from pfv_core.found.product import Found, find_product
from pfv_core.found.unsure import NothingFoundError, UnsureError
from pfv_demo.sizes import IMAGE_SIZE

from .packshots import GROUNDS, filled, packshot

FIRST_SCENE = 940_000_000  # scenes of other measurements have other seeds
FIRST_PACKSHOT = 950_000_000
PACKSHOT_SIZE = 1024
FILLED_MARGIN = 0.03  # of the product's longer side, free at both ends of a photo that it fills
WRONG_BELOW = 0.8
HOLED_FROM = 0.01  # of all within an outline, what was taken for holes: no product here has any
FIGURES = Path(__file__).parent / "results_found.json"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--packshots", type=int, default=200)
    parser.add_argument("--filled", type=int, default=200, help="packshots that their product fills")
    parser.add_argument("--pairs", type=int, default=200, help="references whose leak is measured")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: 20)")
    parser.add_argument("--out", type=Path, default=FIGURES)
    options = parser.parse_args()
    from headless.host.torch_stand_ins import apply_where_needed

    apply_where_needed()  # a torchvision that does not load would break what the demo's models are made of
    from .found_leak import leak, table

    figures: dict[str, Any] = {}
    if options.scenes:
        figures["scenes"] = scenes(options.scenes)
        print(_products("wall", figures["scenes"]["by"]), "\n", _grounds(figures["scenes"]), sep="\n", flush=True)
    if options.packshots:
        figures["packshots"] = packshots(options.packshots)
        print("\n" + _products("ground", figures["packshots"]["by"]), flush=True)
    if options.filled:
        figures["filled"] = packshots(options.filled, FILLED_MARGIN)
        print("\n" + _products("ground, filled", figures["filled"]["by"]), flush=True)
    figures["photographs"] = photographs()
    print("\n" + "\n".join(f"{name}: {said}" for name, said in figures["photographs"].items()), flush=True)
    if options.pairs:
        figures["leak"] = leak(options.pairs, options.steps)
        print(f"\n{table(figures['leak'])}\n\nrefused: {figures['leak']['refused']:.1%} of {options.pairs} references")
    options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def scenes(number: int) -> dict[str, Any]:
    """Product, line and depth of each scene. What the finder refuses is hidden as it is, as a person paints it."""
    rows = []
    for index in range(number):
        scene = any_scene(FIRST_SCENE + index)
        drawn, empty = render([scene], IMAGE_SIZE), render([scene], IMAGE_SIZE, product=False)
        image = drawn.image[0].movedim(-1, 0).contiguous()
        row, found = _looked_at(image, drawn.product[0], scene.pattern)
        hidden = drawn.product[0] > 0 if found is None else found.opacity > SEEN_ABOVE
        rows.append(row | _ground(image, ~hidden, float(empty.wall[0].mean()), empty.depth[0]))
    found_lines = [row for row in rows if row["line"] is not None]
    return {
        "by": _by_kind(rows, NAMED["pattern"]),
        "lines_refused": 1 - len(found_lines) / len(rows),
        "line_error": _quantiles([row["line"] for row in found_lines]),
        "depth_error": _quantiles([row["depth"] for row in found_lines]),
        "each": rows,
    }


def packshots(number: int, margin: float | None = None) -> dict[str, Any]:
    """The product of each, or of what of it leaves this much around the product."""
    rows = []
    for index in range(number):
        whole = packshot(FIRST_PACKSHOT + index, PACKSHOT_SIZE)
        shot = whole if margin is None else filled(whole, margin)
        rows.append(_looked_at(shot.image, shot.product, shot.ground)[0])
    return {"by": _by_kind(rows, GROUNDS), "each": rows}


def photographs() -> dict[str, str]:
    """What is said of two photographs whose product is marked by hand."""
    try:
        from headless.ad import photos

        pictures = {"coffee": photos.coffee(), "rocket": photos.rocket()}
    except ImportError:
        return {}
    said = {}
    for name, photo in pictures.items():
        image = torch.from_numpy(np.asarray(photo.image).astype(np.float32) / 255).movedim(-1, 0).contiguous()
        marked = torch.from_numpy(np.asarray(photo.marked) > 0)
        try:
            said[name] = (
                f"sure to {(found := find_product(image)).sure:.2f}, agreement {_agreement(found.opacity, marked):.2f}"
            )
        except (NothingFoundError, UnsureError) as error:
            said[name] = str(error)
        try:
            said[f"{name}, ground"] = str(find_ground_line(image, ~marked))
        except UnsureError as error:
            said[f"{name}, ground"] = str(error)
    return said


def _looked_at(image: Tensor, product: Tensor, kind: str) -> tuple[dict[str, Any], Found | None]:
    """How the found product agrees with the true one; None for each figure where it is refused, as PFV Cut Out refuses it."""
    started = time.process_time()
    row: dict[str, Any] = {"kind": kind, "agreement": None, "alpha": None, "sure": None, "refused": None}
    found = None
    try:
        found = find_product(image)
        row["refused"] = "several parts" if found.parts > 1 else "cut off" if found.touches else None
    except (NothingFoundError, UnsureError) as error:
        row["refused"] = type(error).__name__
    if found is not None and row["refused"] is None:
        row |= {"holes": round(found.enclosed_share, 4)}
        row["agreement"] = round(_agreement(found.opacity, product > 0.5), 4)
        row["alpha"] = round(float((found.opacity - product).abs().sum() / product.sum()), 4)
        row["sure"] = round(found.sure, 4)
    seconds = round(time.process_time() - started, 2)
    return row | {"seconds": seconds}, found if row["refused"] is None else None


def _ground(image: Tensor, visible: Tensor, horizon: float, depth: Tensor) -> dict[str, Any]:
    """How far the line is off, as a share of the height, and the plain depth by it; None where it is refused.

    Args:
        horizon: where the wall ends, a share of the height from the top.
    """
    try:
        line = find_ground_line(image, visible)
    except UnsureError:
        return {"line": None, "depth": None}
    off = (plain_depth((IMAGE_SIZE, IMAGE_SIZE), line.share) - depth).abs().mean()
    return {"line": round(abs(line.share - horizon), 4), "depth": round(float(off), 4)}


def _agreement(opacity: Tensor, truth: Tensor) -> float:
    seen = opacity > 0.5
    return float((seen & truth).sum() / (seen | truth).sum())


def _by_kind(rows: Sequence[dict[str, Any]], kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    there = [kind for kind in kinds if any(row["kind"] == kind for row in rows)]
    return {kind: _summary([row for row in rows if kind in ("all", row["kind"])]) for kind in ("all", *there)}


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = [row for row in rows if row["refused"] is None]
    return {
        "number": len(rows),
        "refused": 1 - len(found) / len(rows),
        "agreement": _quantiles([row["agreement"] for row in found]),
        "wrong": sum(row["agreement"] < WRONG_BELOW for row in found),
        "holed": sum(row["holes"] > HOLED_FROM for row in found),
        "alpha": _quantiles([row["alpha"] for row in found]),
        "seconds": float(np.median([row["seconds"] for row in rows])),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, and the tenth percentile from each end."""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)) if values else (float("nan"),) * 3
    return {"p10": round(float(low), 4), "median": round(float(middle), 4), "p90": round(float(high), 4)}


def _products(kinds: str, rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        f"| {kinds} | pictures | refused | agreement, median | 10th percentile | below {WRONG_BELOW} | with holes | "
        "error of opacity |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for kind, row in rows.items():
        agreement = row["agreement"]
        lines.append(
            f"| {kind} | {row['number']} | {row['refused']:.1%} | {agreement['median']:.3f} | {agreement['p10']:.3f} | "
            f"{row['wrong']} | {row['holed']} | {row['alpha']['median']:.1%} |"
        )
    return "\n".join(lines)


def _grounds(found: dict[str, Any]) -> str:
    line, depth = found["line_error"], found["depth_error"]
    return (
        f"ground line: refused {found['lines_refused']:.1%}; off by {line['median']:.2%} of the height (median), "
        f"{line['p90']:.2%} (90th percentile)\nplain depth: off by {100 * depth['median']:.1f} hundredths (median), "
        f"{100 * depth['p90']:.1f} (90th percentile)"
    )


if __name__ == "__main__":
    main()
