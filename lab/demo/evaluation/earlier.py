"""What 0.2.0's demo had where the tables measure the same, and what is other now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .conditions import Row, Sweep, View
from .experiments import CONFLICT, IMAGE_ONLY, LOUD, MAIN, NO_ADAPTER, RESAMPLER, TEXT
from .markdown import markdown_table, number

ABOUT = """\
0.2.0's demo drew its scenes flat, at 128 px; this one's are rendered at 256 px, with light, shadows and labels. Its adapters were
trained on whatever combination of attributes came; now a part of them is held out, and the tables show those alone. There the
rivals stood at the scales that were named; now each is tried at several. It had 500 pairs and three trainings, one for the
balance. All of this changed at once: which of it makes a difference is not told here, but that an IP-Adapter's 0.011 was its
scale."""


@dataclass(frozen=True)
class Earlier:
    """A figure of 0.2.0's tables, and the row and measure that it is held against."""

    what: str
    value: float
    table: str
    row: Row | Sweep
    measure: str


def _alone(what: str, value: float, view: View, family: str, measure: str) -> Earlier:
    return Earlier(what, value, "pfv", Row(IMAGE_ONLY[view], family), measure)


EARLIER = (
    Earlier("the text sets all five", 0.998, "text", Row(TEXT, NO_ADAPTER), "all_text"),
    _alone("the image prompt sets the wall's colour", 0.952, View.DROPPED, MAIN, "wall_reference"),
    _alone("the image prompt sets the wall's pattern", 0.993, View.DROPPED, MAIN, "pattern_reference"),
    _alone("Eq. 3 copies a visible product's shape", 0.652, View.VISIBLE, MAIN, "foreign_shape"),
    _alone("its zeroed embedding lets the shape through", 0.294, View.ZEROED, MAIN, "foreign_shape"),
    _alone("hidden by PFV", 0.202, View.DROPPED, MAIN, "foreign_shape"),
    _alone("never there", 0.203, View.ORACLE, MAIN, "foreign_shape"),
    _alone("a resampler copies a visible product, colour and shape", 0.669, View.VISIBLE, RESAMPLER, "foreign_object"),
    _alone("hidden by PFV", 0.015, View.DROPPED, RESAMPLER, "foreign_object"),
    Earlier("MEPA under conflict: all right", 0.985, "mepa", CONFLICT.mepa, "all_three"),
    Earlier("Eq. 6 as printed", 0.946, "mepa", CONFLICT.printed, "all_three"),
    Earlier("an IP-Adapter with an attention mask (there at scale 1)", 0.011, "mepa", CONFLICT.masked, "all_three"),
    Earlier("the whole frame at its best scale", 0.049, "mepa", CONFLICT.whole, "all_three"),
    Earlier("three times as loud: as the text says", 0.0, "balance", Row(LOUD[0], MAIN), "all_text"),
    Earlier("with std_norm", 0.574, "balance", Row(LOUD[1], MAIN), "all_text"),
    Earlier("with both", 0.848, "balance", Row(LOUD[3], MAIN), "all_text"),
)


def against_earlier(results: dict[str, Any]) -> str:
    """A table of what both have measured."""
    return f"{ABOUT}\n\n" + markdown_table(["", "0.2.0's demo", "this one"], list(_rows(results)))


def _rows(results: dict[str, Any]) -> Iterator[list[str]]:
    for one in EARLIER:
        found = _found(results["experiments"].get(one.table, {"rows": []})["rows"], one)
        if found:
            measure = results["measures"][one.measure]
            yield [one.what, f"{one.value:.{measure['digits']}f}", number(found["measures"][one.measure], measure)]


def _found(rows: list[dict[str, Any]], one: Earlier) -> dict[str, Any] | None:
    """The row that stands where it stood: of a way with a strength the one that was chosen."""
    rows_of_it = (one.row,) if isinstance(one.row, Row) else one.row.rows
    wanted = {row.condition.name for row in rows_of_it}
    return next((row for row in rows if row["condition"] in wanted and row["family"] == one.row.family), None)
