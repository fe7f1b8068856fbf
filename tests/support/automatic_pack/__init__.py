"""A custom node pack without nodes: ComfyUI's own loaders accept the narrow files of `automatic_models`.

For a server of its own, in a test; never install it beside real models. A host without these models is left as it is.
"""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """Called by the host: registers the narrow architectures, brings no node."""
    from comfy_api.latest import ComfyExtension

    class AutomaticModelsExtension(ComfyExtension):
        async def get_node_list(self) -> list[Any]:
            return []

    try:
        from .architectures import register
    except ModuleNotFoundError as missing:  # a host from before these models has no such module
        if not (missing.name or "").startswith("comfy."):
            raise
    else:
        register()
    return AutomaticModelsExtension()
