"""Rows become jobs: row x format x seed, each known by the hash of what is posted for it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from ..sources.places import Places
from ..sources.safe_paths import shown, slug
from ..sources.source import SourceError
from ..table.columns import DEPTHS, FORMATS, MASKS, NAME, SEEDS, Columns
from ..table.rows import Row
from ..workflow.input_kinds import SAVED_AS, coerced, normalised
from ..workflow.named_inputs import NamedInput, Prompt, UnknownInputError, Workflow, title_of
from ..workflow.picture_uses import (
    CANVAS,
    COMPOSITE,
    cuts_out,
    hides,
    is_pasted,
    readers_of_mask,
    selects_of,
    white_of,
)
from .pictures import Picture, PictureError, PictureIndex, White, read_picture

IDENTITY = 2  # goes into every hash and every line of the manifest: a change of what a job means makes other jobs
MAX_JOBS_PER_ROW = 10_000
MAX_SEED = 2**64 - 1
MAX_SIDE = 16_384
LATENT_STEP = 8  # pixels of a latent's cell: other sides would be cut off silently
SEED_INPUTS = ("seed", "noise_seed")
NEEDED = ("product", "product_depth", "reference", "reference_depth", "prompt")
REPORT_MARK = "pfv_catalogue_job"
CUSTOM, CUSTOM_SIDES = "custom", ("custom_width", "custom_height")  # the format of a canvas that has them as its size

Size = tuple[int, int]  # width, height
Reading = Callable[[str, str | None, White], Picture]
"""A path, its mask's and what the mask's white becomes -> the picture."""


class RowError(ValueError):
    """A row that makes no job; the message says what was expected."""


@dataclass(frozen=True)
class Job:
    """One run of the workflow.

    Attributes:
        id: SHA-256 of what is posted, and of the name.
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

    def stem(self, size: Size | None) -> str:
        """The beginning of the name of a file of that width and height: unlike any other job's, the same in every run."""
        sides = [f"{size[0]}x{size[1]}"] if size else []
        seed = [f"s{self.seed}"] if self.seed is not None else []
        return "_".join([slug(self.name), *sides, *seed, self.id[:16]])

    def prompt(self, workflow: Workflow, uploaded: Mapping[NamedInput, str], mark: str = "") -> Prompt:
        """The workflow as it is posted.

        Args:
            workflow: what is run.
            uploaded: what the server calls each picture.
            mark: another one makes the server save anew what it believes to have saved.
        """
        prompt = workflow.filled({**self.values, **uploaded}, f"pfv_catalogue/{self.id[:32]}{mark}")
        for node in prompt.values():
            if node["class_type"] == COMPOSITE:
                # A host leaves a node out of its history whose result it has already: an input that no node knows, and that
                # its cache sees, makes it paste, and report, for this job too.
                node["inputs"][REPORT_MARK] = f"{self.id[:32]}{mark}"
        return prompt

    def seeds(self, workflow: Workflow) -> dict[str, Any]:
        """Every seed that is posted, by the name of its input."""
        free = [named for named in workflow.inputs if named.name in SEED_INPUTS]
        return {str(named): self.values.get(named, workflow.value(named)) for named in free}


