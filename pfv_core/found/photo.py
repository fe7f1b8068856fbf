"""What of a photo is the product, and who said so: a person, a model that is connected, or this pack."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ..ad.opacity import PAINT_STEP, SEEN_ABOVE
from ..choices import parse_choice
from ..figures import percent
from ..masks import (
    NO_MASK_SIZE,
    SELECTED_ABOVE,
    Selects,
    mask_like,
    mask_to_core,
    one_for_each,
    product_opacity,
    within_range,
)
from .cut import without_dust
from .product import find_product
from .sides import borders_touched
from .unsure import EnclosedError, NothingFoundError, UnsureError
from .within import Enclosed

HAZE = 0.1  # opacity of a found mask below which there is nothing; as far below 1 it is opaque
DUST = 0.01  # of the largest part


class CutOutBy(str, Enum):
    """Who said what the product is: a person's PAINT or the file's transparency, a model that FOUND it, or this pack, to which
    the photo's border shows PLAIN_GROUND."""

    PAINTED = "painted"
    FOUND = "found"
    PLAIN_GROUND = "plain_ground"


WORDS = {
    CutOutBy.PAINTED: "painted",
    CutOutBy.FOUND: "found by the model that is connected",
    CutOutBy.PLAIN_GROUND: "found on its ground",
}


@dataclass(frozen=True)
class CutOut:
    """The product of one photo.

    Attributes:
        opacity: (H, W) float32, 0..1, 1 = product.
        source: who said so.
        sure: how sure this pack is, 0..1; None where somebody else said it.
        parts: separate things, specks left out.
        aside: what there is to say of small parts and of what is enclosed, as the end of a line: parts smaller than a hundredth
            of the largest are taken where they are painted and left out where a model found them; see `Found.left_out_line`.
        touches: the borders that it touches.
    """

    opacity: Tensor
    source: CutOutBy
    sure: float | None
    parts: int
    aside: str
    touches: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the photo that shows the product, 0..1."""
        return float((self.opacity > SEEN_ABOVE).float().mean())

    def report(self) -> dict[str, Any]:
        """Plain values for a file."""
        sure = None if self.sure is None else round(self.sure, 4)
        return {"source": self.source.value, "sure": sure, "share": round(self.share, 4), "parts": self.parts}

    def line(self) -> str:
        """The same for the person who looks at the node."""
        said = WORDS[self.source] + ("" if self.sure is None else f", sure to {self.sure:.2f}")
        parts = f", {self.parts} parts" if self.parts > 1 else ""
        touches = f", cut off at the {' and the '.join(self.touches)}" if self.touches else ""
        return f"{said}: {percent(self.share)} of the photo{parts}{self.aside}{touches}"


def is_painted(mask: Tensor | None, count: int) -> Tensor:
    """(count,) bool: for which photos a MASK selects anything at all; ComfyUI's mask of a file without alpha does not."""
    if mask is None:
        return torch.zeros(count, dtype=torch.bool)
    selects = (mask_to_core(mask, "mask") > PAINT_STEP).flatten(1).any(1)
    return selects.expand(count) if selects.shape[0] == 1 else selects


def cut_outs(
    image: Tensor,
    mask: Tensor | None,
    selects: Selects | str,
    found: Tensor | None,
    enclosed: Enclosed | str = Enclosed.REFUSE,
) -> list[CutOut]:
    """The product of each photo: what is painted, where nothing is painted what was found, else what this pack finds.

    Args:
        image: (B, 3, H, W).
        mask: ComfyUI's; empty, as that of a file without alpha is, it paints nothing.
        selects: what `mask` selects.
        found: ComfyUI's, 1 = product; None = nobody was asked.
        enclosed: what has the ground's colour within the outline that this pack finds.

    Raises:
        ValueError: a mask that does not fit the photo or cannot select what `selects` says, a `found` that found nothing or
            everything, or a photo in which this pack finds nothing or is not sure.
    """
    parse_choice(Selects, selects, "mask_selects")
    enclosed = parse_choice(Enclosed, enclosed, "enclosed")
    count = image.shape[0]
    painted = is_painted(mask, count)
    if mask is not None and bool(painted.any()):
        mask = mask_like(mask, image, "mask").expand(count, -1, -1)
    given = None if found is None or bool(painted.all()) else _found(found, image)
    made = []
    for index in range(count):
        photo = image[index : index + 1]
        if mask is not None and bool(painted[index]):
            made.append(_painted(mask[index : index + 1], selects, photo))
        elif given is not None:
            made.append(_given(given[index], index))
        else:
            made.append(_looked_for(photo[0], index, enclosed))
    return made


