"""What an ablation run is held against: goals that were set, and comparisons between rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .conditions import TEXT_GUIDANCE, Condition, Depth, Row, Sweep, View
from .experiments import (
    ADS,
    AGREEING,
    BOUNDED,
    BY_GUIDANCE,
    CEILING,
    CONFLICT,
    DROP_TRAINED,
    FILLS,
    IMAGE_ONLY,
    LOUD,
    MAIN,
    NO_ADAPTER,
    NO_COMPRESSION,
    NUM_TOKENS,
    PLAIN,
    RESAMPLER,
    SEEING,
    TEXT,
    VIEW_LABELS,
    Fusion,
)

MARGIN = 0.03  # a difference of rates below it does not matter here: one picture in thirty-three


@dataclass(frozen=True)
class Goal:
    """What must be reached.

    Attributes:
        claim: for readers.
        experiment: whose pairs it is measured on.
        row: of it.
        measure: of the row.
        relation: ">=" or "<="; "=": shown to be within -goal..goal.
        goal: the number.
        against: a row of the experiment, whose difference to `row` is meant then, pair by pair; None = the row's own value.
    """

    claim: str
    experiment: str
    row: Row | Sweep
    measure: str
    relation: str
    goal: float
    against: Row | None = None


def _no_more_copied(who: str, view: View, family: str, measure: str) -> Goal:
    never = Row(IMAGE_ONLY[View.ORACLE], family)
    return Goal(
        f"{who} as often as from a reference without it",
        "pfv",
        Row(IMAGE_ONLY[view], family),
        measure,
        "=",
        MARGIN,
        never,
    )


_DROPPED = IMAGE_ONLY[View.DROPPED]
_AD = Row(ADS[View.DROPPED, Depth.MASKED], MAIN)
GOALS = (
    Goal("the text sets all five, combinations held out", "text", Row(TEXT, NO_ADAPTER), "all_text", ">=", 0.95),
    Goal(
        "its pictures are as sharp as the autoencoder lets them be",
        "text",
        Row(TEXT, NO_ADAPTER),
        "sharpness",
        ">=",
        -0.1,
        Row(CEILING, NO_ADAPTER),
    ),
    Goal("the image prompt sets the wall's colour", "pfv", Row(_DROPPED, MAIN), "wall_reference", ">=", 0.95),
    Goal("the image prompt sets the wall's pattern", "pfv", Row(_DROPPED, MAIN), "pattern_reference", ">=", 0.95),
    _no_more_copied("PFV, Eq. 3: a hidden product's shape comes", View.DROPPED, MAIN, "foreign_shape"),
    _no_more_copied("PFV, Eq. 3: a hidden product's colour comes", View.DROPPED, MAIN, "foreign_color"),
    _no_more_copied(
        "PFV, Eq. 3 trained with drop: a hidden product's shape comes", View.DROPPED, DROP_TRAINED, "foreign_shape"
    ),
    _no_more_copied("PFV, resampler: a hidden product's shape comes", View.DROPPED, RESAMPLER, "foreign_shape"),
    _no_more_copied(
        "PFV, resampler: a hidden product, colour and shape, comes", View.DROPPED, RESAMPLER, "foreign_object"
    ),
    Goal("MEPA under conflict", "mepa", CONFLICT.mepa, "all_three", ">=", 0.93),
    Goal("MEPA without conflict", "no_conflict", AGREEING.mepa, "all_three", ">=", 0.93),
    Goal("an ad's halo before plain walls", "ad", _AD, "halo_plain", "<=", 0.02),
    Goal("an ad's ring around the product before plain walls, dB", "ad", _AD, "ring_plain", ">=", 22.0),
)


@dataclass(frozen=True)
class Comparison:
    """Whether the first of two rows of an experiment has more of a measure than the second."""

    experiment: str
    claim: str
    measure: str
    first: Row | Sweep
    second: Row | Sweep


def _views(family: str, first: View, second: View, claim: str, measure: str) -> Comparison:
    return Comparison("pfv", claim, measure, Row(IMAGE_ONLY[first], family), Row(IMAGE_ONLY[second], family))


def _rivals(experiment: str, fusion: Fusion) -> tuple[Comparison, ...]:
    """MEPA against each other way."""
    against: dict[str, Row | Sweep] = {
        "the whole frame at its best scale": fusion.whole,
        "an IP-Adapter with an attention mask at its best scale": fusion.masked,
        "its own adapter with the same mask at its best scale": fusion.same,
        "Eq. 6 as printed at its best scale": fusion.printed,
    }
    claims = {"does better": "all_three", "brings the wall's pattern more often": "pattern_reference"}
    return tuple(
        Comparison(experiment, f"MEPA {claim} than {name}", measure, fusion.mepa, rival)
        for claim, measure in claims.items()
        for name, rival in against.items()
    )


def _balanced(title: str, rows: Sequence[Condition], family: str, measure: str) -> tuple[Comparison, ...]:
    """What each balance gains over the image prompt as it is, and both over the normalisation alone."""
    plain, std_norm, time, both = (Row(row, family) for row in rows)
    pairs = {"std_norm does better": (std_norm, plain), "time_weighting does better": (time, plain)}
    pairs |= {"both do better": (both, plain), "both do better than std_norm alone": (both, std_norm)}
    return tuple(Comparison("balance", f"{title}: {claim}", measure, *sides) for claim, sides in pairs.items())


COMPARISONS = (
    *_rivals("mepa", CONFLICT),
    *_rivals("no_conflict", AGREEING),
    _views(
        MAIN,
        View.VISIBLE,
        View.DROPPED,
        "a visible product's shape is copied more often than one hidden by PFV",
        "foreign_shape",
    ),
    *(
        _views(
            MAIN,
            view,
            View.DROPPED,
            f"{label}: the product's colour is copied more often than with PFV",
            "foreign_color",
        )
        for view, label in VIEW_LABELS.items()
        if view in (View.VISIBLE, *FILLS)
    ),
    _views(
        MAIN,
        View.ZEROED,
        View.DROPPED,
        "with the zeroed embedding of Eq. 1 the shape is copied more often than with drop",
        "foreign_shape",
    ),
    _views(DROP_TRAINED, View.ZEROED, View.DROPPED, "the same, trained with drop", "foreign_shape"),
    *(
        _views(
            MAIN,
            view,
            View.DROPPED,
            f"{VIEW_LABELS[view]}: the shape is copied more often than with PFV",
            "foreign_shape",
        )
        for view in FILLS
    ),
    Comparison(
        "pfv",
        "trained with drop, a visible product, colour and shape, is copied more often than trained with zero",
        "foreign_object",
        Row(IMAGE_ONLY[View.VISIBLE], DROP_TRAINED),
        Row(IMAGE_ONLY[View.VISIBLE], MAIN),
    ),
    *(
        Comparison("ad", f"{without} {claim}", measure, Row(ADS[key], MAIN), _AD)
        for without, key in (
            ("without the depth mask (with PFV)", (View.DROPPED, Depth.WHOLE)),
            ("without PFV (with the depth mask)", (View.VISIBLE, Depth.MASKED)),
        )
        for claim, measure in (
            ("the halo is larger", "halo_plain"),
            ("the ring is better", "ring_plain"),
            ("more of the foreign colour shows", "foreign_share"),
        )
    ),
    *(
        Comparison(
            "ad_guidance",
            f"with guidance {TEXT_GUIDANCE:g} {claim} than without",
            measure,
            Row(BY_GUIDANCE[TEXT_GUIDANCE], MAIN),
            Row(BY_GUIDANCE[1.0], MAIN),
        )
        for claim, measure in (
            ("the ring is better", "ring_plain"),
            ("the wall has the reference's colour more often", "wall_reference"),
            ("it has its pattern more often", "pattern_reference"),
            ("the picture is sharper", "sharpness"),
        )
    ),
    *_balanced("a branch three times as loud", LOUD, MAIN, "all_text"),
    Comparison(
        "balance",
        "a branch three times as loud: std_norm does better than the plain branch at strength 1",
        "all_text",
        Row(LOUD[1], MAIN),
        Row(PLAIN, MAIN),
    ),
    *_balanced("a resampler that sees the product", SEEING, RESAMPLER, "all_text"),
    *_balanced("in its region", BOUNDED, MAIN, "all_three"),
    *(
        Comparison(
            "compression",
            f"Eq. 3 with {count} tokens keeps more of the wall's {what} than {other}",
            measure,
            Row(_DROPPED, f"eq3_c{count}"),
            Row(_DROPPED, family),
        )
        for what, measure in (("colour", "wall_reference"), ("pattern", "pattern_reference"))
        for count in NUM_TOKENS
        for other, family in (("the resampler", f"resampler_c{count}"), ("no compression", NO_COMPRESSION))
    ),
)
