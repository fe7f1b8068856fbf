"""Training samples by number, and which of them a step sees.

Everything here follows from a seed and from positions in the run, so nothing is kept: a run that starts again, on however
many processes, takes the samples that it would have taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class DataError(ValueError):
    """Training data that cannot be used; the message names the files."""


@dataclass(frozen=True)
class Beside:
    """A picture of its own that lies beside a training image.

    Attributes:
        image: (3, H, W) float, 0..1.
        key: a hash of everything it is made from; empty = it is never cached.
    """

    image: Tensor
    key: str = ""


@dataclass(frozen=True)
class Sample:
    """One training image.

    Attributes:
        image: (3, H, W) float, 0..1; H and W multiples of 8.
        caption: what the image shows; may be empty.
        product_mask: (H, W) float, 0..1, 1 = product, what a dataset mask hides; None = unknown.
        region: (H, W) float, 0..1, 1 = an image prompt rules here; None = unknown.
        name: the file, for messages.
        key: a hash of everything the image is made from; empty = the sample is never cached.
        original_size: (height, width) before resizing, pixels; None = as it is.
        crop: (top, left) that the crop cut off, pixels after resizing.
        latents: (4, H/8, W/8), scaled as the U-Net takes them, where the dataset has them already; None = encode the image.
        product: (3, H, W) float, 0..1, a picture of the product alone; None = there is none.
        product_key: a hash of what it is made from; empty = it is never cached.
        pose, appearance: pictures of the subject beside the product; None = there is none.
        subject: upper and lower limit of that subject, rows of the image; None = unknown.
        subject_mask: (H, W) float, 0..1, 1 = that subject, as far as it is seen; None = unknown.
    """

    image: Tensor
    caption: str
    product_mask: Tensor | None = None
    region: Tensor | None = None
    name: str = ""
    key: str = ""
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    latents: Tensor | None = None
    product: Tensor | None = None
    product_key: str = ""
    pose: Beside | None = None
    appearance: Beside | None = None
    subject: tuple[float, float] | None = None
    subject_mask: Tensor | None = None


class Dataset(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The sample of a number. Everything random comes from the generator; DataError where it is broken."""


def seeded(seed: int, position: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one sample of a run. Purposes do not disturb each other's numbers."""
    digest = hashlib.sha256(f"{seed}/{position}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Order:
    """Which sample comes when: every epoch is a new shuffle in which each sample comes once.

    The position of a sample in the run says everything, so nothing is kept but the shuffle of one epoch (4 bytes a sample),
    and where N processes take B samples each, they take together what one process would with batches of N * B.

    Args:
        length: samples of the dataset.
        seed: of the shuffles.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._epoch = -1
        self._shuffle = torch.empty(0, dtype=torch.int32)

    def index(self, position: int) -> int:
        """The dataset's number of the sample at a position of the run."""
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch:
            generator = seeded(self.seed, epoch, "epoch")
            self._shuffle = torch.randperm(self.length, generator=generator).to(torch.int32)
            self._epoch = epoch
        return int(self._shuffle[place])

    def __getstate__(self) -> dict[str, int]:
        """Without the shuffle, which each worker process draws for itself."""
        return {"length": self.length, "seed": self.seed}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def positions(step: int, batch_size: int, process: int = 0, num_processes: int = 1) -> range:
    """Positions in the run of the samples that a process takes in a micro-batch."""
    start = (step * num_processes + process) * batch_size
    return range(start, start + batch_size)


def held_out(length: int, count: int, seed: int) -> list[int]:
    """Numbers of the samples that are shown and measured in validations, and never trained on: ascending.

    Raises:
        DataError: nothing would be left to train on.
    """
    if count >= length:
        raise DataError(
            f"the dataset has {length} samples, validation_images holds out {count}: add images, lower validation_images, or "
            "give validation data of their own"
        )
    return sorted(torch.randperm(length, generator=seeded(seed, 0, "held out"))[:count].tolist())


@dataclass(frozen=True)
class Without:
    """A dataset without some of its samples; ascending numbers."""

    dataset: Dataset
    left_out: Sequence[int]

    def __len__(self) -> int:
        return len(self.dataset) - len(self.left_out)

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The sample of a number among those that are left."""
        for number in self.left_out:
            index += number <= index
        return self.dataset.sample(index, generator)


@dataclass(frozen=True)
class Only:
    """Some samples of a dataset."""

    dataset: Dataset
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The sample of a number among them."""
        return self.dataset.sample(self.numbers[index], generator)


def check_length(length: int, batch_size: int, num_processes: int) -> None:
    """DataError if the dataset cannot fill one batch of different samples."""
    if length < batch_size * num_processes:
        many = f" on each of {num_processes} processes" if num_processes > 1 else ""
        raise DataError(
            f"there are {length} samples to train on, a batch takes {batch_size}{many}: add images, lower batch_size to "
            f"{max(1, length // num_processes)} or less, or hold out fewer (validation_images)"
        )
