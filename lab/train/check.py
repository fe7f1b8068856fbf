"""Reads every file of a data set as the trainer will, and says what it found: `python -m lab.train.check DATA`, a folder of
images, a folder of shards, or one shard. Writes the index that the trainer will use. Ends with 1 where a sample is refused. What
a preset asks of its square beside that (a subject that is in it, something of the product that is hidden) the trainer says.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pfv_core.ad.opacity import SEEN_ABOVE

from .config import RunConfig, preset
from .data import DataError, Dataset, seeded
from .image_files import open_dataset
from .parts import Names

FOR_ONE_KIND = ("no_product", "no_pose", "no_scale")
WORKERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Finding:
    """What one sample holds.

    Attributes:
        name: of the image.
        refused: why it cannot be used; empty = it can.
        shortest_side: pixels, before resizing.
        has_caption: whether there is more than an empty one.
        selected: share of the square that the mask selects, 0..1; None = no mask.
        has_product, has_pose: whether a picture of the product alone lies beside it, and one of a pose.
        has_scale: whether it is known how large the subject beside the product is.
    """

    name: str = ""
    refused: str = ""
    shortest_side: int = 0
    has_caption: bool = False
    selected: float | None = None
    has_product: bool = False
    has_pose: bool = False
    has_scale: bool = False


class Findings(TorchDataset[Finding]):
    """One for each sample of a dataset."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> Finding:
        """Read the sample of a number."""
        try:
            sample = self.dataset.sample(number, seeded(0, number, "check"))
        except DataError as error:
            return Finding(refused=str(error))
        mask, size = sample.product_mask, sample.original_size or sample.image.shape[1:]
        selected = None if mask is None else float((mask > SEEN_ABOVE).float().mean())
        beside = (part is not None for part in (sample.product, sample.pose, sample.subject))
        return Finding(sample.name, "", min(size), bool(sample.caption), selected, *beside)


class Report:
    """What a data set holds, told one finding after the other.

    Args:
        image_size: side of the square that the trainer will cut, pixels.
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.used = 0
        self.refused: list[str] = []
        self.sides: tuple[int, int] | None = None
        masks = ("no_mask", "empty_mask", "full_mask")
        self.names = {kind: Names() for kind in ("small", "no_caption", *masks, *FOR_ONE_KIND)}

    def add(self, finding: Finding) -> None:
        """One more sample."""
        if finding.refused:
            self.refused.append(finding.refused)
            return
        self.used += 1
        least, most = self.sides or (finding.shortest_side, finding.shortest_side)
        self.sides = min(least, finding.shortest_side), max(most, finding.shortest_side)
        holds = {
            "small": finding.shortest_side < self.image_size,
            "no_caption": not finding.has_caption,
            "no_mask": finding.selected is None,
            "no_product": not finding.has_product,
            "no_pose": not finding.has_pose,
            "no_scale": not finding.has_scale,
            "empty_mask": finding.selected == 0.0,
            "full_mask": finding.selected == 1.0,
        }
        for kind, is_so in holds.items():
            if is_so:
                self.names[kind].add(finding.name)

    def lines(self) -> Iterator[str]:
        """In words; what is as it should be takes no line."""
        yield f"{self.used} of {self.used + len(self.refused)} samples can be used"
        if self.sides:
            yield f"shortest sides: {self.sides[0]} to {self.sides[1]} px, cut to squares of {self.image_size} px"
        said = {
            "small": f"smaller than {self.image_size} px, which will be enlarged",
            "no_caption": "with an empty caption",
            "no_mask": "without a mask, so that neither hide_kinds dataset nor a preset of RefAdGen or Strictly-ID can be used",
            "no_product": "without a picture of the product alone, so that no preset of RefAdGen can be used",
            "no_pose": "without a pose, so that no preset of Strictly-ID can be used",
            "no_scale": "without a scale in their JSON and without a subject mask, so that no preset of Strictly-ID can be used",
            "empty_mask": "with a mask that selects nothing (white = product), which RefAdGen and Strictly-ID refuse",
            "full_mask": "with a mask that selects everything, which hide_kinds dataset refuses (white = product)",
        }
        for kind in FOR_ONE_KIND:
            if self.names[kind].count == self.used:
                del said[kind]  # the data set has none, and other kinds of training do without
        yield from (self.names[kind].said(words) for kind, words in said.items() if self.names[kind].count)
        yield from (f"refused: {reason}" for reason in self.refused)


def check(dataset: Dataset, image_size: int, workers: int, tell: Callable[[str], None] = print) -> bool:
    """Read every sample and tell what was found; whether all can be used."""
    loader: DataLoader[Finding] = DataLoader(
        Findings(dataset),
        batch_size=None,
        sampler=range(len(dataset)),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    report = Report(image_size)
    for finding in loader:
        report.add(finding)
    for line in report.lines():
        tell(line)
    return not report.refused


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and check."""
    usual: RunConfig = preset("sdxl")
    parser = argparse.ArgumentParser("python -m lab.train.check", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of images, folder of shards, or one shard")
    parser.add_argument("--image-size", type=int, default=usual.image_size, help="of the training (%(default)s)")
    parser.add_argument("--index", type=Path, help="folder for the index of the data; default: .pfv_index beside them")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes that read; 0 = this one (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        dataset = open_dataset(given.data, given.image_size, given.index)
    except (DataError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    print(f"{given.data}: {dataset.identity}; its index is {dataset.index.file}", flush=True)
    if not check(dataset, given.image_size, given.workers):
        sys.exit(1)


if __name__ == "__main__":
    main()
