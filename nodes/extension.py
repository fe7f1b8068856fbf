"""The list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .adapter_nodes import MEPAAdapterLoader, MEPAApply, PFVTokenCompress
from .demo_nodes import PFVDemoModels
from .product_nodes import PFVDepthCompose, StrictIDComposite
from .reference_nodes import PFVImageEncode, PFVMaskRebinarize

NODES: list[type[io.ComfyNode]] = [
    PFVMaskRebinarize,
    PFVImageEncode,
    MEPAAdapterLoader,
    PFVTokenCompress,
    MEPAApply,
    PFVDepthCompose,
    StrictIDComposite,
    PFVDemoModels,
]


class PFVExtension(ComfyExtension):
    """Registers the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The pack's nodes, in the order of use."""
        return NODES
