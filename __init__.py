"""PFV + MEPA for ComfyUI: ads that follow the visible part of a reference, a prompt and a product photo."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The host calls this once. Host modules are imported here, so that the package can be read without a host."""
    from .nodes.extension import PFVExtension

    return PFVExtension()
