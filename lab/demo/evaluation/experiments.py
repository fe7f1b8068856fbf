"""All tables, the main ones first: which rows, which columns, on how many pairs."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from pfv_core.attention.balance import PAPER_GAMMA
from pfv_core.attention.control import Gate, PromptControl

from .conditions import TEXT_GUIDANCE, Area, Condition, Depth, Experiment, Given, Row, Sweep, View, Words

MAIN_TOKENS = 16
MAIN = f"eq3_c{MAIN_TOKENS}"  # trained with the zeroed embedding of Eq. 1, as all families are but the next
DROP_TRAINED = "eq3_c16_drop"
RESAMPLER = "resampler_c16"
LINEAR = "linear_c4"
IP_ADAPTER = "ipadapter_c16"
NUM_TOKENS = (4, 16, 32)
NO_COMPRESSION = "tokens_c65"  # 8 x 8 patches and the class
COMPRESSION = (*(f"{kind}_c{count}" for kind in ("eq3", "resampler") for count in NUM_TOKENS), NO_COMPRESSION, LINEAR)
NO_ADAPTER = ""
ADAPTER_FILE = re.compile(
    r"(?P<family>(?P<kind>[a-z0-9]+)_c(?P<tokens>\d+)(?P<drop>_drop)?)_seed(?P<seed>\d+)\.safetensors"
)

CEILING = Condition("ceiling", "scene A, encoded and decoded", given=Given.DECODED)
BLUR = Condition("blur", "scene A, blurred", given=Given.BLURRED)
TEXT = Condition("text", "text alone", Words.EVERYTHING)

VIEW_LABELS = {
    View.VISIBLE: "product visible",
    View.ORACLE: "same scene without product",
    View.DROPPED: "PFV, tokens dropped",
    View.ZEROED: "PFV, embedding zeroed (Eq. 1)",
    View.BLURRED: "product's pixels blurred",
    View.BLACKED: "product's pixels black",
    View.GREYED: "product's pixels mean grey",
    View.BLURRED_PATCHES: "its patches blurred",
    View.BLACKED_PATCHES: "its patches black",
    View.GREYED_PATCHES: "its patches mean grey",
}
FILLS = (*(view for view in View if view.value.startswith(("blurred", "blacked", "greyed"))),)
SHORT_VIEWS = (View.VISIBLE, View.ORACLE, View.DROPPED, View.ZEROED)
IMAGE_ONLY = {view: Condition(f"image_{view.value}", label, view=view) for view, label in VIEW_LABELS.items()}

GLOBAL_SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
MASKED_SCALES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
OWN_SCALES = (0.5, 1.0, 1.5, 2.0)


def _of_wall(name: str, label: str, words: Words, **control: Any) -> Condition:
    return Condition(name, label, words, View.DROPPED, PromptControl(**control), Area.WALL)


class Fusion:
    """Ways to join a text with a reference of which PFV hides the product, for one text."""

    def __init__(self, prefix: str, words: Words) -> None:
        whole = Condition(f"{prefix}_global", "whole frame (Eq. 4)", words, View.DROPPED)
        masked = _of_wall(f"{prefix}_output_1", "IP-Adapter with an attention mask", words)
        same = replace(masked, label="the same mask with MEPA's adapter (text share 1)")
        own = _of_wall(f"{prefix}_output_0", "MEPA: output gate, text share 0", words, text_share=0.0)
        half = _of_wall(f"{prefix}_output_0.5", "output gate, text share 0.5", words, text_share=0.5)
        printed = _of_wall(f"{prefix}_query_0", "Eq. 6 as printed (query gate)", words, text_share=0.0, gate=Gate.QUERY)
        self.whole = Sweep(whole, MAIN, GLOBAL_SCALES)
        self.masked = Sweep(masked, IP_ADAPTER, MASKED_SCALES)
        self.same = Sweep(same, MAIN, MASKED_SCALES)
        self.half = Sweep(half, MAIN, MASKED_SCALES)
        self.printed = Sweep(printed, MAIN, (0.25, *OWN_SCALES))
        self.mepa = Sweep(own, MAIN, OWN_SCALES)

    @property
    def rows(self) -> tuple[Sweep, ...]:
        """In a table's order."""
        return self.whole, self.masked, self.same, self.printed, self.half, self.mepa


CONFLICT = Fusion("conflict", Words.EVERYTHING)
AGREEING = Fusion("agreeing", Words.PRODUCT_AND_TABLE)

