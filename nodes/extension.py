"""The list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .ad.canvas_nodes import PFVAdCanvas, PFVAdCanvasFinish, PFVAdCanvasPlace
from .ad.product_nodes import PFVDepthCompose, StrictIDComposite
from .demo.demo_nodes import PFVDemoModels
from .mepa.apply_nodes import MEPAAdapterLoader, MEPAApply, PFVTokenCompress
from .mepa.branch_nodes import MEPAApplyControlNet, MEPABranch
from .mepa.crop_nodes import MEPACrop
from .mepa.region_nodes import MEPARegionBuilder, MEPARegionFromMask, MEPARegionShape
from .reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from .reference.file_nodes import PFVLoadReference, PFVSaveReference
from .research.fusion_nodes import RefAdGenAttentionFusion, RefAdGenMaskInput
from .research.scale_nodes import PFVScaleMap

NODES: list[type[io.ComfyNode]] = [
    PFVMaskRebinarize,
    PFVImageEncode,
    PFVSaveReference,
    PFVLoadReference,
    MEPAAdapterLoader,
    PFVTokenCompress,
    MEPAApply,
    MEPABranch,
    MEPAApplyControlNet,
    MEPACrop,
    PFVDepthCompose,
    StrictIDComposite,
    PFVDemoModels,
    RefAdGenAttentionFusion,
    RefAdGenMaskInput,
    PFVAdCanvas,
    PFVAdCanvasPlace,
    PFVAdCanvasFinish,
    MEPARegionShape,
    MEPARegionFromMask,
    MEPARegionBuilder,
    PFVScaleMap,
]


class PFVExtension(ComfyExtension):
    """Registers the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The pack's nodes, in the order of use."""
        return NODES
