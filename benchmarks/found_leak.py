"""How much of a reference's own product reaches the ad: hidden by a person, by what was found, not hidden, never there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.demo import stack
from lab.demo.evaluation.chunk import Chunk
from lab.demo.evaluation.conditions import View
from lab.demo.evaluation.experiments import IMAGE_ONLY
from lab.demo.evaluation.judge import FILE
from lab.demo.evaluation.measures import MEASURES, Readings, Truth
from lab.demo.evaluation.models import load_models
from lab.demo.evaluation.pairs import Scene
from lab.demo.evaluation.pictures import make_images, measure
from lab.demo.inputs import BRUSH
from lab.evaluation.statistics import Interval, mean_interval, paired_difference, rate
from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.found.product import find_product
from pfv_core.found.unsure import NothingFoundError, UnsureError
from pfv_core.reference.fit import Fit, fit_geometry
from pfv_core.reference.patch_mask import PatchMask, rebinarize
from pfv_core.reference.vit import HideMode

FIRST_PAIR = 300_000_000  # training scenes and those of other measurements have other seeds
BATCH = 25
WAYS = {  # row -> the view that its chunk shows
    "not hidden": View.VISIBLE,
    "painted": View.DROPPED,
    "found": View.DROPPED,
    "never there": View.ORACLE,
}
COLUMNS = ("tint", "tint_upper", "foreign_color", "foreign_shape", "foreign_share", "wall_reference")


class HiddenBy(Chunk):
    """Pairs whose references hide what masks say: `hidden`, (B, H, W) bool."""

    hidden: Tensor

    def shown(self, view: View) -> tuple[Tensor, PatchMask, HideMode]:
        """The reference, without what is hidden."""
        if view is not View.DROPPED:
            return super().shown(view)
        image, spec = self.reference_drawn.image.movedim(-1, 1).contiguous(), self.models.vision.spec
        geometry = fit_geometry(stack.IMAGE_SIZE, stack.IMAGE_SIZE, spec.image_size, spec.patch_size, Fit.CROP)
        return image, rebinarize(~self.hidden, geometry), HideMode.DROP


def leak(pairs: int, steps: int) -> dict[str, Any]:
    """Make the pictures of each way, and read them. Pairs in which the finder is not sure are left out of all ways."""
    models, adapter = load_models(stack.WEIGHTS, FILE), load_adapter(stack.WEIGHTS / "adapter.safetensors")
    kept: list[bool] = []
    scenes: list[tuple[Scene, Scene]] = []
    values: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for start in range(FIRST_PAIR, FIRST_PAIR + pairs, BATCH):
        chunks = {way: HiddenBy(models, start, min(BATCH, FIRST_PAIR + pairs - start)) for way in WAYS}
        drawn = chunks["found"].reference_drawn
        found = [_found(image) for image in drawn.image.movedim(-1, 1)]
        chunks["found"].hidden = torch.stack(
            [torch.zeros_like(drawn.product[0]) > 0 if one is None else one for one in found]
        )
        chunks["painted"].hidden = _brushed(drawn.product)
        kept += [one is not None for one in found]
        scenes += chunks["found"].pairs
        for way, view in WAYS.items():
            with torch.inference_mode():
                image = make_images(models, chunks[way], IMAGE_ONLY[view], adapter, steps)
                values[way].append(measure(models, chunks[way], image))
    rows = np.array(kept)
    truth = Truth([pair for pair, used in zip(scenes, kept, strict=True) if used])
    read = {way: _joined(parts, rows) for way, parts in values.items()}
    readings = {way: Readings(of_way, read["never there"], truth) for way, of_way in read.items()}
    return {
        "pairs": pairs,
        "steps": steps,
        "refused": float(1 - rows.mean()),
        "ways": {way: {name: _interval(name, one) for name in COLUMNS} for way, one in readings.items()},
        "found_minus_painted": {
            name: _plain(paired_difference(*(MEASURES[name].of(readings[way]) for way in ("found", "painted"))))
            for name in COLUMNS
        },
    }


def _found(image: Tensor) -> Tensor | None:
    """(H, W) bool as PFV Reference hides it; None where it refuses."""
    try:
        return find_product(image.contiguous(), to_hide=True).seen
    except NothingFoundError:
        return torch.zeros(image.shape[1:], dtype=torch.bool)
    except UnsureError:
        return None


def _brushed(product: Tensor) -> Tensor:
    """As somebody paints over it, a little generously."""
    return F.max_pool2d((product > 0).float(), 2 * BRUSH + 1, stride=1, padding=BRUSH) > 0


def _joined(parts: list[dict[str, Any]], rows: np.ndarray) -> dict[str, np.ndarray]:
    flat = [{**part["judge"], **{name: value for name, value in part.items() if name != "judge"}} for part in parts]
    return {name: np.concatenate([np.asarray(part[name]) for part in flat])[rows] for name in flat[0]}


def _interval(name: str, readings: Readings) -> dict[str, float]:
    values = MEASURES[name].of(readings)
    return _plain(rate(values) if MEASURES[name].is_rate else mean_interval(values))


def _plain(interval: Interval) -> dict[str, float]:
    return {name: round(getattr(interval, name), 4) for name in ("value", "low", "high")}


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"| other product | {' | '.join(MEASURES[name].label for name in COLUMNS)} |"]
    lines.append(f"|---|{'---|' * len(COLUMNS)}")
    for way, row in {**result["ways"], "found less painted": result["found_minus_painted"]}.items():
        cells = [f"{row[n]['value']:.3f} ({row[n]['low']:.3f} to {row[n]['high']:.3f})" for n in COLUMNS]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)
