"""Panels of the nodes of RefAdGen and Strictly-ID: their demo workflows as they are shipped, and with one thing changed."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw

from pfv_demo.sizes import IMAGE_SIZE

from .added import ad_of
from .studio import Draft, Panels, Shown, Studio, painted

REFADGEN, STRICT_ID = "demo_refadgen", "demo_strict_id"
NAMED = "a green flask on a wooden table, blue wall with dots"
MOVED = 40  # pixels to the right
SMALL = {"subject_cm": 12.0, "center": 0.55}  # the foot stays where it is
CELL = 8  # pixels of the ad in one of the latent
RULED, FREE, LINE = (38, 140, 217), (64, 64, 64), (26, 26, 26)  # as MEPA Apply shows its grids


@cache
def shipped(studio: Studio, name: str) -> Shown:
    """A workflow as it is."""
    return studio.run(name)


def load_refadgen(studio: Studio) -> Panels:
    """A photo, and what is drawn of it."""
    draft = Draft(REFADGEN)
    draft.give("See the product photo", strength=0.0)
    without = ad_of(studio.make(draft))
    draft.give("See the product photo", strength=1.0)
    draft.give("Prompt", text=NAMED)
    return [
        ("the product photo", painted("demo_packshot.png")),
        ("where it shall stand, painted", painted("demo_place.png")),
        ("strength 0", without),
        ("strength 1", ad_of(shipped(studio, REFADGEN))),
        ("1, and the prompt names it", ad_of(studio.make(draft))),
    ]


def mask_input(studio: Studio) -> Panels:
    """Where the mask lies, and the ad; and both where it lies elsewhere."""
    draft = Draft(REFADGEN)
    place = draft.output("Place of the product", 1)
    nothing = draft.add("Nothing", "SolidMask", value=0.0, width=IMAGE_SIZE, height=IMAGE_SIZE)
    added = {"destination": nothing, "source": place, "x": MOVED, "y": 0, "operation": "add"}
    draft.give("Tell the model the place", product_mask=draft.add("Moved", "MaskComposite", **added))
    draft.show("Place of the product", 1, "MaskPreview")
    draft.show("Moved", 0, "MaskPreview")
    shown = studio.make(draft)
    return [
        ("product_mask", shown["Place of the product 1"]),
        ("as the U-Net gets it", on_latent_grid(shown["Place of the product 1"])),
        ("the ad", ad_of(shipped(studio, REFADGEN))),
        (f"{MOVED} pixels further right", on_latent_grid(shown["Moved 0"])),
        ("the ad", ad_of(shown)),
    ]


def on_latent_grid(mask: Image.Image) -> Image.Image:
    """A mask as its share of each cell of the latent: a cell in one colour, with lines between them."""
    size = mask.width // CELL, mask.height // CELL
    shares = mask.convert("L").resize(size, Image.Resampling.BOX)
    cells = Image.composite(Image.new("RGB", size, RULED), Image.new("RGB", size, FREE), shares)
    grid = cells.resize((2 * mask.width, 2 * mask.height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(grid)
    for x in range(0, grid.width, 2 * CELL):
        draw.line((x, 0, x, grid.height), LINE)
    for y in range(0, grid.height, 2 * CELL):
        draw.line((0, y, grid.width, y), LINE)
    return grid


def scale_map(studio: Studio) -> Panels:
    """The subject's rows."""
    return [
        ("product, 20 cm high", painted("demo_product_left.png")),
        ("rows of a subject of 17 cm", shipped(studio, STRICT_ID)["Scale"]),
    ]


def load_strict_id(studio: Studio) -> Panels:
    """The rows of a subject, and the ad, in two sizes."""
    draft = Draft(STRICT_ID)
    draft.give("Scale", **SMALL)
    small = studio.make(draft)
    return [
        ("product 20 cm, subject 17 cm", shipped(studio, STRICT_ID)["Scale"]),
        ("the ad", ad_of(shipped(studio, STRICT_ID))),
        ("subject 12 cm", small["Scale"]),
        ("the ad", ad_of(small)),
    ]


def branches(studio: Studio) -> Panels:
    """Both pictures, and the ad with them and without either."""
    ads = []
    for name in ("pose", "appearance"):
        draft = Draft(STRICT_ID)
        draft.give("Pose and appearance", **{f"{name}_strength": 0.0})
        ads.append((f"{name}_strength 0", ad_of(studio.make(draft))))
    return [
        ("pose", painted("demo_pose.png")),
        ("appearance, painted", painted("demo_appearance.png")),
        ("the ad", ad_of(shipped(studio, STRICT_ID))),
        *ads,
    ]
