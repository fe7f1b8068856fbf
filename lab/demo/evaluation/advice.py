"""When MEPA helps and when not, as the tables with and without conflict between text and reference say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .markdown import number

_DISAGREE = "Where the prompt names what the reference shows otherwise"
_AGREE = "Where the prompt leaves it to the reference, the usual case"
ADVICE = {
    "mepa": {
        "holds": f"{_DISAGREE}, give the reference a region of its own with `text_share` 0: no other way that was tried does "
        "as well, at whatever strength.",
        "equal within the margin": f"{_DISAGREE}, another way at its best strength does as well as a region with `text_share` "
        "0; what MEPA spares is the search for that strength.",
        "the reverse holds": f"{_DISAGREE}, another way did better than a region with `text_share` 0: take the one that did "
        "best in the table.",
        "cannot be told apart": f"{_DISAGREE}, these pairs do not tell MEPA from the best other way.",
        "not measured": f"{_DISAGREE}: whether MEPA helps there is not measured in this run.",
    },
    "no_conflict": {
        "holds": f"{_AGREE}, MEPA does better too.",
        "equal within the margin": f"{_AGREE}, MEPA gains nothing: an IP-Adapter with an attention mask, at its best "
        "strength, does as well.",
        "the reverse holds": f"{_AGREE}, an IP-Adapter with an attention mask, at its best strength, does better than MEPA.",
        "cannot be told apart": f"{_AGREE}, these pairs do not tell MEPA from an IP-Adapter with an attention mask at its "
        "best strength.",
        "not measured": f"{_AGREE}: whether MEPA helps there is not measured in this run.",
    },
}
RIVALS = {  # whom MEPA is held against: by the claims of `claims.COMPARISONS`
    "mepa": ("the whole frame", "an IP-Adapter", "its own adapter"),
    "no_conflict": ("an IP-Adapter",),
}
VERDICTS = ("the reverse holds", "cannot be told apart", "equal within the margin", "holds")  # the weakest first


def advice(results: dict[str, Any]) -> str:
    """What to do with text and reference."""
    lines = []
    for name, rivals in RIVALS.items():
        claims = tuple(f"MEPA does better than {rival}" for rival in rivals)
        of_table = [one for one in results["comparisons"] if one["experiment"] == name]
        lines.append(_line(name, [one for one in of_table if one["claim"].startswith(claims)], results["measures"]))
    return "\n".join(f"* {line}" for line in lines)


def _line(name: str, found: Sequence[dict[str, Any]], measures: dict[str, Any]) -> str:
    """By the least that MEPA gains over any of these; not measured where one of them is not."""
    if not found or any(one["difference"] is None for one in found):
        return ADVICE[name]["not measured"]
    least = min(found, key=lambda one: (VERDICTS.index(one["verdict"]), one["difference"]["value"]))
    gain = number(least["difference"], measures[least["measure"]])
    return f'{ADVICE[name][least["verdict"]]} ("{least["claim"]}": {gain}, {least["verdict"]}.)'
