"""Training images with captions and masks: image folders and webdataset shards, and which sample a step sees.

A folder holds, for `name.jpg` (or .jpeg, .png, .webp), the caption `name.txt` (or `name.json` with a key `caption`) and,
where there is one, the mask `name.mask.png`, white = product. A shard is a .tar with the same names. Both are read by
index, so that a run which starts again reads on exactly where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MASK_SUFFIX = ".mask.png"
CAPTION_SUFFIXES = (".txt", ".json")
NAMED = 5  # files that an error names before it counts the rest


class DataError(ValueError):
    """Training data that cannot be used; the message names the files."""


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


class Dataset(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """The sample of a number. Everything random comes from the generator; DataError where it is broken."""


@dataclass(frozen=True)
class Blob:
    """Bytes of a file, or of a part of one."""

    file: Path
    offset: int = 0
    size: int = -1  # to the end

    def read(self) -> bytes:
        """The bytes."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


@dataclass(frozen=True)
class Entry:
    """Where the parts of one sample are; `name` is what messages call it."""

    name: str
    image: Blob
    caption: Blob
    caption_is_json: bool
    mask: Blob | None


class FileDataset:
    """Images that lie in files: shortest side resized, then a square centre crop.

    Args:
        entries: where the samples are.
        image_size: side of the square, pixels.
        place: what messages call the whole.
    """

    def __init__(self, entries: Sequence[Entry], image_size: int, place: str) -> None:
        self.entries = list(entries)
        self.image_size = image_size
        self.place = place

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def identity(self) -> str:
        """Equal for equal lists of names and equal sizes of images."""
        names = "\n".join(entry.name for entry in self.entries)
        return f"{len(self)} images, {hashlib.sha256(names.encode()).hexdigest()[:16]}, {self.image_size} px"

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """Read one sample; DataError, naming the file, where it is broken."""
        entry = self.entries[index]
        data = entry.image.read()
        image = _picture(data, entry.name)
        mask = None if entry.mask is None else entry.mask.read()
        placed, crop = _square(image, self.image_size, Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(placed)).permute(2, 0, 1).float() / 255  # HWC -> CHW
        return Sample(
            image=pixels.contiguous(),
            caption=_caption(entry),
            product_mask=None if mask is None else self._mask(mask, entry.name, image.size),
            name=entry.name,
            key=hashlib.sha256(b"%d %d " % (self.image_size, len(data)) + data + (mask or b"")).hexdigest(),
            original_size=(image.height, image.width),
            crop=crop,
        )

    def require_masks(self) -> None:
        """DataError, naming the first samples, if any has no mask."""
        missing = [entry.name for entry in self.entries if entry.mask is None]
        if missing:
            raise DataError(
                f"{_named(missing, 'of the images')} in {self.place} have no mask beside them (name{MASK_SUFFIX}, "
                "white = product): add them, or train without hide_kinds dataset"
            )

    def _mask(self, data: bytes, name: str, size: tuple[int, int]) -> Tensor:
        """(S, S) float, 0..1."""
        mask = _decoded(data, f"the mask of {name}").convert("L")
        if mask.size != size:
            raise DataError(
                f"the mask of {name} is {mask.height}x{mask.width}, the image is {size[1]}x{size[0]}: give both the "
                "same size"
            )
        placed, _ = _square(mask, self.image_size, Image.Resampling.BOX)
        return torch.from_numpy(np.array(placed)).float() / 255


