"""The panels of the help pages' pictures, a function for each node."""

from __future__ import annotations

from collections.abc import Callable

from .added import branch, control_net, crop, fusion, load_reference, save_reference, tiles
from .looks import combine, text_region, weights
from .neighbours import branches, load_refadgen, load_strict_id, mask_input, scale_map
from .page import load
from .studio import Changes, Panels, Studio, painted
from .two_photographs import cut_out, ground, product_depth, reference, report


def rebinarize(studio: Studio) -> Panels:
    """Paint, and the patches that it hides."""
    title, node = "Hide in the background reference", "PFVMaskRebinarize"
    softer = studio.run("demo_full", {(node, title): {"threshold": 0.5}})
    return [
        ("painted on the reference", painted("demo_reference_background.png")),
        ("threshold 0: hidden patches", studio.full[title]),
        ("threshold 0.5", softer[title]),
    ]


def encode(studio: Studio) -> Panels:
    """What an image prompt draws without any text, with the hidden part and without."""
    silent: Changes = {("CLIPTextEncode", "Prompt"): {"text": ""}}
    whole = studio.run("demo_minimal", silent, without=("PFVMaskRebinarize", "Hide what is painted", "mask"))
    return [
        ("reference, painted", painted("demo_reference.png")),
        ("no text, nothing hidden", whole["Save the ad"]),
        ("no text, visible patches", studio.run("demo_minimal", silent)["Save the ad"]),
    ]


def load_adapter(studio: Studio) -> Panels:
    """The same prompt without an image prompt, and with it."""
    without = studio.run("demo_minimal", {("MEPAApply", "Image prompt everywhere"): {"strength": 0.0}})
    return [
        ("reference, painted", painted("demo_reference.png")),
        ("the prompt alone", without["Save the ad"]),
        ("with the adapter", studio.run("demo_minimal")["Save the ad"]),
    ]


def compress(studio: Studio) -> Panels:
    """One reference, compressed in three ways."""
    node = ("PFVTokenCompress", "Image prompt")
    methods = ("adapter", "eq3_normalized", "cluster")
    return [("reference, painted", painted("demo_reference.png"))] + [
        (f"method {method}", studio.run("demo_minimal", {node: {"method": method}})["Save the ad"])
        for method in methods
    ]


def apply(studio: Studio) -> Panels:
    """The region on the attention's grid, and strength of the background's image prompt."""
    node = ("MEPAApply", "Background reference in its region")
    region = ("region, painted", painted("demo_region_background.png"))
    grid = ("as the node shows it", studio.full[node[1]])
    strengths = (0.0, 0.5, 1.0)
    return [region, grid] + [
        (f"strength {strength:g}", studio.run("demo_full", {node: {"strength": strength}})["Save the ad"])
        for strength in strengths
    ]


def depth(studio: Studio) -> Panels:
    """Two depth maps and what they become."""
    return [
        ("foreground_depth", painted("demo_product_depth.png")),
        ("reference_depth", painted("demo_reference_background_depth.png")),
        ("depth", studio.full["Depth of the ad 0"]),
    ]


def composite(studio: Studio) -> Panels:
    """Generated image, photo, ad, and the ad with an added shadow."""
    node = ("StrictIDComposite", "Product's own pixels")
    shadow = studio.run("demo_full", {node: {"shadow_strength": 0.4, "shadow_size": 6}})
    return [
        ("generated", studio.full["VAE Decode 0"]),
        ("product, cut out", painted("demo_product.png")),
        ("image", studio.full["Save the ad"]),
        ("what is not exact, marked", studio.full["Product's own pixels"]),
        ("with shadow_strength 0.4", shadow["Save the ad"]),
    ]


def canvas(studio: Studio) -> Panels:
    """A cut-out on a canvas, and the region around it."""
    return [
        ("product, cut out", painted("demo_product.png")),
        ("image", studio.formats["Canvas 4:5 0"]),
        ("region", studio.formats["Canvas 4:5 2"]),
    ]


def place(studio: Studio) -> Panels:
    """The product's depth where the product stands."""
    return [
        ("depth of the photo", painted("demo_product_depth.png")),
        ("the canvas's image", studio.formats["Canvas 4:5 0"]),
        ("image", studio.formats["Product depth 4:5 0"]),
    ]


def finish(studio: Studio) -> Panels:
    """What was sampled, and the ad's own size."""
    pairs = (("image, as sampled", "Decode 4:5 0"), ("image, of the ad's size", "Finish 4:5 0"))
    return [(f"{caption}: {(shown := studio.formats[title]).width}x{shown.height}", shown) for caption, title in pairs]


def region_shape(studio: Studio) -> Panels:
    """A half-plane."""
    return [("half_plane, y1 and y2 at the table", studio.formats["Table region 4:5 0"])]


def region_from_mask(studio: Studio) -> Panels:
    """A product's mask, grown."""
    mask, region = (studio.formats[title] for title in ("Canvas 4:5 1", "Grown region 4:5 0"))
    return [("mask", mask), ("region: grow 8, softness 8", region)]


def region_builder(studio: Studio) -> Panels:
    """Regions in colours."""
    return [(f"preview, {name}", studio.formats[f"Regions {name}"]) for name in ("1:1", "4:5", "1.91:1")]


def demo(studio: Studio) -> Panels:
    """What the demo's words draw."""
    prompts = ("a red bottle on a wooden table", "a blue vase, grey wall with dots", "a green jar on a marble table")
    ads = []
    for prompt in prompts:
        changes: Changes = {
            ("CLIPTextEncode", "Prompt"): {"text": prompt},
            ("MEPAApply", "Image prompt everywhere"): {"strength": 0.0},
        }
        ads.append((prompt, studio.run("demo_minimal", changes)["Save the ad"]))
    return ads


HELP: dict[str, Callable[[Studio], Panels]] = {
    "PFVMaskRebinarize": rebinarize,
    "PFVImageEncode": encode,
    "PFVSaveReference": save_reference,
    "PFVLoadReference": load_reference,
    "MEPAAdapterLoader": load_adapter,
    "PFVTokenCompress": compress,
    "MEPAApply": apply,
    "MEPABranch": branch,
    "MEPAApplyControlNet": control_net,
    "MEPACrop": crop,
    "MEPATiles": tiles,
    "PFVDepthCompose": depth,
    "StrictIDComposite": composite,
    "PFVDemoModels": demo,
    "RefAdGenAttentionFusion": fusion,
    "RefAdGenMaskInput": mask_input,
    "PFVAdCanvas": canvas,
    "PFVAdCanvasPlace": place,
    "PFVAdCanvasFinish": finish,
    "MEPARegionShape": region_shape,
    "MEPARegionFromMask": region_from_mask,
    "MEPARegionBuilder": region_builder,
    "PFVScaleMap": scale_map,
    "MEPALoad": load,
    "PFVReference": reference,
    "PFVCombineReferences": combine,
    "MEPAWeights": weights,
    "MEPAApplyText": text_region,
    "PFVAdReport": report,
    "PFVCutOut": cut_out,
    "PFVGround": ground,
    "PFVProductDepth": product_depth,
    "RefAdGenLoad": load_refadgen,
    "StrictIDLoadControlNet": load_strict_id,
    "StrictIDBranches": branches,
}
