"""Numbers as they are told to a person: rounded, but never to a value that says something else."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share, 0..1, in whole percents: 0% and 100% where it is exactly 0 or 1, <1% and >99% where they would be rounded."""
    text = f"{share:.0%}"
    if text == "0%" and share > 0:
        return "<1%"
    return ">99%" if text == "100%" and share < 1 else text


def times(factor: float) -> str:
    """A factor in three digits, and in as many more as it takes not to read 1 where it is not."""
    return next(text for digits in range(3, 18) if (text := f"{factor:.{digits}g}") != "1" or factor == 1)
