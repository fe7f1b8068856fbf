"""Which files make a sample: `name.jpg` (or .jpeg, .png, .webp), its caption `name.txt` (or `name.json` with a key `caption`;
where the scale is known `name.json` has a key `scale`, beside a `name.txt` too), and beside it, where they are, the mask
`name.mask.png`, white = product, the product alone, `name.product.png`, and of whoever is beside the product the pose, the
appearance and the mask, `name.pose.png`, `name.appearance.png` and `name.subject.png`, white = subject."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .data import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MASK, PRODUCT, POSE, APPEARANCE, SUBJECT = BESIDE = ("mask", "product", "pose", "appearance", "subject")
"""Kinds of pictures that may lie beside an image, as name.mask.png."""
CAPTION_SUFFIXES = TEXT, DESCRIBED = (".txt", ".json")
NAMED = 5  # files that an error names before it counts the rest


@dataclass(frozen=True)
class Parts:
    """The files of one sample.

    Attributes:
        name: of the image, for messages.
        image: content.
        texts: contents of what is written beside it, by suffix, one of CAPTION_SUFFIXES or both.
        beside: contents of what lies beside the image, by its kind, where it does.
    """

    name: str
    image: bytes
    texts: Mapping[str, bytes]
    beside: Mapping[str, bytes]

    @property
    def caption(self) -> str:
        """What the image shows: name.txt says it, or where there is none name.json. DataError where that cannot be read."""
        try:
            caption = self.texts[TEXT].decode("utf-8-sig") if TEXT in self.texts else self._described()["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the caption of {self.name} is not readable ({error!r}): expected UTF-8 text, or JSON with a key caption"
            ) from error
        if not isinstance(caption, str):
            raise DataError(f"the caption of {self.name} is {caption!r}, expected text under the key caption")
        return caption.strip()

    @property
    def scale(self) -> object:
        """What the key `scale` of name.json holds; None = there is none. DataError where there is a name.json that cannot be
        read."""
        if DESCRIBED not in self.texts:
            return None
        try:
            described = self._described()
        except ValueError as error:
            raise DataError(f"the JSON file of {self.name} is not readable ({error!r})") from error
        return described.get("scale") if isinstance(described, dict) else None

    def _described(self) -> Any:
        return json.loads(self.texts[DESCRIBED].decode("utf-8-sig"))


def stem(file: str) -> str:
    """What the names of a sample's files share."""
    suffix = _suffix(file)
    return file.removesuffix(suffix) if suffix else file.rpartition(".")[0]


def is_image(file: str) -> bool:
    """By its name."""
    return file.lower().endswith(IMAGE_SUFFIXES) and not _suffix(file)


def beside(image: str, kind: str) -> str:
    """The name of what lies beside an image."""
    return f"{stem(image)}.{kind}.png"


def _suffix(file: str) -> str:
    """That of what lies beside an image; empty where it is none."""
    return next((suffix for kind in BESIDE if file.endswith(suffix := f".{kind}.png")), "")


@dataclass
class Names:
    """Some names, of which an error says the first and counts the rest."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(name)

    def said(self, what: str) -> str:
        """How many there are of what, and which."""
        more = f" and {self.count - NAMED} more" if self.count > NAMED else ""
        return f"{self.count} {what} ({', '.join(self.first)}{more})"


class Inventory:
    """What the files of a data set amount to, told one sample after the other.

    Args:
        place: what messages call the whole.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.images = 0
        self.without_caption = Names()
        self.without = {kind: Names() for kind in BESIDE}

    def image_of(self, files: Collection[str]) -> str | None:
        """The image among the files of one stem, counted; None where there is none.

        Raises:
            DataError: two of them.
        """
        images = sorted(file for file in files if is_image(file))
        if not images:
            return None
        if len(images) > 1:
            raise DataError(
                f"{self.place} holds both {images[0]} and {images[1]}: they would share a caption; rename one"
            )
        name = images[0]
        self.images += 1
        if not any(stem(name) + suffix in files for suffix in CAPTION_SUFFIXES):
            self.without_caption.add(name)
        for kind, without in self.without.items():
            if beside(name, kind) not in files:
                without.add(name)
        return name

    def check(self) -> None:
        """DataError where there is no image, or one without a caption."""
        if not self.images:
            raise DataError(f"{self.place} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        if self.without_caption.count:
            raise DataError(
                f"{self.without_caption.said(f'of {self.images} images')} in {self.place} have no caption: put name.txt, or "
                "name.json with a key caption, beside each. An empty name.txt is an empty caption"
            )


def texts_of(image: str, read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """What is written beside an image, by suffix, of what `read` gives for a file; None = it is not there.

    Raises:
        DataError: none of CAPTION_SUFFIXES is there.
    """
    found = {suffix: read(stem(image) + suffix) for suffix in CAPTION_SUFFIXES}
    texts = {suffix: text for suffix, text in found.items() if text is not None}
    if not texts:
        raise DataError(f"{image} has no caption any more: it had one when the data set was indexed")
    return texts


def groups(files: Sequence[str]) -> dict[str, list[str]]:
    """The files by their stems."""
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(stem(file), []).append(file)
    return found
