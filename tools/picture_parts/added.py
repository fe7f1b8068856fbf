"""Panels of nodes that no demo workflow is about: workflows that were changed for them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from PIL import Image, ImageChops

from .studio import Draft, Panels, Shown, Studio, painted

BACKGROUND, TABLE, LOOK = (
    f"{title} in 1:1" for title in ("Background reference", "Table reference", "Look at the product")
)
IN_CONTROL_NET = "References in the ControlNet of 1:1"
SAVE = "Save the ad"
DEMO_WIDTH, DEMO_CONTEXT = 64, 128  # of the demo U-Net's first level, and of its text


def one_format() -> Draft:
    """The demo's ad in one of its formats."""
    return Draft("demo_formats", saving=f"{SAVE} 1:1")


def ad_of(shown: Shown) -> Image.Image:
    """The one ad that was saved."""
    (ad,) = shown.saved()
    return ad


def check_same(one: Image.Image, other: Image.Image, what: str) -> None:
    """RuntimeError where a caption would lie."""
    if ImageChops.difference(one, other).getbbox() is not None:
        raise RuntimeError(f"{what}: the pictures differ, the help page says that they are the same")


def branch(studio: Studio) -> Panels:
    """Image prompts that come in one after another."""
    draft = one_format()
    other = draft.add("Other reference", "LoadImage", image="demo_reference.png")
    mask = draft.output("Other reference", 1)
    hidden = draft.copy("Hide in the background reference", "Hide in the other", reference=other, mask=mask)
    encoded = draft.copy("Encode the background reference", "Encode the other", reference=other, patch_mask=hidden)
    prompt = draft.copy("Background image prompt", "Other image prompt", image_tokens=encoded)
    left = {"shape": "rectangle", "x1": 0.0, "y1": 0.0, "x2": 0.5, "y2": 1.0}
    region = draft.copy("Table region in 1:1", "Left half", **left)
    draft.give("Regions of 1:1", region_3=region, region_4=draft.output("Canvas 1:1", 2))
    draft.give(BACKGROUND, region=draft.output("Regions of 1:1", 3))
    third = draft.output("Regions of 1:1", 2)
    both = draft.copy(TABLE, "Both branches", image_prompt=prompt, region=third, branches=draft.output(TABLE))
    ads = []
    for caption, branches in (
        ("MEPA Apply alone: right half", None),
        ("one branch: the table", draft.output(TABLE)),
        ("two: the wall's left half, too", both),
    ):
        if branches is None:
            draft.take(BACKGROUND, "branches")
        else:
            draft.give(BACKGROUND, branches=branches)
        shown = studio.make(draft)
        ads.append((caption, ad_of(shown)))
    return [("the regions", shown["Regions of 1:1"]), *ads]


def control_net(studio: Studio) -> Panels:
    """Image prompts nowhere, in one of the two networks, and in both."""
    draft = one_format()
    prompted, plain = draft.output(BACKGROUND), draft.output(LOOK)
    patched, own = draft.output(IN_CONTROL_NET), draft.prompt[draft.output(IN_CONTROL_NET)[0]]["inputs"]["control_net"]
    ads = []
    for caption, model, network in (
        ("no image prompts", plain, own),
        ("in the ControlNet alone", plain, patched),
        ("in the U-Net alone", prompted, own),
        ("in both", prompted, patched),
    ):
        draft.give("Sampler 1:1", model=model)
        draft.give("Apply depth to 1:1", control_net=network)
        ads.append((caption, ad_of(studio.make(draft))))
    return ads


def fusion(studio: Studio) -> Panels:
    """What the model draws of a product that the text names without its colour."""
    draft = one_format()
    draft.give("Prompt", text="a bottle")
    draft.show("Canvas 1:1")
    draft.show("Decode 1:1")
    panels = []
    for caption, changes in (
        ("without the node", {"strength": 0.0}),
        ("blend, strength 1", {"combine": "blend", "strength": 1.0}),
        ("add, strength 1", {"combine": "add", "strength": 1.0}),
    ):
        draft.give(LOOK, **changes)
        shown = studio.make(draft)
        panels.append((caption, shown["Decode 1:1 0"]))
    return [("the product on the canvas", shown["Canvas 1:1 0"]), *panels]


def save_reference(studio: Studio) -> Panels:
    """What goes into a file."""
    shown = _saved(studio)
    file = _file_of(studio, shown)
    return [
        ("reference, painted", painted("demo_reference.png")),
        ("its visible patches are saved", shown["Hide what is painted"]),
        (f"the ad, and a file of {file.stat().st_size / 1024:.0f} KB", ad_of(shown)),
    ]


def load_reference(studio: Studio) -> Panels:
    """The same ad with and without the encoder."""
    saved = _saved(studio)
    draft = Draft("demo_minimal")
    tokens = draft.add("Load it", "PFVLoadReference", file=_file_of(studio, saved).name, mode="as_saved")
    draft.give("Image prompt", image_tokens=tokens)
    loaded = ad_of(studio.make(draft))
    check_same(ad_of(saved), loaded, "PFV Load Reference")
    return [
        ("reference, painted", painted("demo_reference.png")),
        ("the ad, encoded and saved", ad_of(saved)),
        ("from the file, to the bit", loaded),
    ]


def _saved(studio: Studio) -> Shown:
    draft = Draft("demo_minimal")
    tokens = draft.add("Save it", "PFVSaveReference", image_tokens=draft.output("Encode the reference"), name="dots")
    draft.give("Image prompt", image_tokens=tokens)
    return studio.make(draft)


def _file_of(studio: Studio, shown: Shown) -> Path:
    (name,) = shown.output("Save it")["references"]
    return studio.folder / "output" / "pfv_references" / str(name)


def mask_input(studio: Studio) -> Panels:
    """Where the mask lies, and that a channel of zeros, where training starts, changes nothing."""
    file = studio.folder / "models" / "model_patches" / "zeros.safetensors"
    write_zeros(file)
    draft = one_format()
    plain = ad_of(studio.make(draft))
    mask = draft.output("Canvas 1:1", 1)
    inputs = {"model": draft.output("PFV Demo Models"), "mask_input_name": file.name, "product_mask": mask}
    model = draft.add("Mask input", "RefAdGenMaskInput", **inputs)
    # MEPA Apply shows on which grid a mask lies; with strength 0 it does nothing else.
    grid = draft.copy(BACKGROUND, "Grid", model=model, region=mask, strength=0.0)
    draft.take("Grid", "branches")
    draft.give(LOOK, model=grid)
    draft.show("Canvas 1:1", 1, "MaskPreview")
    shown = studio.make(draft)
    check_same(plain, ad_of(shown), "RefAdGen Mask Input with a channel of zeros")
    return [
        ("product_mask", shown["Canvas 1:1 1"]),
        ("as the U-Net gets it", shown["Grid"]),
        ("the ad without the node", plain),
        ("with a file of zeros: the same", ad_of(shown)),
    ]


def write_zeros(file: Path) -> None:
    """A mask input for the demo's U-Net whose channel is zeros, as safetensors."""
    shape = [DEMO_WIDTH, 1, 3, 3]
    length = 4 * DEMO_WIDTH * 9  # bytes of float32
    header = {
        "__metadata__": {"format": "mask_input", "context_dim": str(DEMO_CONTEXT)},
        "mask_input.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, length]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(length))