class JobMaker:
    """Makes the jobs of a row.

    Args:
        workflow: what is run.
        columns: which inputs the columns fill.
        places: where pictures may come from.
        index: which pictures were read before.
        formats: of rows that name none, as they would stand in the column.
        seeds: of rows that name none.
        own: columns that a row may leave out although without them an ad would show what the workflow happens to hold.
    """

    def __init__(
        self,
        workflow: Workflow,
        columns: Columns,
        places: Places,
        index: PictureIndex,
        formats: str = "",
        seeds: str = "",
        own: frozenset[str] = frozenset(),
    ) -> None:
        self._own = own
        self.workflow = workflow
        self._columns = columns
        self._places = places
        self._index = index
        self._formats = parse_formats(formats)
        self._seeds = parse_seeds(seeds)

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
            jobs = list(self._all_jobs(row))
        except UnknownInputError as error:
            raise RowError(str(error.args[0])) from error
        except (OSError, ValueError) as error:
            raise RowError(str(error)) from error
        yield from jobs

    def _choices(self, row: Row) -> tuple[Sequence[Size | None], Sequence[int | None]]:
        formats, seeds = self._formats, self._seeds
        if FORMATS in row.fields:
            formats = _in_column(FORMATS, parse_formats, row.fields[FORMATS])
        if SEEDS in row.fields:
            seeds = _in_column(SEEDS, parse_seeds, row.fields[SEEDS])
        if len(formats) * len(seeds) > MAX_JOBS_PER_ROW:
            raise RowError(
                f"{len(formats)} formats x {len(seeds)} seeds are more than {MAX_JOBS_PER_ROW} jobs of one row"
            )
        return formats or [None], seeds or [None]

    def _all_jobs(self, row: Row) -> Iterator[Job]:
        formats, seeds = self._choices(row)
        self._check_is_whole(row)
        of_row = self._values(row)
        read: Reading = cache(self._read)  # one version of a picture, asked for once, for all jobs of the row
        for size in formats:
            pictures = self._pictures(row, size, self.workflow.filled(of_row, ""), read)
            values = of_row | (self._size_values(size, pictures) if size else {})
            prompt = self.workflow.filled(values, "")
            _check_canvas_takes_sides(prompt, values)
            if not size:
                _check_photo_is_the_canvas(prompt, pictures)
            name = self._name(row, pictures)
            hashes = {named: picture.sha256 for named, picture in pictures.items()}
            for seed in seeds:
                seeded = values | (self._set("seed", seed) if seed is not None else {})
                job_id = identity(self.workflow, name, seeded, hashes)
                yield Job(job_id, row.line, name, size, seed, seeded, pictures)

    def _check_is_whole(self, row: Row) -> None:
        """Refuse a row whose ad would show the workflow's own product, look, text or depth under the row's name."""
        for column in NEEDED:
            if column in row.fields or column in self._own or not self._columns.takes(column):
                continue
            named = [str(named) for named in self._columns.targets(column)]
            if any(name in row.fields for name in named):
                continue
            owner = DEPTHS.get(column, "")
            if (
                column == "product"
                or (owner and owner in row.fields)
                or (not owner and self._columns.is_in_table(column))
            ):
                raise RowError(
                    f"gives no {column}, and the workflow's own ({named[0]}) does not belong to it: fill the column, or say "
                    f"--own {column} where it does"
                )

    def _filling(self, row: Row) -> Iterator[tuple[str, list[NamedInput]]]:
        """Columns that fill inputs; one that names its input comes after, and so outranks, one that has several."""
        for column in sorted(row.fields, key=lambda column: "." in column):
            if column not in (NAME, FORMATS, SEEDS, *MASKS):
                yield column, self._columns.targets(column)

    def _values(self, row: Row) -> dict[NamedInput, Any]:
        """Inputs that hold no picture."""
        found: dict[NamedInput, Any] = {}
        for column, targets in self._filling(row):
            for named in targets:
                if named.name == SAVED_AS:
                    raise RowError(f"column {column!r}: files are named by this command; leave {SAVED_AS} out")
                if not named.is_picture:
                    found[named] = self._coerced(named, row.fields[column], column)
        return found

    def _coerced(self, named: NamedInput, value: Any, column: str) -> Any:
        name = str(named) if column == str(named) else f"column {column!r}: {named}"
        return coerced(name, named.kind, self.workflow.value(named), value)

    def _pictures(self, row: Row, size: Size | None, prompt: Prompt, read: Reading) -> dict[NamedInput, Picture]:
        """Inputs that hold a picture; `prompt` is the workflow with the row's values."""
        masks = {owner: row.fields[mask] for mask, owner in MASKS.items() if mask in row.fields}
        for owner in masks:
            if owner not in row.fields:
                raise RowError(f"{owner}_mask marks a part of {owner}, which the row has not")
        found: dict[NamedInput, Picture] = {}
        for column, targets in self._filling(row):
            loaders = [named for named in targets if named.is_picture]
            if loaders:
                path = _for_format(column, row.fields[column], size)
                mask = _for_format(f"{column}_mask", masks[column], size) if column in masks else None
                white = _white(column, mask is not None, loaders, prompt)
                try:
                    picture = read(path, mask, white)
                    for named in loaders:
                        _check_mask(picture, named, prompt)
                except (PictureError, SourceError) as error:
                    raise RowError(f"column {column!r}: {error}") from error
                found |= dict.fromkeys(loaders, picture)
        return found

    def _read(self, path: str, mask: str | None, white: White) -> Picture:
        source = self._places.source(path)
        return read_picture(source, self._places.source(mask) if mask is not None else None, white, self._index)

    def _size_values(self, size: Size, pictures: dict[NamedInput, Picture]) -> dict[NamedInput, Any]:
        if len(self.workflow.savers) > 1:
            titles = ", ".join(title_of(self.workflow.nodes[node_id]) for node_id in self.workflow.savers)
            raise RowError(
                f"this workflow saves several ads, each in a format of its own ({titles}): leave the formats out"
            )
        if self._columns.takes("width") and self._columns.takes("height"):
            values = self._set("width", size[0]) | self._set("height", size[1])
            in_latents = any("Latent" in named.class_type for named in values)
            return values if not in_latents else _checked_step(size, values)
        if any(node["class_type"] == CANVAS for node in self.workflow.nodes.values()):
            raise RowError(
                "this workflow places the product on a canvas: map width and height to its custom_width and custom_height, "
                "or leave the formats out"
            )
        products = {picture for named, picture in pictures.items() if named in self._columns.targets("product")}
        if not products:
            raise RowError("the workflow has no input for the size: map width and height, or leave the formats out")
        for picture in products:
            if picture.size != size:
                raise RowError(
                    f"in this workflow the ad has the product photo's size: {picture.name!r} is "
                    f"{picture.size[0]}x{picture.size[1]}, the format {size[0]}x{size[1]}; give a photo for each format, "
                    "as in 'cup_{width}x{height}.png'"
                )
        return _checked_step(size, {})

    def _set(self, column: str, value: int) -> dict[NamedInput, Any]:
        return {named: self._coerced(named, value, column) for named in self._columns.targets(column)}

    def _name(self, row: Row, pictures: dict[NamedInput, Picture]) -> str:
        if NAME in row.fields:
            return str(row.fields[NAME])
        for column in ("product", "reference"):
            if column in row.fields:
                return PurePosixPath(_path_of(str(row.fields[column]))).stem
        return next((PurePosixPath(picture.name).stem for picture in pictures.values()), "ad")


