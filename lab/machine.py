"""Which kind of machine made something, for the metadata of what it made."""

from __future__ import annotations

import platform

import torch


def machine(device: torch.device) -> str:
    """Such as "x86_64, 2 threads, cpu", or "x86_64, 16 threads, cuda, NVIDIA H200"; never a machine's own name."""
    parts = [platform.machine(), f"{torch.get_num_threads()} threads", device.type]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join(parts)
