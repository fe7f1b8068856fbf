"""One sample of an adapter's batch: what is dropped and hidden of it, where its image prompt rules, how its reference looks.

Everything random comes from its position in the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from .augment import degrade
from .batches import Rows
from .config import DATASET, TrainConfig
from .data import Dataset, Sample, seeded
from .parts import MASK
from .visibility import Visibility


@dataclass(frozen=True)
class PromptRow:
    """One sample of a batch.

    Attributes:
        sample: from the dataset.
        caption: empty where the text is dropped.
        reference: (3, H, W) float, 0..1, what the image prompt is made from.
        keep_mask: (H, W) bool, True = the image encoder may see it.
        region: (H, W) float, 0..1, 1 = the image prompt rules.
        text_share, has_image, token_key: see `PromptBatch`.
    """

    sample: Sample
    caption: str
    reference: Tensor
    keep_mask: Tensor
    region: Tensor
    text_share: float
    has_image: bool
    token_key: str

    def without_image(self) -> PromptRow:
        """With the negative image prompt."""
        return replace(self, has_image=False, token_key="")


class PromptRows(Rows[PromptRow, TrainConfig]):
    """The samples of a run, by their position in it.

    Args:
        dataset: the samples to train on.
        config: the run.
        visibility: hides, and bounds.
    """

    def __init__(self, dataset: Dataset, config: TrainConfig, visibility: Visibility) -> None:
        super().__init__(dataset, config)
        self.visibility = visibility

    def drawn(self, sample: Sample, position: int) -> PromptRow:
        """A sample with what is drawn for it at a position. DataError where it lacks what is needed."""
        seed = self.config.seed
        row = self._prepared(sample, seeded(seed, position, "masks"))
        return self._degraded(row, seeded(seed, position, "augment"))

    def _prepared(self, sample: Sample, generator: Generator) -> PromptRow:
        """Draw what is dropped, hidden and ruled.

        One number decides what is dropped, as in the public training of IP-Adapter: the image, the text, or both. A sample
        without both is the negative of guidance, whose region is that of the positive; one without its image has none.
        """
        config = self.config
        dropped, masked, with_region = torch.rand(3, generator=generator).tolist()
        everywhere = torch.ones(sample.image.shape[1:])
        whole = PromptRow(sample, sample.caption, sample.image, everywhere > 0, everywhere, 1.0, True, sample.key)
        no_image, no_text = config.drop_image_share, config.drop_image_share + config.drop_text_share
        if dropped < no_image:
            return whole.without_image()
        row = self._bounded(whole, masked, with_region, generator)
        if dropped < no_text:
            return replace(row, caption="")
        return replace(row, caption="").without_image() if dropped < no_text + config.drop_both_share else row

    def _bounded(self, row: PromptRow, masked: float, with_region: float, generator: Generator) -> PromptRow:
        """The row with hidden parts and a region, where two numbers from 0 to 1 say that it has them."""
        config = self.config
        is_masked = masked < config.mask_share
        if is_masked:
            keep_mask, token_key = self.visibility.hide(row.sample, generator)
            row = replace(row, keep_mask=keep_mask, token_key=token_key)
        if with_region >= (config.region_share_masked if is_masked else config.region_share_unmasked):
            return row
        region = self.visibility.region(row.sample, row.keep_mask, generator)
        return replace(row, region=region, text_share=config.text_share)

    def _degraded(self, row: PromptRow, generator: Generator) -> PromptRow:
        """The row with another reference than its image, in the share of the samples that the config wants it in.

        The region stays where it is: it is a part of the target. Where nothing would be left to see, nothing is changed.
        """
        degraded = float(torch.rand((), generator=generator)) < self.config.augment_share
        if not degraded or not row.has_image:
            return row
        reference, keep_mask = degrade(row.sample.image, row.keep_mask, self.config.degradation, generator)
        if not self.visibility.sees_enough(keep_mask):
            return row
        return replace(row, reference=reference, keep_mask=keep_mask, token_key="")


def require_masks(dataset: Dataset, config: TrainConfig) -> None:
    """DataError, naming the first samples, where a dataset knows that it lacks masks that a run hides by."""
    if config.mask_share > 0 and config.hide_kinds.get(DATASET, 0) > 0 and hasattr(dataset, "require"):
        dataset.require(MASK, "mask, white = product,", "add them, or train without hide_kinds dataset")
