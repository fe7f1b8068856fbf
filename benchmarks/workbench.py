"""What the figures share: the host in this process, models built when first asked for, and how long to measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from . import models, peers
from .measure import Clock, clock_for


@dataclass
class Workbench:
    """One run of the command.

    Attributes:
        folder: temporary; the host's models folder lies in it.
        host: ComfyUI's folder.
        rounds: times that each contestant is timed; figures whose single call takes seconds take fewer.
        quick: fewer cases of each figure.
        attention: the host's attention backend that was chosen.
    """

    folder: Path
    host: Path
    rounds: int
    quick: bool
    attention: str
    prompts: dict[int, Any] = field(default_factory=dict)  # image prompts by their number of tokens
    peer_models: dict[torch.dtype, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the host computes."""
        import comfy.model_management

        return comfy.model_management.get_torch_device()

    @property
    def clock(self) -> Clock:
        """The clock of that device."""
        return clock_for(self.device)

    @property
    def cpu_clock(self) -> Clock:
        """The clock for what is done on the CPU everywhere."""
        return clock_for(torch.device("cpu"))

    @cached_property
    def adapter_file(self) -> Path:
        """A full-size adapter of random weights, where the host's loaders find it."""
        return models.adapter_file(self.folder / "models" / "ipadapter")

    @cached_property
    def adapter(self) -> Any:
        """The pack's adapter of that file."""
        from pfv_mepa.nodes.host.adapter import HostAdapter

        return HostAdapter.load(self.adapter_file)

    @cached_property
    def unet(self) -> Any:
        """MODEL of Vega's layout: SDXL's widths and grids in 15 cross-attentions, 0.75 billion parameters, bfloat16."""
        return models.random_unet("vega", torch.bfloat16)

    @cached_property
    def ip_adapter_plus(self) -> peers.IPAdapterPlus | None:
        """The pack most people use, with its own loader's view of the same file; None where it is not installed."""
        return peers.ip_adapter_plus(self.host)

    def forget_adapters(self) -> None:
        """Drop every adapter and what was computed with it."""
        import comfy.model_management

        self.prompts.clear()
        self.peer_models.clear()
        self.__dict__.pop("adapter", None)
        if self.ip_adapter_plus is not None:
            self.ip_adapter_plus.forget()
        comfy.model_management.cleanup_models_gc()

    def forget_models(self) -> None:
        """Drop the models too."""
        import comfy.model_management

        self.forget_adapters()
        self.__dict__.pop("unet", None)
        comfy.model_management.unload_all_models()


def touch_heap(size: int = 2 << 30) -> None:
    """Have the system hand out the heap's pages before anything is timed; `__main__` keeps them from going back."""
    torch.empty(size, dtype=torch.uint8).fill_(0)
