"""A micro-batch of an adapter's training: what the image encoder may see, where the image prompt rules, and the step's gate.

The gate is drawn for the step, all else for a sample's position in the run (`batches`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pfv_core.attention.control import Gate

from .batches import Batch, Batches
from .config import TrainConfig
from .data import Dataset, seeded
from .masks import pick
from .prompt_rows import PromptRow, PromptRows
from .visibility import Visibility, on_latents


@dataclass(frozen=True)
class PromptBatch(Batch):
    """What a training step of an adapter takes beside what every `Batch` has.

    Attributes:
        pixels: (B, 3, S, S) of the references as the image encoder takes them; zeros where the image is dropped.
        patches: (B, N) bool, True = the image encoder may see it.
        region: (B, H/8, W/8) float, 0..1, the share of a latent pixel that the image prompt rules; None = all everywhere.
        text_share: (B,) what the text keeps inside the region, 0..1.
        has_image: (B,) bool, False = the negative image prompt takes the place of the sample's.
        gate: of the step.
        token_keys: content hashes of the images with their hidden parts, empty where nothing may be cached.
    """

    pixels: Tensor
    patches: Tensor
    region: Tensor | None
    text_share: Tensor
    has_image: Tensor
    gate: Gate
    token_keys: list[str]


class PromptBatches(Batches[PromptBatch, PromptRow, TrainConfig]):
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
        super().__init__(PromptRows(dataset, config, visibility), process, num_processes)
        self.visibility = visibility

    def joined(self, rows: Sequence[PromptRow], common: Batch) -> PromptBatch:
        """The rows of a micro-batch in one."""
        pixels, patches = zip(*(self._seen(row) for row in rows), strict=True)
        regions = torch.stack([row.region for row in rows])
        config = self.rows.config
        return PromptBatch(
            **vars(common),
            pixels=torch.cat(pixels),
            patches=torch.cat(patches),
            region=None if bool((regions == 1).all()) else on_latents(regions),
            text_share=torch.tensor([row.text_share for row in rows]),
            has_image=torch.tensor([row.has_image for row in rows]),
            gate=Gate(pick(config.gates, seeded(config.seed, common.step, "gate"))),
            token_keys=[row.token_key for row in rows],
        )

    def _seen(self, row: PromptRow) -> tuple[Tensor, Tensor]:
        if not row.has_image:
            return self.visibility.nothing_seen()
        return self.visibility.seen(row.reference[None], row.keep_mask[None])
