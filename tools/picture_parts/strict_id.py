"""Panels of the Strictly-ID nodes. No trained file is at hand: they show what the ControlNet is told, and that an untrained one
changes nothing."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from pfv_core.headers import Shapes, read_shapes
from pfv_demo.sizes import CONTEXT_DIM, UNET, VISION, WEIGHTS

from .added import ad_of, check_same, one_format
from .studio import Draft, Output, Panels, Studio, painted

FILE = "untrained.safetensors"
WIDTH, HEADS = UNET["block_out_channels"][-1], UNET["attention_head_dim"][-1]  # of the demo's two cross-attentions
PLACES = 2
BYTES = 4  # of a float32


def load_control_net(studio: Studio) -> Panels:
    """What the ControlNet is told, and the ad with an untrained one."""
    draft = one_format()
    plain = ad_of(studio.make(draft))
    _with_control(studio, draft, _loaded(draft))
    draft.show("Canvas 1:1")
    draft.show("Scale map", 0, "MaskPreview")
    shown = studio.make(draft)
    check_same(plain, ad_of(shown), "Strictly-ID Load ControlNet with an untrained file")
    return [
        ("the product on the canvas", shown["Canvas 1:1 0"]),
        ("the subject's rows", shown["Scale map 0"]),
        ("the ad without the node", plain),
        ("with an untrained file: the same", ad_of(shown)),
    ]


def branches(studio: Studio) -> Panels:
    """Two pictures for the branches, one with a hidden part, and the ad with untrained ones."""
    draft = one_format()
    plain = ad_of(studio.make(draft))
    given = {
        "pose": _encoded(draft, "Pose", "demo_reference_background.png", hidden=False),
        "appearance": _encoded(draft, "Appearance", "demo_reference.png", hidden=True),
    }
    settings = {
        "pose_strength": 1.0,
        "appearance_strength": 1.0,
        "std_norm": "as_trained",
        "time_weighting": "as_trained",
    }
    made = draft.add("Branches", "StrictIDBranches", control_net=_loaded(draft), **settings, gamma=400, **given)
    _with_control(studio, draft, made)
    shown = studio.make(draft)
    check_same(plain, ad_of(shown), "Strictly-ID Branches with an untrained file")
    return [
        ("appearance, painted", painted("demo_reference.png")),
        ("what is seen of it", shown["Appearance patches"]),
        ("the ad without the node", plain),
        ("with an untrained file: the same", ad_of(shown)),
    ]


def _loaded(draft: Draft) -> Output:
    return draft.add("Strictly-ID", "StrictIDLoadControlNet", control_net_name=FILE)


def _with_control(studio: Studio, draft: Draft, control_net: Output) -> None:
    """Put a ControlNet and the product's scale map before the sampler."""
    write_untrained(studio.folder / "models" / "controlnet" / FILE)
    canvas = {"product": draft.output("Canvas 1:1"), "product_mask": draft.output("Canvas 1:1", 1)}
    sizes = {"height_from": "sizes", "product_cm": 20.0, "subject_cm": 10.0, "height_ratio": 0.5, "center": 0.0}
    draft.add("Scale map", "PFVScaleMap", **canvas, product_mask_selects="product", **sizes)
    conditions = {"positive": draft.output("Apply depth 1:1"), "negative": draft.output("Apply depth 1:1", 1)}
    part = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    draft.add(
        "Apply",
        "ControlNetApplyAdvanced",
        **conditions,
        control_net=control_net,
        image=draft.output("Scale map", 1),
        **part,
    )
    draft.give("Sampler 1:1", positive=draft.output("Apply"), negative=draft.output("Apply", 1))


def _encoded(draft: Draft, title: str, file: str, hidden: bool) -> Output:
    picture = draft.add(title, "LoadImage", image=file)
    mask = {"mask": draft.output(title, 1)} if hidden else {}
    vision = draft.prompt[draft.output("Hide in the background reference")[0]]["inputs"]["clip_vision"]
    seen = {"clip_vision": vision, "reference": picture}
    patches = draft.add(f"{title} patches", "PFVMaskRebinarize", **seen, fit="crop", threshold=0.0, **mask)
    return draft.add(f"{title} tokens", "PFVImageEncode", **seen, patch_mask=patches, mode="zero")


def write_untrained(file: Path) -> None:
    """A Strictly-ID file for the demo whose every tensor is zeros, so that its residuals are."""
    shapes = {**read_shapes(WEIGHTS / "controlnet.safetensors"), **_branches()}
    shapes["controlnet_cond_embedding.conv_in.weight"][1] = 4
    encoder = {name: VISION[name] for name in ("image_size", "patch_size", "hidden_size")}
    encoder |= {"num_layers": VISION["num_hidden_layers"], "projection_size": VISION["projection_dim"]}
    metadata = {"format": "strict_id", "format_version": "1", "base": "demo", "std_norm": "true", "gamma": "400.0"}
    header: dict[str, object] = {
        "__metadata__": metadata | {"heads": json.dumps([HEADS] * PLACES), "encoder": json.dumps(encoder)}
    }
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + BYTES * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def _branches() -> Shapes:
    wide, context = [WIDTH, WIDTH], [WIDTH, CONTEXT_DIM]
    layers = {
        "to_q.weight": wide,
        "to_k.weight": context,
        "to_v.weight": context,
        "to_out.weight": wide,
        "to_out.bias": [WIDTH],
    }
    found: Shapes = {}
    for branch in ("pose", "appearance"):
        found[f"branches.{branch}.projection.weight"] = [CONTEXT_DIM, VISION["hidden_size"]]
        for place in range(PLACES):
            found |= {f"branches.{branch}.attentions.{place}.{name}": shape for name, shape in layers.items()}
    return found
