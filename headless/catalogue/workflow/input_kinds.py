"""What kind of value each input of a workflow takes, as a server of it says, not as the file's numbers look.

A page writes 1 where it means 1.0, so a file cannot tell a whole number from a share.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

ObjectInfo = Mapping[str, Any]  # /object_info: class -> its description

PICTURE_LOADERS = (
    "LoadImage",
    "LoadImageMask",
)  # known without a server; their input `image` is a file of its input folder
SAVED_AS = "filename_prefix"
NUM_SHOWN = 12  # of what could have been meant


@dataclass(frozen=True)
class Kind:
    """What one input takes.

    Attributes:
        type: INT, FLOAT, STRING, BOOLEAN or COMBO; "" = nobody said.
        is_picture: its value names a picture in the server's input folder.
        choices: of a COMBO: what the servers offer.
        least, most: of a number; None = any.
    """

    type: str = ""
    is_picture: bool = False
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None


class InputKinds:
    """The kinds of all inputs that the nodes of some servers have.

    Args:
        servers: what each server says of its classes; none = no server was asked.
    """

    def __init__(self, *servers: ObjectInfo) -> None:
        self.are_known = bool(servers)
        self._servers = servers

    def has(self, class_type: str) -> bool:
        """Whether a server has nodes of that class."""
        return any(class_type in classes for classes in self._servers)

    def of(self, class_type: str, name: str) -> Kind:
        """The kind of one input, with the choices of all servers; one without a type where none knows it."""
        kinds = [kind for classes in self._servers if (kind := _kind(_description(classes, class_type, name)))]
        if not kinds:
            return Kind("", not self.are_known and class_type in PICTURE_LOADERS and name == "image")
        choices = dict.fromkeys(choice for kind in kinds for choice in kind.choices)
        return replace(kinds[0], choices=tuple(choices))

    def saves(self, class_type: str) -> bool:
        """Whether nodes of that class write files of a name that is given to them."""
        if not self.are_known:
            return class_type == "SaveImage"
        return any(_description(classes, class_type, SAVED_AS) is not None for classes in self._servers)


def _kind(description: Any) -> Kind | None:
    match description:
        case [list(choices), *options]:
            return Kind("COMBO", _uploads(options), tuple(choices))
        case ["COMBO", dict(details), *_]:
            return Kind("COMBO", _uploads([details]), tuple(details.get("options") or ()))
        case [str(type_name), dict(details), *_]:
            return Kind(type_name, least=_limit(details.get("min")), most=_limit(details.get("max")))
        case [str(type_name), *_]:
            return Kind(type_name)
    return None


def _limit(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _description(classes: ObjectInfo, class_type: str, name: str) -> Any:
    found = classes.get(class_type)
    inputs = found.get("input") if isinstance(found, dict) else None
    for part in ("required", "optional"):
        described = inputs.get(part) if isinstance(inputs, dict) else None
        if isinstance(described, dict) and name in described:
            return described[name]
    return None


def coerced(name: str, kind: Kind, shipped: Any, value: Any) -> Any:
    """A catalogue's value as an input takes it.

    Args:
        name: of the input, for the error.
        kind: what it takes; where nobody said, what the workflow has there tells, and any number does for a number.
        shipped: what the workflow has there.
        value: text from a table, or any JSON value.

    Raises:
        ValueError: it cannot be one.
    """
    match kind.type or type(shipped).__name__:
        case "BOOLEAN" | "bool":
            words = {"true": True, "false": False}
            found = value if isinstance(value, bool) else words.get(str(value).lower())
            return _expected(name, found, "true or false", value)
        case "INT":
            return _in_range(name, kind, _expected(name, _integer(value), "a whole number", value))
        case "FLOAT":
            return _in_range(name, kind, _expected(name, _number(value), "a number, with a point", value))
        case "int" | "float":
            whole = _integer(value)
            return _expected(name, _number(value) if whole is None else whole, "a number", value)
        case "COMBO":
            return _expected(name, _choice(kind, value), _wanted(kind, value), value)
        case "STRING" | "str":
            return _expected(name, value if isinstance(value, str) else None, "text", value)
        case other:
            raise ValueError(f"{name} takes {other}, which a catalogue cannot set")


def normalised(value: Any) -> Any:
    """A value in which a number is written in one way: 1 for 1.0, at any depth."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [normalised(item) for item in value]
    if isinstance(value, dict):
        return {key: normalised(item) for key, item in value.items()}
    return value


def _uploads(options: list[Any]) -> bool:
    return bool(options and isinstance(options[0], dict) and options[0].get("image_upload"))


def _choice(kind: Kind, value: Any) -> Any:
    """The choice itself where a table writes a number as text."""
    if value in kind.choices:
        return value
    by_text = {str(choice): choice for choice in kind.choices}
    return by_text.get(str(value), value if isinstance(value, str) and not kind.choices else None)


def _wanted(kind: Kind, value: Any) -> str:
    if not kind.choices:
        return "text"
    near = difflib.get_close_matches(str(value), map(str, kind.choices), n=1)
    shown = ", ".join(map(str, kind.choices[:NUM_SHOWN])) + (", ..." if len(kind.choices) > NUM_SHOWN else "")
    return f"one of {shown}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _in_range(name: str, kind: Kind, number: Any) -> Any:
    if (kind.least is not None and number < kind.least) or (kind.most is not None and number > kind.most):
        raise ValueError(f"{name} takes {kind.least} to {kind.most}, got {number!r}")
    return number


def _expected(name: str, found: Any, wanted: str, value: Any) -> Any:
    if found is None:
        raise ValueError(f"{name} takes {wanted}, got {value!r}")
    return found


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    written = (
        re.fullmatch(r"([+-]?[0-9]{1,20})(?:\.0+)?", value) if isinstance(value, str) else None
    )  # 2.0, as pandas does
    return int(written[1]) if written else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
