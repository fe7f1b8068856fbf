"""Panels of the nodes that say which look counts, how and where: several pictures, groups of layers, a text with a region."""

from __future__ import annotations

from .added import ad_of
from .studio import Draft, Panels, Studio, painted

FIRST, SECOND = "demo_reference.png", "demo_reference_background.png"
BACKGROUND, TABLE = (f"{title} reference in its region" for title in ("Background", "Table"))
ANOTHER_WALL = "a red bottle, blue wall with dots"  # than the reference shows


def combine(studio: Studio) -> Panels:
    """Two references, the ad of each, and of both in each of the ways."""
    panels = [("the first, painted", painted(FIRST)), ("the second, painted", painted(SECOND))]
    for caption, prompts, how in (
        ("the first alone", {"image_prompt_1": FIRST}, "concatenate"),
        ("the second alone", {"image_prompt_1": SECOND}, "concatenate"),
        ("both, concatenated", {"image_prompt_1": FIRST, "image_prompt_2": SECOND}, "concatenate"),
        ("both, averaged", {"image_prompt_1": FIRST, "image_prompt_2": SECOND}, "average"),
        ("first, away from the second", {"image_prompt_1": FIRST, "negative": SECOND}, "concatenate"),
    ):
        panels.append((caption, ad_of(studio.make(_combined(prompts, how)))))
    return panels


def _combined(prompts: dict[str, str], how: str) -> Draft:
    """The demo's minimal workflow with the references of these files."""
    draft = Draft("demo_minimal")
    draft.give("Prompt", text="a red bottle")
    given = {}
    for name, file in prompts.items():
        picture = draft.add(f"Reference {name}", "LoadImage", image=file)
        mask = draft.output(f"Reference {name}", 1)
        hidden = draft.copy("Hide what is painted", f"Hide {name}", reference=picture, mask=mask)
        tokens = draft.copy("Encode the reference", f"Encode {name}", reference=picture, patch_mask=hidden)
        given[name] = draft.copy("Image prompt", name, image_tokens=tokens)
    weights = {f"weight_{number}": 1.0 for number in range(1, 5)}
    both = draft.add("Both", "PFVCombineReferences", combine=how, **weights, **given)
    draft.give("Image prompt everywhere", image_prompt=both, text_share=0.0)
    return draft


def weights(studio: Studio) -> Panels:
    """The reference in all layers and in two groups of them, where the text names another wall."""
    draft = Draft("demo_full")
    draft.give("Prompt", text=ANOTHER_WALL)
    tables = {"layer_table": "", "sampling": "constant", "sampling_table": ""}
    weighted = draft.add("Weights", "MEPAWeights", layers="all", **tables)
    draft.give(BACKGROUND, weights=weighted)
    ads, pictures = [], {}
    for layers in ("all", "look", "layout"):
        draft.give("Weights", layers=layers)
        shown = studio.make(draft)
        ads.append((f"layers {layers}", ad_of(shown)))
        pictures[layers] = shown["Weights"]
    return [("reference, painted", painted(SECOND)), *ads, ("the node, at look", pictures["look"])]


def text_region(studio: Studio) -> Panels:
    """The main text alone, another text on the wall, and an image prompt on the table beside it."""
    draft = Draft("demo_full")
    draft.give("Prompt", text="a red bottle on a wooden table, blue wall with dots")
    other = draft.copy("Prompt", "Text of the wall", text="a pink wall with stripes")
    region = draft.output("Background region", 1)
    when = {"start_percent": 0.0, "end_percent": 1.0}
    model = draft.output("PFV Demo Models")
    draft.add("Text", "MEPAApplyText", model=model, text=other, region=region, strength=0.0, **when)
    draft.give(TABLE, model=draft.output("Text"), strength=0.0)
    panels = [("region of the wall", painted("demo_region_background.png"))]
    for caption, of_text, of_image in (
        ("the main text alone", 0.0, 0.0),
        ("another text on the wall", 1.0, 0.0),
        ("and an image on the table", 1.0, 1.0),
    ):
        draft.give("Text", strength=of_text)
        draft.give(TABLE, strength=of_image)
        panels.append((caption, ad_of(studio.make(draft))))
    return panels
