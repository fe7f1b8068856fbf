"""What an ablation run is held against: goals that were set, and comparisons between rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .conditions import (
    BOUNDED,
    CONFLICT,
    IMAGE_ONLY,
    IP_ADAPTER,
    LOUD,
    MAIN,
    NO_ADAPTER,
    NO_COMPRESSION,
    NUM_TOKENS,
    RESAMPLER,
    SEEING,
    TEXT,
    Condition,
    View,
)


@dataclass(frozen=True)
class Goal:
    """What must be reached: `measure` of a row at least or at most `goal`; against the oracle if so said."""

    claim: str
    experiment: str
    condition: str
    family: str
    measure: str
    relation: str
    goal: float
    against_oracle: bool = False


_VISIBLE, _DROPPED = IMAGE_ONLY[View.VISIBLE].name, IMAGE_ONLY[View.DROPPED].name
GOALS = (
    Goal("the text sets the product's colour", "text", TEXT.name, NO_ADAPTER, "product_text", ">=", 0.98),
    Goal("the text sets the table", "text", TEXT.name, NO_ADAPTER, "table_text", ">=", 0.98),
    Goal("the text sets the wall's colour", "text", TEXT.name, NO_ADAPTER, "wall_text", ">=", 0.98),
    Goal("the text sets the wall's pattern", "text", TEXT.name, NO_ADAPTER, "pattern_text", ">=", 0.93),
    Goal("the text sets the product's shape", "text", TEXT.name, NO_ADAPTER, "shape_text", ">=", 0.85),
    Goal("the image prompt sets the wall's colour", "pfv", _DROPPED, MAIN, "wall_reference", ">=", 0.95),
    Goal("the image prompt sets the wall's pattern", "pfv", _DROPPED, MAIN, "pattern_reference", ">=", 0.60),
    Goal("a visible foreign product tints the wall", "pfv", _VISIBLE, MAIN, "tint", ">=", 0.08),
    Goal("PFV: a hidden one does not", "pfv", _DROPPED, MAIN, "tint", "<=", 0.01),
    Goal("the resampler copies a visible product's shape", "pfv", _VISIBLE, RESAMPLER, "foreign_shape", ">", 0.0, True),
    Goal("PFV: not a hidden one's", "pfv", _DROPPED, RESAMPLER, "foreign_shape", "not >", 0.0, True),
    Goal("MEPA's output gate under conflict", "mepa", "conflict_output_0", MAIN, "all_three", ">=", 0.93),
)


@dataclass(frozen=True)
class Comparison:
    """Whether the first of two rows of an experiment has more of a measure than the second."""

    experiment: str
    claim: str
    measure: str
    first: tuple[str, str]
    second: tuple[str, str]


def _balanced(title: str, rows: Sequence[Condition], family: str, measure: str) -> tuple[Comparison, ...]:
    """What each balance gains over the image prompt as it is, and both over the normalisation alone."""
    plain, std_norm, time, both = (row.name for row in rows)
    pairs = {"std_norm does better": (std_norm, plain), "time_weighting does better": (time, plain)}
    pairs |= {"both do better": (both, plain), "both do better than std_norm alone": (both, std_norm)}
    return tuple(
        Comparison("balance", f"{title}: {claim}", measure, (first, family), (second, family))
        for claim, (first, second) in pairs.items()
    )


GLOBALS = tuple(condition.name for condition in CONFLICT if condition.name.startswith("conflict_global"))
COMPARISONS = (
    Comparison(
        "pfv", "a visible product tints more than one hidden by PFV", "tint", (_VISIBLE, MAIN), (_DROPPED, MAIN)
    ),
    *(
        Comparison("pfv", f"{what} tints more than PFV", "tint", (IMAGE_ONLY[view].name, MAIN), (_DROPPED, MAIN))
        for view, what in (
            (View.ZEROED, "the zeroed embedding of Eq. 1"),
            (View.BLURRED, "blurring"),
            (View.BLACKED, "blacking out"),
            (View.GREYED, "filling with grey"),
        )
    ),
    Comparison(
        "mepa",
        "Eq. 6 as printed does better than the best whole-frame scale under conflict",
        "all_three",
        ("conflict_query_0", MAIN),
        ("best global", MAIN),
    ),
    Comparison(
        "mepa",
        "the output gate does better than Eq. 6 as printed",
        "all_three",
        ("conflict_output_0", MAIN),
        ("conflict_query_0", MAIN),
    ),
    Comparison(
        "mepa",
        "the output gate does better than an IP-Adapter with an attention mask",
        "all_three",
        ("conflict_output_0", MAIN),
        ("conflict_output_1", IP_ADAPTER),
    ),
    *(
        Comparison(
            "compression",
            f"Eq. 3 with {count} tokens keeps more of the wall's {what} than {other}",
            measure,
            (_DROPPED, f"eq3_c{count}"),
            (_DROPPED, family),
        )
        for what, measure in (("colour", "wall_reference"), ("pattern", "pattern_reference"))
        for count in NUM_TOKENS
        for other, family in (("the resampler", f"resampler_c{count}"), ("no compression", NO_COMPRESSION))
    ),
    *_balanced("a branch three times as loud", LOUD, MAIN, "all_text"),
    *_balanced("a resampler that sees the product", SEEING, RESAMPLER, "all_text"),
    *_balanced("in its region", BOUNDED, MAIN, "all_three"),
)
