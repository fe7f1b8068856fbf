"""Panels of the nodes that find by themselves what of two photographs counts, and of the page that is drawn of an ad."""

from __future__ import annotations

from PIL import Image

from .added import ad_of
from .studio import Draft, Panels, Shown, Studio, painted

PHOTO, REFERENCE, CUT, LOOK, GROUND = "Product photo", "Reference", "Product", "Look", "Ground"
PLAIN, PAINTED = "demo_reference_photo.png", "demo_reference_background.png"  # one scene
PAGE_WIDTH = 620  # pixels of a page of the report


def cut_out(studio: Studio) -> Panels:
    """A photo and its cut-out: on plain ground, and painted on a scene that the node refuses by itself."""
    scene = Draft("demo_minimal")
    settings = {"mask_selects": "product", "several_parts": False, "cut_off": False}
    photo, mask = scene.output(REFERENCE), scene.output(REFERENCE, 1)
    scene.give(REFERENCE, image=PAINTED)
    scene.add(CUT, "PFVCutOut", photo=photo, mask=mask, **settings)
    scene.show(CUT, 0, "MaskPreview")
    return [
        ("a packshot", painted("demo_product_photo.png")),
        ("found on its ground", _ad(studio)[CUT]),
        ("a scene, painted", painted(PAINTED)),
        ("painted wins", studio.make(scene)[CUT]),
    ]


def reference(studio: Studio) -> Panels:
    """What is hidden, and the ad: of one reference, painted and as it is."""
    by_hand = _ad(studio, PAINTED)
    return [
        ("painted: hidden patches", by_hand[LOOK]),
        ("nothing painted: what stands out", _ad(studio)[LOOK]),
        ("the ad, painted", ad_of(by_hand)),
        ("the ad, nothing painted", ad_of(_ad(studio))),
    ]


def ground(studio: Studio) -> Panels:
    """A reference, and the line and the depth that the node finds in it."""
    picture = _ad(studio)[GROUND]  # two side by side
    halves = [picture.crop((left, 0, left + picture.width // 2, picture.height)) for left in (0, picture.width // 2)]
    return [("reference", painted(PLAIN)), ("its ground line", halves[0]), ("its depth", halves[1])]


def product_depth(studio: Studio) -> Panels:
    """The product on its canvas, its depth, and the depth of the ad."""
    shown = _ad(studio)
    return [
        ("product on the canvas", shown["Format and place 0"]),
        ("its depth", shown["Product depth"]),
        ("depth of the ad", shown["Depth of the ad"]),
    ]


def _ad(studio: Studio, file: str = PLAIN) -> Shown:
    """The demo's ad of two photographs."""
    draft = Draft("demo_ad")
    draft.give(REFERENCE, image=file)
    draft.show("Format and place")
    return studio.make(draft)


def report(studio: Studio) -> Panels:
    """The page of the demo's ad."""
    draft = Draft("demo_ad")
    composite = "Product's own pixels"
    counted = {"image": draft.output(composite), "report": draft.output(composite, 2)}
    page = draft.add("Report", "PFVAdReport", **counted, model=draft.output("On the ground"))
    draft.give("Save the ad", images=page)
    drawn = ad_of(studio.make(draft))
    height = round(drawn.height * PAGE_WIDTH / drawn.width)
    return [("", drawn.resize((PAGE_WIDTH, height), Image.Resampling.LANCZOS))]
