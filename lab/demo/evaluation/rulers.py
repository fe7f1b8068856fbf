"""What is read of a picture by holding true pictures of the studio against it, without any trained network.

A label is read by which mark, turned which way, fits best where the label is; a companion by what stands out from a plain wall.
Each ruler is laid on the true pictures too: tables have a row of them, through the autoencoder; and a companion that it misreads
there counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product as every

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from pfv_core.region.distance import erode_mask, grow

from ...evaluation.metrics import two_tones
from ..studio.beside import COLUMN_STEP, companion_columns
from ..studio.bodies import bodies_of
from ..studio.camera import Camera, march
from ..studio.render import Rendered, pixel_places
from ..studio.scene import MARKS, WIDEST_TURN, Scene
from ..studio.surfaces import product_surface

LABEL_TURNS = tuple(share / 3 * WIDEST_TURN for share in range(-3, 4))  # radians at which a label is looked for
SOFT = 1 / 64  # of the image's side: width of the edges that a mark is looked for with
LABEL_SHIFT = 1 / 64  # of the image's side: how far from its place it may be, either way

OVERLAP_RING, RIM = 1 / 16, 1 / 64  # of the image's side: how far out a product is looked for, how wide its rim is
LEAST_CONTRAST = 0.2  # RGB distance of product and empty scene under which a pixel is neither

SHADES = (0.6, 1.1)  # how far a wall's colour may be shaded and still be the wall
STANDS_OUT = 0.09  # RGB distance to the nearest of these shades
SMALLEST = 0.003  # of the picture: what is less is no companion
PORTRAIT = 16  # cells along a side
FITS = 5  # rounds of fitting a wall's colour, each without what stood out in the one before


@dataclass(frozen=True)
class LabelView:
    """A product's label, turned one way.

    Attributes:
        rows, columns: (N,) its pixels.
        colors: (MARKS, N, 3) what each mark makes of them, centred.
    """

    rows: Tensor
    columns: Tensor
    colors: Tensor


@torch.no_grad()
def label_views(scene: Scene, size: int) -> list[LabelView]:
    """The scene's product at each of LABEL_TURNS, with each of MARKS in its own colour and form."""
    camera = Camera(scene)
    directions = camera.rays(*pixel_places(size, size))
    own, _ = march(bodies_of(scene)[0], camera.eye.expand_as(directions), directions)
    covered = torch.zeros(size * size).index_fill(0, own, 1).view(1, 1, size, size)
    about = F.max_pool2d(covered, 2 * (size // 32) + 1, 1, size // 32).flatten().nonzero().flatten()
    directions = directions[about]  # rays that miss take longest
    origins = camera.eye.expand_as(directions)
    views = []
    for turn in LABEL_TURNS:
        body = bodies_of(scene.turned(turn))[0]
        hit, reached = march(body, origins, directions)
        pixels = about[hit]
        points = body.local(origins[hit] + reached[:, None] * directions[hit])
        looks = [product_surface(points, replace(scene.product, mark=mark)) for mark in MARKS]
        label = looks[0].label
        rows, columns = pixels[label] // size, pixels[label] % size
        colors = torch.stack([_softened(look.color[label], rows, columns, size) for look in looks])
        views.append(LabelView(rows, columns, colors - colors.mean(1, keepdim=True)))
    return views


def _softened(colors: Tensor, rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """(N, 3) colours of a label as a picture has them whose edges are SOFT wide: the mean of those within it."""
    box = 2 * round(SOFT * size / 2) + 1
    sheet = torch.zeros(4, size, size)
    sheet[:, rows, columns] = torch.cat([colors, torch.ones(len(colors), 1)], 1).T
    mean = F.avg_pool2d(sheet[None], box, 1, box // 2)[0][:, rows, columns]
    return (mean[:3] / mean[3:]).T


def read_mark(image: Tensor, views: Sequence[LabelView]) -> tuple[int, Tensor]:
    """Which mark a label in a picture has, and how well each fits.

    Args:
        image: (3, H, W), 0..1.
        views: of its scene.

    Returns:
        Number of the best of MARKS, and of each mark Pearson's correlation of its colours with the picture's, where it is best.
    """
    size = image.shape[1]
    shift = round(LABEL_SHIFT * size)
    fits = []
    for view, down, across in every(views, (-shift, 0, shift), (-shift, 0, shift)):
        rows, columns = ((at + by).clamp(0, size - 1) for at, by in ((view.rows, down), (view.columns, across)))
        seen = image[:, rows, columns].T
        seen = seen - seen.mean(0)
        together = (view.colors * seen).sum((1, 2))
        fits.append(together / (view.colors.square().sum((1, 2)).sqrt() * seen.square().sum().sqrt()).clamp_min(1e-9))
    best = torch.stack(fits).amax(0)
    return int(best.argmax()), best


def body_color_error(image: Tensor, truth: Rendered) -> Tensor:
    """(B,) RGB distance of the product's middle colour beside its label to the true one's."""
    inside = (truth.product == 1) & (truth.label == 0)
    errors = [
        (drawn[:, mask].median(1).values - true[mask].median(0).values).norm()
        for drawn, true, mask in zip(image, truth.image, inside, strict=True)
    ]
    return torch.stack(errors)


def product_overlap(image: Tensor, truth: Rendered, empty: Tensor) -> tuple[Tensor, Tensor]:
    """How well what is drawn under the paste agrees with what is pasted.

    Args:
        image: (B, 3, H, W) as drawn.
        truth: what is wanted.
        empty: (B, 3, H, W), the same without the product.

    Returns:
        (B,) intersection over union of the product's mask with the pixels that look more like the product than like the empty
        scene: inside the mask than the true pixel, around it than one of the product's two tones. And (B,) mean RGB distance to
        the true picture in the mask's rim. A pixel at which the two are too alike counts for nothing.

    Paper: Strictly-ID, table 2, Mask IoU. **Deviation**: there people mark what was drawn.
    """
    size = image.shape[2]
    true = truth.image.permute(0, 3, 1, 2)
    inside = truth.product == 1
    around = grow(truth.product > 0, round(OVERLAP_RING * size)) & ~(truth.product > 0)
    tones = two_tones(true, inside).float()
    of_product = torch.stack([(image - tone[..., None, None]).norm(dim=1) for tone in tones.unbind(1)]).amin(0)
    contrast = torch.stack([(empty - tone[..., None, None]).norm(dim=1) for tone in tones.unbind(1)]).amin(0)
    of_empty = (image - empty).norm(dim=1)
    within = inside & ((true - empty).norm(dim=1) >= LEAST_CONTRAST)
    hit = within & ((image - true).norm(dim=1) < of_empty)
    spilt = around & (contrast >= LEAST_CONTRAST) & (of_product < of_empty)
    overlap = hit.flatten(1).sum(1) / (within | spilt).flatten(1).sum(1)
    rim = inside & ~erode_mask(inside, round(RIM * size))
    return overlap, ((image - true).norm(dim=1) * rim).flatten(1).sum(1) / rim.flatten(1).sum(1)


def companion_box(scenes: Sequence[Scene], size: int) -> Tensor:
    """(H, W) bool: the rows and columns in which the scenes' companions are seen."""
    seen = torch.stack([companion_columns(scene, size) for scene in scenes]).any(0)
    rows, columns = (_between(seen.any(axis)) for axis in (1, 0))
    return (rows[:, None] & columns).repeat_interleave(COLUMN_STEP, 1)


def _between(line: Tensor) -> Tensor:
    """(N,) bool, from the first that is True to the last."""
    return (line.cumsum(0) > 0) & (line.flip(0).cumsum(0).flip(0) > 0)


def companion_mask(image: Tensor, wall: Tensor, box: Tensor) -> Tensor | None:
    """What stands before a plain wall, without its shadow.

    Args:
        image: (3, H, W), 0..1.
        wall: (H, W) bool, where the wall would be seen if nothing stood beside the product.
        box: (H, W) bool, where it is looked for.

    Returns:
        (H, W) bool, the largest piece of the wall's part of the picture that has none of the wall's shades, of those that lie in
        the box by more than half; None = there is none. The wall's colour is a smooth surface over the picture, fitted to what
        does not stand out from it.
    """
    height, width = wall.shape
    x, y = pixel_places(height, width)
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
    pixels, where = image.flatten(1).T, wall.flatten()
    fitted = where.clone()
    for _ in range(FITS):
        surface = terms @ torch.linalg.lstsq(terms[fitted], pixels[fitted]).solution
        far = (pixels - surface).norm(dim=1)
        fitted = where & (far <= far[where].median() * 1.5)
    shade = ((pixels * surface).sum(1) / surface.square().sum(1).clamp_min(1e-6)).clamp(*SHADES)
    out = ((pixels - shade[:, None] * surface).norm(dim=1) > STANDS_OUT).view(height, width) & wall
    pieces, number = ndimage.label(ndimage.binary_opening(out.numpy(), np.ones((3, 3))))
    if not number:
        return None
    areas, within = (np.bincount(pieces[where], minlength=number + 1)[1:] for where in (pieces > 0, box.numpy()))
    areas = np.where(2 * within > areas, areas, 0)
    if areas.max() < SMALLEST * height * width:
        return None
    return torch.from_numpy(pieces == areas.argmax() + 1)


def top_row(mask: Tensor) -> int:
    """First row of a mask."""
    return int(mask.any(1).nonzero()[0])


def slope(mask: Tensor | None) -> float:
    """How far a mask's middle goes to the right with every row up; NaN where it has one row, or there is none."""
    if mask is None:
        return math.nan
    rows = mask.any(1).nonzero().flatten()
    if len(rows) < 2:
        return math.nan
    weights = mask[rows].float()
    middle = (weights * torch.arange(mask.shape[1])).sum(1) / weights.sum(1)
    up = -(rows.float() - rows.float().mean())
    return float((up * (middle - middle.mean())).sum() / up.square().sum())


def portrait(image: Tensor, mask: Tensor) -> Tensor:
    """(4, PORTRAIT, PORTRAIT): what a mask shows, colours times coverage and the coverage, whatever its size and place."""
    rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    shown = torch.cat([image * mask, mask[None].float()])[:, box[0], box[1]]
    return F.adaptive_avg_pool2d(shown, PORTRAIT)


def nearest(image: Tensor, mask: Tensor | None, known: Sequence[Tensor | None]) -> int | None:
    """Number of the portrait that is nearest to what a mask shows; None where there is no mask, or no portrait."""
    if mask is None or not any(one is not None for one in known):
        return None
    own = portrait(image, mask)
    far = [math.inf if one is None else float((own - one).square().mean()) for one in known]
    return int(np.argmin(far))
