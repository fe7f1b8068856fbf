"""What a table is made of before anybody knows what its columns mean: lines of cells, and lines that are none."""

from __future__ import annotations

from dataclasses import dataclass


class CatalogueError(ValueError):
    """The file as a whole cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Record:
    """One row of cells.

    Attributes:
        line: on which it begins, from 1; in a spreadsheet the sheet's own row number.
        cells: text, empty where nothing is given.
    """

    line: int
    cells: list[str]

    @property
    def is_blank(self) -> bool:
        """Whether it says nothing."""
        return not any(cell.strip() for cell in self.cells)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        line: on which it begins, from 1; in a spreadsheet the sheet's own row number.
        reason: what is wrong and what was expected.
    """

    line: int
    reason: str
