"""Which named inputs of a workflow a column of the catalogue fills."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from .named_inputs import NamedInput, UnknownInputError, Workflow

NAME = "name"
FORMATS, SEEDS = "formats", "seeds"
MASKS = {"product_mask": "product", "reference_mask": "reference"}  # mask column -> the picture it belongs to

# Column -> the inputs it fills where a workflow has them; * stands for anything. Titles are those of the shipped workflows.
PLACES: dict[str, tuple[str, ...]] = {
    "product": ("Product photo.image",),
    "reference": ("Reference.image", "Background reference.image", "Table reference.image"),
    "prompt": ("Prompt.text",),
    "negative_prompt": ("Negative prompt.text",),
    "seed": ("Sampler.seed", "Sampler *.seed"),
    "width": ("Ad size.width",),
    "height": ("Ad size.height",),
}
_PER_JOB = ("seed", "width", "height")  # come from `seeds` and `formats`, one value for each job
_COLUMNS = (NAME, *(column for column in PLACES if column not in _PER_JOB), *MASKS, FORMATS, SEEDS)


class Columns:
    """The columns of one run.

    Args:
        workflow: whose inputs are filled.
        mapping: column -> names of inputs, before those that are found by the shipped workflows' titles.

    Raises:
        UnknownInputError: the mapping names an input that the workflow has not.
        ValueError: it maps a picture to what loads none.
    """

    def __init__(self, workflow: Workflow, mapping: Mapping[str, Sequence[str]]) -> None:
        self._workflow = workflow
        self._mapped = frozenset(mapping)
        self._targets = {
            column: [named for named in workflow.inputs if any(fnmatchcase(str(named), place) for place in places)]
            for column, places in PLACES.items()
        }
        for column, names in mapping.items():
            self._targets[column] = [workflow.find(name) for name in names]
        for column in MASKS.values():
            for named in self._targets[column]:
                if not named.is_picture:
                    raise ValueError(
                        f"{column!r} is a picture, {named} of {named.class_type} loads none: map it to a LoadImage"
                    )

    def targets(self, column: str) -> list[NamedInput]:
        """The inputs that a column fills: mapped, found by title, or the one that it names as "<title>.<input>".

        Raises:
            UnknownInputError: none; the message says how to name one.
        """
        known = self._targets.get(column)
        for named in known or []:
            if column not in self._mapped and sum(str(named) == str(other) for other in known or []) > 1:
                self._workflow.find(str(named))  # says which there are
        if known:
            return known
        if known is None and "." in column:
            return [self._workflow.find(column)]
        free = ", ".join(sorted({str(named) for named in self._workflow.inputs}))
        if known is None:
            near = difflib.get_close_matches(column, _COLUMNS, n=1, cutoff=0.6)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UnknownInputError(
                f"column {column!r} is unknown{hint}: expected {', '.join(_COLUMNS)} or '<node title>.<input>'; inputs: {free}"
            )
        raise UnknownInputError(
            f"the workflow has no place for {column!r}: give one with --map {column}='<node title>.<input>'; inputs: {free}"
        )

    def takes(self, column: str) -> bool:
        """Whether the workflow has a place for a standard column."""
        return bool(self._targets.get(column))


def parse_mapping(options: Sequence[str]) -> dict[str, list[str]]:
    """`COLUMN=TITLE.INPUT`, repeated -> column -> names of inputs.

    Raises:
        ValueError: an option has another form, or maps what cannot be mapped.
    """
    mapping: dict[str, list[str]] = {}
    for option in options:
        column, separator, name = option.partition("=")
        if not (separator and column and "." in name):
            raise ValueError(f"--map {option!r}: expected COLUMN='<node title>.<input>'")
        if column in (NAME, FORMATS, SEEDS, *MASKS):
            raise ValueError(
                f"--map {option!r}: {column!r} fills no input itself; map seed, width, height or the picture"
            )
        mapping.setdefault(column, []).append(name)
    return mapping
