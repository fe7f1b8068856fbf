"""Rows become jobs: row x format x seed, each known by the hash of everything that goes into it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product as combinations
from pathlib import Path
from typing import Any

from .columns import FORMATS, MASKS, NAME, SEEDS, Columns
from .named_inputs import SAVED_AS, NamedInput, Prompt, UnknownInputError, Workflow, coerced
from .pictures import Picture, PictureError, White, read_picture
from .rows import Row
from .safe_paths import UnsafePathError, file_in, slug

IDENTITY = 1  # goes into every hash: a change of what a job means makes other jobs
MAX_JOBS_PER_ROW = 10_000
MAX_SEED = 2**64 - 1
MAX_SIDE = 16_384
LATENT_STEP = 8  # pixels of a latent's cell: other sides would be cut off silently

Size = tuple[int, int]  # width, height


class RowError(ValueError):
    """A row that makes no job; the message says what was expected."""


@dataclass(frozen=True)
class Job:
    """One run of the workflow.

    Attributes:
        id: SHA-256 of all that goes in.
        line: of the catalogue.
        name: of the row.
        size: width and height that were asked for; None = the workflow's.
        seed: that was asked for; None = the workflow's.
        values: input -> value, pictures aside.
        pictures: input -> picture.
    """

    id: str
    line: int
    name: str
    size: Size | None
    seed: int | None
    values: dict[NamedInput, Any] = field(repr=False)
    pictures: dict[NamedInput, Picture] = field(repr=False)

    @property
    def stem(self) -> str:
        """The beginning of its files' names: unlike any other job's, and the same in every run."""
        size = [f"{self.size[0]}x{self.size[1]}"] if self.size else []
        seed = [f"s{self.seed}"] if self.seed is not None else []
        return "_".join([slug(self.name), *size, *seed, self.id[:16]])

    def prompt(self, workflow: Workflow, uploaded: dict[NamedInput, str]) -> Prompt:
        """The workflow as it is posted; `uploaded` says what the server calls the pictures."""
        return workflow.filled({**self.values, **uploaded}, f"pfv_catalogue/{self.id[:32]}")


class JobMaker:
    """Makes the jobs of a row.

    Args:
        workflow: what is run.
        columns: which inputs the columns fill.
        inputs: the only folder that pictures are read from.
        formats: of rows that name none, as they would stand in the column.
        seeds: of rows that name none.
    """

    def __init__(self, workflow: Workflow, columns: Columns, inputs: Path, formats: str = "", seeds: str = "") -> None:
        self.workflow = workflow
        self._columns = columns
        self._inputs = inputs
        self._formats = parse_formats(formats)
        self._seeds = parse_seeds(seeds)
        self._product_white = _product_white(workflow)
        self._skeleton = _identity_of_nodes(workflow)

    def count(self, row: Row) -> int:
        """How many jobs a row makes, without looking at its pictures.

        Raises:
            RowError: its formats or seeds cannot be read.
        """
        formats, seeds = self._choices(row)
        return len(formats) * len(seeds)

    def jobs_of(self, row: Row) -> Iterator[Job]:
        """The jobs of a row.

        Raises:
            RowError: something in it is wrong; then the row makes no job at all.
        """
        try:
            formats, seeds = self._choices(row)
            jobs = [self._job(row, size, seed) for size, seed in combinations(formats, seeds)]
        except UnknownInputError as error:
            raise RowError(str(error.args[0])) from error
        except (UnsafePathError, PictureError, OSError, ValueError) as error:
            raise RowError(str(error)) from error
        yield from jobs

    def _choices(self, row: Row) -> tuple[Sequence[Size | None], Sequence[int | None]]:
        formats = parse_formats(row.fields[FORMATS]) if FORMATS in row.fields else self._formats
        seeds = parse_seeds(row.fields[SEEDS]) if SEEDS in row.fields else self._seeds
        if len(formats) * len(seeds) > MAX_JOBS_PER_ROW:
            raise RowError(
                f"{len(formats)} formats x {len(seeds)} seeds are more than {MAX_JOBS_PER_ROW} jobs of one row"
            )
        return formats or [None], seeds or [None]

    def _job(self, row: Row, size: Size | None, seed: int | None) -> Job:
        pictures = self._pictures(row, size)
        values = self._values(row)
        if size:
            values |= self._size_values(size, pictures)
        if seed is not None:
            values |= self._set("seed", seed)
        name = self._name(row, pictures)
        return Job(self._id(name, values, pictures), row.line, name, size, seed, values, pictures)

    def _values(self, row: Row) -> dict[NamedInput, Any]:
        """Inputs that hold no picture; a column that names its input outranks one that has several."""
        found: dict[NamedInput, Any] = {}
        for column in sorted(row.fields, key=lambda column: "." in column):
            if column in (NAME, FORMATS, SEEDS, *MASKS):
                continue
            for named in self._columns.targets(column):
                if named.name == SAVED_AS:
                    raise RowError(f"column {column!r}: files are named by this command; leave {SAVED_AS} out")
                if not named.is_picture:
                    found[named] = coerced(named, self.workflow.value(named), row.fields[column])
        return found

    def _pictures(self, row: Row, size: Size | None) -> dict[NamedInput, Picture]:
        masks = {owner: row.fields[mask] for mask, owner in MASKS.items() if mask in row.fields}
        for owner in masks:
            if owner not in row.fields:
                raise RowError(f"{owner}_mask marks a part of {owner}, which the row has not")
        found: dict[NamedInput, Picture] = {}
        for column in sorted(row.fields, key=lambda column: "." in column):
            if column in (NAME, FORMATS, SEEDS, *MASKS):
                continue
            targets = [named for named in self._columns.targets(column) if named.is_picture]
            if targets:
                picture = self._picture(column, row.fields[column], masks.get(column), size)
                found |= dict.fromkeys(targets, picture)
        return found

    def _picture(self, column: str, value: Any, mask: Any, size: Size | None) -> Picture:
        white: White = self._product_white if column == "product" else "transparent"
        text = _for_format(column, value, size)
        mask_file = file_in(self._inputs, _for_format(f"{column}_mask", mask, size)) if mask is not None else None
        return read_picture(file_in(self._inputs, text), text, mask_file, white)

    def _size_values(self, size: Size, pictures: dict[NamedInput, Picture]) -> dict[NamedInput, Any]:
        if self._columns.takes("width") and self._columns.takes("height"):
            values = self._set("width", size[0]) | self._set("height", size[1])
            in_latents = any("Latent" in named.class_type for named in values)
            return values if not in_latents else _checked_step(size, values)
        products = {picture for named, picture in pictures.items() if named in self._columns.targets("product")}
        if not products:
            raise RowError("the workflow has no input for the size: map width and height, or leave the formats out")
        for picture in products:
            if picture.size != size:
                raise RowError(
                    f"in this workflow the ad has the product photo's size: {picture.text!r} is "
                    f"{picture.size[0]}x{picture.size[1]}, the format {size[0]}x{size[1]}; give a photo for each format, "
                    "as in 'cup_{width}x{height}.png'"
                )
        return _checked_step(size, {})

    def _set(self, column: str, value: int) -> dict[NamedInput, Any]:
        return {named: coerced(named, self.workflow.value(named), value) for named in self._columns.targets(column)}

    def _name(self, row: Row, pictures: dict[NamedInput, Picture]) -> str:
        if NAME in row.fields:
            return str(row.fields[NAME])
        for column in ("product", "reference"):
            if column in row.fields:
                return Path(str(row.fields[column])).stem
        return next((picture.file.stem for picture in pictures.values()), "ad")

    def _id(self, name: str, values: dict[NamedInput, Any], pictures: dict[NamedInput, Picture]) -> str:
        filled = sorted((named.node_id, named.name, value) for named, value in values.items())
        shown = sorted((named.node_id, named.name, picture.identity) for named, picture in pictures.items())
        content = [IDENTITY, self._skeleton, name, filled, shown]
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def parse_formats(value: Any) -> list[Size]:
    """`1024x1024; 1080x1350`, or a list of such texts or of pairs -> widths and heights.

    Raises:
        RowError: something else, or one format twice.
    """
    items = _items(value)
    found = [_size(item) for item in items]
    return _distinct("format", found)


def parse_seeds(value: Any) -> list[int]:
    """`1; 2; 5-8`, a number, or a list of numbers -> seeds.

    Raises:
        RowError: something else, or one seed twice.
    """
    found: list[int] = []
    for item in _items(value):
        match = re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", str(item)) if not isinstance(item, bool | float) else None
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= first <= last <= MAX_SEED:
            raise RowError(f"{item!r} is no seed: expected whole numbers from 0 to 2^64 - 1, or a range such as 1-4")
        if last - first >= MAX_JOBS_PER_ROW:
            raise RowError(f"{item!r} are more than {MAX_JOBS_PER_ROW} seeds")
        found += range(first, last + 1)
    return _distinct("seed", found)


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [item for item in re.split(r"[;,\s]+", re.sub(r"\s*-\s*", "-", value)) if item]
    return value if isinstance(value, list) else [value]


def _size(item: Any) -> Size:
    sides = item if isinstance(item, list) else re.split("[xX]", item) if isinstance(item, str) else []
    numbers = [int(side) for side in sides if re.fullmatch(r"\d{1,5}", str(side))]
    if len(numbers) != 2 or len(sides) != 2 or not all(1 <= number <= MAX_SIDE for number in numbers):
        raise RowError(f"{item!r} is no format: expected WIDTHxHEIGHT in pixels, each 1 to {MAX_SIDE}")
    return numbers[0], numbers[1]


def _distinct(kind: str, found: list[Any]) -> list[Any]:
    if len(set(found)) < len(found):
        raise RowError(f"a {kind} stands twice in {found}")
    return found


def _checked_step(size: Size, values: dict[NamedInput, Any]) -> dict[NamedInput, Any]:
    if any(side % LATENT_STEP for side in size):
        raise RowError(f"format {size[0]}x{size[1]}: this workflow makes sides that are multiples of {LATENT_STEP}")
    return values


def _for_format(column: str, value: Any, size: Size | None) -> str:
    """A path with `{width}`, `{height}` and `{format}` filled in."""
    if not isinstance(value, str):
        raise RowError(f"column {column!r} takes the path of a picture, got {value!r}")
    if size is None:
        return value
    width, height = map(str, size)
    return value.replace("{width}", width).replace("{height}", height).replace("{format}", f"{width}x{height}")


def _product_white(workflow: Workflow) -> White:
    """Whether the workflow takes a product as what is opaque (a cut-out) or as what is transparent (painted over)."""
    choices = {node["inputs"].get("product_mask_selects") for node in workflow.nodes.values()} - {None}
    if len(choices) > 1:
        raise ValueError(f"the workflow's nodes disagree in product_mask_selects: {sorted(map(str, choices))}")
    return "transparent" if choices == {"product"} else "opaque"


def _identity_of_nodes(workflow: Workflow) -> str:
    """Hash of what the workflow does: neither titles nor where it saves."""
    nodes = {
        node_id: (node["class_type"], {name: value for name, value in node["inputs"].items() if name != SAVED_AS})
        for node_id, node in workflow.nodes.items()
    }
    return hashlib.sha256(json.dumps(nodes, sort_keys=True).encode()).hexdigest()
