"""Training images that lie in files: opened by an index, read by number, cut to a square."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pfv_core.ad.opacity import SEEN_ABOVE

from .data import Beside, DataError, Sample
from .index import FOLDER, Index, is_settled, now, write_index
from .parts import APPEARANCE, MASK, POSE, PRODUCT, SUBJECT, Parts
from .pictures import VERSION, mask, picture
from .scale import rows_of_mask, subject_rows
from .stores import Store, store_at

MASKS = {MASK: "mask", SUBJECT: "subject mask"}  # what messages call them


@dataclass(frozen=True)
class Square:
    """How a picture becomes a square: its shortest side resized, then a centre crop. Pixels.

    Attributes:
        side: of the square.
        width, height: after resizing.
        left, top: what the crop cuts off.
    """

    side: int
    width: int
    height: int

    @classmethod
    def of(cls, size: tuple[int, int], side: int) -> Square:
        """The square of a picture of (width, height)."""
        scale = side / min(size)
        width, height = (max(side, round(length * scale)) for length in size)
        return cls(side, width, height)

    @property
    def left(self) -> int:
        """Cut off at the left."""
        return (self.width - self.side) // 2

    @property
    def top(self) -> int:
        """Cut off at the top."""
        return (self.height - self.side) // 2

    def cut(self, image: Image.Image, how: Image.Resampling) -> Image.Image:
        """The square of an image, which may have been decoded smaller than it is."""
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), how)
        return image.crop((self.left, self.top, self.left + self.side, self.top + self.side))


@dataclass(frozen=True)
class FileDataset:
    """Images in files, by number. What a worker process gets of it are names of files, however many images there are.

    Attributes:
        store: where they lie.
        index: of the store.
        image_size: side of the square, pixels.
    """

    store: Store
    index: Index
    image_size: int

    def __len__(self) -> int:
        return len(self.index)

    @property
    def identity(self) -> str:
        """Equal for equal lists of names and equal sizes of images, wherever they lie."""
        return f"{len(self)} images, {self.index.digest}, {self.image_size} px"

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """Read one sample; DataError, naming the file, where it is broken."""
        parts = self.store.parts(self.index, index)
        found = picture(parts.image, parts.name, self.image_size)
        square = Square.of(found.size, self.image_size)
        mask_file, product_file = parts.beside.get(MASK), parts.beside.get(PRODUCT)
        whole_mask, subject = (_mask(parts, kind, found.size) for kind in (MASK, SUBJECT))
        return Sample(
            image=_channels_first(square.cut(found.image, Image.Resampling.LANCZOS)),
            caption=parts.caption,
            product_mask=None if whole_mask is None else _values(square.cut(whole_mask, Image.Resampling.BOX)),
            subject_mask=None if subject is None else _values(square.cut(subject, Image.Resampling.BOX)),
            name=parts.name,
            key=self._key(parts.image, mask_file or b""),
            original_size=found.size[::-1],
            crop=(square.top, square.left),
            product=None if product_file is None else self._product(product_file, parts.name, found.size, square),
            product_key="" if product_file is None else self._key(product_file),
            pose=self._beside(parts, POSE),
            appearance=self._beside(parts, APPEARANCE),
            subject=_subject(parts, whole_mask, subject, found.size[1], square),
        )

    def require(self, kind: str, what: str, advice: str) -> None:
        """DataError, naming the first samples, if any lacks what lies beside others.

        Args:
            kind: of `parts.BESIDE`.
            what: it is, in words.
            advice: what to do.
        """
        missing = self.index.without[kind]
        if missing.count:
            raise DataError(
                f"{missing.said('of the images')} in {self.store.place} have no {what} beside them (name.{kind}.png): {advice}"
            )

    def _product(self, data: bytes, name: str, size: tuple[int, int], square: Square) -> Tensor:
        """(3, S, S) float, 0..1: the same square of it as of the image."""
        found = picture(data, f"the product picture of {name}", self.image_size)
        _check_size("product picture", name, found.size, size)
        return _channels_first(square.cut(found.image, Image.Resampling.LANCZOS))

    def _key(self, image: bytes, mask: bytes = b"") -> str:
        """A hash of what a picture is made from."""
        return hashlib.sha256(b"%d %d %d " % (VERSION, self.image_size, len(image)) + image + mask).hexdigest()

    def _beside(self, parts: Parts, kind: str) -> Beside | None:
        """A picture of any size, whose own square is cut."""
        data = parts.beside.get(kind)
        if data is None:
            return None
        found = picture(data, f"the {kind} of {parts.name}", self.image_size)
        square = Square.of(found.size, self.image_size)
        return Beside(_channels_first(square.cut(found.image, Image.Resampling.LANCZOS)), self._key(data))


def open_dataset(place: Path, image_size: int, index_folder: Path | None = None) -> FileDataset:
    """Open a .tar, a folder of .tar files, or a folder of images.

    Args:
        place: of the images.
        image_size: side of the square, pixels.
        index_folder: receives the index; None = `.pfv_index`, beside the images. An index that is there and holds is used.

    Raises:
        DataError: a file that is no .tar, no image, images without a caption; an index that cannot be written.
        FileNotFoundError: nothing is there.
    """
    store, whole = store_at(place), place.resolve()
    if index_folder is None:
        file = store.root / FOLDER / f"{whole.name}.safetensors"
    else:  # which may be of many data sets
        file = index_folder / f"{whole.name}-{hashlib.sha256(bytes(whole)).hexdigest()[:12]}.safetensors"
    return FileDataset(store, _index(store, file), image_size)


def _index(store: Store, file: Path) -> Index:
    """The index of a store as it is now."""
    with suppress(DataError):  # none yet, or one that is damaged
        found = Index(file)
        if store.is_indexed_by(found):
            return found
    _make_room(file, store.root)
    begun = now()
    write_index(store.scan(), file, begun)
    return Index(file)


def _make_room(file: Path, root: Path) -> None:
    """The index's folder, made before the times of the folder that it lies in are read; once that is settled again, where it
    was, or the index would hold for nobody."""
    if file.parent.is_dir():
        return
    was_settled = is_settled(root)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the index of the data cannot be written at {file} ({error}): give another folder for it (--index)"
        ) from error
    while was_settled and not is_settled(root):
        time.sleep(0.1)


def _check_size(what: str, name: str, found: tuple[int, int], size: tuple[int, int]) -> None:
    """DataError unless what lies beside an image has the image's (width, height)."""
    if found != size:
        raise DataError(
            f"the {what} of {name} is {found[1]}x{found[0]}, the image is {size[1]}x{size[0]}: give both the same size"
        )


