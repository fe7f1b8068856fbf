"""The list of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..pfv_demo.sizes import MODELS
from .ad.canvas_nodes import PFVAdCanvas, PFVAdCanvasFinish, PFVAdCanvasPlace
from .ad.compose_nodes import PFVDepthCompose
from .ad.cut_out_nodes import PFVCutOut
from .ad.ground_nodes import PFVGround, PFVProductDepth
from .ad.product_nodes import StrictIDComposite
from .ad.report_nodes import PFVAdReport
from .demo.demo_nodes import PFVDemoModels
from .host.files import list_beside_own
from .mepa.apply_nodes import MEPAAdapterLoader, MEPAApply, PFVTokenCompress
from .mepa.branch_nodes import MEPAApplyControlNet, MEPABranch
from .mepa.crop_nodes import MEPACrop, MEPATiles
from .mepa.load_nodes import MEPALoad
from .mepa.region_nodes import MEPARegionBuilder, MEPARegionFromMask, MEPARegionShape
from .mepa.text_nodes import MEPAApplyText
from .mepa.weights_nodes import MEPAWeights
from .number_ranges import hold_numbers
from .reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from .reference.file_nodes import PFVLoadReference, PFVSaveReference
from .reference.reference_nodes import PFVCombineReferences, PFVReference
from .research.fusion_nodes import RefAdGenAttentionFusion, RefAdGenLoad, RefAdGenMaskInput
from .research.scale_nodes import PFVScaleMap
from .research.strict_id_nodes import StrictIDBranches, StrictIDLoadControlNet

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
    MEPALoad,
    PFVReference,
    PFVCombineReferences,
    MEPAWeights,
    MEPAApplyText,
    PFVAdReport,
    PFVCutOut,
    PFVGround,
    PFVProductDepth,
    RefAdGenLoad,
    StrictIDLoadControlNet,
    StrictIDBranches,
    MEPATiles,
]
hold_numbers(NODES)


class PFVExtension(ComfyExtension):
    """Registers the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The pack's nodes, in the order of use."""
        list_beside_own(MODELS)  # of the demo; here, because hosts of 0.3.64 do not call on_load
        for node in NODES:
            # To a page opened anew newer hosts then send what the node has shown; web/shown_again.js does it for older ones.
            node.HAS_INTERMEDIATE_OUTPUT = True
        return NODES
