"""Which named inputs of a workflow a column of the catalogue fills, and which columns are not meant for us."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from ..workflow.named_inputs import NamedInput, UnknownInputError, Workflow

NAME = "name"
FORMATS, SEEDS = "formats", "seeds"
PICTURES = ("product", "product_depth", "reference", "reference_depth")
DEPTHS = {"product_depth": "product", "reference_depth": "reference"}  # depth column -> the picture it is the depth of
MASKS = {"product_mask": "product", "reference_mask": "reference"}  # mask column -> the picture it belongs to

# Column -> the inputs it fills where a workflow has them; * stands for anything. Titles are those of the shipped workflows.
PLACES: dict[str, tuple[str, ...]] = {
    "product": ("Product photo.image",),
    "product_depth": ("Product depth.image",),
    "reference": ("Reference.image", "Background reference.image", "Table reference.image"),
    "reference_depth": ("Background reference depth.image",),
    "prompt": ("Prompt.text",),
    "negative_prompt": ("Negative prompt.text",),
    "seed": ("Sampler.seed", "Sampler *.seed"),
    "width": ("Ad size.width",),
    "height": ("Ad size.height",),
}
_PER_JOB = ("seed", "width", "height")  # come from `seeds` and `formats`, one value for each job; no columns of a table
_COLUMNS = (NAME, *(column for column in PLACES if column not in _PER_JOB), *MASKS, FORMATS, SEEDS)

MISTYPED = 0.85  # difflib's ratio: one letter in six is wrong, missing or too much
ALIKE = 0.6
REMEMBERED = 4096  # names; a table without a header repeats its own in every row
NUM_SHOWN = 8  # names of ignored columns


class ColumnError(ValueError):
    """A column of the table that is meant for this command and cannot be used; the message says what to write."""


class Columns:
    """The columns of one run.

    Args:
        workflow: whose inputs are filled.
        mapping: column -> names of inputs, before those that are found by the shipped workflows' titles.
        aliases: column -> what the table calls it; "" = the table has none, whatever it has that looks like it.

    Raises:
        UnknownInputError: the mapping or an alias names an input that the workflow has not.
        ValueError: the mapping sets a picture to what loads none, or an alias is of no column.
    """

    def __init__(
        self, workflow: Workflow, mapping: Mapping[str, Sequence[str]], aliases: Mapping[str, str] | None = None
    ) -> None:
        self._workflow = workflow
        self._mapped = frozenset(mapping)
        self._targets = {
            column: [named for named in workflow.inputs if any(fnmatchcase(str(named), place) for place in places)]
            for column, places in PLACES.items()
        }
        for column, names in mapping.items():
            self._targets[column] = [workflow.find(name) for name in names]
        for column in PICTURES:
            for named in self._targets[column]:
                if workflow.kinds.are_known and not named.is_picture:
                    raise ValueError(
                        f"{column!r} is a picture, {named} of {named.class_type} loads none: map it to a LoadImage"
                    )
        self._columns = (*_COLUMNS, *(column for column in mapping if column not in (*_COLUMNS, *_PER_JOB)))
        self._aliases = dict(aliases or {})
        self._mistyped = lru_cache(REMEMBERED)(self._nearly)
        self._is_for_an_input = lru_cache(REMEMBERED)(self._names_an_input)
        for column in self._aliases:
            self._check_place(column)
        self._ignored: dict[str, None] = {}
        self._in_table: set[str] = set()

    @property
    def ignored(self) -> list[str]:
        """Columns that the tables had so far and that are not used, in their order."""
        return list(self._ignored)

    def targets(self, column: str) -> list[NamedInput]:
        """The inputs that a column fills: mapped, found by title, or the one that it names by title or by "#<id>".

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
            near = difflib.get_close_matches(column, self._columns, n=1, cutoff=ALIKE)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UnknownInputError(
                f"column {column!r} is unknown{hint}: expected {', '.join(self._columns)}, '<node title>.<input>' or "
                f"'#<node id>.<input>'; inputs: {free}"
            )
        raise UnknownInputError(
            f"the workflow has no place for {column!r}: give one with --map {column}='<node title>.<input>'; inputs: {free}"
        )

    def is_in_table(self, column: str) -> bool:
        """Whether a table that was looked at has a column of ours."""
        return column in self._in_table

    def takes(self, column: str) -> bool:
        """Whether the workflow has a place for a standard column."""
        return bool(self._targets.get(column))

    def filled_by(self, name: str) -> tuple[str, ...]:
        """The columns of ours that the table's column of that name fills: itself, one or more by an alias, or none."""
        renamed = tuple(column for column, alias in self._aliases.items() if alias == name)
        return renamed or ((name,) if self.is_used(name) else ())

    def is_used(self, name: str) -> bool:
        """Whether a column of that name is one of ours, and no alias stands in its place."""
        if name in self._aliases:
            return name in self._aliases.values()
        return name in self._columns or self._is_for_an_input(name)

    def check_header(self, names: Sequence[str]) -> list[str]:
        """Look at all columns of a table, before anything of it is used.

        Args:
            names: of its header.

        Returns:
            The names that are ignored and that no earlier call has returned.

        Raises:
            ColumnError: a column is meant for us and cannot be used, one that an alias names is missing, or none is for us.
        """
        for column, alias in self._aliases.items():
            if alias and alias not in names:
                near = difflib.get_close_matches(alias, names, n=1, cutoff=ALIKE)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {_listed([name for name in names if name])}"
                raise ColumnError(f"--column {column}={alias}: the table has no column {alias!r}; {hint}")
        ignored = self.check_names(names)
        if not any(self.filled_by(name) for name in names):
            raise ColumnError(
                f"none of the columns is known: expected {', '.join(self._columns)} or '<node title>.<input>' in the first "
                f"line, got {_listed(names)}; --column prompt='Its name there' says what the table calls one"
            )
        return ignored

    def check_names(self, names: Iterable[str]) -> list[str]:
        """As `check_header`, of one row's names where a table has no header: what an alias names may be missing."""
        names = list(names)
        problems = [problem for name in names if (problem := self._problem(name, names))]
        if problems:
            raise ColumnError("; ".join(problems))
        unused = (name for name in dict.fromkeys(names) if name and not self.filled_by(name))
        ignored = [name for name in unused if name not in self._ignored]
        self._ignored |= dict.fromkeys(ignored)
        self._in_table.update(column for name in names for column in self.filled_by(name))
        return ignored

    def said_of_ignored(self, ignored: Sequence[str]) -> str:
        """One sentence about columns that are not used, with those of ours that they may have been meant for."""
        free = [column for column in self._columns if column not in self._aliases]
        hints = {
            name: near[0] for name in ignored if (near := difflib.get_close_matches(_plain(name), free, cutoff=ALIKE))
        }
        number = "1 column is" if len(ignored) == 1 else f"{len(ignored)} columns are"
        asked = [f"did you mean {near!r} by {name!r}?" for name, near in list(hints.items())[:1]]
        return "; ".join([f"{number} not used: {_listed(ignored)}", *asked])

    def _check_place(self, column: str) -> None:
        if column not in self._columns and "." not in column:
            raise ValueError(
                f"--column {column}=...: expected {', '.join(self._columns)} or '<node title>.<input>' before the ="
            )
        if self._aliases[column] and column not in (NAME, FORMATS, SEEDS):
            self.targets(MASKS.get(column, column))

    def _problem(self, name: str, names: Sequence[str]) -> str | None:
        """What is wrong with a column that is, or looks, meant for us."""
        for column in self.filled_by(name):
            if column in (NAME, FORMATS, SEEDS):
                continue
            try:
                self.targets(MASKS.get(column, column))
            except UnknownInputError as error:
                return f"column {name!r}: {error}"
        if self.filled_by(name) or name in self._aliases:
            return None
        for near in self._mistyped(name):
            if near not in names and near not in self._aliases:
                return (
                    f"column {name!r}: did you mean {near!r}? If so, name it so, or give --column {near}={name!r}; if not, "
                    f"--column {near}= says that the table has none"
                )
        return None

    def _nearly(self, name: str) -> list[str]:
        """Columns that a name is nearly, the nearest first."""
        return difflib.get_close_matches(_plain(name), self._columns, n=len(self._columns), cutoff=MISTYPED)

    def _names_an_input(self, name: str) -> bool:
        """Whether a name begins as a node's id does, or, with a dot, with a node's title, or is nearly that of an input."""
        if re.match(r"#\S", name):  # a number sign alone, or before a space, heads a column of numbers
            return True
        title, dot, _ = name.rpartition(".")
        if not dot:
            return False
        if any(title == named.title for named in self._workflow.inputs):
            return True
        inputs = {str(named) for named in self._workflow.inputs}
        return bool(difflib.get_close_matches(name, inputs, n=1, cutoff=MISTYPED))


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


def parse_aliases(options: Sequence[str]) -> dict[str, str]:
    """`COLUMN=ITS NAME IN THE TABLE`, repeated -> column -> name; an empty name says that the table has none.

    Raises:
        ValueError: an option has another form, or a column stands twice.
    """
    aliases: dict[str, str] = {}
    for option in options:
        column, separator, name = (part.strip() for part in option.partition("="))
        if not (separator and column):
            raise ValueError(f"--column {option!r}: expected COLUMN='its name in the table', as in prompt=Beschreibung")
        if column in aliases:
            raise ValueError(f"--column: {column!r} stands twice, for {aliases[column]!r} and {name!r}")
        aliases[column] = name
    return aliases


def _plain(name: str) -> str:
    """A name as we would write it: small letters, `_` between words."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name or "(no name)" for name in names[:NUM_SHOWN])
    return f"{shown}, ..." if len(names) > NUM_SHOWN else shown
