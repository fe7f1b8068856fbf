"""The part of the sampling in which a node takes part, as two inputs."""

from __future__ import annotations

from comfy_api.latest import io


def window_inputs() -> list[io.Input]:
    """start_percent and end_percent, the whole sampling by default."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the sampling where it begins. 0: at once. 1: at the very end.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the sampling where it ends. 0: at once. 1: never.",
        ),
    ]
