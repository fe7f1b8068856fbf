"""What an image encoder may see of a reference, and where its image prompt rules. Worker processes do all of it: what is left
for the training process are the encoder's own pixels and patches, and the region on the latent's grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pfv_core.attention.query_mask import LATENT_SCALE
from pfv_core.reference.fit import Fit, FitGeometry, fit_geometry
from pfv_core.reference.patch_embed import masked_pixel_values
from pfv_core.reference.patch_mask import PatchMask, rebinarize
from pfv_core.reference.vit import EncoderSpec, VisionEncoder

from .config import DATASET, VISIBLE, TrainConfig
from .data import DataError, Sample
from .masks import MaskKind, pick, random_mask

MAX_HIDDEN_SHARE = 0.95  # a random mask that hides more is drawn again
MAX_DRAWS = 20


@dataclass(frozen=True)
class Sight:
    """What an image encoder takes of pictures with hidden parts.

    Attributes:
        encoder: its sizes: hidden parts are whole patches of it.
        mean, std: its normalisation of the three colours.
    """

    encoder: EncoderSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def threshold(self) -> float:
        """Tolerated hidden share of a patch, 0..1."""
        return 0.0

    def sees_enough(self, keep_mask: Tensor, limit: float = 1.0) -> bool:
        """Whether at least one patch stays visible, and no more than a share of them is hidden."""
        try:
            return float(self.patch_mask(keep_mask[None]).kept_share) >= 1 - limit
        except ValueError:
            return False  # no patch is left

    def patch_mask(self, keep_mask: Tensor) -> PatchMask:
        """(B, H, W) bool on the encoder's patches. ValueError where no patch is left."""
        geometry = self.geometry(keep_mask.shape[1], keep_mask.shape[2])
        return rebinarize(keep_mask, geometry, self.threshold)

    def seen(self, image: Tensor, keep_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) in 0..1 and (B, H, W) bool -> the encoder's (B, 3, S, S) pixels, (B, N) bool, True = a visible patch."""
        patch_mask = self.patch_mask(keep_mask)
        return masked_pixel_values(image, patch_mask, self.mean, self.std), patch_mask.token_keep_mask

    def geometry(self, height: int, width: int) -> FitGeometry:
        """How a picture of this size is fitted to the encoder."""
        return fit_geometry(height, width, self.encoder.image_size, self.encoder.patch_size, Fit.CROP)


@dataclass(frozen=True)
class Visibility(Sight):
    """Draws what is hidden and where a prompt rules, and makes of it what the models take.

    Attributes:
        config: of the run.
    """

    config: TrainConfig

    @classmethod
    def of(cls, config: TrainConfig, vision: VisionEncoder) -> Visibility:
        """For an image encoder."""
        return cls(**vars(sight_of(vision)), config=config)

    @property
    def threshold(self) -> float:
        """Tolerated hidden share of a patch, 0..1."""
        return self.config.hide_threshold

    def hide(self, sample: Sample, generator: Generator) -> tuple[Tensor, str]:
        """(H, W) bool, True = visible, that leaves a patch to see; and the cache key of the image so hidden."""
        height, width = sample.image.shape[1:]
        for _ in range(MAX_DRAWS):
            kind = pick(self.config.hide_kinds, generator)
            if kind == DATASET:
                return self._dataset_keep_mask(sample), f"{sample.key}.{DATASET}" if sample.key else ""
            grid = self.geometry(height, width).grid_size
            keep_mask = ~random_mask(kind, height, width, generator, grid)
            if self.sees_enough(keep_mask, MAX_HIDDEN_SHARE):
                return keep_mask, ""
        return torch.ones(height, width, dtype=torch.bool), sample.key

    def region(self, sample: Sample, keep_mask: Tensor, generator: Generator) -> Tensor:
        """(H, W) float, 0..1, 1 = the image prompt rules; DataError where the sample lacks the region that is drawn."""
        kind = pick(self.config.region_kinds, generator)
        if kind == VISIBLE:
            return keep_mask.float()
        if kind == DATASET:
            if sample.region is None:
                raise DataError(f"{sample.name or 'a sample'} has no region, region_kinds {DATASET} needs one")
            return sample.region.float()
        if kind == MaskKind.FULL.value:
            return torch.ones_like(keep_mask, dtype=torch.float32)
        return random_mask(kind, keep_mask.shape[0], keep_mask.shape[1], generator).float()

    def nothing_seen(self) -> tuple[Tensor, Tensor]:
        """The same of one sample without an image prompt: (1, 3, S, S) and (1, N)."""
        size = self.encoder.image_size
        patches = (size // self.encoder.patch_size) ** 2
        return torch.zeros(1, 3, size, size), torch.ones(1, patches, dtype=torch.bool)

    def _dataset_keep_mask(self, sample: Sample) -> Tensor:
        if sample.product_mask is None:
            raise DataError(f"{sample.name or 'a sample'} has no product mask, hide_kinds {DATASET} needs one")
        keep_mask = sample.product_mask <= 0
        if not self.sees_enough(keep_mask):
            raise DataError(f"the mask of {sample.name or 'a sample'} hides every patch: is white the product?")
        return keep_mask


def sight_of(vision: VisionEncoder) -> Sight:
    """Of an encoder, whose patches have no hidden pixel where they are seen."""
    return Sight(vision.spec, tuple(vision.mean), tuple(vision.std))


def on_latents(region: Tensor) -> Tensor:
    """(B, H, W) region -> (B, H/8, W/8) the share of each latent pixel that it covers, 0..1.

    The queries of every layer stand for whole latent pixels: from these the training process has 64 times fewer numbers to
    add up, and of a region of zeros and ones the sums are the same to the bit.
    """
    return F.avg_pool2d(region[:, None], LATENT_SCALE)[:, 0]