NORMALISED = {"std_norm": True, "image_scale": 1.0}  # as loud as the text, whatever its scale was
BALANCES: dict[str, tuple[str, dict[str, Any]]] = {  # label, what changes in the control
    "std_norm": ("std_norm (Eq. 8)", NORMALISED),
    "time": ("time_weighting (Eq. 10)", {"gamma": PAPER_GAMMA}),
    "both": ("both", {**NORMALISED, "gamma": PAPER_GAMMA}),
}


def _balanced(plain: Condition, title: str) -> tuple[Condition, ...]:
    """A condition as it is and with each balance."""
    rows = [replace(plain, label=f"{title}: as it is")]
    for name, (label, changes) in BALANCES.items():
        control = replace(plain.control, **changes)
        rows.append(replace(plain, name=f"{plain.name}_{name}", label=f"{title}: {label}", control=control))
    return tuple(rows)


LOUD = _balanced(CONFLICT.whole.at(3.0).condition, "three times as loud, whole frame")
PLAIN = replace(CONFLICT.whole.at(1.0).condition, label="once as loud, whole frame: as it is")
SEEING = _balanced(Condition("conflict_visible", "", Words.EVERYTHING, View.VISIBLE), "product visible, whole frame")
BOUNDED = _balanced(CONFLICT.mepa.at(1.0).condition, "in its region, text share 0")

AD_DECODED = Condition("ad_decoded", "the true ad, encoded and decoded", ad=True, given=Given.DECODED)
AD_BLURRED = Condition("ad_blurred", "the true ad, blurred", ad=True, given=Given.BLURRED)
AD_LIGHT = Condition("ad_light", "the true ad in another light", ad=True, given=Given.LIGHT)
AD_GRAIN = Condition("ad_grain", "the true ad, the table's grain elsewhere", ad=True, given=Given.GRAIN)
AD_RELIT = Condition(
    "ad_relit", "the true ad in another light, the table's grain elsewhere", ad=True, given=Given.RELIT
)


def _ad(view: View, depth: Depth) -> Condition:
    hiding = "with PFV" if view is View.DROPPED else "without PFV"
    label = f"{hiding}, {'with' if depth is Depth.MASKED else 'without'} the depth mask"
    control = PromptControl(text_share=0.0)
    name = f"ad_{view.value}_{depth.value}"
    return Condition(name, label, Words.PRODUCT, view, control, Area.AROUND, ad=True, depth=depth)


ADS = {
    (view, depth): _ad(view, depth) for view in (View.VISIBLE, View.DROPPED) for depth in (Depth.WHOLE, Depth.MASKED)
}


def _guided_by(guidance: float) -> Condition:
    """The ad with PFV and the depth mask, with this guidance; at TEXT_GUIDANCE it is that of ADS."""
    ad, label = ADS[View.DROPPED, Depth.MASKED], f"guidance {guidance:g}"
    if guidance == TEXT_GUIDANCE:
        return replace(ad, label=label)
    return replace(ad, name=f"{ad.name}_guidance_{guidance:g}", label=label, guidance=guidance)


BY_GUIDANCE = {guidance: _guided_by(guidance) for guidance in (1.0, 1.5, 2.0, TEXT_GUIDANCE, 5.0)}

LEAKS = (
    "wall_reference",
    "pattern_reference",
    "wall_sharpness",
    "tint",
    "foreign_color",
    "foreign_shape",
    "foreign_object",
    "foreign_share",
    "palette",
)
OF_AD = (
    "halo_plain",
    "ring_plain",
    "sharpness",
    "foreign_share",
    "product_text",
    "shape_text",
    "wall_reference",
    "pattern_reference",
    "table_reference",
)
JOINED = (
    "all_three",
    "product_text",
    "table_text",
    "wall_reference",
    "pattern_reference",
    "region",
    "palette",
    "wall_sharpness",
)


def _rows(family: str, views: Collection[View]) -> tuple[Row, ...]:
    return tuple(Row(IMAGE_ONLY[view], family) for view in views)


def _guided(view: View) -> Condition:
    plain = IMAGE_ONLY[view]
    return replace(plain, name=f"{plain.name}_guided", guidance=TEXT_GUIDANCE)


