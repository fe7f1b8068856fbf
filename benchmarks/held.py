"""Memory: the most that torch allocates during a call, and the tensors that objects hold."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

from .measure import Contestant

MAPS = Path("/proc/self/maps")  # Linux


def peak_bytes(call: Contestant, device: torch.device, file: Path) -> int:
    """The most bytes that torch had allocated at once during a call, above what it held before.

    `file` may be mapped during the call: that is no allocation.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with _quiet():
        profile.start()
    call()
    with _quiet():
        profile.stop()
    profiler: Any = profile.profiler  # its results are no public interface; its public tables hold no peaks
    changes = [event.nbytes() for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for change in changes:
        if abs(change) != file.stat().st_size:
            held += change
            most = max(most, held)
    return most


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler announces itself on stderr."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def held_bytes(roots: Iterable[Any], device: torch.device, file: Path) -> Counter[torch.dtype]:
    """Bytes, by dtype, of the distinct storages on `device` that these objects lead to, without those of a mapped file.

    Functions are followed into what they closed over, modules and classes are not followed.
    """
    mapped = _mapped_ranges(file)
    seen, waiting, storages = set[int](), list(roots), dict[int, tuple[torch.dtype, int]]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, (ModuleType, type)):
            continue
        seen.add(id(found))
        if isinstance(found, torch.Tensor):
            if found.device.type == device.type:
                storage = found.untyped_storage()
                storages[storage.data_ptr()] = found.dtype, storage.nbytes()
        elif isinstance(found, FunctionType):
            waiting += [cell.cell_contents for cell in found.__closure__ or ()]
        else:
            waiting += gc.get_referents(found)
    held: Counter[torch.dtype] = Counter()
    for start, (dtype, size) in storages.items():
        if not any(start in pages for pages in mapped):
            held[dtype] += size
    return held


def _mapped_ranges(file: Path) -> list[range]:
    """Addresses of this process at which the file is mapped."""
    if not MAPS.is_file():
        return []
    lines = [line.split() for line in MAPS.read_text(encoding="utf-8").splitlines() if line.endswith(str(file))]
    return [range(*(int(address, 16) for address in line[0].split("-"))) for line in lines]
