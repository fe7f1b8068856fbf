"""A custom node pack without nodes: it lets ComfyUI's own loaders accept the tiny files of `tiny_stack.files`.

For a server of its own, in a test; never install it beside real models.
"""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """Called by the host: registers the tiny architectures, brings no node."""
    from comfy_api.latest import ComfyExtension

    from .architectures import register

    class TinyStackExtension(ComfyExtension):
        async def get_node_list(self) -> list[Any]:
            return []

    register()
    return TinyStackExtension()
