"""Numbers that come by a wire: the host holds to a widget's range what is typed into it, and nothing else."""

from __future__ import annotations

from functools import cache, wraps
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io


def hold_numbers(node: type[io.ComfyNode]) -> None:
    """Let a node refuse, with ValueError, numbers outside its widgets' ranges, whichever way they come."""
    execute = node.execute.__func__

    @cache
    def numbers() -> list[Any]:
        return [one for one in node.GET_SCHEMA().inputs if isinstance(one, io.Int.Input | io.Float.Input)]

    @wraps(execute)
    def held(cls: type[io.ComfyNode], /, **inputs: Any) -> Any:
        for one in numbers():
            if one.id in inputs:
                _check(node, one, inputs[one.id])
        return execute(cls, **inputs)

    node.execute = classmethod(held)


def _check(node: type[io.ComfyNode], widget: Any, value: Any) -> None:
    """ValueError unless it is one of the widget's numbers: NaN is none, nor is True."""
    kind, name = (Integral, "a whole number") if isinstance(widget, io.Int.Input) else (Real, "a number")
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not (is_number and widget.min <= value <= widget.max):
        raise ValueError(
            f"{node.__name__}: {widget.id} is {value!r}, expected {name} from {widget.min} to {widget.max}: change the node that "
            "gives it, or disconnect that and type a number"
        )
