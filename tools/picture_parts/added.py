"""Panels of nodes that no demo workflow is about: workflows that were changed for them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageChops, ImageDraw

from pfv_core.region.ramps import ramps
from pfv_demo.sizes import IMAGE_SIZE

from .studio import Draft, Output, Panels, Shown, Studio, painted

BACKGROUND, TABLE, LOOK, IN_CONTROL_NET = (
    f"{title} 1:1" for title in ("Background look", "Table look", "Look at the product", "Looks in the ControlNet")
)
SAVE = "Save the ad"
PART_LEFT, PART_TOP, PART_SIDE = 128, 80, 128  # of the part of the square ad that is sampled once more
PART_DENOISE = 0.8  # with less, what the enlarged part shows is what is drawn
FRAME = (255, 255, 0)


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
    region = draft.copy("Table region 1:1", "Left half", **left)
    draft.give("Regions 1:1", region_3=region, region_4=draft.output("Canvas 1:1", 2))
    draft.give(BACKGROUND, region=draft.output("Regions 1:1", 3))
    settings = {"strength": 1.0, "text_share": 0.0, "gate": "output", "start_percent": 0.0, "end_percent": 1.0}
    of_table = {"image_prompt": draft.output("Table image prompt"), "region": draft.output("Regions 1:1", 1)}
    table = draft.add("Table branch", "MEPABranch", **of_table, **settings)
    third = {"image_prompt": prompt, "region": draft.output("Regions 1:1", 2)}
    both = draft.add("Both branches", "MEPABranch", **third, **settings, branches=table)
    for title in ("Sampler 1:1", IN_CONTROL_NET):
        draft.give(title, model=draft.output(BACKGROUND))
    ads = []
    for caption, branches in (
        ("MEPA Apply alone: right half", {}),
        ("one branch: the table", {"branches": table}),
        ("two: the wall's left half, too", {"branches": both}),
    ):
        draft.give(BACKGROUND, **branches)
        shown = studio.make(draft)
        ads.append((caption, ad_of(shown)))
    return [("the regions", shown["Regions 1:1"]), *ads]


def control_net(studio: Studio) -> Panels:
    """Image prompts nowhere, in one of the two networks, and in both."""
    draft = one_format()
    prompted, plain = draft.output(TABLE), draft.output(LOOK)
    patched, own = draft.output(IN_CONTROL_NET), draft.prompt[draft.output(IN_CONTROL_NET)[0]]["inputs"]["control_net"]
    ads = []
    for caption, model, network in (
        ("no image prompts", plain, own),
        ("in the ControlNet alone", plain, patched),
        ("in the U-Net alone", prompted, own),
        ("in both", prompted, patched),
    ):
        draft.give("Sampler 1:1", model=model)
        draft.give("Apply depth 1:1", control_net=network)
        ads.append((caption, ad_of(studio.make(draft))))
    return ads


def crop(studio: Studio) -> Panels:
    """A part of the ad drawn larger, as a detailer does: enlarged, noised and sampled as a picture of its own."""
    draft = one_format()
    place = {"x": PART_LEFT, "y": PART_TOP, "width": PART_SIDE, "height": PART_SIDE}
    whole = {"ad_width": IMAGE_SIZE, "ad_height": IMAGE_SIZE}
    prompted = draft.output(TABLE)
    cropped = draft.add("Crop", "MEPACrop", model=prompted, **place, **whole)
    picture, depth = (
        _enlarged(draft, title, source, place) for title, source in (("Part", "Decode 1:1"), ("Depth", "Depth 1:1"))
    )
    draft.copy("Apply depth 1:1", "Apply depth to the part", image=depth)
    draft.copy("Encode the product 1:1", "Encode the part", pixels=picture)
    sampled = {
        "positive": draft.output("Apply depth to the part"),
        "negative": draft.output("Apply depth to the part", 1),
        "latent_image": draft.output("Encode the part"),
        "denoise": PART_DENOISE,
    }
    for title, model in (("without", prompted), ("with", cropped)):
        samples = draft.copy("Sampler 1:1", f"Sampler {title}", model=model, **sampled)
        draft.copy("Decode 1:1", title, samples=samples)
        draft.show(title)
    draft.show("Decode 1:1")
    draft.show("Larger Part")
    shown = studio.make(draft)
    ad = shown["Decode 1:1 0"]
    box = (PART_LEFT, PART_TOP, PART_LEFT + PART_SIDE - 1, PART_TOP + PART_SIDE - 1)
    ImageDraw.Draw(ad).rectangle(box, outline=FRAME)
    return [
        ("the ad, and a part of it", ad),
        ("that part, enlarged", shown["Larger Part 0"]),
        ("sampled anew without the node", shown["without 0"]),
        ("sampled anew with MEPA Crop", shown["with 0"]),
    ]


def tiles(studio: Studio) -> Panels:
    """A part of the ad, and what the prompts say of it: how far down and across the ad each pixel is."""
    ad = ad_of(studio.make(one_format()))
    part = (PART_LEFT, PART_TOP, PART_LEFT + PART_SIDE, PART_TOP + PART_SIDE)
    carried = ramps(ad.height, ad.width)
    down, across = (Image.fromarray((mask[0] * 255).byte().numpy()) for mask in (carried[0], carried[2]))
    ImageDraw.Draw(ad).rectangle((*part[:2], part[2] - 1, part[3] - 1), outline=FRAME)
    return [
        ("the ad, and a tile of it", ad),
        ("carried: how far down", down),
        ("how far across", across),
        ("as they arrive: down", down.crop(part)),
        ("across", across.crop(part)),
    ]


def _enlarged(draft: Draft, title: str, source: str, place: dict[str, int]) -> Output:
    """The part of a picture of the ad, at the ad's size."""
    part = draft.add(title, "ImageCrop", image=draft.output(source), **place)
    size = {"upscale_method": "bicubic", "width": IMAGE_SIZE, "height": IMAGE_SIZE, "crop": "disabled"}
    return draft.add(f"Larger {title}", "ImageScale", image=part, **size)


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
