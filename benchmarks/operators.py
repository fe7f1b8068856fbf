"""What a call asks of the device: operators and waits."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from .measure import Contestant

# The host waits for the device: a number is read from it, or the size of a result depends on values.
SYNCS = {"_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim"}


class OperatorCount(TorchDispatchMode):
    """Counts what is dispatched inside it.

    Attributes:
        operators: names of the operators that are no views, in order: each is at least one launch on a GPU.
        syncs: how many of all of them make the host wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []
        self.syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and run."""
        name = func._schema.name.removeprefix("aten::")
        self.syncs += name in SYNCS
        if not func.is_view and name not in ("_local_scalar_dense", "item"):  # these are syncs, nothing is launched
            self.operators.append(name)
        return func(*args, **(kwargs or {}))


def count_operators(call: Contestant) -> OperatorCount:
    """Operators and syncs of one call."""
    with OperatorCount() as count:
        call()
    return count