def image_folder(folder: Path, image_size: int) -> FileDataset:
    """Every image in a folder and the folders in it, by name.

    Raises:
        DataError: no image, or images without a caption (the first are named).
        FileNotFoundError: no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of training images at {folder}")
    files = {file.relative_to(folder).as_posix(): Blob(file) for file in folder.rglob("*") if file.is_file()}
    return FileDataset(_entries(files, str(folder)), image_size, str(folder))


def shards(files: Sequence[Path], image_size: int) -> FileDataset:
    """Every image in webdataset shards (uncompressed .tar files), by index.

    Raises:
        DataError: a file that is no .tar, no image, images without a caption.
        FileNotFoundError: no such file.
    """
    entries = [entry for file in files for entry in _entries(_members(file), file.name)]
    return FileDataset(entries, image_size, ", ".join(map(str, files)))


def open_dataset(place: Path, image_size: int) -> FileDataset:
    """A .tar, a folder of .tar files, or a folder of images.

    Raises:
        DataError, FileNotFoundError: as `shards` and `image_folder`.
    """
    if place.suffix == ".tar":
        return shards([place], image_size)
    tars = sorted(place.glob("*.tar"))
    return shards(tars, image_size) if tars else image_folder(place, image_size)


def seeded(seed: int, position: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one sample of a run. Purposes do not disturb each other's numbers."""
    digest = hashlib.sha256(f"{seed}/{position}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Order:
    """Which sample comes when: every epoch is a new shuffle in which each sample comes once.

    The position of a sample in the run says everything, so nothing is kept, and where N processes take B samples each,
    they take together what one process would with batches of N * B.

    Args:
        length: samples of the dataset.
        seed: of the shuffles.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._epoch = -1
        self._shuffle: list[int] = []

    def index(self, position: int) -> int:
        """The dataset's number of the sample at a position of the run."""
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch:
            shuffle = torch.randperm(self.length, generator=seeded(self.seed, epoch, "epoch"))
            self._epoch, self._shuffle = epoch, shuffle.tolist()
        return self._shuffle[place]


def positions(step: int, batch_size: int, process: int = 0, num_processes: int = 1) -> range:
    """Positions in the run of the samples that a process takes in a micro-batch."""
    start = (step * num_processes + process) * batch_size
    return range(start, start + batch_size)


def check_length(length: int, batch_size: int, num_processes: int) -> None:
    """DataError if the dataset cannot fill one batch of different samples."""
    if length < batch_size * num_processes:
        many = f" on each of {num_processes} processes" if num_processes > 1 else ""
        raise DataError(
            f"the dataset has {length} samples, a batch takes {batch_size}{many}: add images, or lower batch_size "
            f"to {max(1, length // num_processes)} or less"
        )


def _entries(files: dict[str, Blob], place: str) -> list[Entry]:
    """Put images, captions and masks of the same name together."""
    images = sorted(name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not name.endswith(MASK_SUFFIX))
    if not images:
        raise DataError(f"{place} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    _refuse_equal_stems(images, place)
    entries, without = [], []
    for image in images:
        stem = _stem(image)
        suffix = next((suffix for suffix in CAPTION_SUFFIXES if stem + suffix in files), None)
        if suffix is None:
            without.append(image)
            continue
        mask = files.get(stem + MASK_SUFFIX)
        name = f"{place}/{image}"
        entries.append(Entry(name, files[image], files[stem + suffix], suffix == ".json", mask))
    if without:
        raise DataError(
            f"{_named(without, f'of {len(images)} images')} in {place} have no caption: put name.txt, or name.json with "
            "a key caption, beside each. An empty name.txt is an empty caption"
        )
    return entries


def _stem(name: str) -> str:
    return name[: name.rindex(".")]


def _refuse_equal_stems(images: list[str], place: str) -> None:
    seen: dict[str, str] = {}
    for name in images:
        other = seen.setdefault(_stem(name), name)
        if other != name:
            raise DataError(f"{place} holds both {other} and {name}: they would share a caption; rename one")


def _named(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {what} ({', '.join(names[:NAMED])}{more})"


def _members(file: Path) -> dict[str, Blob]:
    """Name -> place of every file in a .tar."""
    if not file.is_file():
        raise FileNotFoundError(f"no shard at {file}")
    try:
        with tarfile.open(file, "r:") as archive:
            return {m.name.removeprefix("./"): Blob(file, m.offset_data, m.size) for m in archive if m.isfile()}
    except tarfile.TarError as error:
        raise DataError(f"{file} is not a whole, uncompressed .tar ({error}): webdataset shards are") from error


def _decoded(data: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return image
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name} cannot be read as an image (no known format): replace or remove it, or train with broken_images skip"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{name} cannot be read as an image ({error}): replace or remove it, or train with broken_images skip"
        ) from error


def _picture(data: bytes, name: str) -> Image.Image:
    """Upright RGB; what is transparent becomes white."""
    image = ImageOps.exif_transpose(_decoded(data, name))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _square(image: Image.Image, size: int, how: Image.Resampling) -> tuple[Image.Image, tuple[int, int]]:
    """Shortest side resized to `size`, centre crop; and the (top, left) that was cut off."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if (width, height) != image.size:
        image = image.resize((width, height), how)
    return image.crop((left, top, left + size, top + size)), (top, left)


def _caption(entry: Entry) -> str:
    data = entry.caption.read()
    try:
        text = data.decode("utf-8-sig")
        if not entry.caption_is_json:
            return text.strip()
        caption = json.loads(text)["caption"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the caption of {entry.name} is not readable ({error!r}): expected UTF-8 text, or JSON with a key caption"
        ) from error
    if not isinstance(caption, str):
        raise DataError(f"the caption of {entry.name} is {caption!r}, expected text under the key caption")
    return caption.strip()