def check(cut_out: CutOut, index: int, several_parts: bool, cut_off: bool) -> None:
    """Refuse what nobody has painted and nobody has allowed.

    Raises:
        ValueError: several parts, or a product that touches the photo's border.
    """
    if cut_out.source is CutOutBy.PAINTED:
        return
    if cut_out.parts > 1 and not several_parts:
        raise ValueError(
            f"photo {index} shows {cut_out.parts} separate things: switch several_parts on if all of them are the product, or "
            "paint the one that is"
        )
    if cut_out.touches and not cut_off:
        raise ValueError(
            f"photo {index}: the product touches the {' and the '.join(cut_out.touches)} of the photo, so a part of it is "
            "missing: take a photo that shows all of it, or switch cut_off on to use it as it is"
        )


def _painted(mask: Tensor, selects: Selects | str, photo: Tensor) -> CutOut:
    """What is painted is taken as it is, once it can be what `selects` says."""
    opacity = product_opacity(mask, selects, photo, "mask")[0]
    seen = opacity > SEEN_ABOVE
    _, parts = without_dust(seen.numpy(), DUST)
    _, every = without_dust(seen.numpy(), 0.0)
    aside = f", {every - parts} specks with it" if every > parts else ""
    return CutOut(opacity, CutOutBy.PAINTED, None, parts, aside, borders_touched(seen.numpy()))


def _given(opacity: Tensor, index: int) -> CutOut:
    seen = opacity > SEEN_ABOVE
    if not bool(seen.any()):
        raise ValueError(_NOT_FOUND.format(index))
    highest = float(opacity.max())
    if highest <= SELECTED_ABOVE:
        raise ValueError(
            f"found {index} is {highest:.2f} at most, expected more than {SELECTED_ABOVE:g} somewhere: the model is sure of "
            "nothing in the photo, and half-sure is not half transparent. Paint the product, or disconnect found"
        )
    if bool(seen.all()):
        raise ValueError(f"found {index} selects the whole photo: paint the product, or disconnect found")
    kept, parts = without_dust(seen.numpy(), DUST)
    _, every = without_dust(seen.numpy(), 0.0)
    opacity = torch.where(torch.from_numpy(kept), opacity, 0.0)
    aside = f", {every - parts} specks left out" if every > parts else ""
    return CutOut(opacity, CutOutBy.FOUND, None, parts, aside, borders_touched(kept))


def _looked_for(photo: Tensor, index: int, enclosed: Enclosed) -> CutOut:
    try:
        product = find_product(within_range(photo, f"photo {index}"), enclosed=enclosed)
    except EnclosedError as error:
        choices = "to holes, or to product," if enclosed is Enclosed.REFUSE else "to holes"
        raise ValueError(f"photo {index}: {error}. Or set enclosed {choices} if that is what it is") from error
    except (NothingFoundError, UnsureError) as error:
        raise ValueError(f"photo {index}: {error}") from error
    return CutOut(
        product.opacity, CutOutBy.PLAIN_GROUND, product.sure, product.parts, product.left_out_line(), product.touches
    )


def _found(found: Tensor, image: Tensor) -> Tensor:
    """A MASK of what a model found -> (B, H, W) float32, without haze."""
    if found.numel() == 0:
        raise ValueError(_NOT_FOUND.format(0))
    opacity = one_for_each(found, image.shape[0], "photos")
    if tuple(opacity.shape[1:]) == NO_MASK_SIZE and not bool(opacity.any()):
        raise ValueError(_NOT_FOUND.format(0))
    opacity = mask_like(opacity, image, "found").expand(image.shape[0], -1, -1)
    return torch.where(opacity < HAZE, 0.0, torch.where(opacity > 1 - HAZE, 1.0, opacity))


_NOT_FOUND = (
    "found {0} selects nothing: nothing was found in the photo. Give the model another name, paint the product, or disconnect "
    "found to let this node look for what stands out"
)
