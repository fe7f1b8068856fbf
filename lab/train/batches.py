"""One micro-batch: which samples, what is hidden of their references, where the image prompt rules, which gate.

Everything random of a sample comes from its position in the run, and the gate from the step: whoever makes the batch,
in whichever process or worker, makes the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pfv_core.attention.control import Gate
from pfv_core.reference.fit import Fit, FitGeometry, fit_geometry
from pfv_core.reference.patch_mask import rebinarize
from pfv_core.reference.vit import EncoderSpec

from .augment import degrade
from .config import DATASET, VISIBLE, TrainConfig
from .data import DataError, Dataset, Order, Sample, check_length, positions, seeded
from .masks import MaskKind, pick, random_mask

MAX_HIDDEN_SHARE = 0.95  # a random mask that hides more is drawn again
MAX_DRAWS = 20


@dataclass(frozen=True)
class Batch:
    """What a training step takes. B samples of H x W pixels.

    Attributes:
        step: the micro-batch it is.
        positions: of its samples in the run.
        image: (B, 3, H, W) float, 0..1: target, and reference of the image prompt where there is no other.
        latents: (B, 4, H/8, W/8) of the images, where the dataset has them.
        captions: emptied where the text is dropped.
        keep_mask: (B, H, W) bool, True = the image encoder may see it.
        region: (B, H, W) float, 0..1, 1 = the image prompt rules; None = everywhere in every sample.
        text_share: (B,) what the text keeps inside the region, 0..1.
        has_image: (B,) bool, False = the negative image prompt takes the place of the sample's.
        time_ids: (B, 6) original height and width, crop top and left, target height and width, pixels.
        gate: of the step.
        keys: content hashes of the images, empty where nothing may be cached.
        token_keys: the same for the image with its hidden parts.
        skipped: broken samples that others took the place of.
        reference: (B, 3, H, W) float, 0..1, of the image prompt, where references are degraded; None = the image.
    """

    step: int
    positions: list[int]
    image: Tensor
    latents: Tensor | None
    captions: list[str]
    keep_mask: Tensor
    region: Tensor | None
    text_share: Tensor
    has_image: Tensor
    time_ids: Tensor
    gate: Gate
    keys: list[str]
    token_keys: list[str]
    skipped: list[str]
    reference: Tensor | None = None


@dataclass(frozen=True)
class _Row:
    """One sample of a batch."""

    sample: Sample
    caption: str
    keep_mask: Tensor
    region: Tensor
    text_share: float
    has_image: bool
    token_key: str
    reference: Tensor | None = None


class Batches(TorchDataset[Batch]):
    """The micro-batches of a process, by number.

    Args:
        dataset: the samples.
        config: the run.
        encoder: the image encoder's sizes: hidden parts are whole patches of it.
        process, num_processes: which share of each step is made.

    Raises:
        DataError: fewer samples than one batch of all processes takes, or masks needed and missing.
    """

    def __init__(
        self, dataset: Dataset, config: TrainConfig, encoder: EncoderSpec, process: int = 0, num_processes: int = 1
    ) -> None:
        check_length(len(dataset), config.batch_size, num_processes)
        if config.mask_share > 0 and config.hide_kinds.get(DATASET, 0) > 0 and hasattr(dataset, "require_masks"):
            dataset.require_masks()
        self.dataset = dataset
        self.config = config
        self.encoder = encoder
        self.process = process
        self.num_processes = num_processes
        self.order = Order(len(dataset), config.seed)

    def __getitem__(self, step: int) -> Batch:
        """The micro-batch of a step."""
        config = self.config
        skipped: list[str] = []
        places = positions(step, config.batch_size, self.process, self.num_processes)
        rows = [self._row(position, skipped) for position in places]
        regions = torch.stack([row.region for row in rows])
        return Batch(
            step=step,
            positions=list(places),
            image=torch.stack([row.sample.image for row in rows]),
            latents=_latents([row.sample for row in rows]),
            captions=[row.caption for row in rows],
            keep_mask=torch.stack([row.keep_mask for row in rows]),
            region=None if bool((regions == 1).all()) else regions,
            text_share=torch.tensor([row.text_share for row in rows]),
            has_image=torch.tensor([row.has_image for row in rows]),
            time_ids=torch.tensor([time_ids(row.sample) for row in rows]),
            gate=Gate(pick(config.gates, seeded(config.seed, step, "gate"))),
            keys=[row.sample.key for row in rows],
            token_keys=[row.token_key for row in rows],
            skipped=skipped,
            reference=_references(rows),
        )

    def _row(self, position: int, skipped: list[str]) -> _Row:
        """The sample of a position; where it is broken and may be skipped, the next one that is not."""
        index = self.order.index(position)
        for attempt in range(len(self.dataset)):
            try:
                sample = self.dataset.sample(
                    (index + attempt) % len(self.dataset), seeded(self.config.seed, position, "data")
                )
                row = self._prepared(sample, seeded(self.config.seed, position, "masks"))
                return self._degraded(row, seeded(self.config.seed, position, "augment"))
            except DataError as error:
                if self.config.broken_images != "skip":
                    raise
                skipped.append(str(error))
        raise DataError(f"every one of the {len(self.dataset)} samples is broken; the last: {skipped[-1]}")

    def first_samples(self, count: int) -> list[Sample]:
        """The dataset's first samples, without the broken ones where those may be skipped."""
        samples: list[Sample] = []
        for number in range(len(self.dataset)):
            if len(samples) == count:
                break
            try:
                samples.append(self.dataset.sample(number, seeded(self.config.seed, number, "first")))
            except DataError:
                if self.config.broken_images != "skip":
                    raise
        return samples

    def _prepared(self, sample: Sample, generator: Generator) -> _Row:
        """Draw what is dropped, hidden and ruled."""
        config = self.config
        height, width = sample.image.shape[1:]
        no_image, no_text, masked, with_region = torch.rand(4, generator=generator).tolist()
        everywhere = torch.ones(height, width)
        caption = "" if no_text < config.drop_text_share else sample.caption
        if no_image < config.text_only_share:
            return _Row(sample, sample.caption, everywhere > 0, everywhere, 1.0, False, "")
        is_masked = masked < config.mask_share
        keep_mask, token_key = self.hide(sample, generator) if is_masked else (everywhere > 0, sample.key)
        if with_region >= (config.region_share_masked if is_masked else config.region_share_unmasked):
            return _Row(sample, caption, keep_mask, everywhere, 1.0, True, token_key)
        region = self._region(sample, keep_mask, generator)
        return _Row(sample, caption, keep_mask, region, config.text_share, True, token_key)

    def _degraded(self, row: _Row, generator: Generator) -> _Row:
        """The row with another reference than its image, in the share of the samples that the config wants it in.

        The region stays where it is: it is a part of the target. Where nothing would be left to see, nothing is changed.
        """
        degraded = float(torch.rand((), generator=generator)) < self.config.augment_share
        if not degraded or not row.has_image:
            return row
        image = row.sample.image
        reference, keep_mask = degrade(image, row.keep_mask, self.config.degradation, generator)
        if not self._sees_enough(keep_mask, self._geometry(image.shape[1], image.shape[2]), 1.0):
            return row
        return replace(row, reference=reference, keep_mask=keep_mask, token_key="")

    def hide(self, sample: Sample, generator: Generator) -> tuple[Tensor, str]:
        """(H, W) bool, True = visible, that leaves a patch to see; and the cache key of the image so hidden."""
        height, width = sample.image.shape[1:]
        geometry = self._geometry(height, width)
        for _ in range(MAX_DRAWS):
            kind = pick(self.config.hide_kinds, generator)
            if kind == DATASET:
                key = f"{sample.key}.{DATASET}" if sample.key else ""
                return self._dataset_keep_mask(sample, geometry), key
            keep_mask = ~random_mask(kind, height, width, generator, geometry.grid_size)
            if self._sees_enough(keep_mask, geometry):
                return keep_mask, ""
        return torch.ones(height, width, dtype=torch.bool), sample.key

    def _dataset_keep_mask(self, sample: Sample, geometry: FitGeometry) -> Tensor:
        if sample.product_mask is None:
            raise DataError(f"{sample.name or 'a sample'} has no product mask, hide_kinds {DATASET} needs one")
        keep_mask = sample.product_mask <= 0
        if not self._sees_enough(keep_mask, geometry, 1.0):
            raise DataError(f"the mask of {sample.name or 'a sample'} hides every patch: is white the product?")
        return keep_mask

    def _sees_enough(self, keep_mask: Tensor, geometry: FitGeometry, limit: float = MAX_HIDDEN_SHARE) -> bool:
        try:
            patch_mask = rebinarize(keep_mask[None], geometry, self.config.hide_threshold)
        except ValueError:
            return False  # no patch is left
        return float(patch_mask.kept_share) >= 1 - limit

    def _region(self, sample: Sample, keep_mask: Tensor, generator: Generator) -> Tensor:
        """(H, W) float, 0..1, 1 = the image prompt rules."""
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

    def _geometry(self, height: int, width: int) -> FitGeometry:
        return fit_geometry(height, width, self.encoder.image_size, self.encoder.patch_size, Fit.CROP)


def read_ahead(batches: Batches, start: int, end: int, workers: int) -> Iterator[Batch]:
    """The micro-batches `start`..`end` - 1 in order, prepared by worker processes where there are any."""
    loader: DataLoader[Batch] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, end),
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator(),  # the loader's own seeds: they leave torch's global numbers alone
    )
    return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch


def _references(rows: list[_Row]) -> Tensor | None:
    if all(row.reference is None for row in rows):
        return None
    return torch.stack([row.sample.image if row.reference is None else row.reference for row in rows])


def _latents(samples: list[Sample]) -> Tensor | None:
    latents = [sample.latents for sample in samples if sample.latents is not None]
    return torch.stack(latents).float() if len(latents) == len(samples) else None


def time_ids(sample: Sample) -> list[float]:
    """Original height and width, crop top and left, target height and width, pixels: SDXL's conditions."""
    height, width = sample.image.shape[1:]
    original = sample.original_size or (height, width)
    return [float(value) for value in (*original, *sample.crop, height, width)]
