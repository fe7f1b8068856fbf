"""What the ablations compare: ways of showing a reference, of joining it with a text, and adapters.

Every pair of scenes (A, B) shares no product, wall, pattern or table. Texts speak of A; references show B, whose
product is the foreign one that must not leak.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from pfv_core.attention.balance import PAPER_GAMMA
from pfv_core.attention.control import Gate, PromptControl
from pfv_core.attention.weights import PromptWeights

MAIN = "eq3_c16"
RESAMPLER = "resampler_c16"
LINEAR = "linear_c4"
IP_ADAPTER = "ipadapter_c16"
NUM_TOKENS = (4, 8, 16, 32)
NO_COMPRESSION = "tokens_c65"  # 8 x 8 patches and the class
COMPRESSION = (*(f"{kind}_c{count}" for kind in ("eq3", "resampler") for count in NUM_TOKENS), NO_COMPRESSION)
NO_ADAPTER = ""
ADAPTER_FILE = re.compile(r"(?P<family>(?P<kind>[a-z0-9]+)_c(?P<tokens>\d+))_seed(?P<seed>\d+)\.safetensors")
TEXT_GUIDANCE = 3.0


class View(str, Enum):
    """How the reference is shown to the image encoder.

    VISIBLE shows everything. ORACLE is the same scene drawn without its product. DROPPED and ZEROED hide the product's
    patches (PFV): their tokens leave the sequence, or stay with a zeroed embedding. BLURRED, BLACKED and GREYED change
    the product's pixels and hide nothing.
    """

    VISIBLE = "visible"
    ORACLE = "oracle"
    DROPPED = "dropped"
    ZEROED = "zeroed"
    BLURRED = "blurred"
    BLACKED = "blacked"
    GREYED = "greyed"


class Words(str, Enum):
    """What the text says: nothing, product and table of A, or all of A, its wall included."""

    NOTHING = "nothing"
    PRODUCT_AND_TABLE = "product and table"
    EVERYTHING = "everything"


@dataclass(frozen=True)
class Condition:
    """One way of making images.

    Attributes:
        name: of its results.
        label: for readers.
        words: of the text.
        view: of the reference; None = no image prompt.
        control: how the image prompt takes part.
        in_region: the image prompt rules the wall of A without its product's box; else the whole frame.
        sampled: False = scene A itself, encoded and decoded: what the judge reads there is its ceiling.
        keep_images: all images are stored, not only those of the first chunk.
        weights: of the image prompt, by layer and over the sampling.
    """

    name: str
    label: str
    words: Words = Words.NOTHING
    view: View | None = None
    control: PromptControl = PromptControl()  # noqa: RUF009, frozen
    in_region: bool = False
    sampled: bool = True
    keep_images: bool = False
    weights: PromptWeights = PromptWeights()  # noqa: RUF009, frozen

    @property
    def guidance_scale(self) -> float:
        """Of classifier-free guidance; images made without a text need none."""
        return 1.0 if self.words is Words.NOTHING else TEXT_GUIDANCE


@dataclass(frozen=True)
class Row:
    """A condition with the adapters it is measured on, and which of them an experiment shows."""

    condition: Condition
    family: str


@dataclass(frozen=True)
class Experiment:
    """A table.

    Attributes:
        name: its key in the results.
        about: what it answers, in a sentence.
        rows: what is compared.
        measures: columns, see `summary.MEASURES`.
    """

    name: str
    about: str
    rows: tuple[Row, ...]
    measures: tuple[str, ...]


CEILING = Condition("ceiling", "scene A, encoded and decoded", sampled=False, keep_images=True)
TEXT = Condition("text", "text alone", Words.EVERYTHING, keep_images=True)

VIEW_LABELS = {
    View.VISIBLE: "product visible",
    View.ORACLE: "same scene without product",
    View.DROPPED: "PFV, tokens dropped",
    View.ZEROED: "PFV, embedding zeroed (Eq. 1)",
    View.BLURRED: "product's pixels blurred",
    View.BLACKED: "product's pixels black",
    View.GREYED: "product's pixels mean grey",
}
SHORT_VIEWS = (View.VISIBLE, View.ORACLE, View.DROPPED, View.ZEROED)
IMAGE_ONLY = {view: Condition(f"image_{view.value}", label, view=view) for view, label in VIEW_LABELS.items()}


def _fusions(prefix: str, words: Words, scales: tuple[float, ...], shares: tuple[float, ...]) -> tuple[Condition, ...]:
    """Global image scales, Eq. 6 as printed and the output gate, for one text."""
    everywhere = [
        Condition(f"{prefix}_global_{scale:g}", f"whole frame (Eq. 4), scale {scale:g}", words, View.DROPPED, control)
        for scale, control in ((scale, PromptControl(image_scale=scale)) for scale in scales)
    ]
    query = PromptControl(text_share=0.0, gate=Gate.QUERY)
    label = "Eq. 6 as printed (query gate)"
    gated = [Condition(f"{prefix}_query_0", label, words, View.DROPPED, query, in_region=True)]
    for share in shares:
        control = PromptControl(text_share=share, gate=Gate.OUTPUT)
        label = f"output gate, text share {share:g}"
        gated.append(Condition(f"{prefix}_output_{share:g}", label, words, View.DROPPED, control, in_region=True))
    return (*everywhere, *gated)


CONFLICT = _fusions("conflict", Words.EVERYTHING, (0.5, 1.0, 1.5, 2.0, 3.0), (0.0, 0.5, 1.0))
AGREEING = _fusions("agreeing", Words.PRODUCT_AND_TABLE, (0.5, 1.0), (0.0,))
BY_NAME = {condition.name: condition for condition in CONFLICT}
MASKED_IP_ADAPTER = BY_NAME["conflict_output_1"]

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


LOUD = _balanced(BY_NAME["conflict_global_3"], "three times as loud, whole frame")
SEEING = _balanced(Condition("conflict_visible", "", Words.EVERYTHING, View.VISIBLE), "product visible, whole frame")
BOUNDED = _balanced(BY_NAME["conflict_output_0"], "in its region, text share 0")


LEAKS = (
    "wall_reference",
    "pattern_reference",
    "tint",
    "tint_upper",
    "foreign_color",
    "foreign_shape",
    "foreign_object",
    "leak_ratio",
    "palette",
    "no_product",
)


def experiments(families: Collection[str] = ()) -> tuple[Experiment, ...]:
    """All tables; adapters of `families` beyond the expected ones join the table of compression."""
    others = sorted(set(families) - {*COMPRESSION, IP_ADAPTER})
    return (
        Experiment(
            "text",
            "Does the text steer? Full caption of A, no image prompt; the judge's ceiling beside it.",
            (Row(CEILING, NO_ADAPTER), Row(TEXT, NO_ADAPTER)),
            ("product_text", "table_text", "wall_text", "pattern_text", "shape_text", "all_text"),
        ),
        Experiment(
            "pfv",
            "What leaks from the foreign product of the reference into the image? Image prompt alone, whole frame.",
            (
                *(Row(condition, MAIN) for condition in IMAGE_ONLY.values()),
                *(Row(IMAGE_ONLY[view], RESAMPLER) for view in SHORT_VIEWS),
            ),
            LEAKS,
        ),
        Experiment(
            "pooled",
            "The same with an adapter that sees the encoder's one pooled embedding, as IP-Adapter's smaller files do.",
            tuple(Row(IMAGE_ONLY[view], LINEAR) for view in SHORT_VIEWS),
            LEAKS,
        ),
        Experiment(
            "mepa",
            "Text and image disagree on the wall: who rules where? The text names all of A, the reference is B with PFV.",
            (
                *(Row(condition, MAIN) for condition in CONFLICT),
                Row(MASKED_IP_ADAPTER, IP_ADAPTER),
                Row(IMAGE_ONLY[View.DROPPED], MAIN),
            ),
            (
                "all_three",
                "product_text",
                "table_text",
                "wall_reference",
                "wall_text",
                "pattern_reference",
                "region",
                "palette",
            ),
        ),
        Experiment(
            "no_conflict",
            "The text names product and table of A alone, the reference is B with PFV.",
            tuple(Row(condition, MAIN) for condition in AGREEING),
            ("all_three", "product_text", "table_text", "wall_reference", "pattern_reference", "palette"),
        ),
        Experiment(
            "compression",
            "How many image tokens does it take? Image prompt alone, PFV, whole frame.",
            tuple(Row(IMAGE_ONLY[View.DROPPED], family) for family in (*COMPRESSION, *others)),
            ("wall_reference", "pattern_reference", "palette", "palette_other"),
        ),
        Experiment(
            "balance",
            "Do Strictly-ID's normalisation and time weighting hold a branch back? The text names all of A.",
            (
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
        ),
    )


EXPERIMENTS = tuple(experiment.name for experiment in experiments())
