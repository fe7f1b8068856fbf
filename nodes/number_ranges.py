"""Numbers that come by a wire: the host holds to a widget's range what is typed into it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io


def hold_numbers(nodes: Iterable[type[io.ComfyNode]]) -> None:
    """Let nodes refuse, with ValueError, numbers outside their widgets' ranges, whichever way they come."""
    for node in nodes:
        node.execute = classmethod(_holding(node))


def _holding(node: type[io.ComfyNode]) -> Any:
    """The node's function, which looks at its numbers first."""
    execute = node.execute.__func__

    @cache
    def numbers() -> list[Any]:
        """Read when it first runs: a schema lists the files that there are."""
        return [one for one in node.GET_SCHEMA().inputs if isinstance(one, io.Int.Input | io.Float.Input)]

    given_to = signature(execute)

    @wraps(execute)
    def held(cls: type[io.ComfyNode], /, *inputs: Any, **named: Any) -> Any:
        given = given_to.bind_partial(cls, *inputs, **named).arguments
        for one in numbers():
            if one.id in given:
                _check(node, one, given[one.id])
        return execute(cls, *inputs, **named)

    return held


def _check(node: type[io.ComfyNode], widget: Any, value: Any) -> None:
    """ValueError unless it is one of the widget's numbers: NaN is none, nor is True."""
    kind, name = (Integral, "a whole number") if isinstance(widget, io.Int.Input) else (Real, "a number")
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not (is_number and widget.min <= value <= widget.max):
        raise ValueError(
            f"{node.GET_SCHEMA().display_name}: {widget.id} is {value!r}, expected {name} from {widget.min} to {widget.max}: "
            "change the node that gives it, or disconnect that and type a number"
        )
