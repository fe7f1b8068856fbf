"""The two ways in which nothing can be said of a picture; each message says what to do."""

from __future__ import annotations


class NothingFoundError(ValueError):
    """Nothing stands out from the ground that the picture's border shows."""


class UnsureError(ValueError):
    """Something is there, but what it is depends on how one looks."""


class EnclosedError(UnsureError):
    """An outline lies around so much of the ground's colour that holes are not told from parts."""