def _path_of(picture: str) -> str:
    """Of an address what stands before its query and its fragment; a file may be called with a number sign."""
    return re.split(r"[?#]", picture, maxsplit=1)[0] if "://" in picture else picture


def identity(
    workflow: Workflow, name: str, values: Mapping[NamedInput, Any], pictures: Mapping[NamedInput, str]
) -> str:
    """SHA-256 of what is posted: the filled graph, its numbers written in one way, pictures by their content; and of the name.

    Titles and the names of saved files are left out, and so are shipped values that others replace.

    Args:
        workflow: what is run.
        name: of the row: it stands in the files' names.
        values: input -> value.
        pictures: input -> SHA-256 of the picture's content.
    """
    filled = workflow.filled({**values, **{named: {"picture": sha256} for named, sha256 in pictures.items()}}, "")
    nodes = {
        node_id: [node["class_type"], {key: value for key, value in node["inputs"].items() if key != SAVED_AS}]
        for node_id, node in filled.items()
    }
    content = json.dumps([IDENTITY, name, normalised(nodes)], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _white(column: str, has_mask: bool, loaders: list[NamedInput], prompt: Prompt) -> White:
    """What the white of a column's mask becomes in the picture that some nodes load."""
    usual: White = "opaque" if column == "product" else "transparent"
    whites = {white_of(prompt, named) or usual for named in loaders}
    if has_mask and len(whites) > 1:
        raise RowError(f"{column}_mask: the nodes that load it disagree in what a mask selects; map one of them")
    if has_mask and not any(readers_of_mask(prompt, named) for named in loaders):
        raise RowError(f"{column}_mask would not be used: no node takes the mask of {loaders[0]}")
    return next(iter(whites))


def _check_mask(picture: Picture, named: NamedInput, prompt: Prompt) -> None:
    """Refuse a picture in which the nodes that take its mask would find none, or read it the wrong way round."""
    cutting, selects, hiding = cuts_out(prompt, named), selects_of(prompt, named), hides(prompt, named)
    if cutting and picture.is_opaque:
        raise RowError(f"{picture.name!r} has no transparency: name its mask in product_mask, or give a cut-out")
    painted = [name for name, choice in selects.items() if choice == "product"]
    if painted and picture.mask is None and not picture.is_opaque:
        raise RowError(
            f"{picture.name!r} has transparency of its own, and this workflow takes what is transparent for the product "
            f"({painted[0]}: product): give product_mask, white = product, or let the nodes select background"
        )
    if (cutting or selects) and not picture.num_opaque and picture.white == "opaque":
        raise RowError(f"no pixel of {picture.name!r} is opaque: nothing of it could be exact")
    if hiding and picture.is_opaque:
        raise RowError(
            f"{picture.name!r} marks nothing to be hidden, and {hiding[0]!r} wants it marked: name reference_mask, white = "
            "hidden, or unplug the mask from that node"
        )


def _check_canvas_takes_sides(prompt: Prompt, values: Mapping[NamedInput, Any]) -> None:
    """Refuse sides for a canvas that has a format of its own and would pass over them."""
    for named in values:
        if named.class_type == CANVAS and named.name in CUSTOM_SIDES:
            chosen = prompt[named.node_id]["inputs"].get("format", CUSTOM)
            if isinstance(chosen, str) and chosen != CUSTOM:  # what another node gives is seen in the ad's size
                raise RowError(
                    f"{named} would not be used: {named.title}.format is {chosen!r}; make it {CUSTOM!r}, in the workflow or "
                    f"in a column '{named.title}.format'"
                )


def _check_photo_is_the_canvas(prompt: Prompt, pictures: Mapping[NamedInput, Picture]) -> None:
    """Refuse a photo whose pixels are pasted where they stand, but whose sides no latent has."""
    for named, picture in pictures.items():
        if any(side % LATENT_STEP for side in picture.size) and is_pasted(prompt, named):
            raise RowError(
                f"{picture.name!r} is {picture.size[0]}x{picture.size[1]}, and the ad has the photo's size: give it sides "
                f"that are multiples of {LATENT_STEP}, or take a workflow with an ad canvas"
            )


def _in_column(column: str, parse: Any, value: Any) -> Any:
    try:
        return parse(value)
    except RowError as error:
        raise RowError(f"column {column!r}: {error}") from error


def parse_formats(value: Any) -> list[Size]:
    """`1024x1024; 1080x1350`, or a list of such texts or of pairs -> widths and heights.

    Raises:
        RowError: something else, or one format twice.
    """
    if isinstance(value, str):
        value = re.sub(r"(?<=\d)\s*[xX\u00d7]\s*(?=\d)", "x", value)  # 128 x 96, and with the sign for times
    found = [_size(item) for item in _items(value)]
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
        raise RowError(f"column {column!r} takes the path of a picture, got {shown(repr(value))}")
    if size is None:
        return value
    width, height = map(str, size)
    return value.replace("{width}", width).replace("{height}", height).replace("{format}", f"{width}x{height}")
