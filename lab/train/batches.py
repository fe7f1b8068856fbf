"""Micro-batches, by number: their samples in order, and what every training takes of them.

Everything random of a sample comes from its position in the run: whoever makes the batch, in whichever process or worker,
makes the same one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from .data import DataError, Dataset, Order, Sample, check_length, positions, seeded
from .settings import RunConfig


@dataclass(frozen=True)
class Batch:
    """What any training step takes. B samples of H x W pixels.

    Attributes:
        step: the micro-batch it is.
        positions: of its samples in the run.
        image: (B, 3, H, W) float, 0..1: what the U-Net is to make.
        latents: (B, 4, H/8, W/8) of the images, where the dataset has them.
        captions: emptied where the text is dropped.
        time_ids: (B, 6) original height and width, crop top and left, target height and width, pixels.
        keys: content hashes of the images, empty where nothing may be cached.
        skipped: broken samples that others took the place of.
    """

    step: int
    positions: list[int]
    image: Tensor
    latents: Tensor | None
    captions: list[str]
    time_ids: Tensor
    keys: list[str]
    skipped: list[str]

    def pin_memory(self: AnyBatch) -> AnyBatch:
        """The same in memory from which a GPU copies while the processor works on; torch's loader calls it."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)


class Drawn(Protocol):
    """A sample of a batch, with what was drawn for it."""

    @property
    def sample(self) -> Sample: ...

    @property
    def caption(self) -> str: ...


AnyBatch = TypeVar("AnyBatch", bound=Batch)
Row = TypeVar("Row", bound=Drawn)
Config = TypeVar("Config", bound=RunConfig)


class Rows(ABC, Generic[Row, Config]):
    """The samples of a run, by their position in it.

    Args:
        dataset: the samples to train on.
        config: the run.
    """

    def __init__(self, dataset: Dataset, config: Config) -> None:
        self.dataset = dataset
        self.config = config
        self.order = Order(len(dataset), config.seed)

    @abstractmethod
    def drawn(self, sample: Sample, position: int) -> Row:
        """A sample with what is drawn for it at a position. DataError where it lacks what is needed."""

    def at(self, position: int, skipped: list[str]) -> Row:
        """The sample of a position; where it is broken and may be skipped, the next one that is not."""
        index = self.order.index(position)
        for attempt in range(len(self.dataset)):
            generator = seeded(self.config.seed, position, "data")
            try:
                return self.drawn(self.dataset.sample((index + attempt) % len(self.dataset), generator), position)
            except DataError as error:
                if self.config.broken_images != "skip":
                    raise
                skipped.append(str(error))
        raise DataError(f"every one of the {len(self.dataset)} samples is broken; the last: {skipped[-1]}")


class Batches(TorchDataset[AnyBatch], ABC, Generic[AnyBatch, Row, Config]):
    """The micro-batches of a process, by number.

    Args:
        rows: the samples of the run.
        process, num_processes: which share of each step is made.

    Raises:
        DataError: fewer samples than one batch of all processes takes.
    """

    def __init__(self, rows: Rows[Row, Config], process: int = 0, num_processes: int = 1) -> None:
        check_length(len(rows.dataset), rows.config.batch_size, num_processes)
        self.rows = rows
        self.process = process
        self.num_processes = num_processes

    @abstractmethod
    def joined(self, rows: Sequence[Row], common: Batch) -> AnyBatch:
        """The rows of a micro-batch in one, with what every batch has."""

    def __getitem__(self, step: int) -> AnyBatch:
        """The micro-batch of a step."""
        skipped: list[str] = []
        places = positions(step, self.rows.config.batch_size, self.process, self.num_processes)
        rows = [self.rows.at(position, skipped) for position in places]
        common = Batch(
            step=step,
            positions=list(places),
            image=torch.stack([row.sample.image for row in rows]),
            latents=_latents([row.sample for row in rows]),
            captions=[row.caption for row in rows],
            time_ids=torch.tensor([time_ids(row.sample) for row in rows]),
            keys=[row.sample.key for row in rows],
            skipped=skipped,
        )
        return self.joined(rows, common)


def read_ahead(
    batches: Batches[AnyBatch, Any, Any], start: int, end: int, workers: int, device: torch.device
) -> Iterator[AnyBatch]:
    """The micro-batches `start`..`end` - 1 in order, prepared by worker processes where there are any.

    Args:
        device: where they will go; for a GPU they come in pinned memory.
    """
    loader: DataLoader[AnyBatch] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, end),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator(),  # the loader's own seeds: they leave torch's global numbers alone
    )
    return iter(loader)


def time_ids(sample: Sample) -> list[float]:
    """Original height and width, crop top and left, target height and width, pixels: SDXL's conditions."""
    height, width = sample.image.shape[1:]
    original = sample.original_size or (height, width)
    return [float(value) for value in (*original, *sample.crop, height, width)]


def _latents(samples: list[Sample]) -> Tensor | None:
    latents = [sample.latents for sample in samples if sample.latents is not None]
    return torch.stack(latents).float() if len(latents) == len(samples) else None
