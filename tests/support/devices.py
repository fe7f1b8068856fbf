"""A device beside main memory where there is none: torch's `meta`, and a "cuda" whose tensors are its fake ones, which have a
device and no content.

An operator that is given tensors of both sides is refused; what crosses between them, what is read back and what is computed in
main memory is noted.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only


class MixedDevicesError(AssertionError):
    """An operator was given tensors of two devices."""


class Device(TorchDispatchMode):
    """While it is entered there is a device of this kind beside main memory.

    Args:
        kind: `meta`, or `cuda`.
        gradients: whether operators are recorded for a backward pass; of a torch without CUDA `meta` alone has one.

    Attributes:
        copies: operators that brought something from main memory to the device.
        reads: of the device; each waits for it.
        on_host: operators in main memory, its factories among them.
    """

    def __init__(self, kind: str, gradients: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self._gradients = gradients
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._stack = ExitStack()
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.copies: list[str] = []
        self.reads: list[str] = []
        self.on_host: list[str] = []

    def empty(self, *shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
        """A tensor on the device."""
        return torch.empty(*shape, dtype=dtype, device=self.kind)

    def known(self, tensor: Tensor) -> Tensor:
        """A tensor of main memory on the device, of which it is known what a read of it gives."""
        moved = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.kind)
        moved.content = tensor
        return moved

    def has(self, tensor: Any) -> bool:
        """Whether something is a tensor that lies there."""
        return isinstance(tensor, Tensor) and tensor.device.type == self.kind

    def __enter__(self) -> Device:
        with ExitStack() as stack:
            # Not inference mode: there composite operators come as one.
            stack.enter_context(torch.set_grad_enabled(self._gradients))
            if self.kind == "cuda":
                stack.enter_context(self._fake)
            stack.enter_context(Methods(self))
            self._stack = stack.pop_all()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if self.has(tensor)]
        target = kwargs.get("device") or (args[0].device if name == "copy_" else None)
        to_device = target is not None and torch.device(target).type == self.kind
        if not there and not to_device:
            with _disable_current_modes():
                out = func(*args, **kwargs)
            if isinstance(out, Tensor) or tensors:
                self.on_host.append(name)
            return out
        if name == "_local_scalar_dense":
            return self.read(name, args[0]).item()
        if there and target is not None and not to_device:
            return self.read(name, args[-1] if name == "copy_" else args[0]).clone()
        if len(there) < len(tensors):
            if name in ("_to_copy", "copy_"):
                self.copies.append(name)
            elif any(tensor.ndim for tensor in tensors if not self.has(tensor)):  # a kernel may be handed a number
                sides = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
                raise MixedDevicesError(f"{name} of {sides}")
        out = func(*args, **kwargs)
        if there and isinstance(out, Tensor) and all(hasattr(tensor, "content") for tensor in tensors):
            known_args, known_kwargs = tree_map_only(Tensor, lambda tensor: tensor.content, (args, kwargs))
            with _disable_current_modes():
                out.content = func(*known_args, **known_kwargs)
        return out

    def read(self, name: str, tensor: Tensor) -> Tensor:
        """What a tensor of the device holds; the host has waited for it."""
        self.reads.append(name)
        if not hasattr(tensor, "content"):
            raise AssertionError(f"{name} reads {tuple(tensor.shape)} back from the device")
        return tensor.content

    def list_of(self, tensor: Tensor) -> Any:
        """`tensor.tolist()`, which is one read."""
        content = self.read("tolist", tensor)
        with _disable_current_modes():
            return content.tolist()


NUMBERS = {Tensor.item: lambda number: number, Tensor.__float__: float, Tensor.__int__: int, Tensor.__bool__: bool}
OPERATORS = {
    Tensor.contiguous: torch.ops.aten.contiguous,
    Tensor.copy_: torch.ops.aten.copy_,
    Tensor.nonzero: torch.ops.aten.nonzero,
}


class Methods(TorchFunctionMode):
    """Methods of a device's tensors as operators: a torch without CUDA refuses these before it looks at the tensor."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not args or not self.device.has(args[0]):
            return func(*args, **(kwargs or {}))
        if func is Tensor.tolist:
            return self.device.list_of(args[0])
        if func is Tensor.cpu:
            return self.device.read("cpu", args[0]).clone()
        if func in NUMBERS:
            content = self.device.read(func.__name__, args[0])
            with _disable_current_modes():
                return NUMBERS[func](content.item())
        if func is Tensor.__getitem__:
            return _part(*args)
        if func is Tensor.__setitem__:
            value = args[2] if isinstance(args[2], Tensor) else args[0].new_full((), args[2])
            return torch.ops.aten.copy_(_part(args[0], args[1]), value)
        return OPERATORS.get(func, func)(*args, **(kwargs or {}))


def _part(tensor: Tensor, subscript: Any) -> Tensor:
    """A subscript of numbers, slices, None, and lists or tensors of places."""
    items = list(subscript) if isinstance(subscript, tuple) else [subscript]
    items = [torch.tensor(item).to(tensor.device) if isinstance(item, list) else item for item in items]
    if Ellipsis in [item for item in items if not isinstance(item, Tensor)]:
        at = items.index(Ellipsis)
        rest = tensor.ndim - sum(item is not None for item in items) + 1
        items[at : at + 1] = [slice(None)] * rest
    axis, places = 0, []
    for item in items:
        if isinstance(item, int):
            tensor = tensor.select(axis, item)
            continue
        if item is None:
            tensor = tensor.unsqueeze(axis)
        elif isinstance(item, slice):
            tensor = torch.ops.aten.slice(tensor, axis, item.start, item.stop, item.step or 1)
        places.append(item if isinstance(item, Tensor) else None)
        axis += 1
    return torch.ops.aten.index(tensor, places) if any(place is not None for place in places) else tensor
