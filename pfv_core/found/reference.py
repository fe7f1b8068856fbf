"""What of a reference is hidden, and who said so: a person, a model that is connected, or this pack."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from ..ad.opacity import PAINT_STEP, SEEN_ABOVE
from ..choices import parse_choice
from ..figures import percent
from ..masks import NO_MASK_SIZE, in_corners, mask_to_core, one_for_each, selected_mask, within_range
from .product import find_product
from .unsure import NothingFoundError, UnsureError

LISTED = 4  # references that the line below a node names one by one


class HiddenBy(str, Enum):
    """Who said what of a reference is hidden: a person's PAINT, a model that FOUND it, this pack, which took what STANDS_OUT, or
    nobody: NOTHING is hidden."""

    PAINTED = "painted"
    FOUND = "found"
    STANDS_OUT = "stands_out"
    NOTHING = "nothing"


WORDS = {
    HiddenBy.PAINTED: "painted",
    HiddenBy.FOUND: "found by the model that is connected",
    HiddenBy.STANDS_OUT: "what stands out",
    HiddenBy.NOTHING: "nothing",
}


class Hide(str, Enum):
    """AUTOMATIC: what is painted, else what was found, else what stands out. NOTHING: nothing, whatever is painted."""

    AUTOMATIC = "automatic"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Hidden:
    """What is hidden of each image of a batch.

    Attributes:
        mask: (B, H, W) bool, True = hidden.
        sources: who said so.
        sure: how sure this pack is where something stands out, 0..1; None elsewhere.
        why: what there is to say beside it, for the person who looks at the node.
    """

    mask: Tensor
    sources: tuple[HiddenBy, ...]
    sure: tuple[float | None, ...]
    why: str = ""

    def line(self, kept_shares: tuple[float, ...]) -> str:
        """What was hidden, by whom, and what is left, in one line."""
        if len(self.sources) > LISTED:
            counts = ", ".join(f"{count} {WORDS[source]}" for source, count in Counter(self.sources).items())
            kept = f"kept {percent(min(kept_shares))} to {percent(max(kept_shares))}"
            return f"hidden in {len(self.sources)} references: {counts}; {kept}{self.why}"
        said = (
            f"{WORDS[source]}{'' if sure is None else f', sure to {sure:.2f}'}, kept {percent(share)}"
            for source, sure, share in zip(self.sources, self.sure, kept_shares, strict=True)
        )
        return f"hidden: {'; '.join(said)}{self.why}"


def asks_for_found(hide: Hide | str, mask: Tensor | None) -> bool:
    """Whether somebody has to look for what is not painted."""
    if parse_choice(Hide, hide, "hide") is Hide.NOTHING:
        return False
    selected = None if mask is None else _selected(mask)
    return selected is None or not bool(selected.flatten(1).any(1).all())


def hidden_of(image: Tensor, hide: Hide | str, mask: Tensor | None, found: Tensor | None) -> Hidden:
    """What is hidden of each image: what is painted, where nothing is painted what was found, else what stands out.

    Args:
        image: (B, 3, H, W).
        hide: AUTOMATIC, or NOTHING.
        mask: ComfyUI's, 1 = painted. An empty one, as that of a file without alpha is, paints nothing.
        found: ComfyUI's, 1 = the thing; None = nobody was asked.

    Raises:
        ValueError: a mask that does not fit the image or selects all of it, a `found` that found nothing, or a picture in which
            this pack is not sure what stands out.
    """
    count, size = image.shape[0], image.shape[2:]
    painted = torch.zeros(count, *size, dtype=torch.bool)
    if parse_choice(Hide, hide, "hide") is Hide.NOTHING:
        is_painted = mask is not None and bool((mask > PAINT_STEP).any())
        why = ", as asked; what is painted is not used" if is_painted else ", as asked"
        return Hidden(painted, (HiddenBy.NOTHING,) * count, (None,) * count, why)
    if mask is not None:
        _check_strong_enough(mask)
    if mask is not None and bool(_selected(mask).any()):
        painted = selected_mask(mask, image, "mask", empty=True).expand(count, -1, -1)
    asked = ~painted.flatten(1).any(1)
    given = None if found is None or not bool(asked.any()) else _found(found, image, asked)
    parts = [_of_one(image[i], painted[i], None if given is None else given[i], i) for i in range(count)]
    masks, sources, sure = zip(*parts, strict=True)
    why = ", because nothing stands out" if HiddenBy.NOTHING in sources else ""
    if bool(in_corners(painted).eq(4).any()):
        why += "; corners hidden and the middle seen, as of a cut-out: is that what is wanted?"
    return Hidden(torch.stack(masks), sources, sure, why)


def _of_one(image: Tensor, painted: Tensor, found: Tensor | None, index: int) -> tuple[Tensor, HiddenBy, float | None]:
    """(3, H, W) and its masks (H, W) -> mask, who said so, how sure it is."""
    if bool(painted.any()):
        return painted, HiddenBy.PAINTED, None
    if found is None:
        return _stands_out(image, index)
    if not bool(found.any()):
        raise ValueError(_NOT_FOUND.format(index))
    return found, HiddenBy.FOUND, None


def _stands_out(image: Tensor, index: int) -> tuple[Tensor, HiddenBy, float | None]:
    """All that may be its colours is hidden with it: soft edge, glass, mirror image, what lies beside it and what it encloses."""
    try:
        product = find_product(within_range(image, f"reference {index}"), to_hide=True)
    except NothingFoundError:
        return torch.zeros(image.shape[1:], dtype=torch.bool), HiddenBy.NOTHING, None
    except UnsureError as error:
        raise ValueError(f"reference {index}: {error}. If nothing is to be hidden, set hide to nothing") from error
    if product.touches:
        raise ValueError(
            f"reference {index}: what stands out touches the {' and the '.join(product.touches)} of the picture and may be a "
            "part of its ground: paint over what is to be hidden, or connect what a model finds. If nothing is to be hidden, set "
            "hide to nothing"
        )
    return product.seen, HiddenBy.STANDS_OUT, product.sure


def _found(found: Tensor, image: Tensor, asked: Tensor) -> Tensor:
    """A MASK of what a model found -> (B, H, W) bool, of the images that it is asked for."""
    if found.numel() == 0:
        raise ValueError(_NOT_FOUND.format(0))
    found = one_for_each(found, image.shape[0], "references")
    if tuple(found.shape[1:]) == NO_MASK_SIZE and not bool(found.any()):
        raise ValueError(_NOT_FOUND.format(int(asked.nonzero()[0])))
    found = torch.where(asked[:, None, None], found, 0.0)
    return selected_mask(found, image, "found", empty=True)


def _check_strong_enough(mask: Tensor) -> None:
    """Paint that selects nothing is somebody's all the same: ValueError, never passed over."""
    for index, highest in enumerate(mask_to_core(mask, "mask").flatten(1).amax(1)):
        if highest > PAINT_STEP and not highest > SEEN_ABOVE:
            raise ValueError(
                f"mask {index} spans 0..{highest:g}, and what is above {SEEN_ABOVE:g} counts as painted, so nothing does: "
                "paint with full opacity, or clear the mask"
            )


def _selected(mask: Tensor) -> Tensor:
    return mask_to_core(mask, "mask") > SEEN_ABOVE


_NOT_FOUND = (
    "found {0} selects nothing: nothing was found under that name in the reference. Give the model another name, paint over what "
    "is to be hidden, disconnect found so that what stands out is hidden, or set hide to nothing"
)
