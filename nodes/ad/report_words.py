"""What a report says, in short lines: the verdict on a product, and columns on prompts, models and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...pfv_core.figures import percent, times
from ..host.prompt_graph import Prompt, Told, gives
from ..host.prompt_values import PERHAPS, model_files, samplers, shown_value, texts, written
from .report_page import Section

Facts = Mapping[str, Any]

HIDDEN = {  # by who said what of a reference is hidden; nothing is said where nobody knows
    "painted": "hidden as it was painted, or transparent in its file",
    "found": "hidden as a model found it",
    "stands_out": "hidden what stands out",
    "nothing": "nothing hidden",
}
COUNTED = {  # what the page says of one ad of a composite's report
    "mask_iou",
    "pixels_checked",
    "pixels_equal",
    "pixels_left_out",
    "pixels_not_8_bit",
    "product_pixels",
    "translucent_pixels",
}
SIDES = ("positive", "negative")  # what a sampler calls its texts
OWN = ("PFV", "MEPA", "StrictID", "RefAdGen")  # how this pack's classes begin


def verdict(ad: Facts) -> tuple[str, bool]:
    """The sentence on the product, and whether it is good news."""
    equal, checked = ad["pixels_equal"], ad["pixels_checked"]
    good = equal == checked > 0
    if not checked:
        return "Product NOT exact: no opaque pixel was left to check", False
    resized = f", resized once by {times(ad['scale'])}" if ad.get("resized") else ""
    return f"Product {'exact' if good else 'NOT exact'}: {equal:,} of {checked:,} pixels are the photo's{resized}", good


def notes_on(ad: Facts) -> tuple[str, ...]:
    """What else was counted of the product."""
    shown = ad["product_pixels"] - ad["pixels_left_out"]
    blended = shown - ad["translucent_pixels"] - ad["pixels_checked"]
    notes = [f"{shown:,} pixels show the product; {blended:,} of them are blended at its rim"]
    if ad["translucent_pixels"]:
        notes[0] += f", {ad['translucent_pixels']:,} are translucent and mixed with the ad"
    if ad["pixels_left_out"]:
        notes.append(f"{ad['pixels_left_out']:,} further pixels of its mask are left to the generated image")
    if ad["pixels_not_8_bit"]:
        notes.append(f"{ad['pixels_not_8_bit']:,} checked pixels are no 8-bit photo's: a saved file rounds them")
    if ad["mask_iou"] is not None:
        notes.append(f"The product as the model drew it and as it was asked for overlap by {percent(ad['mask_iou'])}")
    return tuple(f"{note}." for note in notes)


def columns(
    facts: Sequence[Facts] | None, told: list[Told], prompt: Prompt
) -> tuple[tuple[Section, ...], tuple[Section, ...]]:
    """Left what went in, right how it was made; a section without a line is left out."""
    left = [
        Section("Image prompts and regions", _of_model(facts)),
        Section("Texts", tuple(_texts(texts(told, prompt), prompt))),
    ]
    own = [one for one in told if one["class"].startswith(OWN)]
    right = [
        Section("Models", tuple(model_files(told, prompt))),
        Section("Sampling", tuple(_settings(samplers(told), prompt))),
        Section("Settings", tuple(_settings(own, prompt))),
    ]
    return tuple(part for part in left if part.lines), tuple(part for part in right if part.lines)


def _of_model(facts: Sequence[Facts] | None) -> tuple[str, ...]:
    if facts is None:
        return ("No model is connected to the report.",)
    lines = [line for number, one in enumerate(facts, 1) for line in _one(number, one)]
    return tuple(lines) or ("The model carries none.",)


def _one(number: int, one: Facts) -> Iterator[str]:
    """Of one image prompt, text or other patch."""
    region = one.get("region")
    place = "the whole frame" if region is None else f"{_shares(region)} of the frame"
    head = f"{number}. {one['kind']}, {place}"
    yield head + (f", strength {one['strength']:g}" if "strength" in one else "")
    settings = []
    if one.get("text_share") not in (None, 1.0):
        settings.append(f"the text keeps {percent(one['text_share'])} there")
    if (one.get("start_percent", 0.0), one.get("end_percent", 1.0)) != (0.0, 1.0):
        settings.append(f"from {percent(one['start_percent'])} to {percent(one['end_percent'])} of the sampling")
    if one.get("weighted"):
        settings.append("weighted by layer or over the sampling")
    if settings:
        yield "; ".join(settings)
    if "adapter" in one:
        adapter = one["adapter"]
        yield f"adapter {adapter['file'] or 'of no file'} ({adapter['kind']}, {adapter['base']}), {one['tokens']} tokens"
        yield from (_reference(reference) for reference in one["references"])


def _reference(reference: Facts) -> str:
    kept, source = reference["kept_share"], reference["source"]
    said: list[str] = [] if source is None else [HIDDEN.get(source, str(source))]
    said += [] if kept is None else [f"{percent(kept)} of its patches were seen"]
    said += [] if reference["weight"] == 1.0 else [f"weight {reference['weight']:g}"]
    said += ["to move away from"] if reference["against"] else []
    return f"reference: {'; '.join(said) or 'nothing more is known of it'}"


def _texts(told: Sequence[Told], prompt: Prompt) -> Iterator[str]:
    """A line for each node: what its text is to those who take it, and the text; by input where it has several."""
    takers = {end["of"] for one in told for end in one["reaches"]}
    for one in told:
        ends = [end | {"perhaps": end["perhaps"] or one.get("perhaps", False)} for end in one["reaches"]]
        roles = [_role(end, len(takers) > 1 or gives(prompt, end["of"], "CONDITIONING")) for end in ends]
        role = f" ({', '.join(roles)})" if roles else PERHAPS if one.get("perhaps") else ""
        parts = {name: text or "(empty)" for name, text in written(one, prompt).items()}
        named = (f"{name}: {text}" for name, text in parts.items()) if len(parts) > 1 else parts.values()
        yield f"{one['title']}{role}: {' / '.join(named) or 'no text is set on it'}"


def _role(end: Facts, named: bool) -> str:
    """Such as "positive"; with its taker's name where that alone does not say whose."""
    said = f"{'perhaps ' if end['perhaps'] else ''}{end['input']}"
    said += f" of {end['title']}" if named or end["input"] not in SIDES else ""
    return said + (f" through {' and '.join(end['through'])}" if end["through"] else "")


def _settings(told: Sequence[Told], prompt: Prompt) -> Iterator[str]:
    """A line for each node, without the pictures, models and so on that it is given."""
    for one in told:
        values = {name: shown_value(prompt, one, name) for name in one["values"]}
        shown = [f"{name} {value}" for name, value in values.items() if value is not None]
        if shown:
            yield f"{one['title']}{PERHAPS if one.get('perhaps') else ''}: {', '.join(shown)}"


def _shares(region: Sequence[float]) -> str:
    return ", ".join(percent(share) for share in region)
