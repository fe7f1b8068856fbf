"""One micro-batch: its samples, as the models take them, and its gate.

Everything random of a sample comes from its position in the run, and the gate from the step: whoever makes the batch,
in whichever process or worker, makes the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pfv_core.attention.control import Gate

from .config import TrainConfig
from .data import Dataset, Sample, check_length, positions, seeded
from .masks import pick
from .rows import Row, Rows
from .visibility import Visibility, on_latents


@dataclass(frozen=True)
class Batch:
    """What a training step takes. B samples of H x W pixels.

    Attributes:
        step: the micro-batch it is.
        positions: of its samples in the run.
        image: (B, 3, H, W) float, 0..1: what the U-Net is to make.
        latents: (B, 4, H/8, W/8) of the images, where the dataset has them.
        captions: emptied where the text is dropped.
        pixels: (B, 3, S, S) of the references as the image encoder takes them; zeros where the image is dropped.
        patches: (B, N) bool, True = the image encoder may see it.
        region: (B, H/8, W/8) float, 0..1, the share of a latent pixel that the image prompt rules; None = all everywhere.
        text_share: (B,) what the text keeps inside the region, 0..1.
        has_image: (B,) bool, False = the negative image prompt takes the place of the sample's.
        time_ids: (B, 6) original height and width, crop top and left, target height and width, pixels.
        gate: of the step.
        keys: content hashes of the images, empty where nothing may be cached.
        token_keys: the same for the image with its hidden parts.
        skipped: broken samples that others took the place of.
    """

    step: int
    positions: list[int]
    image: Tensor
    latents: Tensor | None
    captions: list[str]
    pixels: Tensor
    patches: Tensor
    region: Tensor | None
    text_share: Tensor
    has_image: Tensor
    time_ids: Tensor
    gate: Gate
    keys: list[str]
    token_keys: list[str]
    skipped: list[str]

    def pin_memory(self) -> Batch:
        """The same in memory from which a GPU copies while the processor works on; torch's loader calls it."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)


class Batches(TorchDataset[Batch]):
    """The micro-batches of a process, by number.

    Args:
        dataset: the samples to train on.
        config: the run.
        visibility: hides, and bounds.
        process, num_processes: which share of each step is made.

    Raises:
        DataError: fewer samples than one batch of all processes takes.
    """

    def __init__(
        self, dataset: Dataset, config: TrainConfig, visibility: Visibility, process: int = 0, num_processes: int = 1
    ) -> None:
        check_length(len(dataset), config.batch_size, num_processes)
        self.rows = Rows(dataset, config, visibility)
        self.config = config
        self.process = process
        self.num_processes = num_processes

    def __getitem__(self, step: int) -> Batch:
        """The micro-batch of a step."""
        config = self.config
        skipped: list[str] = []
        places = positions(step, config.batch_size, self.process, self.num_processes)
        rows = [self.rows.at(position, skipped) for position in places]
        pixels, patches = zip(*(self._seen(row) for row in rows), strict=True)
        regions = torch.stack([row.region for row in rows])
        return Batch(
            step=step,
            positions=list(places),
            image=torch.stack([row.sample.image for row in rows]),
            latents=_latents([row.sample for row in rows]),
            captions=[row.caption for row in rows],
            pixels=torch.cat(pixels),
            patches=torch.cat(patches),
            region=None if bool((regions == 1).all()) else on_latents(regions),
            text_share=torch.tensor([row.text_share for row in rows]),
            has_image=torch.tensor([row.has_image for row in rows]),
            time_ids=torch.tensor([time_ids(row.sample) for row in rows]),
            gate=Gate(pick(config.gates, seeded(config.seed, step, "gate"))),
            keys=[row.sample.key for row in rows],
            token_keys=[row.token_key for row in rows],
            skipped=skipped,
        )

    def _seen(self, row: Row) -> tuple[Tensor, Tensor]:
        visibility = self.rows.visibility
        if not row.has_image:
            return visibility.nothing_seen()
        return visibility.seen(row.reference[None], row.keep_mask[None])


def read_ahead(batches: Batches, start: int, end: int, workers: int, device: torch.device) -> Iterator[Batch]:
    """The micro-batches `start`..`end` - 1 in order, prepared by worker processes where there are any.

    Args:
        device: where they will go; for a GPU they come in pinned memory.
    """
    loader: DataLoader[Batch] = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, end),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator(),  # the loader's own seeds: they leave torch's global numbers alone
    )
    return iter(loader)


def _latents(samples: list[Sample]) -> Tensor | None:
    latents = [sample.latents for sample in samples if sample.latents is not None]
    return torch.stack(latents).float() if len(latents) == len(samples) else None


def time_ids(sample: Sample) -> list[float]:
    """Original height and width, crop top and left, target height and width, pixels: SDXL's conditions."""
    height, width = sample.image.shape[1:]
    original = sample.original_size or (height, width)
    return [float(value) for value in (*original, *sample.crop, height, width)]
