"""A micro-batch of a Strictly-ID ControlNet's training: hints, poses, appearances, and which of them are left out.

Everything random comes from a sample's position in the run (`batches`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pfv_core.ad.opacity import SEEN_ABOVE
from pfv_core.research.scale_map import rows_within, scale_hint

from .augment import displace
from .batches import Batch, Batches, Rows
from .data import Beside, DataError, Dataset, Sample, seeded
from .strict_id_config import ControlConfig
from .visibility import Sight, on_latents


@dataclass(frozen=True)
class ControlRow:
    """One sample of a batch.

    Attributes:
        sample: from the dataset.
        caption: empty where the text is dropped.
        hint: (4, H, W), 0..1, the product on black and the scale map.
        pose: its picture.
        appearance: (3, H, W) float, 0..1.
        appearance_keep_mask: (H, W) bool, True = the image encoder may see it.
        has_pose, has_appearance: False = it is left out.
    """

    sample: Sample
    caption: str
    hint: Tensor
    pose: Beside
    appearance: Tensor
    appearance_keep_mask: Tensor
    has_pose: bool
    has_appearance: bool


@dataclass(frozen=True)
class ControlBatch(Batch):
    """What a training step of a Strictly-ID ControlNet takes beside what every `Batch` has.

    Attributes:
        hint: (B, 4, H, W), 0..1, the product on black and the scale map.
        poses, appearances: (B, 3, S, S) as the image encoder takes them.
        appearance_patches: (B, N) bool, True = the image encoder may see it.
        pose_keys: content hashes of the poses, empty where nothing may be cached.
        pose_weight, appearance_weight: (B,) 1, or 0 where it is left out.
        subject: (B, H/8, W/8) float, 0..1, the share of a latent pixel that the subject covers; None = it counts as the rest.
    """

    hint: Tensor
    poses: Tensor
    appearances: Tensor
    appearance_patches: Tensor
    pose_keys: list[str]
    pose_weight: Tensor
    appearance_weight: Tensor
    subject: Tensor | None


class ControlRows(Rows[ControlRow, ControlConfig]):
    """The samples of a run, by their position in it.

    Args:
        dataset: the samples to train on.
        config: the run.
        sight: of the image encoder.
    """

    def __init__(self, dataset: Dataset, config: ControlConfig, sight: Sight) -> None:
        super().__init__(dataset, config)
        self.sight = sight

    def drawn(self, sample: Sample, position: int) -> ControlRow:
        """A sample with what is drawn for it at a position. DataError where it lacks what is needed."""
        config = self.config
        text, pose, appearance = torch.rand(3, generator=seeded(config.seed, position, "drops")).tolist()
        row = prepared(sample, self.sight)
        if config.subject_weight != 1 and sample.subject_mask is None:
            raise DataError(
                f"{sample.name or 'a sample'} has no subject mask (name.subject.png), and subject_weight is "
                f"{config.subject_weight:g}: add it, or set subject_weight 1"
            )
        image, keep_mask = self._displaced(row, seeded(config.seed, position, "appearance"))
        return ControlRow(
            sample=sample,
            caption="" if text < config.drop_text_share else sample.caption,
            hint=row.hint,
            pose=row.pose,
            appearance=image,
            appearance_keep_mask=keep_mask,
            has_pose=pose >= config.drop_pose_share,
            has_appearance=appearance >= config.drop_appearance_share,
        )

    def _displaced(self, row: ControlRow, generator: Generator) -> tuple[Tensor, Tensor]:
        """The appearance elsewhere in its picture; as it is where nothing of it would be left to see."""
        image, keep_mask = displace(row.appearance, row.appearance_keep_mask, self.config.displacement, generator)
        return (image, keep_mask) if self.sight.sees_enough(keep_mask) else (row.appearance, row.appearance_keep_mask)


class ControlBatches(Batches[ControlBatch, ControlRow, ControlConfig]):
    """The micro-batches of a process, by number.

    Args:
        dataset: the samples to train on.
        config: the run.
        sight: of the image encoder.
        process, num_processes: which share of each step is made.

    Raises:
        DataError: fewer samples than one batch of all processes takes.
    """

    def __init__(
        self, dataset: Dataset, config: ControlConfig, sight: Sight, process: int = 0, num_processes: int = 1
    ) -> None:
        super().__init__(ControlRows(dataset, config, sight), process, num_processes)
        self.sight = sight

    def joined(self, rows: Sequence[ControlRow], common: Batch) -> ControlBatch:
        """The rows of a micro-batch in one."""
        seen = [self.sight.seen(row.appearance[None], row.appearance_keep_mask[None]) for row in rows]
        return ControlBatch(
            **vars(common),
            hint=torch.stack([row.hint for row in rows]),
            poses=torch.cat([whole(self.sight, row.pose.image)[0] for row in rows]),
            appearances=torch.cat([pixels for pixels, _ in seen]),
            appearance_patches=torch.cat([patches for _, patches in seen]),
            pose_keys=[row.pose.key for row in rows],
            pose_weight=torch.tensor([float(row.has_pose) for row in rows]),
            appearance_weight=torch.tensor([float(row.has_appearance) for row in rows]),
            subject=self._subjects(rows),
        )

    def _subjects(self, rows: Sequence[ControlRow]) -> Tensor | None:
        masks = [row.sample.subject_mask for row in rows if row.sample.subject_mask is not None]
        return on_latents(torch.stack(masks)) if self.rows.config.subject_weight != 1 else None


def whole(sight: Sight, image: Tensor) -> tuple[Tensor, Tensor]:
    """What an image encoder takes of a (3, H, W) picture with nothing hidden: (1, 3, S, S) pixels and (1, N) patches."""
    return sight.seen(image[None], torch.ones(1, *image.shape[1:], dtype=torch.bool))


def prepared(sample: Sample, sight: Sight) -> ControlRow:
    """A sample with nothing left out and its appearance where it is.

    Raises:
        DataError: a sample without mask, scale or pose, a mask that selects nothing, a subject outside the picture.

    Paper: sections 3.1 and 6.2: the product is cut out of the target itself, and the target without the product is its
    appearance, where the data have no other picture of it. **Deviation**: the product is hidden from the image encoder, so
    that no pixel of it counts (PFV); the paper removes it from the picture and does not say how.
    """
    name = sample.name or "a sample"
    if sample.product_mask is None or sample.subject is None or sample.pose is None:
        lacks = {"mask": sample.product_mask, "scale or subject mask": sample.subject, "pose": sample.pose}
        raise DataError(f"{name} has no {' and no '.join(what for what, part in lacks.items() if part is None)}")
    product = sample.product_mask > SEEN_ABOVE
    if not bool(product.any()):
        raise DataError(f"the mask of {name} selects nothing in the square that is trained on: is white the product?")
    height, width = product.shape
    rows = rows_within(torch.tensor([sample.subject], dtype=torch.float64), height)
    if not bool(rows.any()):
        top, bottom = sample.subject
        raise DataError(
            f"the scale of {name} puts its subject at rows {top:.4g} to {bottom:.4g}, the square that is trained on has "
            f"{height}: none of them is in it"
        )
    subject_map = rows[:, :, None].expand(1, height, width).float()
    hint = scale_hint(sample.image[None], product[None], subject_map)[0]
    image = sample.image if sample.appearance is None else sample.appearance.image
    keep_mask = ~product if sample.appearance is None else torch.ones(image.shape[1:], dtype=torch.bool)
    if not sight.sees_enough(keep_mask):
        raise DataError(
            f"the mask of {name} hides every patch of it: is white the product? Or give it an appearance of its own"
        )
    return ControlRow(sample, sample.caption, hint, sample.pose, image, keep_mask, True, True)
