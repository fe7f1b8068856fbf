"""Results kept by the content they were computed from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ContentCache(Generic[Value]):
    """A bounded cache; what was used least recently goes first.

    It belongs to the model whose results it holds and goes with it: when the host drops a model, as POST /free makes it,
    nothing of this pack keeps them.

    Args:
        limit: bytes it may hold. A result that is larger alone is not kept.
        size: bytes of a result.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self._limit = limit
        self._size = size
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._held = 0

    def __len__(self) -> int:
        return len(self._values)

    def get_or_compute(self, key: str, compute: Callable[[], Value]) -> Value:
        """The result of this content, computed only where it is not held. One larger than the limit is returned and not kept,
        and what is held stays."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = compute()
        size = self._size(value)
        if size > self._limit:
            return value
        self._values[key] = value
        self._held += size
        while self._held > self._limit:
            _, oldest = self._values.popitem(last=False)
            self._held -= self._size(oldest)
        return value