def _mask(parts: Parts, kind: str, size: tuple[int, int]) -> Image.Image | None:
    """The whole of a mask that lies beside an image of (width, height); None = there is none."""
    data = parts.beside.get(kind)
    if data is None:
        return None
    what = MASKS[kind]
    found = mask(data, f"the {what} of {parts.name}")
    _check_size(what, parts.name, found.size, size)
    return found


def _subject(
    parts: Parts, product: Image.Image | None, subject: Image.Image | None, height: int, square: Square
) -> tuple[float, float] | None:
    """The subject's upper and lower limit as rows of the square, of a picture that is `height` pixels high: as its scale says
    them, or its mask, where it has no scale; None = unknown."""
    if parts.scale is not None:
        mask = None if product is None else _values(product) > SEEN_ABOVE
        limits = subject_rows(parts.scale, mask, height, parts.name)
    elif subject is not None:
        limits = rows_of_mask(_values(subject) > SEEN_ABOVE, parts.name)
    else:
        return None
    top, bottom = (row * square.height / height - square.top for row in limits)
    return top, bottom


def _channels_first(image: Image.Image) -> Tensor:
    """(3, H, W) float, 0..1."""
    return _values(image).permute(2, 0, 1).contiguous()  # HWC -> CHW


def _values(image: Image.Image) -> Tensor:
    """(H, W) or (H, W, 3) float, 0..1."""
    return torch.from_numpy(np.array(image)).float() / 255
