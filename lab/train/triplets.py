"""RefAdGen's samples: an ad, the product alone, where it stands in the ad, and what the ad shows.

Everything random comes from a sample's position in the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pfv_core.ad.opacity import SEEN_ABOVE

from .augment import degrade
from .batches import Batch, Batches, Rows
from .config import RefAdGenConfig
from .data import DataError, Dataset, Sample, seeded
from .parts import MASK, PRODUCT
from .visibility import on_latents


@dataclass(frozen=True)
class Triplet:
    """One sample of a batch.

    Attributes:
        sample: from the dataset; its image is the ad.
        caption: empty where the text is dropped.
        product: (3, H, W) float, 0..1, what the reference U-Net reads.
        mask: (H, W) float, 0..1, 1 = product in the ad.
        product_key: see `TripletBatch`.
    """

    sample: Sample
    caption: str
    product: Tensor
    mask: Tensor
    product_key: str


@dataclass(frozen=True)
class TripletBatch(Batch):
    """What a training step of RefAdGen takes beside what every `Batch` has.

    Attributes:
        product: (B, 3, H, W) float, 0..1, what the reference U-Net reads.
        latent_mask: (B, H/8, W/8) float, 0..1, the share of a latent pixel that the product covers in the ad.
        product_keys: content hashes of the products, empty where nothing may be cached.
    """

    product: Tensor
    latent_mask: Tensor
    product_keys: list[str]


class Triplets(Rows[Triplet, RefAdGenConfig]):
    """The samples of a run, by their position in it."""

    def drawn(self, sample: Sample, position: int) -> Triplet:
        """A sample with what is drawn for it at a position. DataError where a part is missing or says nothing."""
        product, mask = parts_of(sample)
        seed, config = self.config.seed, self.config
        drop, change = torch.rand(2, generator=seeded(seed, position, "drops")).tolist()
        key = sample.product_key
        if change < config.augment_share:
            everything = torch.ones(product.shape[1:], dtype=torch.bool)
            product, _ = degrade(product, everything, config.degradation, seeded(seed, position, "augment"))
            key = ""
        return Triplet(sample, "" if drop < config.drop_text_share else sample.caption, product, mask, key)


class TripletBatches(Batches[TripletBatch, Triplet, RefAdGenConfig]):
    """The micro-batches of a process, by number."""

    def joined(self, rows: Sequence[Triplet], common: Batch) -> TripletBatch:
        """The rows of a micro-batch in one."""
        return TripletBatch(
            **vars(common),
            product=torch.stack([row.product for row in rows]),
            latent_mask=on_latents(torch.stack([row.mask for row in rows])),
            product_keys=[row.product_key for row in rows],
        )


def parts_of(sample: Sample) -> tuple[Tensor, Tensor]:
    """Product and mask of a sample.

    Raises:
        DataError: one is missing or of another size than the ad, or the mask selects nothing.
    """
    name, image = sample.name or "a sample", sample.image
    if sample.product is None or sample.product_mask is None:
        what = "product picture" if sample.product is None else "product mask"
        raise DataError(
            f"{name} has no {what}, which a preset of RefAdGen needs: add name.product.png and name.mask.png"
        )
    for what, part in (("product picture", sample.product), ("mask", sample.product_mask)):
        if part.shape[-2:] != image.shape[-2:]:
            height, width = part.shape[-2:]
            raise DataError(
                f"the {what} of {name} is {height}x{width}, the image is {image.shape[1]}x{image.shape[2]}: give both the "
                "same size"
            )
    if not bool((sample.product_mask > SEEN_ABOVE).any()):
        raise DataError(f"the mask of {name} selects nothing within the square that is cut out: white is the product")
    return sample.product, sample.product_mask


def require_triplets(dataset: Dataset) -> None:
    """DataError, naming the first samples, where a dataset knows that parts of triplets are missing."""
    if hasattr(dataset, "require"):
        dataset.require(
            PRODUCT, "product picture", "python -m lab.train.cut_out --products makes them of pictures and masks"
        )
        dataset.require(MASK, "mask, white = product,", "add them, for example with python -m lab.train.cut_out")
