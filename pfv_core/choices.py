"""Closed sets of names: a host may hand in any string, so each is checked where it is used."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

Choice = TypeVar("Choice", bound=Enum)


def parse_choice(choices: type[Choice], value: Choice | str, name: str) -> Choice:
    """The member of `choices` that `value` names; ValueError, with `name` and the choices, if there is none."""
    try:
        return choices(value)
    except ValueError:
        expected = [choice.value for choice in choices]
        raise ValueError(f"{name} is {value!r}, expected one of {expected}") from None
