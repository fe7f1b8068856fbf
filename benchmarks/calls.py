"""What one hooked call launches, and how often the host waits for the device in it."""

from __future__ import annotations

import torch

from .hook import CONTROLS, Call
from .measure import Contestant, Figure, Measured
from .operators import count_operators
from .workbench import Workbench

AT_MOST, STRETCH = 9, 6
HOW = (
    "Operators that are no views, counted at torch's dispatcher in the second call of a step (region 50 %, c=16, float32); each "
    "is at least one launch on a GPU. *Waits* are those that make the host wait for the device (`.item()`, `nonzero`). "
    "diffusers' own projections of the image tokens are counted, as IPAdapter_plus's are."
)


def run(bench: Workbench) -> list[Figure]:
    """One table."""
    figure = Figure("calls", "Launches and waits of a hooked call", HOW)
    call = Call(bench, 1280, torch.float32, side=512)
    contestants: dict[str, Contestant] = {"unpatched": call.plain}
    contestants |= {f"ours, {name}": call.ours(50, 16, name) for name in CONTROLS}
    contestants |= call.peers(50, 16)
    with torch.no_grad():  # in inference mode composite operators come as one
        for name, contestant in contestants.items():
            contestant()
            count = count_operators(contestant)
            ours = name.startswith("ours")
            demanded = (AT_MOST, STRETCH) if ours else (None, None)
            figure.measured += [
                Measured(name, "operators", len(count.operators), unit="", at_most=demanded[0], stretch=demanded[1]),
                Measured(name, "waits", count.syncs, unit="", at_most=0 if ours else None),
            ]
    return [figure]