def experiments(families: Collection[str] = ()) -> tuple[Experiment, ...]:
    """All tables, what matters most first; adapters of `families` beyond the expected ones join the table of compression."""
    others = sorted(set(families) - {*COMPRESSION, IP_ADAPTER, DROP_TRAINED})
    return (
        Experiment(
            "text",
            "Text alone",
            "Does the text steer, and is the picture sharp? Full caption of A, guidance 3; what the true picture gives "
            "through the autoencoder, and blurred, stands beside it.",
            (Row(CEILING, NO_ADAPTER), Row(BLUR, NO_ADAPTER), Row(TEXT, NO_ADAPTER)),
            ("all_text", "product_text", "table_text", "wall_text", "pattern_text", "shape_text", "sharpness"),
            pairs=240,
        ),
        Experiment(
            "mepa",
            "Text against image: who rules where?",
            "The text names all of A, its wall too; the reference is B with its product hidden (PFV), its region is the "
            "wall of A. All right: product and table as the text says and the wall's colour as in the reference.",
            CONFLICT.rows,
            (*JOINED[:4], "wall_text", *JOINED[4:]),
            pairs=120,
        ),
        Experiment(
            "no_conflict",
            "Text and image without conflict",
            "The same where the text leaves the wall to the reference: it names product and table of A alone.",
            AGREEING.rows,
            JOINED,
            pairs=120,
        ),
        Experiment(
            "pfv",
            "Image prompt alone: does the reference's product come through?",
            "Whole frame, no text. Foreign: as the reference's product.",
            (
                *_rows(MAIN, [*SHORT_VIEWS, *FILLS]),
                *_rows(DROP_TRAINED, SHORT_VIEWS),
                *_rows(RESAMPLER, SHORT_VIEWS),
            ),
            LEAKS,
            pairs=120,
        ),
        Experiment(
            "guided",
            "The same with guidance",
            "Whole frame, no text, but guidance 3 against an empty text and a picture of the mean colour, as people sample.",
            tuple(Row(_guided(view), MAIN) for view in (View.VISIBLE, View.ORACLE, View.DROPPED)),
            ("wall_reference", "pattern_reference", "foreign_color", "foreign_shape", "foreign_object"),
            pairs=80,
        ),
        Experiment(
            "ad",
            "PFV and the depth mask, apart",
            "A's product in B's surroundings: the text names the product, the reference rules all around it, the ControlNet "
            "has the product's depth before the reference's, the product's own pixels are put back. What the judge reads of "
            "the product is read before that; sharpness is that of what is not the product. The text says neither "
            "light nor grain: how much each counts is what the true ad has in another light, or with the grain elsewhere.",
            (
                *(Row(one, NO_ADAPTER) for one in (AD_DECODED, AD_LIGHT, AD_GRAIN, AD_RELIT, AD_BLURRED)),
                *(Row(one, MAIN) for one in ADS.values()),
            ),
            (OF_AD[0], "halo_strength_plain", *OF_AD[1:]),
            pairs=80,
        ),
        Experiment(
            "ad_guidance",
            "An ad's guidance",
            "With PFV and the depth mask. Its first row is the true ad in another scene's light, with the table's grain "
            "elsewhere, of which the text says nothing.",
            (
                Row(AD_RELIT, NO_ADAPTER),
                *(Row(condition, MAIN) for condition in BY_GUIDANCE.values()),
            ),
            OF_AD,
            pairs=80,
        ),
        Experiment(
            "pooled",
            "An adapter of one pooled embedding",
            "`linear_c4` sees the encoder's one pooled embedding, as IP-Adapter's smaller files do.",
            _rows(LINEAR, SHORT_VIEWS),
            LEAKS,
            pairs=80,
        ),
        Experiment(
            "balance",
            "Text and image in balance",
            "Strictly-ID's normalisation and time weighting (gamma 400) in three cases; the text names all of A.",
            (
                Row(PLAIN, MAIN),
                *(Row(condition, MAIN) for condition in LOUD),
                *(Row(condition, RESAMPLER) for condition in SEEING),
                *(Row(condition, MAIN) for condition in BOUNDED),
            ),
            (
                "all_text",
                "product_text",
                "table_text",
                "wall_text",
                "wall_reference",
                "pattern_reference",
                "all_three",
                "foreign_object",
            ),
            pairs=80,
            seeds=1,
        ),
        Experiment(
            "compression",
            "How many image tokens?",
            "Image prompt alone, PFV, whole frame. `tokens_c65` has no compression.",
            tuple(Row(IMAGE_ONLY[View.DROPPED], family) for family in (*COMPRESSION, *others)),
            ("wall_reference", "pattern_reference", "palette", "palette_other"),
            pairs=80,
        ),
    )


EXPERIMENTS = tuple(experiment.name for experiment in experiments())


def with_controlnet() -> set[str]:
    """Names of the conditions that are made with the depth ControlNet, at each of their strengths."""
    rows = [row for table in experiments() for row in table.rows]
    every = [one.condition for row in rows for one in (row.rows if isinstance(row, Sweep) else (row,))]
    return {condition.name for condition in every if condition.depth is not None}
